"""The report's statistics of tokens and their risk: small counts per shard that add up to those of the corpus.

Counts add up exactly in any order; the sums of risk (float64) add up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tamis.operators.methods.toss import Mask, Offsets, Risks, check_offsets, per_row_counts, positions
from tamis.operators.statistics.ranks import rank_bins

EXACT_POSITIONS = 64
"""Positions 0..63 have one bin each; then 64..127, 128..255 and so on share a bin."""

POSITION_BINS = EXACT_POSITIONS + 16
"""The last bin holds position 2^21 and all higher positions."""

SHARE_BINS = 20

Counts = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RiskHistogram:
    """edges: float64 (m,), ascending. counts and discarded: int64 (m + 1,); bin j holds the risks r with
    edges[j-1] <= r < edges[j].
    """

    edges: Float64s
    counts: Counts
    discarded: Counts

    @classmethod
    def of(cls, risk: Risks, discarded: Mask, edges: Float64s) -> RiskHistogram:
        bins = rank_bins(risk, edges)
        return cls(edges, _count(bins, len(edges) + 1), _count(bins[discarded], len(edges) + 1))

    def __add__(self, other: RiskHistogram) -> RiskHistogram:
        """Raises ValueError if the edges differ."""
        if not np.array_equal(self.edges, other.edges):
            raise ValueError("histograms with different edges do not add up")
        return RiskHistogram(self.edges, self.counts + other.counts, self.discarded + other.discarded)


@dataclass(frozen=True, eq=False)
class ByPosition:
    """Response tokens by their position in the response, (POSITION_BINS,): their number, the sum of their risk
    (float64), and the number of discarded ones.
    """

    counts: Counts
    risk: Float64s
    discarded: Counts

    @classmethod
    def of(cls, risk: Risks, discarded: Mask, offsets: Offsets) -> ByPosition:
        """offsets: of the responses, int64 (responses + 1,); not of the samples, which may have several responses."""
        check_offsets(offsets, len(risk))
        bins = position_bins(positions(offsets))
        sums = np.bincount(bins, weights=risk, minlength=POSITION_BINS).astype(np.float64, copy=False)
        return cls(_count(bins, POSITION_BINS), sums, _count(bins[discarded], POSITION_BINS))

    def __add__(self, other: ByPosition) -> ByPosition:
        return ByPosition(self.counts + other.counts, self.risk + other.risk, self.discarded + other.discarded)


@dataclass(frozen=True, eq=False)
class BySample:
    """Samples by the share of their response tokens that is discarded. counts: int64 (SHARE_BINS,); bin j holds the
    shares from j/20 to below (j+1)/20, the last bin also 1. emptied: the number of samples that lost every response
    token. Samples without response tokens are not counted.
    """

    counts: Counts
    emptied: int

    @classmethod
    def of(cls, discarded: Mask, offsets: Offsets) -> BySample:
        """offsets: of the samples, int64 (rows + 1,)."""
        lost, tokens = per_row_counts(discarded, offsets), np.diff(offsets)
        lost, tokens = lost[tokens > 0], tokens[tokens > 0]
        bins = np.minimum(SHARE_BINS * lost // tokens, SHARE_BINS - 1)  # integers: a share of 0.15 is in bin 3
        return cls(_count(bins, SHARE_BINS), int(np.count_nonzero(lost == tokens)))

    def __add__(self, other: BySample) -> BySample:
        return BySample(self.counts + other.counts, self.emptied + other.emptied)


@dataclass(frozen=True, eq=False)
class ByToken:
    """Response tokens by token id, int64 (vocabulary,): their number, and the number of discarded ones."""

    counts: Counts
    discarded: Counts

    @classmethod
    def of(cls, input_ids: npt.NDArray[np.integer], discarded: Mask, vocabulary: int) -> ByToken:
        """input_ids: of the response tokens, (n,). Raises ValueError for an id outside 0..vocabulary - 1."""
        if len(input_ids) and not 0 <= int(input_ids.min()) <= int(input_ids.max()) < vocabulary:
            raise ValueError(f"token ids {input_ids.min()}..{input_ids.max()}, outside 0..{vocabulary - 1}")
        return cls(_count(input_ids, vocabulary), _count(input_ids[discarded], vocabulary))

    def __add__(self, other: ByToken) -> ByToken:
        return ByToken(self.counts + other.counts, self.discarded + other.discarded)


def position_bins(places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """int64 (n,) in 0..POSITION_BINS - 1: the bin of each position in a response."""
    # frexp(p) = (m, e) with p = m * 2^e and 0.5 <= m < 1, exact for integers: e - 7 is 0 for 64..127.
    coarse = EXACT_POSITIONS + np.frexp(places.astype(np.float64))[1].astype(np.int64) - 7
    return np.where(places < EXACT_POSITIONS, places, np.minimum(coarse, POSITION_BINS - 1))


def position_starts() -> Counts:
    """int64 (POSITION_BINS,): the first position of each bin."""
    powers = EXACT_POSITIONS << np.arange(POSITION_BINS - EXACT_POSITIONS, dtype=np.int64)
    return np.concatenate([np.arange(EXACT_POSITIONS, dtype=np.int64), powers])


def _count(bins: npt.NDArray[np.integer], number: int) -> Counts:
    return np.bincount(bins, minlength=number).astype(np.int64, copy=False)
