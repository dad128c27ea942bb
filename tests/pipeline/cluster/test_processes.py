"""When a process started, whatever the clock of the day says."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from tamis.pipeline.cluster.processes import started
from tamis.pipeline.cluster.watchdog import Process, _kill
from tamis.pipeline.run import lease


@pytest.fixture
def jumped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the day has been set an hour ahead since psutil looked at it: what it makes of when processes
    started goes with it."""
    create_time = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: create_time(process) + 3600.0)


def test_a_process_starts_after_those_before_it() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert started(os.getpid()) < started(child.pid) <= time.clock_gettime(time.CLOCK_BOOTTIME)
    finally:
        child.kill()
        child.wait()
    with pytest.raises(psutil.NoSuchProcess):
        started(child.pid)


def test_a_driver_lives_on_when_the_clock_is_set(request: pytest.FixtureRequest) -> None:
    mine = lease._own()
    request.getfixturevalue("jumped")
    assert lease._runs(mine)


def test_a_worker_that_hangs_is_killed_when_the_clock_was_set(request: pytest.FixtureRequest) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    hung = Process(child.pid, started(child.pid), "node")
    request.getfixturevalue("jumped")
    assert not _kill(Process(child.pid, hung.born - 1.0, "node")), "another that had its number"
    assert _kill(hung)
    assert child.wait() != 0
