"""How far new data is from the data that a cut was made on: exact counts in fixed bins, compared by one index.

    PSI = sum_j (q_j - p_j) ln(q_j / p_j)      p: shares of the bins then, q: shares now; 0 = alike

The population stability index of credit scoring: symmetric, 0 or more, the sum of both Kullback-Leibler divergences.
Half a row is added to every bin of both sides, so that an empty bin has a share and the index is finite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tamis.operators.statistics.lengths import length_deciles
from tamis.operators.statistics.ranking import Counts, value

TENTHS = 10
_HALF = 0.5
_RARELY = 3.0902323061678132
"""The 0.999 quantile of the normal distribution."""


@dataclass(frozen=True)
class Bins:
    """Bin j holds the values in (edges[j - 1], edges[j]]; the last one those above the last edge. edges: ascending,
    all different. counts: one more than edges."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


def ranks_of_tenths(total: int) -> list[int]:
    """The ranks, counted from 1 for the smallest, of the values at the tenths: ceil(i * total / 10), each once."""
    return sorted({-(-i * total // TENTHS) for i in range(1, TENTHS)}) if total else []


def tenths(coarse: Counts) -> tuple[int, ...]:
    """The bins of a `coarse_histogram` that hold the tenths, ascending."""
    ranks = ranks_of_tenths(int(coarse.sum()))
    return tuple(sorted(set(np.searchsorted(np.cumsum(coarse), ranks, side="left").tolist())))


def bins_of_scores(coarse: Counts, fine: Mapping[int, Counts]) -> Bins:
    """Bins of float32 values between their exact tenths, with exact counts; fewer than ten where values tie.

    coarse, fine: `coarse_histogram`, and `fine_histogram` of each bin in `tenths(coarse)`, over all values. ValueError
    if there are no values, or the histograms are of different values.
    """
    up_to = np.cumsum(coarse)
    total = int(up_to[-1])
    if not total:
        raise ValueError("no values: there are no tenths")
    edges, below = [], []
    for rank in ranks_of_tenths(total):
        bin = int(np.searchsorted(up_to, rank, side="left"))
        before = int(up_to[bin] - coarse[bin])
        inside = np.cumsum(fine[bin])
        if inside[-1] != coarse[bin]:
            raise ValueError(f"{inside[-1]} values in a bin where the first pass counted {coarse[bin]}")
        place = int(np.searchsorted(inside, rank - before, side="left"))
        edges.append(float(value(np.array([bin << 16 | place], dtype=np.uint32))[0]))
        below.append(before + int(inside[place]))
    return _bins(edges, below, total)


def bins_of_lengths(histogram: Counts) -> Bins:
    """The same for whole numbers, from a histogram with one bin for each: `length_histogram`."""
    edges, up_to = length_deciles(histogram), np.cumsum(histogram)
    return _bins(edges.astype(np.float64).tolist(), up_to[edges].tolist(), int(up_to[-1]))


def _bins(edges: Sequence[float], below: Sequence[int], total: int) -> Bins:
    """below: how many values are not above each edge. Edges that are equal become one."""
    found = dict(zip(edges, below, strict=True))
    return Bins(tuple(found), tuple(np.diff([0, *found.values(), total]).tolist()))


def counted(values: npt.NDArray[np.generic], edges: Sequence[float]) -> Counts:
    """int64 (len(edges) + 1,): how many values lie in each of the `Bins`."""
    places = np.searchsorted(np.asarray(edges, dtype=np.float64), values.astype(np.float64), side="left")
    return np.bincount(places, minlength=len(edges) + 1).astype(np.int64, copy=False)


def counted_lengths(histogram: Counts, edges: Sequence[float]) -> Counts:
    """The same for a histogram with one bin for each length."""
    places = np.searchsorted(np.asarray(edges, dtype=np.float64), np.arange(len(histogram)), side="left")
    found = np.zeros(len(edges) + 1, dtype=np.int64)
    np.add.at(found, places, histogram)
    return found


def psi(then: Sequence[int], now: Sequence[int]) -> float:
    """The index of two lists of counts of the same bins. ValueError where their lengths differ or one is empty."""
    if len(then) != len(now) or not sum(then) or not sum(now):
        raise ValueError(f"{len(then)} and {len(now)} bins of {sum(then)} and {sum(now)} rows cannot be compared")
    p, q = _shares(then), _shares(now)
    return float(np.sum((q - p) * np.log(q / p)))


def _shares(counts: Sequence[int]) -> npt.NDArray[np.float64]:
    more = np.asarray(counts, dtype=np.float64) + _HALF
    shares: npt.NDArray[np.float64] = more / more.sum()
    return shares


def by_chance(bins: int, then: int, now: int) -> float:
    """The index that two samples of one population, of `then` and `now` rows, exceed about once in a thousand times.

    For many rows the index times n m / (n + m) has a chi-square distribution with bins - 1 degrees of freedom; its
    quantile is that of Wilson and Hilferty.
    """
    free = bins - 1
    if free < 1:
        return 0.0
    spread = 2 / (9 * free)
    return float(free * (1 - spread + _RARELY * spread**0.5) ** 3 * (1 / then + 1 / now))
