"""Batches hold every row once, keep to the budget, are the cheapest that there are, and are the same every time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.forward.batching import token_budget_batches

LENGTHS = st.lists(st.integers(0, 300), max_size=120)
BUDGET, OVERHEAD, MAX_ROWS = st.integers(1, 1000), st.integers(0, 400), st.integers(1, 40)


@given(LENGTHS, BUDGET, OVERHEAD, MAX_ROWS)
def test_every_row_once_within_the_budget_longest_first(
    lengths: list[int], budget: int, overhead: int, max_rows: int
) -> None:
    batches = token_budget_batches(np.array(lengths, dtype=np.int32), budget, overhead, max_rows)
    rows = [int(row) for batch in batches for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    # sorted() is stable: rows of equal length keep their order
    assert rows == sorted(range(len(lengths)), key=lambda row: -max(lengths[row], 1))
    for batch in batches:
        assert batch.dtype == np.int64
        assert 1 <= len(batch) <= max_rows
        cost = len(batch) * max(max(lengths[row], 1) for row in batch)
        assert cost <= budget or len(batch) == 1


@given(st.lists(st.integers(0, 40), max_size=9), st.integers(1, 200), st.integers(0, 60), st.integers(1, 9))
def test_no_split_is_cheaper(lengths: list[int], budget: int, overhead: int, max_rows: int) -> None:
    """Against the naive twin: every way to cut the sorted rows is tried."""
    falling = sorted((max(length, 1) for length in lengths), reverse=True)
    least = min(
        (
            sum(cost_of(part) + overhead for part in parts)
            for parts in every_split(falling)
            if all(len(part) <= max_rows and (cost_of(part) <= budget or len(part) == 1) for part in parts)
        ),
        default=0,
    )
    batches = token_budget_batches(np.array(lengths, dtype=np.int64), budget, overhead, max_rows)
    assert sum(cost_of([max(lengths[row], 1) for row in batch]) + overhead for batch in batches) == least


@given(LENGTHS, BUDGET, OVERHEAD, MAX_ROWS)
def test_never_dearer_than_filling_each_batch(lengths: list[int], budget: int, overhead: int, max_rows: int) -> None:
    falling = sorted((max(length, 1) for length in lengths), reverse=True)
    filled = 0
    while falling:
        rows = min(max(budget // falling[0], 1), max_rows)
        filled += cost_of(falling[:rows]) + overhead
        falling = falling[rows:]
    batches = token_budget_batches(np.array(lengths, dtype=np.int64), budget, overhead, max_rows)
    assert sum(cost_of([max(lengths[row], 1) for row in batch]) + overhead for batch in batches) <= filled


@given(LENGTHS, BUDGET, OVERHEAD)
def test_the_same_lengths_give_the_same_batches(lengths: list[int], budget: int, overhead: int) -> None:
    first = token_budget_batches(np.array(lengths, dtype=np.int64), budget, overhead)
    second = token_budget_batches(list(lengths), budget, overhead)
    assert [batch.tolist() for batch in first] == [batch.tolist() for batch in second]


def test_padding_is_weighed_against_the_overhead() -> None:
    lengths = [10, 10, 8, 8]
    assert [batch.tolist() for batch in token_budget_batches(lengths, 40, 3)] == [[0, 1], [2, 3]]
    assert [batch.tolist() for batch in token_budget_batches(lengths, 40, 5)] == [[0, 1, 2, 3]]
    # as dear one way as the other: fewer batches
    assert [batch.tolist() for batch in token_budget_batches(lengths, 40, 4)] == [[0, 1, 2, 3]]


def test_one_long_row_stands_alone() -> None:
    assert [batch.tolist() for batch in token_budget_batches([3, 50, 4], 10, 10)] == [[1], [2, 0]]


def test_nothing_in_nothing_out() -> None:
    assert token_budget_batches(np.array([], dtype=np.int64), 10, 1) == []
    assert token_budget_batches([], 10, 1) == []


@pytest.mark.parametrize(
    ("lengths", "budget", "overhead", "max_rows"),
    [([1], 0, 1, 1), ([1], 1, 1, 0), ([1], 1, -1, 1), ([-1], 1, 1, 1), ([1.5], 1, 1, 1), ([[1]], 1, 1, 1)],
)
def test_senseless_arguments_are_refused(lengths: list[int], budget: int, overhead: int, max_rows: int) -> None:
    with pytest.raises(ValueError):
        token_budget_batches(np.array(lengths), budget, overhead, max_rows)


def cost_of(sizes: list[int]) -> int:
    return len(sizes) * max(sizes)


def every_split(falling: list[int]) -> Iterator[list[list[int]]]:
    """All the ways to cut a list into parts that are not empty."""
    inner = range(1, len(falling))
    if falling:
        for count in range(len(falling)):
            for cuts in combinations(inner, count):
                yield [falling[start:stop] for start, stop in pairwise([0, *cuts, len(falling)])]
