"""Deciles of response length, from an exact histogram of lengths (one bin per number of tokens).

The histograms of shards add up, so the deciles are those of the whole corpus in one pass.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


def length_histogram(lengths: npt.NDArray[np.integer], longest: int) -> Counts:
    """int64 (longest + 1,): how many samples have each length. Raises ValueError outside 0..longest."""
    if lengths.size and not 0 <= int(lengths.min()) <= int(lengths.max()) <= longest:
        raise ValueError(f"lengths span {lengths.min()}..{lengths.max()}, outside 0..{longest}")
    return np.bincount(lengths.astype(np.int64), minlength=longest + 1).astype(np.int64, copy=False)


def length_deciles(histogram: Counts) -> Counts:
    """int64 (9,): edge j is the smallest length that at least (j + 1) tenths of the samples do not exceed.

    Edges repeat when more than a tenth of the samples have one length. Raises ValueError for an empty
    histogram.
    """
    up_to = np.cumsum(histogram, dtype=np.int64)
    if up_to.size == 0 or up_to[-1] == 0:
        raise ValueError("no samples: there are no deciles")
    # 10 * count against tenths * total in integers: no rounding at an edge.
    edges: Counts = np.searchsorted(10 * up_to, np.arange(1, 10) * up_to[-1], side="left").astype(np.int64)
    return edges


def decile_of(lengths: npt.NDArray[np.integer], edges: Counts) -> Counts:
    """int64 (n,) in 0..9: the decile of each length; decile j holds the lengths in (edge j-1, edge j].

    Samples of one length share a decile, so deciles are of unequal size where lengths tie, and may be empty.
    """
    return np.searchsorted(edges, lengths, side="left").astype(np.int64)
