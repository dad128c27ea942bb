"""The exact cut over shards is that of one sort over all their values, ties in corpus order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.operators.statistics.selection import decide
from tamis.pipeline.cluster.session import ray_session
from tamis.pipeline.fit import exact_cut as module
from tamis.pipeline.fit.exact_cut import coarse_of, exact_cut
from tamis.pipeline.fit.scores import DECIDING, read_scores
from tamis.pipeline.storage.store import Sealed, Store

EDGES = [0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38, 1.0, np.nextafter(np.float32(1), np.float32(2))]


@pytest.fixture(autouse=True, scope="module")
def session(ray_address: str) -> Iterator[None]:
    with ray_session(ray_address), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "GROUP", 2)  # so that several tasks have something to add up
        yield


def shards_of(seed: int, sizes: list[int], values: list[float] | None) -> list[list[float]]:
    chance = random.Random(seed)
    return [[chance.choice(values) if values else chance.gauss(0, 1) for _ in range(size)] for size in sizes]


def written(store: Store, shards: list[list[float]]) -> list[Sealed]:
    """Scores as fit leaves them, with a quarantined row before each second one."""
    files = []
    for number, scores in enumerate(shards):
        column: list[Any] = [value for score in scores for value in ([None, score] if number % 2 else [score])]
        table = pa.table({DECIDING: pa.array(column, pa.float32())})
        files.append(store.write_table(f"scores/{number:03d}.parquet", table).sealed)
    return files


@pytest.mark.parametrize(
    ("sizes", "values"),
    [
        ([1], None),
        ([7, 5, 9], None),
        ([0, 4, 0, 6, 1], None),
        ([5] * 7, [0.5, 0.25]),
        ([6, 6, 6], [1.0]),
        ([9, 3, 8, 4], EDGES),
    ],
    ids=["one", "some", "empty shards", "ties", "all alike", "edges"],
)
def test_a_cut_is_that_of_one_sort(tmp_path: Path, sizes: list[int], values: list[float] | None) -> None:
    store = Store(str(tmp_path))
    shards = shards_of(len(sizes), sizes, values)
    files = written(store, shards)
    together = np.concatenate([np.array(shard, np.float32) for shard in shards])
    coarse = coarse_of(store, files, read_scores)
    assert coarse.sum() == len(together)
    # Stable: of equal values those that come first in the corpus.
    order = np.argsort(-together.astype(np.float64), kind="stable")
    for count in sorted({0, 1, len(together) // 3, len(together) - 1, len(together)}):
        cut = exact_cut(store, files, read_scores, count, coarse)
        assert len(cut.quotas) == len(files)
        chosen = [
            decide(np.array(shard, np.float32), cut.threshold, quota)
            for shard, quota in zip(shards, cut.quotas, strict=True)
        ]
        assert sorted(np.flatnonzero(np.concatenate(chosen))) == sorted(order[:count])
        if count:
            assert cut.at == int((together == together[order[count - 1]]).sum())
