"""Fetching from a hub: a real HTTP server on loopback that speaks the hub's protocol, and real downloads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import Hub, running_hub

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"w" * 300_000,
    "pytorch_model.bin": b"pickle",
    "modeling_evil.py": b"raise SystemExit",
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        hub.add("models", "team/tiny", FILES)
        yield hub


def _fetch(hub: Hub, home: Path, arguments: str) -> subprocess.Popen[str]:
    """A process of its own, as every worker is."""
    code = f"from tamis.pipeline.models.fetch import fetch; s = fetch({arguments}); print(s.path); print(s.revision)"
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
    assert revision == hub.repositories["models", "team/tiny"].refs["main"]
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
