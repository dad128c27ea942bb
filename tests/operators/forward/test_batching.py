"""Batches hold every row once, keep to the budget, and are the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.forward.batching import token_budget_batches

LENGTHS = st.lists(st.integers(0, 300), max_size=120)


@given(LENGTHS, st.integers(1, 1000), st.integers(1, 40))
def test_every_row_once_within_the_budget_longest_first(lengths: list[int], budget: int, max_rows: int) -> None:
    batches = token_budget_batches(np.array(lengths, dtype=np.int32), budget, max_rows)
    rows = [int(row) for batch in batches for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    # sorted() is stable: rows of equal length keep their order
    assert rows == sorted(range(len(lengths)), key=lambda row: -max(lengths[row], 1))
    for batch in batches:
        assert batch.dtype == np.int64
        assert 1 <= len(batch) <= max_rows
        cost = len(batch) * max(max(lengths[row], 1) for row in batch)
        assert cost <= budget or len(batch) == 1


@given(LENGTHS, st.integers(1, 1000), st.integers(1, 40))
def test_a_batch_is_as_large_as_it_may_be(lengths: list[int], budget: int, max_rows: int) -> None:
    batches = token_budget_batches(np.array(lengths, dtype=np.int64), budget, max_rows)
    for batch in batches[:-1]:
        longest = max(max(lengths[row], 1) for row in batch)
        assert len(batch) == max_rows or (len(batch) + 1) * longest > budget


@given(LENGTHS, st.integers(1, 1000))
def test_the_same_lengths_give_the_same_batches(lengths: list[int], budget: int) -> None:
    first = token_budget_batches(np.array(lengths, dtype=np.int64), budget)
    second = token_budget_batches(list(lengths), budget)
    assert [batch.tolist() for batch in first] == [batch.tolist() for batch in second]


def test_one_long_row_stands_alone() -> None:
    assert [batch.tolist() for batch in token_budget_batches([3, 50, 4], 10)] == [[1], [2, 0]]


def test_nothing_in_nothing_out() -> None:
    assert token_budget_batches(np.array([], dtype=np.int64), 10) == []
    assert token_budget_batches([], 10) == []


@pytest.mark.parametrize(
    ("lengths", "budget", "max_rows"),
    [([1], 0, 1), ([1], 1, 0), ([-1], 1, 1), ([1.5], 1, 1), ([[1]], 1, 1)],
)
def test_senseless_arguments_are_refused(lengths: list[int], budget: int, max_rows: int) -> None:
    with pytest.raises(ValueError):
        token_budget_batches(np.array(lengths), budget, max_rows)
