from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.statistics.lengths import decile_of, length_deciles, length_histogram


@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=80))
def test_edges_are_the_empirical_quantiles(lengths: list[int]) -> None:
    values = np.array(lengths)
    edges = length_deciles(length_histogram(values, 60))
    ordered = sorted(lengths)
    for j, edge in enumerate(edges):
        needed = -(-(j + 1) * len(lengths) // 10)  # the ceiling
        assert edge == ordered[needed - 1]


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=60))
def test_deciles_follow_the_edges(lengths: list[int]) -> None:
    values = np.array(lengths)
    edges = length_deciles(length_histogram(values, 9))
    bounds = [-1, *edges, 10**9]
    for length, decile in zip(lengths, decile_of(values, edges), strict=True):
        assert bounds[decile] < length <= bounds[decile + 1]


def test_distinct_lengths_fill_deciles_evenly() -> None:
    values = np.arange(1000)
    deciles = decile_of(values, length_deciles(length_histogram(values, 999)))
    assert np.bincount(deciles).tolist() == [100] * 10


def test_histograms_of_shards_add_up() -> None:
    values = np.array([3, 1, 4, 1, 5])
    parts = length_histogram(values[:2], 9) + length_histogram(values[2:], 9)
    np.testing.assert_array_equal(parts, length_histogram(values, 9))


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"3..7, outside 0..5"):
        length_histogram(np.array([3, 7]), 5)
    with pytest.raises(ValueError, match="-1"):
        length_histogram(np.array([-1]), 5)
    with pytest.raises(ValueError, match="no samples"):
        length_deciles(np.zeros(6, np.int64))
