"""Rows -> batches of similar length: the split with the least work, bounded by the cost of a padded batch.

A padded batch costs rows x longest tokens, whatever its rows contain, and something more for being a batch at all:
weights are read, kernels are started. Rows are sorted by length, so that neighbours need almost no padding, and cut
where the sum of both costs is least: by dynamic programming over the sorted rows, exactly. Filling each batch up to
the budget instead is as good for thousands of rows, but a hundred rows then are a fifth padding. The longest rows come
first, so that a batch that does not fit into memory fails at once and not after an hour.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt


def token_budget_batches(
    lengths: npt.ArrayLike, budget: int, overhead: int, max_rows: int = 512
) -> list[npt.NDArray[np.int64]]:
    """Splits rows into batches with rows x longest row <= budget; a row longer than the budget is a batch of its own.
    Of all such splits of the rows in order of length, the one with the least sum of rows x longest + overhead.

    lengths: (N,) integers >= 0, tokens per row (an empty row counts as one token).
    budget: tokens of a padded batch.
    overhead: what a batch costs beside its tokens, in tokens, >= 0. With an overhead of the budget, padding hardly
    counts, and there are about as few batches as there can be.
    max_rows: the most rows in one batch.
    Returns arrays of row indices: every row exactly once, longest first, rows of equal length in input order.
    The same lengths always give the same batches. Takes some microseconds a row. Raises ValueError for a budget or
    max_rows below 1, for a negative overhead, and for lengths that are not integers >= 0.
    """
    sizes = np.asarray(lengths)
    if sizes.ndim != 1 or (sizes.size and not np.issubdtype(sizes.dtype, np.integer)):
        raise ValueError(f"lengths must be one whole number per row, not shape {sizes.shape} of {sizes.dtype}")
    if budget < 1 or max_rows < 1:
        raise ValueError(f"budget={budget} and max_rows={max_rows} must both be at least 1")
    if overhead < 0:
        raise ValueError(f"overhead={overhead} must not be negative")
    if sizes.size and sizes.min() < 0:
        raise ValueError(f"lengths must not be negative; the smallest is {sizes.min()}")

    sizes = np.maximum(sizes.astype(np.int64), 1)
    order = np.argsort(-sizes, kind="stable").astype(np.int64)
    edges = _cheapest_edges(sizes[order], budget, overhead, max_rows)
    return [order[start:stop] for start, stop in pairwise(edges)]


def _cheapest_edges(sizes: npt.NDArray[np.int64], budget: int, overhead: int, max_rows: int) -> list[int]:
    """Where to cut rows of falling sizes (N,): the edges of the batches, from 0 to N."""
    count = len(sizes)
    rows = np.arange(1, max_rows + 1, dtype=np.int64)
    cost = np.full(count + 1, np.iinfo(np.int64).max)  # of the cheapest split of the rows before each edge
    cost[0] = 0
    start_of = np.zeros(count + 1, dtype=np.int64)  # of the last batch in that split
    for start, size in enumerate(sizes.tolist()):
        most = min(max(budget // size, 1), max_rows, count - start)
        found = rows[:most] * size + (cost[start] + overhead)
        stops = slice(start + 1, start + 1 + most)
        # at a tie, the earlier start stays: fewer and larger batches
        cheaper = found < cost[stops]
        cost[stops][cheaper] = found[cheaper]
        start_of[stops][cheaper] = start
    edges = [count]
    while edges[-1]:
        edges.append(int(start_of[edges[-1]]))
    return edges[::-1]
