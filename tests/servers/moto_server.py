"""moto's S3 in a process of its own: everything in memory, with AWS's documented conditional writes."""

from __future__ import annotations

import sys
from pathlib import Path

from object_store import S3
from server_process import LOOPBACK, ServerProcess, free_ports


class MotoServer:
    """Logs into `folder`; what it held is gone when it stops."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: ServerProcess | None = None

    def start(self) -> S3:
        [port] = free_ports(1)
        command = [str(Path(sys.executable).with_name("moto_server")), "-H", LOOPBACK, "-p", str(port)]
        self._running = ServerProcess(command, port, self._folder / "moto.log")
        self._running.wait()
        return S3(f"http://{LOOPBACK}:{port}", "testing", "testing")

    def kill(self) -> None:
        if self._running is not None:
            self._running.kill()
            self._running = None
