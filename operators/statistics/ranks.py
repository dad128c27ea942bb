"""Spearman's rank correlation of binned values from streaming data.

Pass 1 counts each variable in bins (scores: `rank_bins`; lengths: lengths.length_histogram), which gives every bin
its midrank. Pass 2 sums products of midranks, shard by shard. The result is exactly Spearman's rho, with ties by
midrank, of the values rounded to their bins; `resolved_share` says how much the binning hides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tamis.operators.statistics.ranking import BINS, value

Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RankSums:
    """Sums over samples of centred midranks: the squares for each variable, and the products."""

    count: int = 0
    squares_a: float = 0.0
    squares_b: float = 0.0
    products: float = 0.0

    def __add__(self, other: RankSums) -> RankSums:
        return RankSums(
            self.count + other.count,
            self.squares_a + other.squares_a,
            self.squares_b + other.squares_b,
            self.products + other.products,
        )


def rank_edges(low: float, high: float) -> Float64s:
    """Ascending float64 bin edges for scores in low..high: those of 65,536 even bins and of the coarse histogram.

    Even bins resolve scores that are close together and far from zero; the bins of the coarse histogram resolve scores
    of many magnitudes. Raises ValueError unless both limits are finite and low <= high.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"scores from {low} to {high} cannot be binned")
    images = np.arange(BINS, dtype=np.uint32) << np.uint32(16)
    coarse = value(images)
    coarse = coarse[np.isfinite(coarse)].astype(np.float64)
    inside = coarse[(coarse > low) & (coarse < high)]
    return np.unique(np.concatenate([np.linspace(low, high, BINS + 1), inside]))


def rank_bins(scores: npt.NDArray[np.float32], edges: Float64s) -> npt.NDArray[np.int64]:
    """int64 (n,) in 0..len(edges): the bin of each score; higher scores have higher bins."""
    return np.searchsorted(edges, scores.astype(np.float64), side="right").astype(np.int64)


def midranks(histogram: npt.NDArray[np.int64]) -> Float64s:
    """float64 (bins,): the mean 1-based rank of the samples in each bin. For an empty bin the value has no meaning."""
    counts = histogram.astype(np.float64)
    return np.cumsum(counts) - counts + (counts + 1.0) / 2.0


def resolved_share(histogram: npt.NDArray[np.int64]) -> float:
    """The share of the ranks' variance that remains after binning: 1 with no ties, 0 with one bin for all samples.

    A value well below 1 (say 0.95) means that the values are too close together for these bins. ValueError for fewer
    than 2 samples.
    """
    total = int(histogram.sum())
    if total < 2:
        raise ValueError(f"{total} samples have no ranks to resolve")
    filled = histogram[histogram > 0].astype(np.float64)
    return 1.0 - float(np.sum(filled**3 - filled)) / (float(total) ** 3 - total)


def rank_sums(
    bins_a: npt.NDArray[np.integer],
    bins_b: npt.NDArray[np.integer],
    midranks_a: Float64s,
    midranks_b: Float64s,
    total: int,
) -> RankSums:
    """One shard's sums. bins_a, bins_b: (n,) the bin of each sample. midranks_*: of the whole corpus. total: the
    number of samples in the corpus.

    Raises ValueError if the numbers of bins differ or a bin lies outside its histogram.
    """
    if bins_a.shape != bins_b.shape:
        raise ValueError(f"{bins_a.shape} and {bins_b.shape}: one bin of either kind per sample")
    for bins, ranks in ((bins_a, midranks_a), (bins_b, midranks_b)):
        if bins.size and not 0 <= int(bins.min()) <= int(bins.max()) < ranks.size:
            raise ValueError(f"bins span {bins.min()}..{bins.max()}, the histogram has {ranks.size}")
    # The mean rank is known in advance, so ranks are centred before they are squared and there is no cancellation.
    middle = (total + 1) / 2
    a = midranks_a[bins_a] - middle
    b = midranks_b[bins_b] - middle
    return RankSums(int(bins_a.size), float(a @ a), float(b @ b), float(a @ b))


def rho(sums: RankSums) -> float | None:
    """Spearman's rho in [-1, 1]; None if one of the variables is constant (or there is no sample)."""
    if sums.squares_a <= 0.0 or sums.squares_b <= 0.0:
        return None
    return max(-1.0, min(1.0, sums.products / math.sqrt(sums.squares_a) / math.sqrt(sums.squares_b)))
