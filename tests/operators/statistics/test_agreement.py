"""Agreement of scores from sums of shards, against the whole at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.statistics.agreement import (
    correlation,
    jaccard,
    left_of_variance,
    partial,
    rank_gram,
    shared_counts,
)
from tamis.operators.statistics.ranks import midranks

ROWS = st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=40)


def naive_spearman(a: list[int], b: list[int]) -> float | None:
    ranks = [[sum(y < x for y in values) + (values.count(x) + 1) / 2 for x in values] for values in (a, b)]
    means = [sum(each) / len(each) for each in ranks]
    x, y = ([r - mean for r in each] for each, mean in zip(ranks, means, strict=True))
    if not any(x) or not any(y):
        return None
    return sum(p * q for p, q in zip(x, y, strict=True)) / math.sqrt(sum(p * p for p in x) * sum(q * q for q in y))


@given(rows=ROWS, cut=st.integers(0, 40))
def test_the_sums_of_shards_give_spearman_of_the_whole(rows: list[tuple[int, int, int]], cut: int) -> None:
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    ranks = [midranks(np.bincount(column, minlength=6)) for column in columns]
    parts = [[column[part] for column in columns] for part in (slice(cut), slice(cut, None))]
    gram = sum(rank_gram(part, ranks, len(rows)) for part in parts)
    assert isinstance(gram, np.ndarray)
    for a in range(3):
        for b in range(3):
            expected = naive_spearman(columns[a].tolist(), columns[b].tolist())
            found = correlation(gram, a, b)
            assert found is expected is None or found == pytest.approx(expected, abs=1e-9)


@given(rows=st.lists(st.tuples(*[st.floats(-5, 5)] * 3), min_size=4, max_size=20))
def test_partial_correlation_is_that_of_what_lines_leave(rows: list[tuple[float, float, float]]) -> None:
    a, b, c = (np.array(column) for column in zip(*rows, strict=True))
    if min(np.std(x) for x in (a, b, c)) < 1e-2:
        return
    line = np.stack([np.ones(len(rows)), c], axis=1)
    left = [x - line @ np.linalg.lstsq(line, x, rcond=None)[0] for x in (a, b)]
    if min(np.std(x) for x in left) < 1e-2:
        return
    r = np.corrcoef([a, b, c])
    found = partial(float(r[0, 1]), float(r[0, 2]), float(r[1, 2]))
    assert found == pytest.approx(float(np.corrcoef(*left)[0, 1]), abs=1e-6)


def test_nothing_to_take_out_and_nothing_left() -> None:
    assert partial(0.4, None, None) == 0.4
    assert partial(None, 0.1, 0.1) is None
    assert partial(0.9, 1.0, 0.9) is None
    assert partial(0.81, 0.9, 0.9) == pytest.approx(0.0, abs=1e-12)
    assert left_of_variance(None) is None
    assert left_of_variance(-0.6) == pytest.approx(0.64)
    assert left_of_variance(1.0) == 0.0


@given(rows=st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_shared_drops(rows: list[tuple[bool, bool, bool]]) -> None:
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    counts = shared_counts(columns)
    for a in range(3):
        for b in range(3):
            one, other = ({i for i, row in enumerate(rows) if row[k]} for k in (a, b))
            assert counts[a, b] == len(one & other)
            expected = len(one & other) / len(one | other) if one | other else None
            assert jaccard(len(one & other), len(one), len(other)) == expected


def test_rows_that_do_not_fit_are_refused() -> None:
    ranks = [np.ones(3), np.ones(3)]
    with pytest.raises(ValueError, match="shapes"):
        rank_gram([np.zeros(2, int), np.zeros(3, int)], ranks, 3)
    with pytest.raises(ValueError, match="span"):
        rank_gram([np.zeros(2, int), np.full(2, 3)], ranks, 3)
