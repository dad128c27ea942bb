"""Overlap and ranks of several selections, against naive float64 twins that count and sort in plain Python."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.statistics.overlap import (
    MOST_SELECTIONS,
    codes,
    group_counts,
    midranks,
    overlap,
    patterns,
    spearman,
)

SETS = st.integers(0, 40).flatmap(
    lambda rows: st.lists(st.lists(st.booleans(), min_size=rows, max_size=rows), min_size=2, max_size=4)
)
# Few values, so that many tie; zeros of both signs are one value.
SCORES = st.lists(
    st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.0]), st.floats(-(2.0**100), 2.0**100, width=32)),
    min_size=0,
    max_size=40,
)


SCORES_OF_ONE = st.sampled_from([0.0, -0.0, 0.5, 1.0, -1.0, 2.0, 3.25])


def naive_midranks(scores: list[float]) -> list[float]:
    below = [sum(other < each for other in scores) for each in scores]
    equal = [sum(other == each for other in scores) for each in scores]
    return [low + (same + 1) / 2 for low, same in zip(below, equal, strict=True)]


def naive_rho(a: list[float], b: list[float]) -> float | None:
    """Pearson's formula over naive ranks, with exact sums."""
    if len(a) < 2:
        return None
    ra, rb = naive_midranks(a), naive_midranks(b)
    ma, mb = math.fsum(ra) / len(ra), math.fsum(rb) / len(rb)
    da, db = [x - ma for x in ra], [x - mb for x in rb]
    squares = math.fsum(x * x for x in da) * math.fsum(x * x for x in db)
    return math.fsum(x * y for x, y in zip(da, db, strict=True)) / math.sqrt(squares) if squares else None


@given(SETS)
def test_overlap_is_that_of_sets(sets: list[list[bool]]) -> None:
    a, b = ({row for row, inside in enumerate(each) if inside} for each in sets[:2])
    found = overlap(np.array(sets[0], dtype=bool), np.array(sets[1], dtype=bool))
    assert (found.both, found.only) == (len(a & b), (len(a - b), len(b - a)))
    assert found.jaccard == (len(a & b) / len(a | b) if a | b else None)
    rows = len(sets[0])
    assert found.by_chance == (pytest.approx(len(a) * len(b) / rows) if rows else None)


@given(SETS)
def test_patterns_count_every_row_once(sets: list[list[bool]]) -> None:
    arrays = [np.array(each, dtype=bool) for each in sets]
    naive = Counter(tuple(at for at, each in enumerate(row) if each) for row in zip(*sets, strict=True))
    found = patterns(arrays)
    assert found == dict(naive)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert list(patterns(arrays, 2).items()) == list(found.items())[:2]
    assert codes(arrays).tolist() == [sum(1 << at for at in each) for each in map(tuple, _members(sets))]


def _members(sets: list[list[bool]]) -> list[list[int]]:
    return [[at for at, each in enumerate(row) if each] for row in zip(*sets, strict=True)]


def test_as_many_sets_as_there_are_bits() -> None:
    one = np.array([True, False])
    assert patterns([one] * MOST_SELECTIONS) == {tuple(range(MOST_SELECTIONS)): 1, (): 1}
    with pytest.raises(ValueError, match="17 sets; at most 16"):
        patterns([one] * 17)


def test_sets_of_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="two sets of the same rows"):
        overlap(np.ones(2, dtype=bool), np.ones(3, dtype=bool))
    with pytest.raises(ValueError, match="ranks of the same rows"):
        spearman(np.ones(2), np.ones(3))


@given(SCORES)
def test_midranks_are_those_of_a_sort(scores: list[float]) -> None:
    as_floats = np.array(scores, dtype=np.float32)
    assert midranks(as_floats).tolist() == naive_midranks(as_floats.astype(np.float64).tolist())


def test_a_score_that_is_none_has_no_rank() -> None:
    with pytest.raises(ValueError, match="NaN"):
        midranks(np.array([1.0, np.nan], dtype=np.float32))


@given(st.integers(0, 40).flatmap(lambda n: st.tuples(*[st.lists(SCORES_OF_ONE, min_size=n, max_size=n)] * 2)))
def test_spearman_is_that_of_the_ranks(pair: tuple[list[float], list[float]]) -> None:
    a, b = (np.array(each, dtype=np.float32) for each in pair)
    found = spearman(midranks(a), midranks(b))
    naive = naive_rho(a.astype(np.float64).tolist(), b.astype(np.float64).tolist())
    assert (found is None) == (naive is None)
    if found is not None and naive is not None:
        assert found == pytest.approx(naive, abs=1e-12)
        assert -1 <= found <= 1


def test_the_ends_of_the_scale() -> None:
    up = midranks(np.arange(1000, dtype=np.float32))
    assert spearman(up, up) == 1.0
    assert spearman(up, up[::-1].copy()) == -1.0
    assert spearman(up, np.full(1000, 500.5)) is None
    assert spearman(up[:1], up[:1]) is None
    assert spearman(up[:0], up[:0]) is None


@given(st.lists(st.tuples(st.integers(-1, 5), st.booleans()), max_size=60))
def test_groups_are_counted_one_by_one(rows: list[tuple[int, bool]]) -> None:
    groups = np.array([group for group, _ in rows], dtype=np.int64)
    among = np.array([inside for _, inside in rows], dtype=bool)
    found = group_counts(groups, among, 6).tolist()
    assert found == [sum(inside for group, inside in rows if group == at) for at in range(6)]
