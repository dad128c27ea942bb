"""The watchdog records which worker is at work on which shard, and since when. So a shard that kills its workers is
given up, and a worker that hangs is replaced, while all others continue.

A worker reports when it begins a shard, that it makes progress, and when it is done. A worker that dies reports
nothing: if a shard is begun more often than allowed, it has killed every worker that had it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from tamis.pipeline.cluster.processes import started

TRIES = 3
"""How many workers a shard may kill before it is given up."""

_BEAT_SECONDS = 5.0
_GONE_SECONDS = 120.0
"""A worker that loads a large model may be silent for long."""
_KILL_SECONDS = 30.0
_ANSWER_SECONDS = 30.0


@dataclass(frozen=True)
class Process:
    """One process of the cluster. born: when it started, because its pid may be reused later. node: its id in Ray."""

    pid: int
    born: float
    node: str

    @classmethod
    def this(cls) -> Process:
        import ray

        return cls(os.getpid(), started(os.getpid()), ray.get_runtime_context().get_node_id())


@dataclass(frozen=True)
class Part:
    """The finished part of an unfinished shard: rows, by their share of its tokens, and tokens."""

    rows: float = 0.0
    tokens: int = 0


@dataclass(frozen=True)
class Report:
    """The present state of the watchdog. there: as `Watch.there`. running: the finished part of work in progress."""

    there: int
    running: Mapping[str, Part]


@dataclass
class _Work:
    """One worker on one shard. seen: the time of its last sign of life, on the watchdog's clock."""

    process: Process
    seen: float
    part: Part = Part()


class Watch:
    """The watchdog's record, in an actor. work: stage and shard, e.g. "forward 000001-0123456789abcdef"."""

    def __init__(self) -> None:
        self._tries: Counter[str] = Counter()
        self._blame: dict[str, str] = {}
        self._running: dict[str, _Work] = {}
        self._there: dict[Process, float] = {}

    def attend(self, process: Process) -> None:
        """Note that a worker that runs a model has a place. Called every few seconds, as a dead worker cannot report
        its end."""
        self._there[process] = time.monotonic()

    def there(self) -> int:
        """How many workers have a place."""
        now = time.monotonic()
        self._there = {process: seen for process, seen in self._there.items() if now - seen < _GONE_SECONDS}
        return len(self._there)

    def begin(self, work: str, process: Process) -> str | None:
        """Note that a worker begins. Returns the reason if no worker should, else None."""
        if self._tries[work] >= TRIES:
            self._running.pop(work, None)
            last = f" (the last time: {self._blame[work]})" if work in self._blame else ""
            return f"each of {TRIES} workers died while it was at work on it{last}"
        self._tries[work] += 1
        self._running[work] = _Work(process, time.monotonic())
        return None

    def beat(self, work: str, part: Part | None = None) -> None:
        if work in self._running:
            self._running[work].seen = time.monotonic()
            self._running[work].part = part or self._running[work].part

    def report(self) -> Report:
        return Report(self.there(), {name: work.part for name, work in self._running.items()})

    def blame(self, work: str, reason: str) -> None:
        """Note why a worker ends, as the worker itself or its killer reports it."""
        self._blame[work] = reason

    def end(self, work: str) -> None:
        self._running.pop(work, None)
        self._tries.pop(work, None)

    def stalled(self, seconds: float) -> dict[str, Process]:
        """The work and processes of workers without a sign of life for this many seconds. A worker that survives is
        listed again after the same time."""
        now = time.monotonic()
        found = {name: work.process for name, work in self._running.items() if now - work.seen > seconds}
        for name in found:
            self._running[name].seen = now
        return found


@dataclass(frozen=True)
class Guard:
    """A worker's connection to the watchdog; it is sent to workers. watch: handle of the actor."""

    watch: Any

    def attend(self) -> None:
        """Report that this process has a place, from now until it ends."""
        import ray

        this = Process.this()

        def say() -> None:
            while ray.is_initialized():  # else the call would join a cluster by itself
                self.watch.attend.remote(this)
                time.sleep(_BEAT_SECONDS)

        threading.Thread(target=say, name="attend", daemon=True).start()

    def begin(self, work: str) -> str | None:
        """As `Watch.begin`, for this process."""
        refused: str | None = _answer(self.watch.begin.remote(work, Process.this()))
        return refused

    def blame(self, work: str, reason: str) -> None:
        _answer(self.watch.blame.remote(work, reason))

    def end(self, work: str) -> None:
        self.watch.end.remote(work)

    def beats(self, *works: str, whole: Part | None = None, tokens: int = 0) -> Beats:
        """works: the work of this worker; where workers wait for each other, the work of all of them, because none
        hangs while one makes progress. whole: all there is to do. tokens: the number of tokens that `Beats` will count
        for it; more than whole.tokens where several models read them."""
        return Beats(self, works, whole, tokens)


class Beats:
    """Called whenever there is progress, with the number of finished tokens; tells the watchdog every few seconds."""

    def __init__(self, guard: Guard, works: Sequence[str], whole: Part | None, tokens: int) -> None:
        self._guard, self._works, self._said = guard, works, time.monotonic()
        self._whole, self._tokens, self._done = whole, tokens, 0

    def __call__(self, tokens: int = 0) -> None:
        self._done += tokens
        if time.monotonic() - self._said > _BEAT_SECONDS:
            self._said = time.monotonic()
            for work in self._works:
                self._guard.watch.beat.remote(work, self._part())

    def _part(self) -> Part | None:
        if self._whole is None:
            return None
        share = min(self._done / max(self._tokens, 1), 1.0)
        return Part(share * self._whole.rows, int(share * self._whole.tokens))


def _answer(reference: Any) -> Any:
    """The watchdog's answer; None where it cannot answer. It is a process like any other: it may be killed when memory
    runs out, and is then restarted with an empty record. Meanwhile, the work continues without it."""
    import ray

    try:
        return ray.get(reference, timeout=_ANSWER_SECONDS)
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError:
        return None


def start_watch() -> Guard:
    """Start a watchdog on the driver's node: it lives as long as the driver does."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Guard(ray.remote(Watch).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote())


def kill_stalled(guard: Guard, seconds: float) -> str | None:
    """Kill the processes of hung workers; Ray starts others in their place. A worker that died gives no sign of life
    either, and is left alone. Returns why a worker was killed; None if none was."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    kills, reason, any_killed = {}, f"no progress in {seconds:g} s (worker_timeout)", False
    for work, process in (_answer(guard.watch.stalled.remote(seconds)) or {}).items():
        there = NodeAffinitySchedulingStrategy(process.node, soft=False)
        task = ray.remote(_kill).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        kills[work] = task.remote(process)
    for work, killed in kills.items():
        with suppress(ray.exceptions.RayError):  # the node is gone, and the worker with it
            if ray.get(killed, timeout=_KILL_SECONDS):
                guard.blame(work, reason)
                any_killed = True
    return reason if any_killed else None


def _kill(process: Process) -> bool:
    """Kill the process. False if it has ended; its pid may belong to another process by now."""
    with suppress(psutil.NoSuchProcess):
        found = psutil.Process(process.pid)
        if started(process.pid) == process.born and found.status() != psutil.STATUS_ZOMBIE:
            found.kill()
            return True
    return False
