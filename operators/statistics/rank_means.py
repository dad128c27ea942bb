"""Exact mid-ranks of float32 scores by a table of their distinct values, and the mean of several methods' mid-ranks.

A table holds the distinct values of a range of scores in ascending order, each with the mean of the ranks that its rows
share. Tables of disjoint ranges rank any number of rows, one range at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tamis.operators.statistics.ranking import image

Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ValueCounts:
    """How often each value occurs. images: uint32 (k,), ascending, of `ranking.image`. counts: int64 (k,)."""

    images: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.int64]

    def __add__(self, other: ValueCounts) -> ValueCounts:
        images, places = np.unique(np.concatenate([self.images, other.images]), return_inverse=True)
        counts = np.zeros(len(images), dtype=np.int64)
        np.add.at(counts, places, np.concatenate([self.counts, other.counts]))
        return ValueCounts(images, counts)


def value_counts(scores: npt.NDArray[np.float32], first_bin: int, last_bin: int) -> ValueCounts:
    """Of the scores in these bins of `coarse_histogram`, both included. Raises as `image`."""
    images = image(scores)
    bins = images >> np.uint32(16)
    found, counts = np.unique(images[(bins >= first_bin) & (bins <= last_bin)], return_counts=True)
    return ValueCounts(found, counts.astype(np.int64))


def midranks_of(counted: ValueCounts, below: int) -> Float64s:
    """float64 (k,): the mean 1-based rank of the rows with each value. below: rows with values below all of these."""
    counts = counted.counts
    # Whole numbers up to the division, so that ranks of any corpus are exact.
    return below + (np.cumsum(counts) - counts) + (counts + 1) / 2


def ranks_in(
    scores: npt.NDArray[np.float32], images: npt.NDArray[np.uint32], midranks: Float64s, ranks: Float64s
) -> None:
    """Write into `ranks` (n,) the mid-rank of each score whose value the table has; the others stay as they are."""
    if not len(images):
        return
    own = image(scores)
    places = np.minimum(np.searchsorted(images, own), len(images) - 1)
    known = images[places] == own
    ranks[known] = midranks[places[known]]


def mean_ranks(ranks: Sequence[Float64s], count: int) -> npt.NDArray[np.float32]:
    """float32 (n,): the mean over the methods of mid-rank / count, in (0, 1]. ranks: of each method, float64 (n,).
    count: scored rows of the corpus. ValueError if a rank is missing (NaN)."""
    total = np.sum(np.stack(ranks), axis=0)  # multiples of a half: exact
    if np.isnan(total).any():
        raise ValueError("a score has no rank: the scores changed while they were ranked")
    means: npt.NDArray[np.float32] = (total / (len(ranks) * count)).astype(np.float32)
    return means


def ranges_of(coarse: npt.NDArray[np.int64], most: int) -> list[tuple[int, int, int]]:
    """(first bin, last bin, rows below) of ranges that cover all filled bins of a coarse histogram, ascending; each
    with at most `most` rows, or of one bin."""
    found: list[tuple[int, int, int]] = []
    first, inside, below = -1, 0, 0
    last = -1
    for bin in np.flatnonzero(coarse).tolist():
        rows = int(coarse[bin])
        if first >= 0 and inside + rows > most:
            found.append((first, last, below))
            below += inside
            first, inside = -1, 0
        first = bin if first < 0 else first
        last, inside = bin, inside + rows
    return [*found, (first, last, below)] if first >= 0 else found
