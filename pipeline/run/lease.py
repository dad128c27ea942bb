"""The lease on an output folder: one small file that the driver renews while it lives.

Two drivers on one output write the same bytes, but do the work twice; so the second one is told. Nobody must wait for
a driver that was killed: on its own machine its process is looked up, on another machine its renewals are watched. This
needs neither the clock of another machine nor conditional writes to the storage.

A driver that cannot be asked (it hangs, or its machine is cut off) keeps its lease until a person breaks it (`unlock`).
If it wakes up after all, it finds the lease broken or in other hands, and stops.
"""

from __future__ import annotations

import _thread
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

import psutil

from tamis.pipeline.cluster.processes import started
from tamis.pipeline.errors import ConfigError, TamisError
from tamis.pipeline.run.paths import DRIVER, MANIFEST
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.voice import say

RENEW_SECONDS = 5.0
WATCH_SECONDS = 12.0
"""Long enough for two renewals on a slow storage."""

_POLL_SECONDS = 0.5
_LOOKS = 3
_SIGNAL = signal.SIGUSR2
_START_TOLERANCE = 5.0
_LAST_WAIT_SECONDS = 10.0


@dataclass(frozen=True)
class Lease:
    """One driver's claim. machine: differs for every machine, boot and container. process_started: the result of
    `processes.started`. started: for people. beat: changes with every renewal. broken: a person has taken
    the lease from this driver."""

    id: str
    host: str
    machine: str
    pid: int
    process_started: float
    started: str
    beat: int = 0
    broken: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started}"


@dataclass
class Held:
    """A driver's own lease. contested: another driver was, or may have been, at work here at the same time. stop:
    called in the renewing thread when the lease is lost."""

    lease: Lease
    contested: bool = False
    stop: Callable[[], None] = lambda: None
    _ended: threading.Event = field(default_factory=threading.Event)


class _Lost(BaseException):
    """The lease is in other hands. Like KeyboardInterrupt, it must not be taken for an error of what it interrupts."""


@contextmanager
def held(store: Store) -> Iterator[Held]:
    """Hold the lease on the output folder while the block runs.

    Raises ConfigError if another driver is at work, or if the lease is lost to one while the block runs: in the main
    thread, the block is interrupted. A lease that cannot be renewed for a while does not stop the run: the stages
    report errors of the storage themselves.
    """
    other = read(store)
    broken = other is not None and other.broken
    if other is not None and not broken and is_alive(store, other):
        raise ConfigError(
            f"output: another tamis is at work in {store.path()} ({other}); wait for it or stop it. If it hangs and "
            f"cannot be stopped: `tamis unlock {store.path()}`"
        )
    mine = Held(_own(), contested=broken)
    renewing = threading.Thread(target=_renew, args=(store, mine), name="lease", daemon=True)
    try:
        with _interruptible(mine):
            _write(store, mine.lease)
            renewing.start()
            yield mine
    except _Lost:
        if not mine.contested:  # it was another lease that this process holds, on a folder above
            raise
        raise ConfigError(
            f"output: the lease on {store.path()} was taken from this tamis (`tamis unlock`), and it stops; what is "
            "done stays done"
        ) from None
    finally:
        mine._ended.set()
        if renewing.ident is not None:
            renewing.join(_LAST_WAIT_SECONDS)
        _release(store, mine)


def read(store: Store) -> Lease | None:
    """The lease in the folder; None if there is none or the file is not a lease."""
    try:
        return Lease(**store.read_json(DRIVER))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def unlock(store: Store) -> Lease | None:
    """Break the lease of the driver that holds one, and return it; None if there is none. The driver, if it lives,
    stops at its next renewal."""
    theirs = read(store)
    if theirs is None or theirs.broken:
        return None
    broken = replace(theirs, broken=True)
    _write(store, broken)
    for _ in range(_LOOKS):  # a renewal that was under way may have written over it
        time.sleep(_POLL_SECONDS)
        now = read(store)
        if now is not None and now.id == theirs.id and not now.broken:
            _write(store, broken)
    return theirs


@contextmanager
def _interruptible(mine: Held) -> Iterator[None]:
    """Let the renewing thread interrupt this block, if it runs in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def lost(*_: object) -> None:
        if not mine._ended.is_set():
            raise _Lost

    before = signal.signal(_SIGNAL, lost)
    mine.stop = partial(_thread.interrupt_main, _SIGNAL)
    try:
        yield
    finally:
        mine._ended.set()
        signal.signal(_SIGNAL, before)


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
            if _is_lost(store, mine, other):
                mine.contested = True
                mine.stop()
                return
            mine.lease = replace(mine.lease, beat=mine.lease.beat + 1)
            if not mine._ended.is_set():
                _write(store, mine.lease)
            if mine._ended.is_set():  # it ended during a slow write: the renewed lease must not stay
                _release(store, mine)


def _is_lost(store: Store, mine: Held, found: Lease | None) -> bool:
    """Whether what was found in place of the lease means that another driver has, or had, the output. A lease that is
    only missing is written again, unless a driver has removed it at the end of the run."""
    if found is None:
        return store.exists(MANIFEST)
    return found.broken or found.id != mine.lease.id


def _release(store: Store, mine: Held) -> None:
    with suppress(OSError, TamisError):
        last = read(store)
        if last is not None and last.id == mine.lease.id and not last.broken:
            store.remove(DRIVER)
        else:
            mine.contested |= last is not None


def _write(store: Store, lease: Lease) -> None:
    store.write(DRIVER, json.dumps(asdict(lease)).encode())
