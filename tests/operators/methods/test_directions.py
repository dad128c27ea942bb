"""Unit vectors and their sums: what has no direction, and what is no number."""

from __future__ import annotations

import numpy as np

from tamis.operators.methods.directions import add, sum_of, unit


def test_zeros_have_no_direction_and_what_is_not_finite_stays_so() -> None:
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]])
    found = unit(rows)
    np.testing.assert_array_equal(found[:2], [[0.6, 0.8], [0, 0]])
    assert np.isnan(found[2:]).any(axis=1).all()
    assert unit(rows[:0]).shape == (0, 2)


def test_sums_add_up() -> None:
    rows = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    rows[3] = 0
    whole, parts = sum_of(rows), add(sum_of(rows[:4]), sum_of(rows[4:]))
    assert (whole.count, whole.zeros) == (parts.count, parts.zeros) == (9, 1)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(whole.total, sum(r / np.linalg.norm(r) for r in rows.astype(float) if r.any()))
    np.testing.assert_allclose(sum_of(rows, units=False).total, rows.astype(float).sum(axis=0))
