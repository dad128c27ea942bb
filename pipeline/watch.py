"""Who is at work on which shard, and since when: so that a shard that kills its workers is given up, and a worker that
hangs is replaced, while all others go on.

A worker says when it begins with a shard, that it is getting on, and when it is done. One that dies says nothing, so a
shard that is begun once more than it may be has killed every worker that had it.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

TRIES = 3
"""How many workers a shard may kill."""

_BEAT_SECONDS = 5.0
_KILL_SECONDS = 30.0


@dataclass
class _Work:
    """One worker at one shard. seen: when it last gave a sign, on the clock of the watch."""

    pid: int
    born: float
    node: str
    seen: float


class Watch:
    """The record, as an actor. work: stage and shard, e.g. "forward 000001-0123456789abcdef"."""

    def __init__(self) -> None:
        self._tries: Counter[str] = Counter()
        self._blame: dict[str, str] = {}
        self._running: dict[str, _Work] = {}

    def begin(self, work: str, pid: int, born: float, node: str) -> str | None:
        """Note that a worker begins; or the reason why nobody should. born: when its process started."""
        if self._tries[work] >= TRIES:
            self._running.pop(work, None)
            last = f" (the last time: {self._blame[work]})" if work in self._blame else ""
            return f"each of {TRIES} workers died while it was at work on it{last}"
        self._tries[work] += 1
        self._running[work] = _Work(pid, born, node, time.monotonic())
        return None

    def beat(self, work: str) -> None:
        if work in self._running:
            self._running[work].seen = time.monotonic()

    def blame(self, work: str, reason: str) -> None:
        """What a worker, or who kills it, knows of its end."""
        self._blame[work] = reason

    def end(self, work: str) -> None:
        self._running.pop(work, None)
        self._tries.pop(work, None)

    def stalled(self, seconds: float) -> list[tuple[str, int, float, str]]:
        """(work, pid, born, node) of workers that gave no sign for so long; each is told once."""
        now = time.monotonic()
        found = [(name, work) for name, work in self._running.items() if now - work.seen > seconds]
        for name, _ in found:
            del self._running[name]
        return [(name, work.pid, work.born, work.node) for name, work in found]


@dataclass(frozen=True)
class Guard:
    """A worker's end of the line to the watch; travels to workers. watch: handle of the actor."""

    watch: Any

    def begin(self, work: str) -> str | None:
        """As `Watch.begin`, for this process."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        born = psutil.Process().create_time()
        refused: str | None = ray.get(self.watch.begin.remote(work, os.getpid(), born, node))
        return refused

    def blame(self, work: str, reason: str) -> None:
        import ray

        ray.get(self.watch.blame.remote(work, reason))

    def end(self, work: str) -> None:
        self.watch.end.remote(work)

    def beats(self, work: str) -> _Beats:
        return _Beats(self, work)


class _Beats:
    """To be called as often as there is progress; tells the watch every few seconds."""

    def __init__(self, guard: Guard, work: str) -> None:
        self._guard, self._work, self._said = guard, work, time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._said > _BEAT_SECONDS:
            self._said = time.monotonic()
            self._guard.watch.beat.remote(self._work)


def start_watch() -> Guard:
    """A watch on the driver's node: it lives as long as the driver does."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Guard(ray.remote(Watch).options(num_cpus=0, scheduling_strategy=here).remote())


def kill_stalled(guard: Guard, seconds: float) -> None:
    """Kill the processes of the workers that hang; Ray starts others in their place. One that died gives no sign, too,
    and is let be."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    kills = {}
    for work, pid, born, node in ray.get(guard.watch.stalled.remote(seconds)):
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        task = ray.remote(_kill).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        kills[work] = task.remote(pid, born)
    for work, killed in kills.items():
        with suppress(ray.exceptions.RayError):  # the node is gone, and the worker with it
            if ray.get(killed, timeout=_KILL_SECONDS):
                guard.blame(work, f"no progress in {seconds:g} s")


def _kill(pid: int, born: float) -> bool:
    """False if it has ended; its number may be another process's by now."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if process.create_time() == born and process.status() != psutil.STATUS_ZOMBIE:
            process.kill()
            return True
    return False
