"""How a graph is stopped: readers that are about to end may, the others are cancelled."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import ray

from tamis.pipeline import generation
from tamis.pipeline.generation import _let_end
from tamis.pipeline.ray_start import ray_session


@pytest.fixture
def session(ray_address: str) -> Iterator[None]:
    with ray_session(ray_address):
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def reading(seconds: float) -> Iterator[float]:
    """As Ray Data's tasks, a generator."""
    time.sleep(seconds)
    yield seconds


@dataclass
class Task:
    """What Ray Data knows of a task, with the real task in it."""

    waitable: Any
    cancelled: bool = False

    def get_waitable(self) -> Any:
        return self.waitable

    def _cancel(self, force: bool) -> None:
        self.cancelled = True
        ray.cancel(self.waitable, force=force)


@dataclass
class Operator:
    tasks: list[Task] = field(default_factory=list)

    def get_active_tasks(self) -> list[Task]:
        return self.tasks


@pytest.mark.usefixtures("session")
def test_readers_that_are_about_to_end_are_not_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "_END_SECONDS", 8.0)
    task = ray.remote(num_cpus=0, num_returns="streaming", max_retries=0)(reading)
    # Two processes are there then, and what is measured below is not their start.
    ray.get([next(ready) for ready in [task.remote(1.0), task.remote(1.0)]])
    quick, endless = Task(task.remote(0.5)), Task(task.remote(3600.0))
    _let_end(Operator([quick, endless]), force=True)
    assert (quick.cancelled, endless.cancelled) == (False, True)
    assert ray.get(next(quick.waitable)) == 0.5
    with pytest.raises(ray.exceptions.RayError):
        ray.get(next(endless.waitable))
    _let_end(Operator(), force=True)
