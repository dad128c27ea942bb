"""The exit codes of deploy/ray_job.py. tests/e2e/test_submitted_job.py runs it with a real job server."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from server_process import free_ports

SCRIPT = Path(__file__).parents[2] / "deploy" / "ray_job.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ray_job", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("status", "code", "ends"),
    [
        *(("FAILED", code, code) for code in (1, 2, 3, 4, 5, 70, 127)),
        ("SUCCEEDED", 0, 0),
        ("FAILED", None, 5),  # its node died: nobody saw it end
        ("FAILED", 0, 5),
        ("FAILED", -9, 137),
        ("STOPPED", None, 143),
        ("STOPPED", 0, 143),
    ],
)
def test_the_exit_code_is_that_of_the_command(script: ModuleType, status: str, code: int | None, ends: int) -> None:
    assert script.exit_code(script.JobStatus[status], code) == ends


def test_no_job_server_is_a_fault_of_the_cluster_in_one_line() -> None:
    [port] = free_ports(1)
    command = [sys.executable, str(SCRIPT), "--address", f"http://127.0.0.1:{port}", "--", "true"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (5, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("ray_job: no job server (")


def test_a_signal_is_not_slept_through() -> None:
    program = "import signal, sys; sys.path.insert(0, sys.argv[1]); import ray_job; asked = ray_job.Asked()\n"
    program += "signal.signal(signal.SIGTERM, asked); print('up', flush=True); asked.wait(600); print(asked.number)"
    command = [sys.executable, "-c", program, str(SCRIPT.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.communicate(timeout=60)[0] == f"{int(signal.SIGTERM)}\n"
