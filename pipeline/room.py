"""Waiting for room on the cluster: for nodes that are to come, and for GPUs that other jobs use."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tamis.pipeline.errors import ClusterError
from tamis.pipeline.machines import alive
from tamis.pipeline.pools import Pool

PATIENCE_SECONDS = 600.0

GRACE_SECONDS = 30.0
"""How long workers that lost their place may be waited for. Nodes come back, and other workers go on meanwhile."""

_SILENT_SECONDS = 3.0
"""Waits so short need no word."""


def wait_for_room(pool: Pool, patience: float, say: Callable[[str], None], workers: int | None = None) -> int:
    """Wait until `workers` of the pool (default: pool.least) fit the cluster beside what runs there. How many of all of
    them do then.

    An autoscaler sees what is waited for and brings nodes. say: told once what is waited for, and once when not all
    fit. Raises ClusterError after `patience` seconds.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    wanted = pool.least if workers is None else workers
    share = {"CPU": pool.cpus_per_worker, "GPU": pool.gpus_per_worker}
    bundle = {name: amount for name, amount in share.items() if amount}
    # It takes the room, for the moment in which it is asked.
    group = placement_group([bundle] * wanted)
    try:
        if not group.wait(min(_SILENT_SECONDS, patience)):
            say(f"waiting for {_shape(pool, wanted)}: {_offer()}; for {patience:g} s at most (cluster_patience)")
            if not group.wait(max(patience - _SILENT_SECONDS, 0.0)):
                raise ClusterError(
                    f"the cluster had no room for {_shape(pool, wanted)} in {patience:g} s: {_offer()}; free some, ask "
                    "for less (workers, model.gpus_per_worker), or raise cluster_patience. What is done stays done; "
                    "run the same command again to go on"
                )
        free = ray.available_resources()
    finally:
        remove_placement_group(group)
    fit = wanted + min(int(free.get(name, 0.0) / amount + 1e-6) for name, amount in bundle.items())
    if fit < pool.begin:
        what = "GPUs" if pool.gpus_per_worker else "CPUs"
        say(
            f"{fit} of {pool.begin} workers {'has' if fit == 1 else 'have'} room now; the others wait for {what} that "
            "other jobs use"
        )
    return min(fit, pool.workers)


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
