"""Google Cloud Storage's JSON API in a process of its own: gcp-storage-emulator, on disk.

It reads and writes, and takes no notice of generation conditions.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

from server_process import LOOPBACK, ServerProcess, free_ports


class GcsServer:
    """Objects lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        [self._port] = free_ports(1)
        self._running: ServerProcess | None = None
        self.endpoint = f"http://{LOOPBACK}:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """For the clients: gcsfs goes to the emulator without credentials, over its JSON API only."""
        return {"STORAGE_EMULATOR_HOST": self.endpoint, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}

    def start(self) -> GcsServer:
        command = [str(Path(sys.executable).with_name("gcp-storage-emulator")), "--data-dir", str(self._folder)]
        command += ["start", "--host", LOOPBACK, "--port", str(self._port), "--quiet"]
        self._running = ServerProcess(command, self._port, self._folder / "gcs.log")
        self._running.wait()
        return self

    def kill(self) -> None:
        if self._running is not None:
            self._running.kill()
            self._running = None

    def make_bucket(self, name: str) -> str:
        """Its URL."""
        request = urllib.request.Request(
            f"{self.endpoint}/storage/v1/b?project=tests",
            data=json.dumps({"name": name}).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request).close()
        return f"gs://{name}"
