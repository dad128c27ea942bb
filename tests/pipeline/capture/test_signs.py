"""How far workers are with their shards, as the driver hears of it; and what happens where the watch is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import psutil
import pytest
import ray

from tamis.pipeline.capture import signs as module
from tamis.pipeline.capture.signs import Signs
from tamis.pipeline.cluster.watchdog import Guard, Part, kill_stalled, start_watch

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.01)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def looked(signs: Signs, condition: Callable[[], bool]) -> None:
    def look() -> bool:
        signs.look()
        return condition()

    until(look)


def test_what_is_done_of_shards_stays_until_their_receipts_are_here() -> None:
    guard = start_watch()
    signs = Signs(guard, "capture")
    guard.begin("reading b")
    guard.attend()
    looked(signs, lambda: signs.there == 1)
    assert not signs.at_work
    guard.begin("capture a")
    looked(signs, lambda: signs.at_work)
    guard.watch.beat.remote("capture a", Part(3.0, 30))
    looked(signs, lambda: signs.within == Part(3.0, 30))
    guard.end("capture a")
    guard.begin("capture b")
    looked(signs, lambda: "b" in signs._parts)
    assert signs.within == Part(3.0, 30), "its receipt is on its way"
    signs.done("a")
    assert signs.within == Part()


def test_the_run_goes_on_where_the_watch_is_killed() -> None:
    """As Ray does to any process when a machine has no memory left."""
    guard = start_watch()
    assert guard.begin("capture a") is None
    pid = ray.get(guard.watch.__ray_call__.remote(lambda watch: os.getpid()))
    signs = Signs(guard, "capture")
    looked(signs, lambda: signs.at_work)
    os.kill(pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=60)
    assert guard.begin("capture b") is None
    guard.blame("capture b", "it has died")
    assert kill_stalled(guard, 1e9) is None
    until(lambda: _answers(guard))
    assert guard.begin("capture c") is None
    looked(signs, lambda: "c" in signs._parts)


def _answers(guard: Guard) -> bool:
    try:
        return bool(ray.get(guard.watch.report.remote()).running) or True
    except ray.exceptions.RayError:
        return False
