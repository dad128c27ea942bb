"""What the driver does about graphs that are lost because the nodes lack memory.

A graph is replaced by what it says: how many of several workers the system ends, and when, cannot be arranged. That a
machine without memory ends in a line is tested in e2e/test_memory_pressure.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plan_jobs import Planner

from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.capture import driver
from tamis.pipeline.capture.graph import GraphLost
from tamis.pipeline.capture.spec import CaptureSpec
from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.errors import ClusterError
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.models.handle import ModelHandle
from tamis.pipeline.storage.store import Store

POOL = Pool(workers=8, cpus_per_worker=1.0, gpus_per_worker=0.0, threads=1, task_cpus=1.0)


def run(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, fits: int
) -> tuple[list[int], list[str], list[Any]]:
    """The workers of each graph, what was told, and the outcomes, where graphs of more than `fits` workers are lost."""
    planner = Planner(tmp_path, tiny_model)
    shards = planner("shard_rows=6").shards
    spec = CaptureSpec(
        store=Store(str(tmp_path / "out")), options={}, key="k",
        model=ModelHandle("tiny", str(tiny_model), None, device="cpu"), token_budget="auto", attention="padded",
        compile=False, exact=False, max_tokens=128, overlong="quarantine", columns=("block_01.last_token",),
    )  # fmt: skip
    sizes: list[int] = []
    told: list[str] = []

    def graph(_: Any, __: Any, left: list[Shard], pool: Pool, *___: Any) -> Iterator[dict[str, Any]]:
        sizes.append(pool.workers)
        for number, item in enumerate(left):
            if pool.workers > fits and number == fits:
                raise GraphLost("killed", of_memory=True)
            yield {"shard": item.name}

    monkeypatch.setattr(driver, "run_graph", graph)
    monkeypatch.setattr(driver, "start_watch", lambda: None)
    monkeypatch.setattr(driver, "wait_for_room", lambda *_: None)
    tokenizer = ChatTokenizer.load(str(tiny_model))
    outcomes = driver.capture(spec, tokenizer, shards, POOL, tell=told.append, resize=lambda: POOL)
    return sizes, told, list(outcomes)


def test_half_the_workers_go_on_until_they_fit(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the cluster would have room for all of them again."""
    sizes, told, outcomes = run(tmp_path, tiny_model, monkeypatch, fits=2)
    assert sizes == [8, 4, 2]
    assert [line.partition("going on with ")[2] for line in told] == ["4 of 8 workers", "2 of 4 workers"]
    names = [outcome["shard"] for outcome in outcomes]
    assert len(names) == 9
    assert names == sorted(set(names))


def test_it_ends_where_not_even_one_fits(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterError, match=r"could not be kept alive \(killed\); the nodes may lack memory"):
        run(tmp_path, tiny_model, monkeypatch, fits=0)
