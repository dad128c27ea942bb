"""How a graph hands on shards, and how it is stopped: readers that are about to end may, the others are cancelled."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from plan_jobs import Planner

from tamis.pipeline.capture import graph as generation
from tamis.pipeline.capture import parcels
from tamis.pipeline.capture.graph import _cancel_readers, _executors, _stop
from tamis.pipeline.capture.spec import capture_spec
from tamis.pipeline.capture.tokenise import PackedTokenizer
from tamis.pipeline.cluster import tasks as engine
from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.cluster.session import ray_session
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.storage.store import Store


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
    monkeypatch.setattr(engine, "_END_SECONDS", 8.0)
    task = ray.remote(num_cpus=0, num_returns="streaming", max_retries=0)(reading)
    # Two processes are there then, and what is measured below is not their start.
    ray.get([next(ready) for ready in [task.remote(1.0), task.remote(1.0)]])
    quick, endless = Task(task.remote(0.5)), Task(task.remote(3600.0))
    _cancel_readers(Operator([quick, endless]), force=True)
    assert (quick.cancelled, endless.cancelled) == (False, True)
    assert ray.get(next(quick.waitable)) == 0.5
    with pytest.raises(ray.exceptions.RayError):
        ray.get(next(endless.waitable))
    _cancel_readers(Operator(), force=True)


@pytest.mark.usefixtures("session")
def test_a_graph_is_stopped_without_breaking_off_what_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_END_SECONDS", 60.0)
    dataset = ray.data.from_items([{"folder": str(tmp_path)}] * 40, override_num_blocks=40).map_batches(
        read_slowly, batch_size=None, batch_format="pyarrow", num_cpus=0.5
    )
    begun = threading.Event()

    def consume() -> None:
        for _ in dataset.iter_rows():
            begun.set()

    others = _executors()
    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    assert begun.wait(60)
    _stop(consumer, others)
    assert not consumer.is_alive()
    assert _executors() <= others
    marks = [path.suffix for path in tmp_path.iterdir()]
    assert 0 < marks.count(".done") == marks.count(".begun") < 40


@pytest.mark.usefixtures("session")
def test_a_graph_is_stopped_before_its_first_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_END_SECONDS", 0.1)
    dataset = ray.data.from_items([{"folder": str(tmp_path)}], override_num_blocks=1).map_batches(
        read_for_ever, batch_size=None, batch_format="pyarrow", num_cpus=0.5
    )
    others = _executors()
    consumer = threading.Thread(target=lambda: list(dataset.iter_rows()), daemon=True)
    consumer.start()
    until = time.monotonic() + 60
    while not any(tmp_path.iterdir()):
        assert time.monotonic() < until
        time.sleep(0.05)
    _stop(consumer, others)
    assert not consumer.is_alive()
    assert _executors() <= others


def read_for_ever(batch: pa.Table) -> pa.Table:
    (Path(batch["folder"][0].as_py()) / "begun").touch()
    time.sleep(3600)
    return batch


def read_slowly(batch: pa.Table) -> pa.Table:
    mark = Path(batch["folder"][0].as_py(), str(time.time_ns()))
    mark.with_suffix(".begun").touch()
    time.sleep(0.5)
    mark.with_suffix(".done").touch()
    return batch


@pytest.mark.usefixtures("session")
@pytest.mark.parametrize("most", [2, 1000])
def test_a_shard_is_one_block(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(parcels, "_PORTIONS", most)
    plan = Planner(tmp_path, tiny_model)("shard_rows=4")
    pool = Pool(1, 0.5, 0.0, 1, 0.25)
    spec = capture_spec(plan.job, plan.model, Store(str(tmp_path / "out")), "k", pool, plan.max_tokens, plan.requests)
    dataset = generation.parcels(spec, PackedTokenizer.pack(plan.tokenizer), plan.shards, pool, None).materialize()
    assert dataset.num_blocks() == dataset.count() == len(plan.shards) == 13
    found = {}
    for batch in dataset.iter_batches(batch_size=1, batch_format="pyarrow"):
        notes, rows = parcels.unpack(batch)
        found[Shard.from_json(notes["shard"]).name] = rows.num_rows if rows is not None else 0
    assert found == {shard.name: shard.rows for shard in plan.shards}
