"""Scores of one shard: those of the method, a row each, or an error that names the method."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

from tamis.operators.methods import Artifact, Features, Method, Reduce, setting
from tamis.operators.requests import Request
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.fit.scores import DECIDING, ScoreSpec, _score_one, count_to_drop, read_features, read_scores
from tamis.pipeline.job.sections import SelectionSpec
from tamis.pipeline.storage.store import Sealed, Store

ROWS = [[1.0, 2.0], None, [3.0, 4.0], [0.0, -1.0]]


@dataclass(frozen=True)
class Sums(Method):
    """The sum of a vector; gives what `wrong` says instead where it is set."""

    name: ClassVar[str] = "sums"
    title: ClassVar[str] = "Sums"
    about: ClassVar[str] = "the sum of the vector."

    wrong: str = setting("", "What is wrong.")

    def requests(self, blocks: int) -> tuple[Request, ...]:
        return (Request(0, "last_token"),)

    def fit(self, reduce: Reduce, blocks: int) -> Artifact:
        return Artifact({})

    def score(self, artifact: Artifact, features: Features) -> Any:
        scores = features["block_00.last_token"].sum(axis=1)
        wrong = {
            "one": scores[:1],
            "none": scores[:0],
            "two": np.stack([scores, scores], axis=1),
            "nan": scores * np.nan,
        }
        return wrong.get(self.wrong, scores)


def captured(store: Store) -> Sealed:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([v for row in ROWS for v in row or [0, 0]], pa.float32()), 2)
    table = pa.table(
        {
            "code": pa.array([None if row else "empty" for row in ROWS], pa.string()),
            "n_response_tokens": pa.array([3] * len(ROWS), pa.int32()),
            "block_00.last_token": vectors,
        }
    )
    return store.write_table("captured.parquet", table).sealed


def scored(folder: Path, **settings: Any) -> list[float]:
    store = Store(str(folder))
    spec = ScoreSpec(store, {"sums": Sums(**settings)}, {"sums": Artifact({})}, "sums", None, 8)
    sums = _score_one("shard", "a.jsonl", 0, captured(store), spec)
    [file] = sums.files
    assert sums.count == 3
    assert store.read_table(file).column(DECIDING).to_pylist()[1] is None
    return read_scores(store, file).tolist()


def test_a_score_for_each_row_that_has_one(tmp_path: Path) -> None:
    assert scored(tmp_path) == [3.0, 7.0, -1.0]


def test_only_the_vectors_that_are_wanted_are_read(tmp_path: Path) -> None:
    """Of a capture that holds more, with a row without vectors and without one."""
    store = Store(str(tmp_path))
    table = store.read_table(captured(store))
    more = table.append_column("block_01.last_token", table.column("block_00.last_token"))
    for rows, expected in ((more, [3.0, 7.0, -1.0]), (more.slice(2), [7.0, -1.0])):
        file = store.write_table("more.parquet", rows).sealed
        features = read_features(store, file, ["block_00.last_token"])
        assert {name: found.sum(axis=1).tolist() for name, found in features.items()} == {
            "block_00.last_token": expected
        }
        assert read_features(store, file).keys() == {"block_00.last_token", "block_01.last_token"}
        spec = ScoreSpec(store, {"sums": Sums()}, {"sums": Artifact({})}, "sums", None, 8)
        for vectors in (None, ("block_00.last_token",)):
            [scores] = _score_one("shard", "a.jsonl", 0, file, replace(spec, vectors=vectors)).files
            assert read_scores(store, scores).tolist() == expected
        with pytest.raises(KeyError):
            _score_one("shard", "a.jsonl", 0, file, replace(spec, vectors=("block_01.last_token",)))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("one", r"sums: gave scores of shape \(1,\) for 3 rows"),
        ("none", r"sums: gave scores of shape \(0,\) for 3 rows"),
        ("two", r"sums: gave scores of shape \(3, 2\) for 3 rows"),
        ("nan", "shard shard: sums: a score is too large for float32"),
    ],
)
def test_a_method_that_gives_something_else_is_named(tmp_path: Path, wrong: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        scored(tmp_path, wrong=wrong)


@pytest.mark.parametrize(
    ("rule", "scored", "dropped"),
    [({"drop": 0.25}, 10, 2), ({"drop": 0.5}, 9, 4), ({"drop_count": 5}, 10, 5), ({"drop": 0.3}, 0, 0)],
)
def test_a_share_or_a_count_is_known_before_the_scores_are(rule: Any, scored: int, dropped: int) -> None:
    assert count_to_drop(SelectionSpec(**rule), scored) == dropped


def test_too_many_rows_are_not_dropped() -> None:
    with pytest.raises(ConfigError, match="drop_count 11 is more than the 10 rows"):
        count_to_drop(SelectionSpec(drop_count=11, allow_majority=True), 10)
    with pytest.raises(ConfigError, match="would drop 6 of 10 scored rows"):
        count_to_drop(SelectionSpec(drop_count=6), 10)
    assert count_to_drop(SelectionSpec(drop_count=6, allow_majority=True), 10) == 6
