from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr

from tamis.operators.statistics.lengths import length_histogram
from tamis.operators.statistics.ranking import coarse_bins, coarse_histogram
from tamis.operators.statistics.ranks import RankSums, midranks, rank_bins, rank_edges, rank_sums, resolved_share, rho


def streamed(scores: np.ndarray, lengths: np.ndarray, shards: int) -> float | None:
    longest = int(lengths.max())
    score_parts, length_parts = np.array_split(scores, shards), np.array_split(lengths, shards)
    score_ranks = midranks(sum(coarse_histogram(part) for part in score_parts))
    length_ranks = midranks(sum(length_histogram(part, longest) for part in length_parts))
    return rho(
        reduce(
            add,
            (
                rank_sums(coarse_bins(s), n, score_ranks, length_ranks, len(scores))
                for s, n in zip(score_parts, length_parts, strict=True)
            ),
        )
    )


@given(
    pairs=st.lists(st.tuples(st.floats(-4, 4, width=32), st.integers(0, 20)), min_size=3, max_size=60),
    shards=st.integers(1, 4),
)
@settings(max_examples=80, deadline=None)
def test_equals_scipy_on_binned_values(pairs: list[tuple[float, int]], shards: int) -> None:
    scores = np.array([pair[0] for pair in pairs], np.float32)
    lengths = np.array([pair[1] for pair in pairs])
    assume(len(set(coarse_bins(scores))) > 1)
    assume(len(set(lengths.tolist())) > 1)
    expected = spearmanr(coarse_bins(scores), lengths).statistic
    assert streamed(scores, lengths, shards) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("correlation", [-0.9, 0.0, 0.3])
def test_binning_hardly_matters_for_spread_scores(correlation: float) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 20_000))
    lengths = np.round(np.exp(4 + correlation * a + np.sqrt(1 - correlation**2) * b)).astype(int)
    scores = a.astype(np.float32)
    assert resolved_share(coarse_histogram(scores)) > 0.999
    assert streamed(scores, lengths, 3) == pytest.approx(spearmanr(scores, lengths).statistic, abs=2e-3)


@given(values=st.lists(st.integers(0, 9), min_size=1, max_size=50))
def test_midranks_are_scipys(values: list[int]) -> None:
    ranks = midranks(length_histogram(np.array(values), 9))
    np.testing.assert_array_equal(ranks[values], rankdata(values))


def test_many_samples_lose_no_precision() -> None:
    """A billion samples in two bins of either variable, as histograms: phi coefficient in closed form."""
    n = 10**9
    histogram = np.array([n // 2, n // 2], np.int64)
    ranks = midranks(histogram)
    cells = rank_sums(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), ranks, ranks, n)
    one = [rank_sums(np.array([a]), np.array([b]), ranks, ranks, n) for a, b in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert rho(cells) == pytest.approx(0.0, abs=1e-15)
    weights = (300, 200, 200, 300)
    total = RankSums(
        1000,
        sum(w * o.squares_a for w, o in zip(weights, one, strict=True)),
        sum(w * o.squares_b for w, o in zip(weights, one, strict=True)),
        sum(w * o.products for w, o in zip(weights, one, strict=True)),
    )
    assert rho(total) == pytest.approx(0.2, rel=1e-12)


def test_nothing_to_correlate() -> None:
    assert rho(RankSums()) is None
    assert streamed(np.ones(5, np.float32), np.arange(5), 2) is None


def test_resolved_share() -> None:
    assert resolved_share(np.array([1, 1, 1])) == 1.0
    assert resolved_share(np.array([0, 5, 0])) == 0.0
    halves = np.repeat([0, 1], 50)
    share = np.var(rankdata(halves)) / np.var(np.arange(100))
    assert resolved_share(np.bincount(halves)) == pytest.approx(share, rel=1e-12)
    with pytest.raises(ValueError, match="1 samples"):
        resolved_share(np.array([1]))


def test_bins_outside_the_histogram_are_refused() -> None:
    ranks = midranks(np.array([1, 1]))
    with pytest.raises(ValueError, match="the histogram has 2"):
        rank_sums(np.array([-1]), np.array([0]), ranks, ranks, 2)
    with pytest.raises(ValueError, match="the histogram has 2"):
        rank_sums(np.array([0]), np.array([2]), ranks, ranks, 2)
    with pytest.raises(ValueError, match="one bin of either kind"):
        rank_sums(np.array([0]), np.array([0, 1]), ranks, ranks, 2)


@pytest.mark.parametrize(
    ("centre", "spread"),
    [(0.3, 0.0005), (0.05, 0.00005), (0.0, 1.0), (1e-6, 1e-7)],
    ids=["tight", "tighter", "wide", "tiny"],
)
def test_rank_bins_resolve_scores_wherever_they_lie(centre: float, spread: float) -> None:
    scores = (centre + spread * np.random.default_rng(0).standard_normal(5000)).astype(np.float32)
    edges = rank_edges(float(scores.min()), float(scores.max()))
    bins = rank_bins(scores, edges)
    histogram = np.bincount(bins, minlength=len(edges) + 1)
    assert resolved_share(histogram) > 0.999
    exact = rankdata(scores)
    np.testing.assert_allclose(midranks(histogram)[bins], exact, atol=25)


def test_rank_bins_resolve_scores_of_many_magnitudes() -> None:
    scores = np.exp(np.random.default_rng(1).uniform(-30, 30, 5000)).astype(np.float32)
    edges = rank_edges(float(scores.min()), float(scores.max()))
    histogram = np.bincount(rank_bins(scores, edges), minlength=len(edges) + 1)
    assert resolved_share(histogram) > 0.999


def test_rank_bins_ascend_with_the_score_and_hold_one_value_of_all() -> None:
    scores = np.array([-1.0, -1.0, -0.5, 0.0, 2.0], dtype=np.float32)
    bins = rank_bins(scores, rank_edges(-1.0, 2.0))
    assert (np.diff(bins) >= 0).all()
    assert bins[0] == bins[1] < bins[2] < bins[3] < bins[4]
    assert len(set(rank_bins(np.full(3, 0.25, np.float32), rank_edges(0.25, 0.25)))) == 1
    with pytest.raises(ValueError, match="cannot be binned"):
        rank_edges(0.0, float("inf"))
