"""The mean of the methods' ranks over tables on a disk: the same whatever the sharding and the ranges; rows that have
no score have none here either; chance goes on deciding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tamis.operators.statistics.ranking import coarse_histogram
from tamis.pipeline.fit.mean_ranks import with_ranks
from tamis.pipeline.fit.scores import DECIDING, ScoreSums, read_scores
from tamis.pipeline.storage.store import Store

ROWS = 40
CHANCE = np.random.default_rng(4)
LARF = CHANCE.integers(0, 9, ROWS).astype(np.float32)
SAFT = CHANCE.normal(size=ROWS).astype(np.float32)
VALID = np.arange(ROWS) % 7 != 3


def fitted(store: Store, sizes: list[int]) -> ScoreSums:
    files, start = [], 0
    for number, size in enumerate(sizes):
        rows = slice(start, start + size)
        columns = {name: pa.array(own[rows], mask=~VALID[rows]) for name, own in (("larf", LARF), ("saft", SAFT))}
        table = pa.table({**columns, DECIDING: columns["larf"]})
        files.append(store.write_table(f"fitted/{number:06d}.parquet", table).sealed)
        start += size
    assert start == ROWS
    return ScoreSums(coarse_histogram(LARF[VALID]), np.array([0, VALID.sum()]), 0.0, 8.0, tuple(files))


def naive() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    total = np.zeros(int(VALID.sum()))
    for own in (LARF[VALID].astype(np.float64), SAFT[VALID].astype(np.float64)):
        total += [(own < one).sum() + ((own == one).sum() + 1) / 2 for one in own]
    return (total / (2 * len(total))).astype(np.float32)


@pytest.mark.parametrize(("sizes", "most"), [([40], 1 << 22), ([1, 17, 0, 22], 5), ([20, 20], 1)])
@pytest.mark.usefixtures("driver")
def test_any_sharding_and_any_ranges(tmp_path: Path, sizes: list[int], most: int) -> None:
    store = Store(str(tmp_path))
    sums = with_ranks(store, ["larf", "saft"], fitted(store, sizes), by_chance=False, range_rows=most)
    found = np.concatenate([read_scores(store, file) for file in sums.files])
    assert found.tolist() == naive().tolist()
    assert np.concatenate([read_scores(store, file, "ranks") for file in sums.files]).tolist() == naive().tolist()
    assert (sums.low, sums.high) == (naive().min(), naive().max())
    assert sums.coarse.tolist() == coarse_histogram(naive()).tolist()
    nulls = [column for file in sums.files for column in store.read_table(file, ["ranks"]).column(0).is_null()]
    assert [null.as_py() for null in nulls] == (~VALID).tolist()


@pytest.mark.usefixtures("driver")
def test_chance_goes_on_deciding(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    before = fitted(store, [30, 10])
    sums = with_ranks(store, ["larf", "saft"], before, by_chance=True)
    assert np.concatenate([read_scores(store, file) for file in sums.files]).tolist() == LARF[VALID].tolist()
    assert sums.coarse.tolist() == before.coarse.tolist()
    assert np.concatenate([read_scores(store, file, "ranks") for file in sums.files]).tolist() == naive().tolist()
