"""The `tamis` command as a user runs it: in its own process, from another folder, with its output."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from forking import Forks

TAMIS = Path(sys.executable).with_name("tamis")
DEADLINE = 900.0
PROGRESS = re.compile(
    r"(scan|fisher|layers|capture|fit|emit|losses(-\d+)?|train [\w-]+) +[\d,]+ / [\d,]+ (rows|cells|shards|steps|MB)\b"
)
_FORKS = Forks()


@dataclass(frozen=True)
class Ran:
    """What a finished command returned and printed."""

    rc: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def tamis(*arguments: object, cwd: Path, env: dict[str, str] | None = None) -> Ran:
    """Runs `tamis` to its end. However it ends, it must not print a traceback."""
    words, environment = list(map(str, arguments)), _environment(env)
    if _FORKS.fits(environment):
        done = _FORKS.run(words, cwd, environment, DEADLINE)
    else:
        done = subprocess.run(
            [str(TAMIS), *words],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            stdin=subprocess.DEVNULL,
        )
    ran = Ran(done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in ran.output, ran.output
    return ran


def curate(*arguments: object, cwd: Path, address: str) -> Ran:
    """`tamis curate` on the shared cluster, which must succeed and print only its progress to stderr."""
    ran = tamis("curate", *arguments, "--address", address, cwd=cwd)
    assert ran.rc == 0, ran.output
    strangers = [line for line in ran.stderr.splitlines() if not PROGRESS.match(line)]
    assert not strangers, f"not progress: {strangers}"
    return ran


def start(
    *arguments: object, cwd: Path, env: dict[str, str] | None = None, said: Path | None = None
) -> subprocess.Popen[bytes]:
    """`tamis` in the background, leader of its own process group. said: the file for its output; None discards it."""
    with (said or Path(os.devnull)).open("wb") as output:
        return subprocess.Popen(
            [str(TAMIS), *map(str, arguments)],
            cwd=cwd,
            env=_environment(env),
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """kill -9 of the process and everything it started, including Ray's own processes."""
    leader = psutil.Process(process.pid)
    family = [leader, *leader.children(recursive=True)]
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait(timeout=60)
    psutil.wait_procs(family, timeout=60)


def poll(condition: Callable[[], bool], process: subprocess.Popen[bytes], what: str) -> None:
    """Returns as soon as `condition` holds; fails if the process ends before that, or takes too long."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert process.poll() is None, f"the command ended with {process.returncode} before {what}"
        assert time.monotonic() < deadline, f"no {what} in {DEADLINE:.0f} s"
        time.sleep(0.005)


def _environment(extra: dict[str, str] | None) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in {"RAY_ADDRESS", "COLUMNS"}}
    return inherited | {"HF_HUB_OFFLINE": "1"} | (extra or {})
