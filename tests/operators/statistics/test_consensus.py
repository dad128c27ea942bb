"""The mean over several models against numpy in float64, and what it does with rows that clipping makes equal."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.statistics.consensus import (
    UNSCALED,
    Scale,
    Spread,
    between,
    consensus,
    places_of,
    spread_of,
)


def naive(models: list[np.ndarray]) -> np.ndarray:
    """The paper's formula; rows at the same end in every model by their unclipped scores."""
    plain, clipped, ends = [], [], []
    for g in models:
        low, high = np.percentile(g, 1), np.percentile(g, 99)
        inside = np.clip(g, low, high)
        plain.append(g / np.std(inside))
        clipped.append(inside / np.std(inside))
        ends.append(np.where(g >= high, 1, np.where(g <= low, -1, 0)))
    found = np.mean(clipped, axis=0)
    for row in range(len(found)):
        if {1} == {side[row] for side in ends} or {-1} == {side[row] for side in ends}:
            found[row] = np.mean([own[row] for own in plain])
    return found


def scale_of(g: np.ndarray) -> Scale:
    """With the functions that the pipeline uses, over parts of the rows."""
    ordered = np.sort(g.astype(np.float64))
    low, high = (
        between(ordered[below], ordered[above], share)
        for below, above, share in (places_of(percent, len(g)) for percent in (1, 99))
    )
    parts = [spread_of(part, low, high) for part in np.array_split(g, 3)]
    return Scale(low, high, reduce(Spread.__add__, parts).deviation)


def drawn(seed: int, rows: int, models: int) -> list[np.ndarray]:
    """Scores of several models that agree in part."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_t(3, size=rows)
    return [((shared + rng.normal(size=rows)) * 10.0**-number).astype(np.float32) for number in range(models)]


@given(seed=st.integers(0, 2**16), rows=st.integers(3, 400), models=st.integers(1, 3))
def test_it_is_the_naive_one(seed: int, rows: int, models: int) -> None:
    scores = drawn(seed, rows, models)
    found = consensus(scores, [scale_of(g) for g in scores])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, naive([g.astype(np.float64) for g in scores]), rtol=1e-5, atol=1e-5)


@given(seed=st.integers(0, 2**16), rows=st.integers(1, 300), percent=st.sampled_from([1, 99]))
def test_percentiles_and_spreads_are_those_of_numpy(seed: int, rows: int, percent: int) -> None:
    [g] = drawn(seed, rows, 1)
    exact = g.astype(np.float64)
    below, above, share = places_of(percent, rows)
    ordered = np.sort(exact)
    assert between(ordered[below], ordered[above], share) == pytest.approx(np.percentile(exact, percent), rel=1e-12)
    low, high = np.percentile(exact, [1, 99])
    parts = reduce(Spread.__add__, [spread_of(part, low, high) for part in np.array_split(g, 4)])
    assert parts.count == rows
    assert parts.deviation == pytest.approx(np.std(np.clip(exact, low, high)), rel=1e-9, abs=1e-12)


@given(seed=st.integers(0, 2**16), rows=st.integers(3, 400))
def test_one_model_keeps_its_order(seed: int, rows: int) -> None:
    [g] = drawn(seed, rows, 1)
    [found] = [consensus([g], [scale_of(g)])]
    order = np.argsort(g, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
    assert len(np.unique(found)) >= len(np.unique(g)) - 3  # float32 of another scale may join neighbours


def test_rows_that_clipping_makes_equal_are_ranked_by_what_was_clipped() -> None:
    """The outermost rows of both models are the same ones, and no other row comes among them."""
    g = np.linspace(-1, 1, 1000).astype(np.float32)
    other = (g**3).astype(np.float32)
    scales = [scale_of(g), scale_of(other)]
    clipped = np.mean(
        [np.clip(own, scale.low, scale.high) / scale.spread for own, scale in zip((g, other), scales, strict=True)],
        axis=0,
    )
    assert (clipped == clipped.max()).sum() == 10  # what the formula alone leaves to the order of the file
    found = consensus([g, other], scales)
    assert (np.diff(found) > 0).all()
    np.testing.assert_allclose(found[10:-10], clipped[10:-10], rtol=1e-6)


def test_a_row_at_an_end_in_one_model_alone_is_clipped_there() -> None:
    scales = [Scale(-1.0, 1.0, 0.5), Scale(-2.0, 2.0, 1.0)]
    first, second = (np.array(own, np.float32) for own in ([9, 9, -9, 9, 0], [0, 3, -4, -5, 1]))
    # 2 / 2 + 0; both above; both below; opposite ends; neither
    assert consensus([first, second], scales).tolist() == [1.0, 10.5, -11.0, 0.0, 0.5]


def test_unscaled_is_the_plain_mean_and_no_spread_is_refused() -> None:
    a, b = np.array([0.5, -0.25], np.float32), np.array([0.25, 0.5], np.float32)
    assert consensus([a, b], [UNSCALED, UNSCALED]).tolist() == [0.375, 0.125]
    assert consensus([a[:0], b[:0]], [UNSCALED, UNSCALED]).shape == (0,)
    with pytest.raises(ValueError, match="without a spread"):
        consensus([a, b], [UNSCALED, Scale(0.0, 0.0, 0.0)])
    assert spread_of(a[:0], -1, 1) + spread_of(a, -1, 1) == spread_of(a, -1, 1)
    assert (spread_of(a[:0], -1, 1) + spread_of(a[:0], -1, 1)).deviation == 0
