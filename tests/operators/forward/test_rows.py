"""Rows that the model must not see are named; batches keep apart what must not share one; padding copies the row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tamis.operators.forward.rows import model_batches, padded, row_lengths, unusable_rows
from tamis.operators.model.info import ModelInfo

INFO = ModelInfo("LlamaForCausalLM", blocks=4, width=32, vocabulary=97, max_positions=8)
UNBOUNDED = ModelInfo("LlamaForCausalLM", blocks=4, width=32, vocabulary=97, max_positions=None)


def rows(*lengths: int) -> list[np.ndarray]:
    return [np.arange(1, length + 1, dtype=np.int32) for length in lengths]


def test_lengths_are_counted() -> None:
    lengths = row_lengths(rows(3, 0, 1))
    assert lengths.dtype == np.int64
    assert lengths.tolist() == [3, 0, 1]
    assert row_lengths([]).shape == (0,)


@pytest.mark.parametrize("wrong", [np.array([1.0]), np.array([[1]]), np.array(1)])
def test_rows_must_be_whole_numbers_in_line(wrong: Any) -> None:
    with pytest.raises(ValueError, match="row 1"):
        row_lengths([np.array([1]), wrong])


def test_what_the_model_must_not_be_given() -> None:
    ids = [*rows(8, 9, 0), np.array([5, 97]), np.array([-1, 5]), np.array([0, 96], dtype=np.uint8)]
    problems = unusable_rows(ids, row_lengths(ids), INFO)
    assert {row: problem.code for row, problem in problems.items()} == {
        1: "too_long_for_model",
        2: "empty",
        3: "bad_token_id",
        4: "bad_token_id",
    }
    assert unusable_rows(rows(9), row_lengths(rows(9)), UNBOUNDED) == {}


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(1, 200), st.sets(st.integers(1, 60), max_size=3)
)
@example([24, 1, 25], 100, {24})
def test_no_batch_spans_a_boundary(lengths: list[int], budget: int, boundaries: set[int]) -> None:
    """A row of exactly a boundary's length is still below it."""
    sizes = np.array(lengths)
    chosen = np.arange(0, len(lengths), 2)
    batches = model_batches(chosen, sizes, budget, 20, sorted(boundaries))
    assert sorted(int(row) for batch in batches for row in batch) == chosen.tolist()
    for batch in batches:
        assert len(batch) == 1 or len(batch) * sizes[batch].max() <= budget
        assert len({tuple(length > boundary for boundary in boundaries) for length in sizes[batch]}) == 1
    assert max(sizes[chosen]) == max(sizes[batches[0]])


def test_each_row_is_padded_with_its_own_last_token() -> None:
    ids = [np.array([5, 6, 7], dtype=np.int32), np.array([9], dtype=np.int64), np.array([3, 4], dtype=np.uint16)]
    tokens = padded(ids, row_lengths(ids))
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [[5, 6, 7], [9, 9, 9], [3, 4, 4]]
