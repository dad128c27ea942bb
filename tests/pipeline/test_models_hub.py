"""Fetching from a hub: a real HTTP server on loopback that speaks the hub's protocol, and real downloads."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"w" * 300_000,
    "pytorch_model.bin": b"pickle",
    "modeling_evil.py": b"raise SystemExit",
}


class Hub(ThreadingHTTPServer):
    """One repository, team/tiny, at one commit. gets: how often each file's content was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.gets: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/team/tiny/tree/"):
            listing = [
                {"type": "file", "path": name, "size": len(data), "oid": _etag(data)} for name, data in FILES.items()
            ]
            self._send(200, json.dumps(listing).encode(), with_body)
        elif path.startswith("/api/models/team/tiny"):
            siblings = [{"rfilename": name} for name in FILES]
            self._send(200, json.dumps({"id": "team/tiny", "sha": COMMIT, "siblings": siblings}).encode(), with_body)
        elif path.startswith("/team/tiny/resolve/") and path.rsplit("/", 1)[1] in FILES:
            name = path.rsplit("/", 1)[1]
            if with_body:
                self.server.gets[name] += 1
            self._send(200, FILES[name], with_body, {"ETag": f'"{_etag(FILES[name])}"', "X-Repo-Commit": COMMIT})
        else:
            self._send(404, b"{}", with_body, {"X-Error-Code": "RepoNotFound"})

    def _send(self, status: int, body: bytes, with_body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def _fetch(hub: Hub, home: Path, arguments: str) -> subprocess.Popen[str]:
    """A process of its own, as every worker is."""
    code = f"from tamis.pipeline.models import fetch; s = fetch({arguments}); print(s.path); print(s.revision)"
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_workers_of_one_node_fetch_a_model_once(hub: Hub, tmp_path: Path) -> None:
    workers = [_fetch(hub, tmp_path, "'team/tiny', None, weights=True") for _ in range(3)]
    outputs = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], outputs
    assert len({stdout for stdout, _ in outputs}) == 1
    path, revision = outputs[0][0].split()
    assert revision == COMMIT
    assert hub.gets == {"config.json": 1, "tokenizer.json": 1, "model.safetensors": 1}, (
        "no pickles, no code, nothing twice"
    )
    assert Path(path, "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_each_user_of_a_node_has_a_lock_of_their_own(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of two users, neither may open what the other has left in the common folder.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code = "(__import__('os').__dict__.update(getuid=lambda: {}), 'team/tiny')[1], None, weights=False"
    for user in (4001, 4002):
        worker = _fetch(hub, tmp_path / "home", code.format(user))
        _, stderr = worker.communicate(timeout=120)
        assert worker.returncode == 0, stderr
    names = [lock.name for lock in tmp_path.glob("tamis-fetch-*.lock")]
    assert sorted(name.split("-")[2] for name in names) == ["4001", "4002"]


def test_a_plan_fetches_no_weights(hub: Hub, tmp_path: Path) -> None:
    worker = _fetch(hub, tmp_path, "'team/tiny', None, weights=False")
    _, stderr = worker.communicate(timeout=120)
    assert worker.returncode == 0, stderr
    assert set(hub.gets) == {"config.json", "tokenizer.json"}


def test_pickles_and_code_come_only_when_asked_for(hub: Hub, tmp_path: Path) -> None:
    worker = _fetch(hub, tmp_path, "'team/tiny', None, weights=True, pickles=True, remote_code=True")
    _, stderr = worker.communicate(timeout=120)
    assert worker.returncode == 0, stderr
    assert {"pytorch_model.bin", "modeling_evil.py"} <= set(hub.gets)


def test_an_unknown_name_is_a_config_error_that_says_what_to_do(hub: Hub, tmp_path: Path) -> None:
    worker = _fetch(hub, tmp_path, "'team/nothing', None, weights=False")
    _, stderr = worker.communicate(timeout=120)
    assert worker.returncode != 0
    assert "ConfigError" in stderr
    assert "team/nothing is not a folder here" in stderr
