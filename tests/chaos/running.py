"""One `tamis` command in the background, with what it prints in a file, to be killed at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from command import TAMIS

DEADLINE = 600.0
MAY_BE_RESUMED = {0, 1, 4, 5, -signal.SIGKILL}
"""Done, ended by Ray whose head node is gone, done in part, lost its cluster or its storage, killed. Any other exit,
or a traceback, says that the job itself is at fault."""


class Running:
    """Leader of its own process group. Gone at the end of `with`, whatever happened."""

    def __init__(self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        self._command, self._cwd = [str(TAMIS), *arguments], cwd
        self._env = {name: value for name, value in os.environ.items() if name not in {"RAY_ADDRESS", "COLUMNS"}}
        self._env |= {"HF_HUB_OFFLINE": "1", **env}
        self.said = ""

    def __enter__(self) -> Running:
        self._log = tempfile.TemporaryFile()
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            self._command,
            cwd=self._cwd,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._log.close()

    def lives(self) -> bool:
        return self._process.poll() is None

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def kill(self) -> None:
        """kill -9 of the whole group."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait(self) -> int:
        """Its exit code. One that does not end is killed, which is an error of its own."""
        try:
            code = self._process.wait(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            self.kill()
            code = -signal.SIGALRM
        self._log.seek(0)
        self.said = self._log.read().decode(errors="replace")
        if code == -signal.SIGALRM:
            self.said += f"\nit did not end in {DEADLINE:.0f} s"
        return code
