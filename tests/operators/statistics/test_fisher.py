"""The ratio of projections equals the ratio of quadratic forms of whole scatter matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.operators.requests import Request
from tamis.operators.statistics.fisher import best_block, fisher_ratios

Features = dict[str, tuple[Any, Any]]


def features(blocks: int, unsafe: int, safe: int, width: int, seed: int = 0, apart: float = 1.0) -> Features:
    """Random vectors of both classes, float32, further apart the higher the block."""
    random = np.random.default_rng(seed)
    made: Features = {}
    for block in range(blocks):
        shift = apart * block * random.normal(size=width)
        for position in ("last_token", "response_mean"):
            scale = random.uniform(0.1, 10.0, width)
            made[Request(block, position).column] = (
                ((random.normal(size=(unsafe, width)) + shift) * scale).astype(np.float32),
                (random.normal(size=(safe, width)) * scale).astype(np.float32),
            )
    return made


def with_matrices(made: Features, block: int) -> float:
    """The naive twin: both scatter matrices, one outer product at a time."""
    unsafe_means, safe_means = (part.astype(np.float64) for part in made[f"block_{block:02d}.response_mean"])
    v = unsafe_means.mean(axis=0) - safe_means.mean(axis=0)
    v /= np.linalg.norm(v)
    tokens = [part.astype(np.float64) for part in made[f"block_{block:02d}.last_token"]]
    together = np.concatenate(tokens)
    deviation = together.std(axis=0)
    classes = [
        np.where(deviation > 0, (part - together.mean(axis=0)) / np.where(deviation > 0, deviation, 1), 0)
        for part in tokens
    ]
    centre = np.concatenate(classes).mean(axis=0)
    total = sum(np.outer(z - centre, z - centre) for part in classes for z in part)
    between = sum(len(part) * np.outer(part.mean(axis=0) - centre, part.mean(axis=0) - centre) for part in classes)
    return float((v @ between @ v) / (v @ total @ v))


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    unsafe=st.integers(2, 9),
    safe=st.integers(2, 9),
    width=st.integers(1, 6),
    apart=st.sampled_from([0.0, 0.3, 3.0]),
)
def test_equals_the_matrices(seed: int, unsafe: int, safe: int, width: int, apart: float) -> None:
    made = features(3, unsafe, safe, width, seed, apart)
    ratios = fisher_ratios(made, 3)
    assert ratios.dtype == np.float64
    np.testing.assert_allclose(ratios, [with_matrices(made, block) for block in range(3)], rtol=1e-9, atol=1e-12)
    assert ((ratios >= 0) & (ratios <= 1)).all()


def test_two_points_are_told_apart_wholly_and_equal_classes_not_at_all() -> None:
    one, other = np.zeros((4, 3), dtype=np.float32), np.ones((5, 3), dtype=np.float32)
    random = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    made = {
        "block_00.response_mean": (one, other),
        "block_00.last_token": (one, other),
        "block_01.response_mean": (one, other),
        "block_01.last_token": (random, random),
    }
    np.testing.assert_allclose(fisher_ratios(made, 2), [1.0, 0.0], atol=1e-12)


def test_the_scale_of_a_dimension_does_not_matter() -> None:
    made = features(1, 20, 30, 5)
    expected = fisher_ratios(made, 1)
    unsafe, safe = made["block_00.last_token"]
    factors = np.array([1e-3, 1.0, 1e3, -7.0, 0.5], dtype=np.float32)
    made["block_00.last_token"] = (unsafe * np.abs(factors) + 3, safe * np.abs(factors) + 3)
    np.testing.assert_allclose(fisher_ratios(made, 1), expected, rtol=1e-3)


def test_a_constant_dimension_counts_for_nothing() -> None:
    """0.1 thirty times over has a mean, and a standard deviation, that rounding has touched."""
    made = features(1, 10, 20, 4, apart=0.0)
    expected = fisher_ratios(made, 1)
    unsafe, safe = (np.c_[part, np.full(len(part), 0.1, dtype=np.float32)] for part in made["block_00.last_token"])
    made["block_00.last_token"] = (unsafe, safe)
    means = (np.c_[part, np.zeros(len(part), dtype=np.float32)] for part in made["block_00.response_mean"])
    made["block_00.response_mean"] = tuple(means)
    np.testing.assert_allclose(fisher_ratios(made, 1), expected, rtol=1e-12)


def set_value(made: Features, column: str, value: float) -> None:
    made[column][0][0, 0] = value


@pytest.mark.parametrize("column", ["block_01.last_token", "block_01.response_mean"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_block_with_a_vector_that_is_not_finite_has_no_ratio(column: str, value: float) -> None:
    made = features(3, 5, 6, 4)
    expected = fisher_ratios(made, 3)
    set_value(made, column, value)
    ratios = fisher_ratios(made, 3)
    assert np.isnan(ratios[1])
    np.testing.assert_array_equal(ratios[[0, 2]], expected[[0, 2]])


def test_where_there_is_no_ratio() -> None:
    made = features(1, 5, 6, 4)
    same = made["block_00.response_mean"][1]
    none = np.zeros((0, 4), dtype=np.float32)
    flat = np.ones((5, 4), dtype=np.float32)
    for change in (
        {"block_00.response_mean": (same, same)},  # no direction
        {"block_00.last_token": (flat, flat)},  # no spread
        {"block_00.last_token": (none, same)},
        {"block_00.response_mean": (none, same)},
    ):
        assert np.isnan(fisher_ratios({**made, **change}, 1)).all()


def test_one_row_of_a_class_is_enough() -> None:
    made = features(1, 1, 6, 4)
    np.testing.assert_allclose(fisher_ratios(made, 1), [with_matrices(made, 0)], rtol=1e-9)


def test_a_missing_or_misshapen_column_is_named() -> None:
    made = features(2, 5, 6, 4)
    del made["block_01.response_mean"]
    with pytest.raises(ValueError, match=r"block_01\.response_mean .*is missing"):
        fisher_ratios(made, 2)
    made = features(1, 5, 6, 4)
    made["block_00.last_token"] = (np.zeros((5, 4)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"block_00\.last_token: unsafe \(5, 4\) and safe \(5, 3\)"):
        fisher_ratios(made, 1)
    made["block_00.last_token"] = (np.zeros((5, 3)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="vectors of 4 and of 3"):
        fisher_ratios(made, 1)
    with pytest.raises(ValueError, match="at least one block"):
        fisher_ratios({}, 0)


def test_the_best_block() -> None:
    assert best_block([0.1, 0.3, 0.2]) == 1
    assert best_block([0.1, 0.3, 0.3]) == 1
    assert best_block([np.nan, 0.0, np.nan]) == 1
    for ratios in ([np.nan, np.nan], []):
        with pytest.raises(ValueError, match="no block has a Fisher ratio"):
            best_block(ratios)
