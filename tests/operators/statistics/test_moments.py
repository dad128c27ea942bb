from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.operators.statistics.moments import Moments, eigenbasis, merge, moments_of


def gapped_rows(seed: int, n: int, d: int, k: int, offset: float = 0.0) -> np.ndarray:
    """Rows whose first k singular values stand clear of the others."""
    rng = np.random.default_rng(seed)
    scales = np.where(np.arange(d) < k, 6.0, 1.0) / (1.0 + 0.1 * np.arange(d))
    rotation, _ = np.linalg.qr(rng.normal(size=(d, d)))
    return (rng.normal(size=(n, d)) * scales) @ rotation + offset


def full_svd(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = rows.astype(np.float64)
    _, singular, vectors = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    return singular, vectors


@given(
    seed=st.integers(0, 2**16),
    n=st.integers(30, 120),
    d=st.integers(2, 12),
    offset=st.sampled_from([0.0, 1e3]),
    dtype=st.sampled_from([np.float32, np.float64]),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_any_partition_and_merge_order_gives_the_full_svd(
    seed: int, n: int, d: int, offset: float, dtype: type, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, min(3, d - 1)))
    rows = gapped_rows(seed, n, d, k, offset).astype(dtype)
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=8)))
    parts = [moments_of(part) for part in np.split(rows, cuts)]
    while len(parts) > 1:
        first = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        second = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        parts.append(merge(first, second))
    total = parts[0]

    singular, vectors = full_svd(rows)
    eigenvalues, basis = eigenbasis(total, k)
    expected = vectors[:k].T @ vectors[:k]
    assert total.count == n
    assert np.linalg.norm(basis.T @ basis - expected) < 1e-8 * np.linalg.norm(expected)
    np.testing.assert_allclose(eigenvalues, singular[:k] ** 2, rtol=1e-8)
    np.testing.assert_allclose(total.mean, rows.astype(np.float64).mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(total.total_variance, np.sum(singular**2), rtol=1e-9)


def test_scatter_is_the_centred_scatter_and_exactly_symmetric() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 7)) + 1e3
    total = reduce(merge, [moments_of(rows[:10]), moments_of(rows[10:11]), moments_of(rows[11:])])
    centred = rows - rows.mean(axis=0)
    np.testing.assert_allclose(total.scatter, centred.T @ centred, rtol=1e-8, atol=1e-8)
    assert np.array_equal(total.scatter, total.scatter.T)


def test_empty_is_the_neutral_element() -> None:
    empty = moments_of(np.empty((0, 3), np.float32))
    some = moments_of(np.arange(12, dtype=np.float32).reshape(4, 3))
    assert empty.count == 0
    assert not empty.mean.any()
    for both in (merge(empty, some), merge(some, empty)):
        assert both.count == 4
        np.testing.assert_array_equal(both.mean, some.mean)
        np.testing.assert_array_equal(both.scatter, some.scatter)
    assert merge(empty, empty).count == 0


def test_one_row_has_no_scatter() -> None:
    one = moments_of(np.array([[0.1, -3.0]], np.float32))
    assert one.count == 1
    np.testing.assert_array_equal(one.mean, np.array([0.1, -3.0], np.float32).astype(np.float64))
    assert not one.scatter.any()


def test_constant_columns_have_exactly_zero_variance() -> None:
    rows = np.full((1001, 2), 0.1, np.float32)
    rows[:, 1] = np.arange(1001)
    total = merge(moments_of(rows[:333]), moments_of(rows[333:]))
    assert total.scatter[0, 0] == 0
    assert not total.scatter[0].any()
    assert total.scatter[1, 1] == pytest.approx(np.var(np.arange(1001)) * 1001, rel=1e-12)


def test_a_rounded_mean_does_not_leak_into_the_scatter() -> None:
    rows = np.full((100_003, 1), 1000.1)
    assert rows.mean(axis=0)[0] != 1000.1  # the case at hand: numpy's own mean is off by rounding
    assert moments_of(rows).scatter[0, 0] < 1e-30
    assert moments_of(rows).mean[0] == pytest.approx(1000.1, rel=1e-15)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(bad: float) -> None:
    rows = np.zeros((3, 2), np.float32)
    rows[1, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        moments_of(rows)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        moments_of(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="width 2 and 3"):
        merge(moments_of(np.ones((1, 2))), moments_of(np.ones((1, 3))))


def test_input_is_left_alone() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 3))
    before = rows.copy()
    moments_of(rows)
    np.testing.assert_array_equal(rows, before)


def test_signs_do_not_depend_on_the_solver() -> None:
    scatter = gapped_rows(3, 40, 5, 2)
    total = moments_of(scatter)
    _, basis = eigenbasis(total, 5)
    assert (basis[np.arange(5), np.abs(basis).argmax(axis=1)] > 0).all()
    np.testing.assert_allclose(basis @ basis.T, np.eye(5), atol=1e-12)


def test_eigenvalues_descend_and_are_never_negative() -> None:
    total = moments_of(gapped_rows(1, 3, 6, 1))
    eigenvalues, _ = eigenbasis(total, 6)
    assert (np.diff(eigenvalues) <= 0).all()
    assert (eigenvalues >= 0).all()
    assert eigenvalues[2] < 1e-12 * eigenvalues[0]


@pytest.mark.parametrize("k", [0, 3])
def test_k_out_of_range(k: int) -> None:
    with pytest.raises(ValueError, match=f"k={k}"):
        eigenbasis(Moments(4, np.zeros(2), np.eye(2)), k)
