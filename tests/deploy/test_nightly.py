"""deploy/kuberay/nightly/create.py against a small server that answers as the Kubernetes API does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import create
import pytest

PATTERN = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": "tamis", "uid": "u", "resourceVersion": "7", "labels": {"app": "tamis"}},
    "spec": {"suspend": True, "entrypoint": "tamis curate --output out/{day}", "backoffLimit": 2},
    "status": {"jobDeploymentStatus": "Suspended"},
}
JOBS = "/apis/ray.io/v1/namespaces/here/rayjobs"


class Server(HTTPServer):
    """The RayJobs of a namespace. states: what the created one goes through, one step a question; None: no answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.jobs: dict[str, dict[str, Any]] = {"tamis": PATTERN}
        self.states: list[tuple[str, str] | None] = []
        self.tokens: set[str | None] = set()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.tokens.add(self.headers["Authorization"])
        url = urlsplit(self.path)
        if url.path == JOBS:
            [selector] = parse_qs(url.query)["labelSelector"]
            name, _, value = selector.partition("=")
            jobs = self.server.jobs.values()
            self.answer({"items": [job for job in jobs if job["metadata"].get("labels", {}).get(name) == value]})
            return
        job = self.server.jobs[url.path.removeprefix(f"{JOBS}/")]
        if job is not PATTERN:
            state = self.server.states.pop(0)
            if state is None:
                self.send_error(503)
                return
            job["status"] = dict(zip(("jobDeploymentStatus", "jobStatus"), state, strict=True))
        self.answer(job)

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        job["metadata"]["name"] = job["metadata"]["generateName"] + "x1"
        self.server.jobs[job["metadata"]["name"]] = job
        self.answer(job)

    def answer(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as served:
        threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield served
        served.shutdown()


@pytest.fixture
def api(server: Server, tmp_path: Path) -> create.Api:
    token = tmp_path / "token"
    token.write_text("secret\n")
    return create.Api(f"http://127.0.0.1:{server.server_port}", "here", token)


def test_tonights_run_is_a_copy_that_starts(server: Server, api: create.Api) -> None:
    server.states = [("", ""), ("Initializing", ""), ("Running", "RUNNING"), ("Complete", "SUCCEEDED")]
    assert create.run(api, "tamis", "2026-11-29", pause=0) == 0
    made = server.jobs["tamis-2026-11-29-x1"]
    assert made["spec"] == {"entrypoint": "tamis curate --output out/2026-11-29", "backoffLimit": 2}
    assert made["metadata"]["labels"] == {"app": "tamis", create.LABEL: "tamis"}
    assert not made["metadata"].keys() & {"uid", "resourceVersion"}
    assert server.tokens == {"Bearer secret"}


@pytest.mark.parametrize(
    ("end", "code"), [(("Failed", "FAILED"), 1), (("Complete", "STOPPED"), 1), (("Complete", "SUCCEEDED"), 0)]
)
def test_a_failed_night_is_a_failed_job(server: Server, api: create.Api, end: tuple[str, str], code: int) -> None:
    server.states = [("Retrying", "FAILED"), end]
    assert create.run(api, "tamis", "2026-11-29", pause=0) == code


def test_a_run_that_goes_on_is_left_alone(server: Server, api: create.Api, capsys: pytest.CaptureFixture[str]) -> None:
    server.states = [("Complete", "SUCCEEDED")]
    create.run(api, "tamis", "2026-11-28", pause=0)
    before = server.jobs["tamis-2026-11-28-x1"]
    before["status"] = {"jobDeploymentStatus": "Running"}
    assert create.run(api, "tamis", "2026-11-29", pause=0) == 0
    assert len(server.jobs) == 2
    assert "tamis-2026-11-28-x1 still goes on" in capsys.readouterr().out
    before["status"] = {"jobDeploymentStatus": "Failed"}
    server.states = [("Complete", "SUCCEEDED")]
    assert create.run(api, "tamis", "2026-11-29", pause=0) == 0
    assert len(server.jobs) == 3


def test_an_api_that_does_not_answer_for_a_while_ends_nothing(server: Server, api: create.Api) -> None:
    server.states = [None, None, ("Complete", "SUCCEEDED")]
    assert create.run(api, "tamis", "2026-11-29", pause=0) == 0


def test_an_api_that_does_not_answer_at_all_is_an_error(server: Server, api: create.Api) -> None:
    server.states = [None] * 10
    with pytest.raises(OSError):
        create.run(api, "tamis", "2026-11-29", pause=0)
