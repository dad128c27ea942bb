"""Drift against naive float64 twins: sorted values, bins counted one by one, the index by its definition."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tamis.operators.statistics.drift import (
    Bins,
    bins_of_lengths,
    bins_of_scores,
    by_chance,
    counted,
    counted_lengths,
    psi,
    tenths,
)
from tamis.operators.statistics.lengths import length_histogram
from tamis.operators.statistics.ranking import coarse_histogram, fine_histogram

SCORES = arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.one_of(
        st.floats(allow_nan=False, allow_infinity=False, width=32),
        st.sampled_from([0.0, -0.0, 1.0, np.float32(1.0000001), -3.5, 1e-45]),  # ties, and neighbours of one coarse bin
    ),
)
COUNTS = st.lists(st.integers(0, 10**9), min_size=1, max_size=12).filter(sum)


def bins_of(scores: np.ndarray) -> Bins:
    coarse = coarse_histogram(scores)
    return bins_of_scores(coarse, {bin: fine_histogram(scores, bin) for bin in tenths(coarse)})


def naive_bins(values: list[float]) -> Bins:
    ordered = sorted(values)
    edges = sorted({ordered[math.ceil(i * len(ordered) / 10 - 1e-9) - 1] for i in range(1, 10)})
    return Bins(tuple(edges), tuple(naive_counts(values, edges)))


def naive_counts(values: list[float], edges: list[float]) -> list[int]:
    bounds = [-math.inf, *edges, math.inf]
    return [sum(1 for value in values if low < value <= high) for low, high in pairwise(bounds)]


def naive_psi(then: list[int], now: list[int]) -> float:
    total = 0.0
    for a, b in zip(then, now, strict=True):
        p = (a + 0.5) / (sum(then) + 0.5 * len(then))
        q = (b + 0.5) / (sum(now) + 0.5 * len(now))
        total += (q - p) * math.log(q / p)
    return total


@given(SCORES)
def test_bins_of_scores_are_the_exact_tenths(scores: np.ndarray) -> None:
    found = bins_of(scores)
    assert found == naive_bins([float(score) for score in scores])
    assert sum(found.counts) == len(scores)


@given(SCORES, SCORES)
def test_other_scores_are_counted_in_the_same_bins(then: np.ndarray, now: np.ndarray) -> None:
    edges = bins_of(then).edges
    assert counted(now, edges).tolist() == naive_counts([float(score) for score in now], list(edges))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.lists(st.integers(0, 40), max_size=60))
def test_lengths(then: list[int], now: list[int]) -> None:
    found = bins_of_lengths(length_histogram(np.array(then), 40))
    assert found == naive_bins([float(length) for length in then])
    histogram = length_histogram(np.array(now, dtype=np.int64), 40)
    assert counted_lengths(histogram, found.edges).tolist() == naive_counts([float(n) for n in now], list(found.edges))


def test_a_thousand_different_scores_are_ten_even_bins() -> None:
    scores = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    assert bins_of(scores).counts == (100,) * 10


def test_where_all_scores_are_equal_a_second_bin_is_for_those_above() -> None:
    assert bins_of(np.full(50, 2.5, np.float32)) == Bins((2.5,), (50, 0))


def test_histograms_of_different_scores_are_told() -> None:
    scores = np.arange(1, 21, dtype=np.float32)
    coarse = coarse_histogram(scores)
    with pytest.raises(ValueError, match="first pass counted"):
        bins_of_scores(coarse, {bin: fine_histogram(scores[1:], bin) * 2 for bin in tenths(coarse)})
    with pytest.raises(ValueError, match="no values"):
        bins_of_scores(coarse * 0, {})


@given(st.data())
def test_the_index_by_its_definition(data: st.DataObject) -> None:
    then = data.draw(COUNTS)
    now = data.draw(st.lists(st.integers(0, 10**9), min_size=len(then), max_size=len(then)).filter(sum))
    found = psi(then, now)
    assert found == pytest.approx(naive_psi(then, now), rel=1e-9, abs=1e-12)
    assert found == pytest.approx(psi(now, then), rel=1e-9, abs=1e-12)
    assert found >= -1e-12
    assert psi(then, then) == 0


def test_the_index_of_known_shares() -> None:
    # (0.8 - 0.5) ln(0.8 / 0.5) + (0.2 - 0.5) ln(0.2 / 0.5)
    assert psi([500_000, 500_000], [800_000, 200_000]) == pytest.approx(0.41588830833596715, rel=1e-5)


def test_an_empty_bin_counts_as_half_a_row() -> None:
    assert psi([100, 0], [0, 100]) == pytest.approx(2 * 100 / 101 * math.log(201))


@pytest.mark.parametrize(("then", "now"), [([], []), ([1], [1, 2]), ([0, 0], [1, 2]), ([1, 2], [0, 0])])
def test_what_cannot_be_compared(then: list[int], now: list[int]) -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        psi(then, now)


@pytest.mark.parametrize(("then", "now"), [(2000, 2000), (50_000, 300), (400, 5000)])
def test_samples_of_one_population_seldom_exceed_what_chance_does(then: int, now: int) -> None:
    chance = np.random.default_rng(then)
    limit, above = by_chance(10, then, now), 0
    for _ in range(1000):
        first, second = (chance.normal(size=size).astype(np.float32) for size in (then, now))
        edges = np.quantile(first, np.arange(1, 10) / 10, method="inverted_cdf")
        found = psi(counted(first, edges).tolist(), counted(second, edges).tolist())
        above += found > limit
    assert above <= 8  # 1 expected
    assert found > limit / 100  # and the limit is of the right size


def test_one_bin_cannot_differ() -> None:
    assert by_chance(1, 10, 10) == 0
    assert psi([10], [20]) == 0
