"""A Ray cluster of several nodes on this machine, with as many GPUs as wanted: to Ray they are numbers."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from networks import ADDRESSES, LOOPBACK, Networks

DEADLINE = 300.0

_HEAD_ID = "f" * 51 + "00000"
"""By which the pretended cloud knows the head."""


_COMMANDS = (
    *("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands"),
    *("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"),
)
"""What a cluster file must name, and what such a cloud has no use for."""


def start_node(
    command: Sequence[str], log: Path, env: Mapping[str, str], joined: Callable[[], bool]
) -> subprocess.Popen[bytes]:
    """Run this `ray start --block` until it says that the node is started and `joined` is true. After 30 s, which
    nothing changes, Ray takes a node of a busy machine for failed: then it is started once more, and a third time."""
    for _ in range(3):
        with log.open("wb") as file:
            launcher = subprocess.Popen(command, stdout=file, stderr=file, env=env, start_new_session=True)
        deadline = time.monotonic() + DEADLINE
        try:
            while launcher.poll() is None and time.monotonic() < deadline:
                if "Ray runtime started" in log.read_text(errors="replace") and joined():
                    return launcher
                time.sleep(0.05)
        except BaseException:
            kill_family(launcher.pid)
            raise
        kill_family(launcher.pid)
        launcher.wait()
        if "timed out during startup" not in (said := log.read_text(errors="replace")):
            break
    raise RuntimeError(f"ray start failed:\n{said}")


class RayCluster:
    """Runs between `with` and its end. nodes: (CPUs, GPUs) of each; the first is the head.

    grows: node types that an autoscaler may start, as Ray's cluster files have them (available_node_types). networks:
    node N stands in network N of these, as on a machine of its own. job_server: on the loopback of the head. flags:
    more of them for the head.
    """

    def __init__(
        self,
        nodes: Sequence[tuple[int, int]],
        *,
        grows: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        networks: Networks | None = None,
        job_server: bool = False,
        flags: Sequence[str] = (),
    ) -> None:
        # A short path of its own: Ray's sockets lie in it, and theirs may not exceed 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self._env = {name: value for name, value in {**os.environ, **(env or {})}.items() if name != "RAY_ADDRESS"}
        self._nodes, self._grows, self._networks = list(nodes), grows, networks
        self._flags = flags
        self._dashboard = _free_port() if job_server else None
        # On a busy machine a node's dashboard agent takes longer than the 30 s after which Ray gives up.
        self._env |= {"RAY_agent_register_timeout_ms": "120000"}
        if grows is not None:
            self._env |= {"RAY_FAKE_CLUSTER": "1", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID}
            # The first one tells nobody what it may bring.
            self._env |= {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": _HEAD_ID}
            self._env |= {"RAY_NODE_TYPE_NAME": "ray.head.default"}
        self._launchers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> RayCluster:
        try:
            for cpus, gpus in self._nodes:
                self.add(cpus, gpus)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Only what was started here: `ray stop` would end every cluster on the machine."""
        kill_family(*[launcher.pid for launcher in self._launchers])
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def address(self) -> str:
        """Of the head, empty while it starts: Ray writes the file when it has said that it is started."""
        found = self._folder / "ray_current_cluster"
        return found.read_text().strip() if found.exists() else ""

    def add(self, cpus: int, gpus: int) -> None:
        """Start one more node, and wait until it has joined."""
        number = len(self._launchers)
        if not number:
            port = 0 if self._grows is None else _free_port()
            flags = ["--head", f"--port={port}", f"--include-dashboard={str(bool(self._dashboard)).lower()}"]
            if self._dashboard:
                flags += [f"--dashboard-host={LOOPBACK}", f"--dashboard-port={self._dashboard}"]
            flags += self._flags
            if self._grows is not None:
                flags.append(f"--autoscaling-config={self._autoscaling(cpus, gpus, port)}")
        else:
            flags = [f"--address={self.address}"]
        if self._networks is not None:
            flags.append(f"--node-ip-address={ADDRESSES[number]}")
        elif number:
            # Ray tells nodes apart by their address.
            flags.append(f"--node-ip-address=127.0.0.{1 + number}")
        command = [*self.inside(number), str(Path(sys.executable).with_name("ray")), "start", "--block", *flags]
        command += [f"--num-cpus={cpus}", f"--num-gpus={gpus}", "--object-store-memory=150000000"]
        command += ["--dashboard-agent-listen-port=0", "--disable-usage-stats", f"--temp-dir={self._folder}"]
        log = self._folder / f"start-{number}.log"
        self._launchers.append(start_node(command, log, self._env, lambda: bool(self.address)))

    @property
    def job_server(self) -> str:
        """For `ray job`, on the head."""
        return f"http://{LOOPBACK}:{self._dashboard}"

    @property
    def logs(self) -> Path:
        """The folder into which Ray and its workers write, of all nodes."""
        return self._folder

    def inside(self, number: int) -> list[str]:
        """The beginning of a command that runs on that node."""
        return [] if self._networks is None else self._networks.inside(number)

    def kill(self, number: int) -> None:
        """kill -9 of a node: its raylet with its workers, and all that was started with it."""
        kill_family(self._launchers[number].pid)

    def workers(self, number: int = 0) -> int:
        """How many processes run a model over shards on that node."""
        found = 0
        for member in psutil.Process(self._launchers[number].pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                # Ray names its processes for what they run.
                found += any("MapWorker" in part for part in member.cmdline())
        return found

    def _autoscaling(self, cpus: int, gpus: int, port: int) -> Path:
        """Of the pretended cloud that comes with Ray, whose machines are processes here."""
        head = {"resources": {"CPU": cpus, "GPU": gpus}, "node_config": {}, "max_workers": 0}
        config = {
            "cluster_name": "pretended",
            "max_workers": 8,
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": 10,
            "provider": {
                "type": "external",
                "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
                "gcs_address": f"{_own_ip()}:{port}",
                "head_node_id": _HEAD_ID,
                "launch_multiple": True,
            },
            "auth": {},
            "available_node_types": {**(self._grows or {}), "ray.head.default": head},
            "head_node_type": "ray.head.default",
            "file_mounts": {},
            "docker": {},
            **{name: [] for name in _COMMANDS},
            "file_mounts_sync_continuously": False,
        }
        path = self._folder / "autoscaling.json"
        path.write_text(json.dumps(config))
        return path


def _own_ip() -> str:
    from ray._private.services import get_node_ip_address

    address: str = get_node_ip_address()
    return address


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


def kill_family(*pids: int) -> None:
    """kill -9 of these processes and of all their descendants; returns when they are gone."""
    family: list[psutil.Process] = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            leader = psutil.Process(pid)
            family += [leader, *leader.children(recursive=True)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=DEADLINE)
