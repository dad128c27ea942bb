"""Deciles of response length, from an exact histogram of lengths (one bin per number of tokens).

The histograms of shards add up, so one pass gives the deciles of the whole corpus.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


def length_histogram(lengths: npt.NDArray[np.integer], longest: int) -> Counts:
    """int64 (longest + 1,): the number of samples of each length. Raises ValueError for a length outside 0..longest."""
    if lengths.size and not 0 <= int(lengths.min()) <= int(lengths.max()) <= longest:
        raise ValueError(f"lengths span {lengths.min()}..{lengths.max()}, outside 0..{longest}")
    return np.bincount(lengths.astype(np.int64), minlength=longest + 1).astype(np.int64, copy=False)


def length_deciles(histogram: Counts) -> Counts:
    """int64 (9,): edge j is the smallest length such that at least (j + 1) tenths of the samples are not longer.

    Edges repeat if more than a tenth of the samples have the same length. Raises ValueError for an empty histogram.
    """
    up_to = np.cumsum(histogram, dtype=np.int64)
    if up_to.size == 0 or up_to[-1] == 0:
        raise ValueError("no samples: there are no deciles")
    # compares 10 * count with tenths * total in integers, so nothing is rounded at an edge
    edges: Counts = np.searchsorted(10 * up_to, np.arange(1, 10) * up_to[-1], side="left").astype(np.int64)
    return edges


def decile_of(lengths: npt.NDArray[np.integer], edges: Counts) -> Counts:
    """int64 (n,) in 0..9: the decile of each length; decile j holds the lengths in (edge j-1, edge j].

    Samples of the same length share a decile, so deciles differ in size if lengths tie, and may be empty.
    """
    return np.searchsorted(edges, lengths, side="left").astype(np.int64)
