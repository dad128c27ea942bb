"""Waiting for room on the cluster: for nodes that will come, and for GPUs that other jobs use."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tamis.pipeline.cluster.machines import alive
from tamis.pipeline.cluster.pools import Pool, room_with_tasks
from tamis.pipeline.cluster.shortage import shortage
from tamis.pipeline.errors import ClusterError
from tamis.pipeline.terminal.progress import waiting

PATIENCE_SECONDS = 600.0

GRACE_SECONDS = 30.0
"""How long to wait for workers that lost their place. Nodes may come back, and other workers continue meanwhile."""

_LOOK_SECONDS = 5.0
_TURN_SECONDS = 1.0
_STAGE = "workers"

SETTLE_SECONDS = 3.0
"""How long resources may still count as used after their user has ended. Such a short wait needs no message."""


def wait_for_room(pool: Pool, patience: float, say: Callable[[str], None], settle: float = SETTLE_SECONDS) -> int:
    """Wait until the pool has room on the cluster beside other jobs. For `settle` seconds, wait for room for all
    workers that the cluster can hold, then for pool.least of them. Returns how many have room.

    An autoscaler sees the requested resources and adds nodes. say: called once with what the run is waiting for, and
    once when not all workers have room. Raises ClusterError after `patience` seconds.
    """
    import ray

    with _asked_for(pool, pool.begin) as group, waiting(_STAGE, f"asking for {_shape(pool, pool.begin)}", settle):
        if _wait(group, settle):
            return pool.begin
    with _asked_for(pool, pool.least) as group:
        shape = _shape(pool, pool.least)
        if not _wait(group, min(settle, SETTLE_SECONDS)):
            offer = _offer()
            say(f"waiting for {shape}: {offer}; for {patience:g} s at most (cluster_patience)")
            with waiting(_STAGE, f"waiting for {shape}: {offer}", patience):
                there = _wait(group, patience)
            if not there:
                raise ClusterError(
                    f"the cluster had no room for {shape} in {patience:g} s: {_offer()}; free some, ask for less "
                    "(workers, model.gpus_per_worker), or raise cluster_patience. What is done stays done; run the "
                    "same command again to go on"
                )
        free = ray.available_resources()
    beside = min(int(free.get(name, 0.0) / amount + 1e-6) for name, amount in _bundle(pool).items())
    found = min(pool.least + beside, pool.begin)
    if found < pool.begin:
        has, what = "has" if found == 1 else "have", "GPUs" if pool.gpus_per_worker else "CPUs"
        say(f"{found} of {pool.begin} workers {has} room now; the others wait for {what} that other jobs use")
    return found


@contextmanager
def _asked_for(pool: Pool, workers: int) -> Iterator[Any]:
    """A placement group with room for this many workers, reserved as soon as possible and released at the end."""
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([_bundle(pool)] * workers)
    try:
        yield group
    finally:
        remove_placement_group(group)


def _wait(group: Any, seconds: float) -> bool:
    """Wait in short turns: nothing can interrupt Ray while it waits, not even Ctrl-C."""
    until = time.monotonic() + seconds
    while not group.wait(min(_TURN_SECONDS, max(until - time.monotonic(), 0.01))):
        if time.monotonic() >= until:
            return False
    return True


def _bundle(pool: Pool) -> dict[str, float]:
    share = {"CPU": pool.cpus_per_worker, "GPU": pool.gpus_per_worker}
    return {name: amount for name, amount in share.items() if amount}


def _shape(pool: Pool, workers: int) -> str:
    needs = [f"{pool.gpus_per_worker:g} GPU"] if pool.gpus_per_worker else []
    needs += [f"{pool.cpus_per_worker:.4g} CPU"] if pool.cpus_per_worker else []
    each = " each" if workers > 1 else ""
    return f"{workers} worker{'s' if workers > 1 else ''} of {' and '.join(needs)}{each}"


def _offer() -> str:
    """The cluster's resources, and how many of them are free, as text."""
    import ray

    free: dict[str, Any] = ray.available_resources()
    machines = alive()
    total = {"GPU": sum(machine.gpus for machine in machines), "CPU": sum(machine.cpus for machine in machines)}
    parts = [f"{amount:g} {name}s ({free.get(name, 0.0):.3g} of them free)" for name, amount in total.items()]
    return f"the cluster has {' and '.join(parts)} on {len(machines)} node{'s' if len(machines) != 1 else ''}"


def _is_free(pool: Pool) -> bool:
    """Whether a worker has room now, beside other jobs."""
    import ray

    free = ray.available_resources()
    return all(free.get(name, 0.0) >= amount - 1e-6 for name, amount in _bundle(pool).items())


class Places:
    """Watches whether workers have places while nothing gets done. A worker that lost its place keeps its shards; a
    worker that never had a place waits behind other jobs. Where a node is gone, its workers may start again on the
    others and leave no CPU for the tasks that read for them: that is too little room as well.

    room: how many workers of the pool fit the present cluster; `pools.room` where no tasks read for them.
    """

    def __init__(
        self, pool: Pool, patience: float, tell: Callable[[str], None], room: Callable[[Pool], int] = room_with_tasks
    ) -> None:
        self._pool, self._patience, self._tell, self._room = pool, patience, tell, room
        # The most workers, and the most room, that there ever were.
        self._most, self._most_room = 0, pool.begin
        self._idle_since = time.monotonic()
        self._looked = -math.inf
        self._told = False

    def in_use(self, there: int) -> None:
        """Note that something got done. there: how many workers have a place."""
        self._idle_since = time.monotonic()
        self._told = False
        # A cluster may grow while work goes on, and shrink at once.
        if self._idle_since - self._looked >= _LOOK_SECONDS:
            self._look(there)

    def lost(self, count: Callable[[], int]) -> bool:
        """Whether there were more workers than the cluster has room for now, so that the others are kept waiting.

        count: gives the number of workers that have a place. Tells the person when no worker has had a place for long;
        ClusterError after `patience`.
        """
        idle = time.monotonic() - self._idle_since
        if idle < _LOOK_SECONDS:
            return False
        there = count()
        now = self._look(there)
        if there == 0 and idle > self._patience + GRACE_SECONDS:
            if _is_free(self._pool):
                raise ClusterError(
                    f"no worker stayed alive in {idle:.0f} s, though there is room for one; {shortage()}. What is "
                    "done stays done; run the same command again to go on"
                )
            raise ClusterError(
                f"no worker found room in {idle:.0f} s: {_offer()}; free some, ask for less (workers, "
                "model.gpus_per_worker), or raise cluster_patience; where the memory of a node is used up, Ray ends "
                "workers as well. What is done stays done; run the same command again to go on"
            )
        if there == 0 and idle > 2 * GRACE_SECONDS and not self._told:
            self._told = True
            offer = f"there is room for it, and none stays alive; {shortage()};"
            offer = offer if _is_free(self._pool) else f"{_offer()};"
            self._tell(f"waiting for {_shape(self._pool, 1)}: {offer} for {self._patience:g} s at most "
                       "(cluster_patience)")  # fmt: skip
        # No more than ever had room: a worker that has died counts for some time beside the one in its place.
        return idle > GRACE_SECONDS and now < min(self._most, self._most_room)

    def _look(self, there: int) -> int:
        """The room that there is now."""
        self._looked, now = time.monotonic(), self._room(self._pool)
        self._most, self._most_room = max(self._most, there), max(self._most_room, now)
        return now
