"""A Ray cluster of two nodes on this machine: two raylets with a CPU and an address each, to be killed one by one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil
from ray_cluster import kill_family, start_node

SECOND_IP = "127.0.0.2"
"""Ray tells nodes apart by their address; the head takes the machine's own."""


class TwoNodes:
    """Runs between `with` and its end. env: of every process of the cluster, with the storage's credentials."""

    def __init__(self, env: Mapping[str, str]) -> None:
        # A short path of its own: Ray's sockets lie in it, and theirs may not exceed 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self._env = {name: value for name, value in {**os.environ, **env}.items() if name != "RAY_ADDRESS"}
        self._launchers: dict[str, subprocess.Popen[bytes]] = {}
        self._starts = 0

    def __enter__(self) -> TwoNodes:
        try:
            self.revive()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Only what was started here: `ray stop` would end every cluster on the machine."""
        kill_family(*[launcher.pid for launcher in self._launchers.values()])
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def address(self) -> str:
        """Of the head, empty while it starts: Ray writes the file when it has said that it is started."""
        found = self._folder / "ray_current_cluster"
        return found.read_text().strip() if found.exists() else ""

    def revive(self) -> None:
        """Start what is dead. Returns when both nodes have joined; nothing happens if both live."""
        if not self._lives("head"):
            for node in ("second", "head"):
                self._remove(node)
            (self._folder / "ray_current_cluster").unlink(missing_ok=True)
            self._start("head", "--head", "--port=0", "--include-dashboard=false")
        if not self._lives("second"):
            self._remove("second")
            self._start("second", f"--address={self.address}", f"--node-ip-address={SECOND_IP}")

    def raylet(self, node: str) -> psutil.Process | None:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._launchers[node].pid).children():
                if child.name() == "raylet" and child.status() != psutil.STATUS_ZOMBIE:
                    return child
        return None

    def kill_node(self, node: str) -> None:
        """kill -9 of the raylet with its workers, and of all that was started with it."""
        kill_family(self._launchers[node].pid)

    def actors(self) -> list[psutil.Process]:
        """The workers that run a stage with the model, on both nodes."""
        found = []
        for node in ("head", "second"):
            raylet = self.raylet(node)
            for worker in raylet.children() if raylet is not None else []:
                with suppress(psutil.NoSuchProcess):
                    # Ray names its processes for what they run.
                    if any("MapWorker" in part for part in worker.cmdline()):
                        found.append(worker)
        return sorted(found, key=lambda worker: worker.pid)

    def _lives(self, node: str) -> bool:
        return node in self._launchers and self._launchers[node].poll() is None and self.raylet(node) is not None

    def _remove(self, node: str) -> None:
        if node in self._launchers:
            kill_family(self._launchers[node].pid)
            self._launchers.pop(node).wait()

    def _start(self, node: str, *flags: str) -> None:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1", *flags]
        command += ["--dashboard-agent-listen-port=0", "--disable-usage-stats", "--object-store-memory=150000000"]
        command += [f"--temp-dir={self._folder}"]
        self._starts += 1
        log = self._folder / f"start-{self._starts}.log"
        self._launchers[node] = start_node(command, log, self._env, lambda: bool(self.address))
