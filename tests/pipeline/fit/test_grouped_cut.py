"""Cuts group by group against a naive twin: the same rows fall in any sharding, every group loses its share, and a
control matched by length drops as many of each length as the cut would."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.operators.statistics.lengths import decile_of, length_deciles, length_histogram
from tamis.operators.statistics.ranking import coarse_histogram
from tamis.operators.statistics.selection import random_keys
from tamis.pipeline.fit.grouped_cut import cut
from tamis.pipeline.fit.scores import DECIDING, ScoreSums, Selection, read_scores
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.inputs.sample_ids import sample_ids
from tamis.pipeline.inputs.shards import CORPUS, Shard
from tamis.pipeline.inputs.spans import Span
from tamis.pipeline.job.job_file import Job, load_job
from tamis.pipeline.storage.store import Store

CHANCE = np.random.default_rng(11)
FILES = {"a.jsonl": 60, "b.jsonl": 25, "c.jsonl": 3}
ROWS = sum(FILES.values())
SCORES = CHANCE.integers(0, 12, ROWS).astype(np.float32)
LENGTHS = np.minimum(CHANCE.geometric(0.1, ROWS), 40)
VALID = CHANCE.random(ROWS) > 0.15
SOURCES = np.array([name for name, count in FILES.items() for _ in range(count)])


@dataclass
class Made:
    """The cut, and whether each row that has a score falls."""

    selection: Selection
    groups: list[dict[str, Any]]
    falls: list[bool]


def job(**selection: Any) -> Job:
    given = {"input": "x", "output": "y", "model": "m", "method": "saft", "seed": 3, "selection": selection}
    return load_job(None, given)


def made(folder: Path, wanted: Job, size: int) -> Made:
    store, shards, files, first = Store(str(folder)), [], [], 0
    for name, count in FILES.items():
        source = SourceFile("", name, "jsonl", None, 0, "")
        for start in range(0, count, size):
            stop = min(start + size, count)
            rows = slice(first + start, first + stop)
            shard = Shard(len(shards), CORPUS, source, (), Span(start, stop, 0, 0), {}, f"{len(shards)}")
            scores = pa.array(SCORES[rows], mask=~VALID[rows])
            lengths = pa.array(LENGTHS[rows].astype(np.int32))
            table = pa.table({"saft": scores, DECIDING: scores, "n_response_tokens": lengths})
            files.append(store.write_table(f"fitted/{shard.name}.parquet", table).sealed)
            shards.append(shard)
        first += count
    coarse, lengths = coarse_histogram(SCORES[VALID]), length_histogram(LENGTHS[VALID], 64)
    sums = ScoreSums(coarse, lengths, 0.0, 11.0, tuple(files))
    selection, groups = cut(wanted, store, sums, shards)
    decided = np.concatenate([read_scores(store, file) for file in selection.sums.files])
    kept = np.concatenate([read_scores(store, file, "saft") for file in selection.sums.files])
    assert kept.tolist() == SCORES[VALID].tolist()
    assert selection.sums.count == VALID.sum()
    return Made(selection, groups, (decided.astype(np.float64) > selection.threshold.value).tolist())


def riskiest(scores: np.ndarray[Any, Any], among: np.ndarray[Any, Any], count: int) -> set[int]:
    """The places of the `count` highest scores among these rows; of equal ones, the first."""
    return set(sorted(np.flatnonzero(among).tolist(), key=lambda place: (-scores[place], place))[:count])


def deciles() -> np.ndarray[Any, Any]:
    return decile_of(LENGTHS[VALID], length_deciles(length_histogram(LENGTHS[VALID], 64)))


@pytest.mark.parametrize("size", [7, 64])
@pytest.mark.parametrize("within", ["source", "length_decile"])
@pytest.mark.usefixtures("driver")
def test_every_group_loses_its_share(tmp_path: Path, within: str, size: int) -> None:
    found = made(tmp_path, job(drop=0.3, within=within), size)
    groups = SOURCES[VALID] if within == "source" else deciles()
    wanted: set[int] = set()
    for group in dict.fromkeys(groups.tolist()):
        inside = groups == group
        wanted |= riskiest(SCORES[VALID], inside, math.floor(0.3 * inside.sum() + 1e-9))
    assert set(np.flatnonzero(found.falls).tolist()) == wanted
    assert found.selection.dropped == len(wanted) == sum(group["dropped"] for group in found.groups)
    assert sum(group["rows"] for group in found.groups) == VALID.sum()
    names = list(FILES) if within == "source" else [f"length decile {d + 1}" for d in sorted(set(groups.tolist()))]
    assert [group["group"] for group in found.groups] == names
    for group, inside in zip(found.groups, (groups == value for value in sorted(set(groups.tolist()))), strict=True):
        falling = SCORES[VALID][inside & np.array(found.falls)]
        assert group["cut"] == (falling.min() if len(falling) else None)


@pytest.mark.parametrize("size", [7, 64])
@pytest.mark.usefixtures("driver")
def test_a_control_drops_as_many_of_each_length(tmp_path: Path, size: int) -> None:
    found = made(tmp_path, job(drop_count=20, control="length_matched"), size)
    real = riskiest(SCORES[VALID], np.ones(int(VALID.sum()), dtype=bool), 20)
    counts = np.bincount(deciles()[sorted(real)], minlength=10)
    ids = np.concatenate([sample_ids(name, 0, count) for name, count in FILES.items()])
    keys = random_keys(ids[VALID].tolist(), 3)
    wanted = set().union(*(riskiest(keys, deciles() == decile, counts[decile]) for decile in range(10)))
    assert set(np.flatnonzero(found.falls).tolist()) == wanted != real
    assert np.bincount(deciles()[found.falls], minlength=10).tolist() == counts.tolist()
    assert all(group["cut"] is None for group in found.groups)


@pytest.mark.usefixtures("driver")
def test_one_cut_for_all_has_no_groups(tmp_path: Path) -> None:
    found = made(tmp_path, job(drop_count=5), 7)
    assert found.groups == []
    assert found.selection.dropped == 5
