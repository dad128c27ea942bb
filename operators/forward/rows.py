"""Rows of token ids before they enter a model: checked, put into batches, padded.

Padding is on the right and needs no attention mask: a causal model's real tokens cannot see what follows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tamis.operators.forward.batching import token_budget_batches
from tamis.operators.model.info import ModelInfo
from tamis.operators.problems import RowProblem

RowNumbers = npt.NDArray[np.int64]
"""int64 (n,): numbers of rows, or one number a row."""
TokenIds = npt.NDArray[np.integer[Any]]

# Padding grows with the budget, and a CPU gains little from larger batches (benchmarks/forward.py). A GPU needs more
# work per batch. Its number is a guess until it has been measured on a GPU: then the best budget that
# benchmarks/gpu.sh prints (benchmarks/budgets.py) should replace it, here and below.
TOKEN_BUDGETS = {"cpu": 2048, "cuda": 8192}

# In compiled blocks, the fused work between the matrix products depends less on the cache, and the products are
# faster in larger batches.
COMPILED_TOKEN_BUDGETS = {"cpu": 4096, "cuda": 8192}

# What a batch costs beside its tokens, in tokens: what padding is weighed against. On a CPU benchmarks/padding.py
# --overhead measures it; that of a GPU is a guess, as its budget is.
BATCH_OVERHEADS = {"cpu": 128, "cuda": 256}


def row_lengths(input_ids: Sequence[TokenIds]) -> RowNumbers:
    """Tokens per row, int64 (N,); ValueError for a row that is not an array of integers (T,)."""
    for row, ids in enumerate(input_ids):
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"row {row}: token ids must be whole numbers (T,), not {ids.dtype} {ids.shape}")
    return np.array([len(ids) for ids in input_ids], dtype=np.int64)


def unusable_rows(input_ids: Sequence[TokenIds], lengths: RowNumbers, info: ModelInfo) -> dict[int, RowProblem]:
    """The rows that must not be passed to the model at all: empty, too_long_for_model, bad_token_id."""
    lowest = np.array([ids.min() if len(ids) else 0 for ids in input_ids], dtype=np.int64)
    highest = np.array([ids.max() if len(ids) else 0 for ids in input_ids], dtype=np.int64)
    limit = info.max_positions
    checks = (
        ("empty", lengths == 0, "the sample has no tokens"),
        (
            "too_long_for_model",
            lengths > limit if limit is not None else np.zeros(len(lengths), dtype=bool),
            f"the sample has more tokens than the {limit} that the model takes",
        ),
        (
            "bad_token_id",
            (lowest < 0) | (highest >= info.vocabulary),
            f"a token id lies outside the model's vocabulary of {info.vocabulary}",
        ),
    )
    problems: dict[int, RowProblem] = {}
    for code, refused, message in checks:
        for row in np.flatnonzero(refused):
            problems.setdefault(int(row), RowProblem(code, message))
    return problems


def batch_overhead(device: str) -> int:
    """BATCH_OVERHEADS of a type of torch device."""
    return BATCH_OVERHEADS.get(device, BATCH_OVERHEADS["cuda"])


def model_batches(
    rows: RowNumbers, lengths: RowNumbers, token_budget: int, overhead: int, boundaries: Sequence[int]
) -> list[RowNumbers]:
    """Token-budget batches of `rows`, longest first. No batch has rows on both sides of one of `boundaries`: lengths
    at which the model changes its rotary frequencies (architecture.rope_boundaries).

    lengths: (N,) tokens of every row, including rows that are not in `rows`. overhead: see token_budget_batches.
    """
    side = np.searchsorted(np.array(boundaries, dtype=np.int64), lengths[rows], side="left")
    groups = [rows[side == number] for number in range(len(boundaries), -1, -1)]
    return [group[batch] for group in groups for batch in token_budget_batches(lengths[group], token_budget, overhead)]


def padded(ids: Sequence[TokenIds], lengths: RowNumbers) -> npt.NDArray[np.int64]:
    """(B, T) int64, each row followed by copies of its own last token.

    No real token sees the copies, but zero weights times infinity is NaN: a token that is already in the row
    cannot add a broken embedding that the row did not have.
    """
    tokens = np.repeat(np.array([row[-1] for row in ids], dtype=np.int64)[:, None], int(lengths.max()), axis=1)
    tokens[np.arange(tokens.shape[1]) < lengths[:, None]] = np.concatenate(ids)
    return tokens
