"""The workers' progress on unfinished shards, as the watchdog reports it. The driver never waits for the report."""

from __future__ import annotations

import time
from typing import Any

from tamis.pipeline.cluster.watchdog import Guard, Part

_LOOK_SECONDS = 1.0


class Signs:
    """Progress of the workers of one stage. there: how many have a place. at_work: whether one has begun a shard."""

    def __init__(self, guard: Guard, stage: str) -> None:
        self.there = 0
        self.at_work = False
        self._guard, self._prefix = guard, f"{stage} "
        self._parts: dict[str, Part] = {}
        self._done: set[str] = set()
        self._question: Any = None
        self._asked = time.monotonic()

    @property
    def within(self) -> Part:
        """What is done of the shards that are not finished."""
        return Part(sum(part.rows for part in self._parts.values()), sum(part.tokens for part in self._parts.values()))

    def done(self, shard: str) -> None:
        """The shard is finished: its rows are counted elsewhere from now on."""
        self._done.add(shard)
        self._parts.pop(shard, None)

    def look(self) -> bool:
        """Ask the watchdog every second, and take its last answer, if there is one. True if a second has passed."""
        import ray

        if self._question is not None and ray.wait([self._question], timeout=0)[0]:
            try:
                report = ray.get(self._question)
            except ray.exceptions.RayError:
                report = None  # the watchdog is being restarted
            self._question = None
            if report is not None:
                self._take(report)
        if time.monotonic() - self._asked < _LOOK_SECONDS:
            return False
        self._asked = time.monotonic()
        if self._question is None:
            self._question = self._guard.watch.report.remote()
        return True

    def _take(self, report: Any) -> None:
        self.there = report.there
        for work, part in report.running.items():
            if work.startswith(self._prefix):
                self.at_work = True
                shard = work.removeprefix(self._prefix)
                # A shard that has just ended is no longer in the report, but its receipt is on the way: keep its part.
                if shard not in self._done:
                    self._parts[shard] = part
