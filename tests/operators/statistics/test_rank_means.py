"""The mean of mid-ranks against a naive float64 twin: any split into shards and ranges, ties, both zeros, one row."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.statistics.rank_means import (
    ValueCounts,
    mean_ranks,
    midranks_of,
    ranges_of,
    ranks_in,
    value_counts,
)
from tamis.operators.statistics.ranking import coarse_histogram

Scores = npt.NDArray[np.float32]
# Few distinct values among many, so that ties are the rule; and any others, subnormal ones too.
VALUES = st.one_of(st.sampled_from([0.0, -0.0, 1.0, -2.5, 0.1]), st.floats(allow_nan=False, width=32))
SHARDS = st.lists(st.lists(VALUES, max_size=12), min_size=1, max_size=6).filter(any)


def naive(scores: Scores) -> npt.NDArray[np.float64]:
    """The mean of the 1-based places at which each value would stand."""
    exact = scores.astype(np.float64)
    return np.array([(exact < one).sum() + ((exact == one).sum() + 1) / 2 for one in exact])


def ranked(shards: list[Scores], most: int) -> list[npt.NDArray[np.float64]]:
    """The ranks of every shard's scores, as the pipeline finds them: a range after another."""
    coarse = sum(coarse_histogram(own) for own in shards)
    ranks = [np.full(len(own), np.nan) for own in shards]
    for first, last, below in ranges_of(np.asarray(coarse), most):
        counted = reduce(ValueCounts.__add__, [value_counts(own, first, last) for own in shards])
        for own, found in zip(shards, ranks, strict=True):
            ranks_in(own, counted.images, midranks_of(counted, below), found)
    return ranks


@given(SHARDS, st.sampled_from([1, 2, 5, 1000]))
def test_ranks_are_those_of_all_rows_together(values: list[list[float]], most: int) -> None:
    shards = [np.array(own, dtype=np.float32) for own in values]
    assert np.concatenate(ranked(shards, most)).tolist() == naive(np.concatenate(shards)).tolist()


@given(st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=30))
def test_the_mean_over_methods(rows: list[tuple[float, float, float]]) -> None:
    methods = [np.array(column, dtype=np.float32) for column in zip(*rows, strict=True)]
    ranks = [ranked([own], 4)[0] for own in methods]
    twin = sum(naive(own) for own in methods) / (3 * len(rows))
    found = mean_ranks(ranks, len(rows))
    assert found.dtype == np.float32
    assert found.tolist() == twin.astype(np.float32).tolist()


def test_one_row_is_at_the_top() -> None:
    assert mean_ranks(ranked([np.array([7.0], dtype=np.float32)], 4), 1).tolist() == [1.0]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 12))
def test_ranges_cover_every_row_once(counts: list[int], most: int) -> None:
    coarse = np.array(counts, dtype=np.int64)
    found, seen = ranges_of(coarse, most), 0
    for first, last, below in found:
        rows = int(coarse[first : last + 1].sum())
        assert below == seen
        assert 0 < rows <= most or first == last
        seen += rows
    assert seen == coarse.sum()
    assert all(one[1] < other[0] for one, other in pairwise(found))


def test_a_score_without_a_rank_is_refused() -> None:
    ranks = np.full(2, np.nan)
    ranks_in(np.array([1.0, 2.0], dtype=np.float32), np.array([], dtype=np.uint32), np.array([]), ranks)
    with pytest.raises(ValueError, match="has no rank"):
        mean_ranks([ranks], 2)


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        value_counts(np.array([np.nan], dtype=np.float32), 0, 65535)
