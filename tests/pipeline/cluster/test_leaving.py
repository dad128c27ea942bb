"""A command that leaves a Ray that is still at work: its own exit code, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

# A thread named as Ray Data's is still there when Ray is to be shut down.
BUSY = """
import sys, threading
from tamis.pipeline.cluster import leaving
from tamis.pipeline.cluster.own_ray import folder_in_use
from tamis.pipeline.cluster.session import ray_early, ray_session

over = threading.Event()
with ray_early(None, needed=sys.argv[2] == "early"), ray_session(None):
    print(folder_in_use())
    if sys.argv[1] == "busy":
        threading.Thread(target=over.wait, name="StreamingExecutor-x", daemon=True).start()
import ray
print(ray.is_initialized())
if sys.argv[1:] == ["busy", "early"]:  # it has not only not been shut down: it lives
    assert ray.get(ray.remote(lambda: 7).remote()) == 7
leaving.leave(5)
sys.exit(6)
"""


@pytest.mark.parametrize(
    ("threads", "start", "left", "code"),
    [("busy", "at once", "True", 5), ("busy", "early", "True", 5), ("none", "early", "False", 6)],
)
def test_a_ray_at_work_ends_with_the_process(threads: str, start: str, left: str, code: int) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}
    ran = subprocess.run(
        [sys.executable, "-c", BUSY, threads, start], capture_output=True, text=True, env=environment, timeout=120
    )
    folder, initialized = ran.stdout.split()
    assert (ran.returncode, initialized) == (code, left), ran.stderr
    assert not Path(folder).exists()
    processes = [p for p in psutil.process_iter(["cmdline"]) if any(folder in word for word in p.info["cmdline"] or ())]
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive
