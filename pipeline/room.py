"""Waiting for room on the cluster: for nodes that are to come, and for GPUs that other jobs use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tamis.pipeline.errors import ClusterError
from tamis.pipeline.machines import alive
from tamis.pipeline.pools import Pool

PATIENCE_SECONDS = 600.0

GRACE_SECONDS = 30.0
"""How long workers that lost their place may be waited for. Nodes come back, and other workers go on meanwhile."""

SETTLE_SECONDS = 3.0
"""How long what has just ended may still count as there. So short a wait needs no word."""


def wait_for_room(pool: Pool, patience: float, say: Callable[[str], None], settle: float = SETTLE_SECONDS) -> int:
    """Wait until the pool has room on the cluster beside what runs there: all workers that the cluster can hold for
    `settle` seconds, then pool.least of them. How many have room then.

    An autoscaler sees what is waited for and brings nodes. say: told once what is waited for, and once when not all
    have room. Raises ClusterError after `patience` seconds.
    """
    import ray

    with _asked_for(pool, pool.begin) as group:
        if group.wait(settle):
            return pool.begin
    with _asked_for(pool, pool.least) as group:
        shape = _shape(pool, pool.least)
        if not group.wait(min(settle, SETTLE_SECONDS)):
            say(f"waiting for {shape}: {_offer()}; for {patience:g} s at most (cluster_patience)")
            if not group.wait(patience):
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
    """The room of so many workers, taken as soon as it is there and given back at the end: a placement group."""
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([_bundle(pool)] * workers)
    try:
        yield group
    finally:
        remove_placement_group(group)


def _bundle(pool: Pool) -> dict[str, float]:
    share = {"CPU": pool.cpus_per_worker, "GPU": pool.gpus_per_worker}
    return {name: amount for name, amount in share.items() if amount}


def _shape(pool: Pool, workers: int) -> str:
    needs = [f"{pool.gpus_per_worker:g} GPU"] if pool.gpus_per_worker else []
    needs += [f"{pool.cpus_per_worker:.2g} CPU"] if pool.cpus_per_worker else []
    each = " each" if workers > 1 else ""
    return f"{workers} worker{'s' if workers > 1 else ''} of {' and '.join(needs)}{each}"


def _offer() -> str:
    """What the cluster has, and what of it nobody uses."""
    import ray

    free: dict[str, Any] = ray.available_resources()
    machines = alive()
    total = {"GPU": sum(machine.gpus for machine in machines), "CPU": sum(machine.cpus for machine in machines)}
    parts = [f"{amount:g} {name}s ({free.get(name, 0.0):.3g} of them free)" for name, amount in total.items()]
    return f"the cluster has {' and '.join(parts)} on {len(machines)} node{'s' if len(machines) != 1 else ''}"


class Shrinking:
    """Whether the cluster has lost the room for workers that it had, while nothing gets done. A worker that has no node
    any more keeps the shards that were given to it."""

    def __init__(self, pool: Pool) -> None:
        self._most = min(pool.begin, pool.workers)
        self._since: float | None = None

    def for_too_long(self, now: int) -> bool:
        """now: how many workers there is room for."""
        if now >= self._most:
            self._most, self._since = now, None
        elif self._since is None:
            self._since = time.monotonic()
        return self._since is not None and time.monotonic() - self._since > GRACE_SECONDS

    def end(self) -> None:
        """Something got done."""
        self._since = None
