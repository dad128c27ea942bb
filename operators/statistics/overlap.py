"""Several selections of the same rows side by side: what they share, and how alike their scores rank the rows.

Exact, over all rows at once: a row takes one byte for each selection and eight for each score that is ranked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tamis.operators.statistics.agreement import jaccard
from tamis.operators.statistics.rank_means import ValueCounts, midranks_of
from tamis.operators.statistics.ranking import image

Bools = npt.NDArray[np.bool_]
Float64s = npt.NDArray[np.float64]

MOST_SELECTIONS = 16


@dataclass(frozen=True)
class Overlap:
    """Two sets of rows. both: in both. only: in the first alone, in the second alone. by_chance: how many rows two
    random sets of these sizes share on average."""

    both: int
    only: tuple[int, int]
    by_chance: float | None

    @property
    def jaccard(self) -> float | None:
        """Rows in both over rows in any of them; None where both are empty."""
        return jaccard(self.both, self.both + self.only[0], self.both + self.only[1])


def overlap(a: Bools, b: Bools) -> Overlap:
    """a, b: bool (n,), which rows are in either set. ValueError if they are not of the same rows."""
    if a.shape != b.shape:
        raise ValueError(f"{a.shape} and {b.shape}: two sets of the same rows are meant")
    both, in_a, in_b = int((a & b).sum()), int(a.sum()), int(b.sum())
    return Overlap(both, (in_a - both, in_b - both), in_a * in_b / len(a) if len(a) else None)


def patterns(sets: Sequence[Bools], most: int | None = None) -> dict[tuple[int, ...], int]:
    """How many rows are in exactly these sets, for every combination that occurs, or for the `most` frequent ones; ()
    for the rows in none. The most frequent first. ValueError for more than MOST_SELECTIONS sets."""
    if len(sets) > MOST_SELECTIONS:
        raise ValueError(f"{len(sets)} sets; at most {MOST_SELECTIONS} can be compared")
    counts = np.bincount(codes(sets).astype(np.int64), minlength=1)
    occur = np.flatnonzero(counts)
    order = occur[np.argsort(-counts[occur], kind="stable")][:most]
    return {tuple(at for at in range(len(sets)) if code >> at & 1): int(counts[code]) for code in order.tolist()}


def codes(sets: Sequence[Bools]) -> npt.NDArray[np.uint16]:
    """uint16 (n,): bit i of a row's code says whether it is in set i."""
    found = np.zeros(len(sets[0]), dtype=np.uint16)
    for at, each in enumerate(sets):
        found |= each.astype(np.uint16) << np.uint16(at)
    return found


def midranks(scores: npt.NDArray[np.float32]) -> Float64s:
    """float64 (n,): the mean 1-based rank that equal scores share, the lowest score first. ValueError for NaN."""
    images, places, counts = np.unique(image(scores), return_inverse=True, return_counts=True)
    ranks: Float64s = midranks_of(ValueCounts(images, counts.astype(np.int64)), 0)[places.reshape(-1)]
    return ranks


def spearman(a: Float64s, b: Float64s) -> float | None:
    """Of two scores' `midranks` over the same n rows: rho, ties by midrank, exact but for the rounding of sums of
    float64. None if a score is constant, or there are fewer than two rows."""
    if a.shape != b.shape:
        raise ValueError(f"{a.shape} and {b.shape}: ranks of the same rows are meant")
    # The mean rank is known, so nothing cancels.
    middle = (len(a) + 1) / 2
    a, b = a - middle, b - middle
    squares = float(a @ a) * float(b @ b)
    return max(-1.0, min(1.0, float(a @ b) / math.sqrt(squares))) if squares > 0 else None


def group_counts(groups: npt.NDArray[np.integer], among: Bools, count: int) -> npt.NDArray[np.int64]:
    """int64 (count,): how many of the rows of each group are in `among`. groups: (n,) in 0..count - 1, or -1 for rows
    of no group."""
    return np.bincount(groups[among & (groups >= 0)].astype(np.int64), minlength=count).astype(np.int64)
