"""Rows -> batches of similar length, bounded by the cost of a padded batch.

A padded batch costs rows x longest tokens, whatever its rows contain. So rows are sorted by length before they
are split into batches, and neighbours need almost no padding. The longest rows come first, so that a batch that does
not fit into memory fails at once and not after an hour.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def token_budget_batches(lengths: npt.ArrayLike, budget: int, max_rows: int = 512) -> list[npt.NDArray[np.int64]]:
    """Splits rows into batches with rows x longest row <= budget; a row longer than the budget is a batch of its own.

    lengths: (N,) integers >= 0, tokens per row (an empty row counts as one token).
    budget: tokens of a padded batch.
    max_rows: the most rows in one batch.
    Returns arrays of row indices: every row exactly once, longest first, rows of equal length in input order.
    The same lengths always give the same batches. Raises ValueError for a budget or max_rows below 1 and for
    lengths that are not integers >= 0.
    """
    sizes = np.asarray(lengths)
    if sizes.ndim != 1 or (sizes.size and not np.issubdtype(sizes.dtype, np.integer)):
        raise ValueError(f"lengths must be one whole number per row, not shape {sizes.shape} of {sizes.dtype}")
    if budget < 1 or max_rows < 1:
        raise ValueError(f"budget={budget} and max_rows={max_rows} must both be at least 1")
    if sizes.size and sizes.min() < 0:
        raise ValueError(f"lengths must not be negative; the smallest is {sizes.min()}")

    sizes = np.maximum(sizes.astype(np.int64), 1)
    order = np.argsort(-sizes, kind="stable").astype(np.int64)
    batches: list[npt.NDArray[np.int64]] = []
    start = 0
    while start < order.size:
        longest = int(sizes[order[start]])
        rows = min(max(budget // longest, 1), max_rows)
        batches.append(order[start : start + rows])
        start += rows
    return batches
