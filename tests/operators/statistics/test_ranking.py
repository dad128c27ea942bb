from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.operators.statistics.ranking import (
    coarse_bins,
    coarse_histogram,
    fine_histogram,
    image,
    nth_largest,
    value,
)

any_float = st.floats(width=32, allow_nan=False)
# Few distinct values, close neighbours, zeros of both signs, subnormals: ties and boundary bins every time.
tied_float = st.sampled_from(
    [
        0.0,
        -0.0,
        1e-45,
        -1e-45,
        1.0,
        float(np.nextafter(np.float32(1), np.float32(2))),
        -1.0,
        3e38,
        np.inf,
        -np.inf,
    ]
)
score_lists = st.lists(any_float, min_size=1, max_size=40) | st.lists(tied_float, min_size=1, max_size=40)


def cut_of(scores: np.ndarray, n: int, shards: int = 1):
    parts = np.array_split(scores, shards)
    return nth_largest(
        n,
        lambda: sum(coarse_histogram(part) for part in parts),
        lambda chosen: sum(fine_histogram(part, chosen) for part in parts),
    )


@given(values=score_lists, shards=st.integers(1, 5), data=st.data())
@settings(max_examples=150, deadline=None)
def test_nth_largest_is_numpys(values: list[float], shards: int, data: st.DataObject) -> None:
    scores = np.array(values, np.float32)
    n = data.draw(st.integers(1, len(scores)))
    cut = cut_of(scores, n, shards)
    expected = np.sort(scores)[::-1][n - 1]
    assert np.float32(cut.value) == expected
    assert cut.above == np.count_nonzero(scores > expected)
    assert cut.at == np.count_nonzero(scores == expected)


@given(values=score_lists)
@settings(max_examples=100, deadline=None)
def test_image_preserves_order_and_inverts(values: list[float]) -> None:
    scores = np.array(values, np.float32)
    images = image(scores)
    assert images.dtype == np.uint32
    np.testing.assert_array_equal(images[:, None] < images[None, :], scores[:, None] < scores[None, :])
    np.testing.assert_array_equal(value(images), scores)
    bins = coarse_bins(scores)
    assert ((scores[:, None] < scores[None, :]) <= (bins[:, None] <= bins[None, :])).all()


@pytest.mark.parametrize("scale", [1.0, 1e-42, 1e30])
def test_many_scores(scale: float) -> None:
    rng = np.random.default_rng(5)
    scores = (rng.normal(size=200_000) * scale).astype(np.float32)
    ordered = np.sort(scores)[::-1]
    for n in (1, 2, 777, 100_000, 199_999, 200_000):
        cut = cut_of(scores, n, 7)
        assert np.float32(cut.value) == ordered[n - 1]
        assert cut.above < n <= cut.above + cut.at


def test_all_equal() -> None:
    cut = cut_of(np.full(100, -2.5, np.float32), 30)
    assert (cut.value, cut.above, cut.at) == (-2.5, 0, 100)


def test_both_zeros_are_one_value() -> None:
    cut = cut_of(np.array([-0.0, 0.0, -0.0, -1.0], np.float32), 3)
    assert (cut.value, cut.above, cut.at) == (0.0, 0, 3)
    assert np.signbit(cut.value) == 0


def test_one_coarse_bin_is_resolved_exactly() -> None:
    start = np.float32(0.5).view(np.uint32)
    scores = (start + np.arange(1000, dtype=np.uint32)).view(np.float32)
    assert len(set(coarse_bins(scores))) == 1
    assert cut_of(scores, 10).value == float(scores[-10])


def test_nan_and_other_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        coarse_histogram(np.array([1.0, np.nan], np.float32))
    with pytest.raises(ValueError, match="NaN"):
        fine_histogram(np.array([np.nan], np.float32), 0)
    with pytest.raises(ValueError, match="float64"):
        image(np.array([0.1]))


@pytest.mark.parametrize("n", [0, 4, -1])
def test_rank_out_of_range(n: int) -> None:
    with pytest.raises(ValueError, match=f"n={n}: there are 3 scores"):
        cut_of(np.array([1, 2, 3], np.float32), n)


def test_no_scores() -> None:
    with pytest.raises(ValueError, match="there are 0 scores"):
        cut_of(np.empty(0, np.float32), 1)


def test_scores_that_change_between_the_passes_are_noticed() -> None:
    first, second = np.array([1, 2, 3], np.float32), np.array([1, 2, 3, 3], np.float32)
    with pytest.raises(ValueError, match="changed"):
        nth_largest(1, lambda: coarse_histogram(first), lambda chosen: fine_histogram(second, chosen))
