"""How far several scores of the same rows agree: Spearman's correlation, also without the length, and shared drops.

All of it from sums that shards add up. The ranks are midranks of binned values, as in ranks.py, and so is what is
exact about them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float64s = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

_CONSTANT = 1e-12


def rank_gram(bins: Sequence[npt.NDArray[np.integer]], midranks: Sequence[Float64s], total: int) -> Float64s:
    """float64 (m, m): one shard's sums of products of centred midranks, for every two of m variables.

    bins: of each variable, (n,) the bin of each row. midranks: of each variable, those of its bins over the whole
    corpus of `total` rows. ValueError if the rows differ in number, or a bin has no midrank.
    """
    if len(bins) != len(midranks) or len({each.shape for each in bins}) > 1:
        raise ValueError(f"bins of shapes {[each.shape for each in bins]} for {len(midranks)} variables")
    for places, ranks in zip(bins, midranks, strict=True):
        if places.size and not 0 <= int(places.min()) <= int(places.max()) < ranks.size:
            raise ValueError(f"bins span {places.min()}..{places.max()}, the histogram has {ranks.size}")
    # The mean rank is known in advance, so ranks are centred before they are multiplied and nothing cancels.
    middle = (total + 1) / 2
    centred = np.stack([ranks[places] - middle for places, ranks in zip(bins, midranks, strict=True)])
    gram: Float64s = centred @ centred.T
    return gram


def correlation(gram: Float64s, a: int, b: int) -> float | None:
    """Of variables a and b, in [-1, 1]; None if one of them is constant. Of ranks, it is Spearman's rho."""
    if gram[a, a] <= 0 or gram[b, b] <= 0:
        return None
    return max(-1.0, min(1.0, float(gram[a, b]) / math.sqrt(gram[a, a]) / math.sqrt(gram[b, b])))


def partial(ab: float | None, ac: float | None, bc: float | None) -> float | None:
    """The correlation of a and b after c is taken out of both.

        (r_ab - r_ac r_bc) / sqrt((1 - r_ac^2) (1 - r_bc^2))

    It is the correlation of what is left of a and of b after a straight line in c was fitted to each. Of Spearman's
    correlations this is the partial Spearman correlation: the lines are fitted to ranks. Where c is constant there is
    nothing to take out. None where a or b is constant, or nothing but c.
    """
    if ab is None:
        return None
    if ac is None or bc is None:
        return ab
    left = (1 - ac * ac) * (1 - bc * bc)
    if left < _CONSTANT:
        return None
    return max(-1.0, min(1.0, (ab - ac * bc) / math.sqrt(left)))


def left_of_variance(with_length: float | None) -> float | None:
    """1 - rho^2: the share of the variance of a score's ranks that a straight line in the ranks of the length leaves
    unexplained. 1: the length says nothing of the score; 0: the score is the length."""
    return None if with_length is None else 1 - with_length * with_length


def shared_counts(dropped: Sequence[npt.NDArray[np.bool_]]) -> Counts:
    """int64 (m, m): of one shard, how many rows both of two methods drop. On the diagonal, how many each drops."""
    chosen = np.stack(dropped).astype(np.int64)
    counts: Counts = chosen @ chosen.T
    return counts


def jaccard(both: int, one: int, other: int) -> float | None:
    """Rows in both of two sets over rows in any of them, from the sizes; None of two empty sets."""
    together = one + other - both
    return both / together if together else None
