"""New data at a frozen cut: the decisions of a naive rule over all rows, and drift from counts made one by one."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.operators.statistics.drift import by_chance, psi
from tamis.operators.statistics.lengths import length_histogram
from tamis.operators.statistics.ranking import coarse_histogram
from tamis.operators.statistics.selection import decide
from tamis.pipeline.cluster.session import ray_session
from tamis.pipeline.errors import ConfigError, DriftError
from tamis.pipeline.fit import exact_cut
from tamis.pipeline.fit.drift import (
    MAJORITY,
    check_majority,
    drift_of,
    exceeded,
    refuse,
    select_at,
    statistics_of,
)
from tamis.pipeline.fit.scores import DECIDING, ScoreSums, Selection
from tamis.pipeline.run.frozen import Frozen, FrozenCut, FrozenFacts
from tamis.pipeline.storage.store import Store

LONGEST = 50


@pytest.fixture(autouse=True, scope="module")
def session(ray_address: str) -> Iterator[None]:
    with ray_session(ray_address), pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_cut, "GROUP", 2)  # so that several tasks have something to add up
        yield


def scored(store: Store, shards: Sequence[Sequence[float]], other: float = 0.0, lengths: int = 7) -> ScoreSums:
    """The sums over these scores of `a`, which decides; those of `b` are `other` times as large. A quarantined row
    comes before each second one of every second shard."""
    files = []
    for number, scores in enumerate(shards):
        column: list[Any] = [value for score in scores for value in ([None, score] if number % 2 else [score])]
        b = [None if score is None else score * other for score in column]
        columns = {DECIDING: column, "a": column, "b": b}
        table = pa.table({name: pa.array(values, pa.float32()) for name, values in columns.items()})
        files.append(store.write_table(f"scores/{number:03d}.parquet", table).sealed)
    together = np.array([score for scores in shards for score in scores], np.float32)
    long = np.array([(lengths + place) % LONGEST for place in range(len(together))])
    return ScoreSums(
        coarse_histogram(together), length_histogram(long, LONGEST), together.min(), together.max(), tuple(files)
    )


def shards_of(seed: int, sizes: Sequence[int], values: Sequence[float] | None = None) -> list[list[float]]:
    chance = random.Random(seed)
    return [
        [float(np.float32(chance.choice(values) if values else chance.gauss(0, 1))) for _ in range(size)]
        for size in sizes
    ]


def naive(shards: Sequence[Sequence[float]], cut: FrozenCut) -> list[bool]:
    left, found = cut.ties, []
    for score in (score for scores in shards for score in scores):
        falls = cut.score is not None and score > cut.score
        if score == cut.score and (left is None or left > 0):
            falls, left = True, left if left is None else left - 1
        found.append(falls)
    return found


@pytest.mark.parametrize("ties", [None, 0, 1, 3, 1000])
@pytest.mark.parametrize(
    ("sizes", "values"),
    [([7, 0, 5, 9], None), ([5] * 5, [0.5, 0.25, 1.0]), ([6, 6, 6], [0.5])],
    ids=["different", "ties", "all alike"],
)
def test_what_falls_is_told_by_the_score_alone_and_the_order_of_ties(
    tmp_path: Path, sizes: list[int], values: list[float] | None, ties: int | None
) -> None:
    shards = shards_of(len(sizes), sizes, values)
    for score in (0.5, shards[0][0], None):
        cut = FrozenCut(score, ties)
        found = select_at(cut, Store(str(tmp_path)), scored(Store(str(tmp_path)), shards))
        dropped = np.concatenate(
            [
                decide(np.array(scores, np.float32), found.threshold, quota)
                for scores, quota in zip(shards, found.quotas, strict=True)
            ]
        )
        assert dropped.tolist() == naive(shards, cut)
        assert found.dropped == dropped.sum()


def frozen_of(statistics: dict[str, Any]) -> Frozen:
    facts = FrozenFacts(("a", "b"), "a", "drop 0.1", FrozenCut(1.0, None), {}, "float32", "cpu", {}, None, statistics)
    return Frozen("somewhere", facts, {}, {}, "digest")


def bins_of(values: Sequence[float]) -> tuple[list[float], list[int]]:
    ordered = sorted(values)
    edges = sorted({ordered[-(-tenth * len(ordered) // 10) - 1] for tenth in range(1, 10)})
    return edges, counts_in(values, edges)


def counts_in(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    return [sum(sum(edge < value for edge in edges) == place for value in values) for place in range(len(edges) + 1)]


def test_statistics_and_drift_are_those_of_one_list(tmp_path: Path) -> None:
    then, now = shards_of(1, [40, 30, 35]), shards_of(2, [25, 31], values=[-0.5, 0.1, 2.0])
    old, new = Store(str(tmp_path / "old")), Store(str(tmp_path / "new"))
    cut = FrozenCut(1.0, None)
    first = select_at(cut, old, scored(old, then, other=2.0))
    second = select_at(cut, new, scored(new, now, other=2.0, lengths=20))
    statistics = statistics_of(old, ["a", "b"], first, 110, {"x": 3, "y": 2})
    all_then, all_now = ([score for scores in shards for score in scores] for shards in (then, now))
    assert (statistics["rows"], statistics["scored"], statistics["fell"]) == (110, 105, sum(s > 1 for s in all_then))
    edges, counts = bins_of(all_then)
    assert statistics["scores"]["a"] == {"edges": edges, "counts": counts}
    assert statistics["scores"]["b"]["counts"] == counts
    assert statistics["quarantine"] == {"x": 3, "y": 2}

    drift = drift_of(new, frozen_of(statistics), second, 60, {"y": 1, "z": 3}, 0.25, allow_majority=False)
    figures = {figure["name"]: figure for figure in drift["figures"]}
    assert list(figures) == ["a scores", "b scores", "share beyond the cut", "answer lengths", "quarantine"]
    assert figures["a scores"]["now"] == figures["b scores"]["now"] == counts_in(all_now, edges)
    fell = [sum(score > 1 for score in scores) for scores in (all_then, all_now)]
    assert figures["share beyond the cut"]["then"] == [105 - fell[0], fell[0]]
    assert figures["share beyond the cut"]["now"] == [56 - fell[1], fell[1]]
    lengths_then = [(7 + place) % LONGEST for place in range(105)]
    lengths_now = [(20 + place) % LONGEST for place in range(56)]
    length_edges, length_counts = bins_of(lengths_then)
    assert figures["answer lengths"]["then"] == length_counts
    assert figures["answer lengths"]["now"] == counts_in(lengths_now, length_edges)
    quarantine = figures["quarantine"]
    assert (quarantine["bins"], quarantine["then"], quarantine["now"]) == (
        ["scored", "x", "y", "z"], [105, 3, 2, 0], [56, 0, 1, 3],
    )  # fmt: skip
    assert drift["quarantine"] == {"x": {"then": 3, "now": 0}, "y": {"then": 2, "now": 1}, "z": {"then": 0, "now": 3}}
    for figure in figures.values():
        assert figure["psi"] == psi(figure["then"], figure["now"])
        assert figure["by_chance"] == by_chance(len(figure["then"]), sum(figure["then"]), sum(figure["now"]))


def test_the_same_data_has_not_drifted(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    selection = select_at(FrozenCut(1.0, None), store, scored(store, shards_of(3, [50, 50]), other=-1.0))
    statistics = statistics_of(store, ["a", "b"], selection, 110, {"x": 10})
    drift = drift_of(store, frozen_of(statistics), selection, 110, {"x": 10}, 0.01, allow_majority=False)
    assert [figure["psi"] for figure in drift["figures"]] == [0.0] * 5
    assert drift["exceeded"] == []
    refuse(drift, 0.01, "out")
    refuse(None, 0.01, "out")


def drift_with(*figures: tuple[str, float, float], fell: int = 1) -> dict[str, Any]:
    return {
        "figures": [{"name": name, "psi": found, "by_chance": chance} for name, found, chance in figures],
        "fell": {"then": 1, "now": fell},
        "scored": {"then": 10, "now": 10},
        "majority_allowed": False,
    }


def test_a_figure_counts_above_the_limit_and_above_chance() -> None:
    drift = drift_with(("one", 0.3, 0.1), ("two", 0.3, 0.4), ("three", 0.2, 0.1), ("four", 0.9, 0.4))
    assert exceeded(drift, 0.25) == ["one", "four"]
    assert exceeded(drift, 0.5) == ["four"]
    assert exceeded(drift, None) == []
    with pytest.raises(DriftError, match=r"one 0\.30; four 0\.90 \(PSI, drift_limit 0\.25\); the output is in out"):
        refuse(drift, 0.25, "out")
    assert DriftError.exit_code == 6
    refuse(drift, None, "out")


def test_a_cut_of_more_than_half_is_drift_unless_that_is_meant() -> None:
    drift = drift_with(("one", 0.1, 0.1), fell=6)
    assert exceeded(drift, 0.25) == [MAJORITY]
    with pytest.raises(DriftError, match="6 of 10 scored rows are beyond the cut, more than half"):
        refuse(drift, 0.25, "out")
    assert exceeded({**drift, "majority_allowed": True}, 0.25) == []


def test_without_a_limit_a_cut_of_more_than_half_is_an_error(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    selection: Selection = select_at(FrozenCut(-100.0, 0), store, scored(store, shards_of(4, [5])))
    with pytest.raises(ConfigError, match="would drop 5 of 5 scored rows, more than half"):
        check_majority(selection, None, allow_majority=False)
    check_majority(selection, None, allow_majority=True)
    check_majority(selection, 0.25, allow_majority=False)
