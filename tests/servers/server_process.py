"""Servers of the tests on loopback: free ports, processes that are awaited and killed, nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

LOOPBACK = "127.0.0.1"
DEADLINE = 60.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]


class ServerProcess:
    """One server: a process group of its own, with what it prints in a log file."""

    def __init__(self, command: Sequence[str], port: int, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.port, self._log = port, log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=os.environ | dict(env or {}),
                cwd=log.parent,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Return when the port answers. RuntimeError with the end of the log if the server ends or takes too long."""
        deadline = time.monotonic() + DEADLINE
        while True:
            # First: a foreign server on this port must not stand in for ours.
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no server on port {self.port}:\n{self._log.read_text(errors='replace')[-4000:]}")
            with suppress(OSError):
                socket.create_connection((LOOPBACK, self.port), 0.2).close()
                return
            time.sleep(0.02)

    def kill(self) -> None:
        """kill -9 of the whole group; no harm if it is gone already."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=DEADLINE)
