"""The lease on an output folder: one small file that the driver renews while it lives.

Two drivers on one output write the same bytes, but do the work twice; so the second one is told. Nobody must wait for
a driver that was killed: on its own machine its process is looked up, on another machine its renewals are watched. This
needs neither the clock of another machine nor conditional writes to the storage.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

import psutil

from tamis.pipeline.cluster.processes import started
from tamis.pipeline.errors import ConfigError, TamisError
from tamis.pipeline.run.paths import DRIVER
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import say

RENEW_SECONDS = 5.0
WATCH_SECONDS = 12.0
"""Long enough for two renewals on a slow storage."""

_POLL_SECONDS = 0.5
_START_TOLERANCE = 5.0
_LAST_WAIT_SECONDS = 10.0


@dataclass(frozen=True)
class Lease:
    """One driver's claim. machine: differs for every machine, boot and container. process_started: the result of
    `processes.started`. started: for people. beat: changes with every renewal."""

    id: str
    host: str
    machine: str
    pid: int
    process_started: float
    started: str
    beat: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started}"


@dataclass
class Held:
    """A driver's own lease. contested: another driver was at work here at the same time."""

    lease: Lease
    contested: bool = False
    _ended: threading.Event = field(default_factory=threading.Event)


@contextmanager
def held(store: Store, *, force: bool = False) -> Iterator[Held]:
    """Hold the lease on the output folder while the block runs.

    Raises ConfigError if another driver is at work, unless `force` is set. A lease that cannot be renewed for a while
    does not stop the run: the stages report errors of the storage themselves.
    """
    other = read(store)
    if other is not None and not force and is_alive(store, other):
        raise ConfigError(
            f"output: another tamis is at work in {store.path()} ({other}); wait for it, stop it, or start with "
            "--force (both then do the work, and end with the same result)"
        )
    mine = Held(_own(), contested=force and other is not None)
    _write(store, mine.lease)
    renewing = threading.Thread(target=_renew, args=(store, mine), name="lease", daemon=True)
    renewing.start()
    try:
        yield mine
    finally:
        mine._ended.set()
        renewing.join(_LAST_WAIT_SECONDS)
        _release(store, mine)


def read(store: Store) -> Lease | None:
    """The lease in the folder; None if there is none or the file is not a lease."""
    try:
        return Lease(**store.read_json(DRIVER))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def is_alive(store: Store, lease: Lease) -> bool:
    """Whether the driver that wrote `lease` still works. On its own machine this is known at once, elsewhere only after
    watching its beat."""
    if lease.machine == _machine():
        return _runs(lease)
    say(f"another tamis was at work here ({lease}); looking whether it still is")
    deadline = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        now = read(store)
        if now != lease:
            return now is not None
    return False


def _own() -> Lease:
    process = psutil.Process()
    return Lease(
        id=uuid.uuid4().hex,
        host=socket.gethostname(),
        machine=_machine(),
        pid=process.pid,
        process_started=started(process.pid),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _machine() -> str:
    """Identifies the scope of a pid: one boot of one machine and, in containers, one container."""
    parts = [socket.gethostname()]
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            parts.append(file.read().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:  # not Linux
        parts.append(str(uuid.getnode()))
    return " ".join(parts)


def _runs(lease: Lease) -> bool:
    """Whether the process of the lease still runs. Its pid alone does not tell: it may be another process by now."""
    try:
        process = psutil.Process(lease.pid)
        same = abs(started(lease.pid) - lease.process_started) < _START_TOLERANCE
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _renew(store: Store, mine: Held) -> None:
    while not mine._ended.wait(RENEW_SECONDS):
        with suppress(OSError, TamisError):
            other = read(store)
            mine.contested |= other is not None and other.id != mine.lease.id
            mine.lease = replace(mine.lease, beat=mine.lease.beat + 1)
            if not mine._ended.is_set():
                _write(store, mine.lease)
            if mine._ended.is_set():  # it ended during a slow write: the renewed lease must not stay
                _release(store, mine)


def _release(store: Store, mine: Held) -> None:
    with suppress(OSError, TamisError):
        last = read(store)
        if last is not None and last.id == mine.lease.id:
            store.remove(DRIVER)
        else:
            mine.contested |= last is not None


def _write(store: Store, lease: Lease) -> None:
    store.write(DRIVER, json.dumps(asdict(lease)).encode())
