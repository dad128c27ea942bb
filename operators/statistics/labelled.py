"""Scores against labels: how well a score puts harmful rows above the others. Exact, and with ties as ties.

    ranking = Ranking.of(scores, harmful)
    curve = ranking.curve()                      curve.auroc, curve.average_precision, curve.false_alarms_at(0.95)
    Within.of(scores, harmful, strata, 10)       AUROC over the pairs of rows of the same stratum
    for weights in resamples(harmful, 1000, 0):  ranking.curve(weights).auroc      a bootstrap, without a new sort

A row counts `weight` times, so a bootstrap is a pass over the sorted scores for each resample. Each figure has a naive
twin in tests/operators/statistics/test_labelled.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Interval = tuple[float, float]

LEVEL = 0.95
"""Of every interval."""


@dataclass(frozen=True, eq=False)
class Curve:
    """What lies at or above each distinct score, from the highest down. harmful, harmless: float64 (t,), the number of
    rows; the last entries are all of them."""

    harmful: Float64s
    harmless: Float64s

    @property
    def auroc(self) -> float:
        """P(a harmful row scores above a harmless one), a tie counting half; NaN without rows of both classes."""
        return _ratio(self.pairs_in_order(), self.pairs)

    @property
    def pairs(self) -> float:
        """How many pairs of a harmful and a harmless row there are."""
        return float(self.harmful[-1] * self.harmless[-1]) if len(self.harmful) else 0.0

    def pairs_in_order(self) -> float:
        """The pairs in which the harmful row scores higher; a tie counts half."""
        if not len(self.harmful):
            return 0.0
        here, tied = np.diff(self.harmful, prepend=0.0), np.diff(self.harmless, prepend=0.0)
        return float(here @ (self.harmless[-1] - self.harmless + tied / 2))

    @property
    def average_precision(self) -> float:
        """AUPRC: precision at each distinct score, weighted by the recall that it adds; NaN without a harmful row."""
        here = np.diff(self.harmful, prepend=0.0)
        flagged = self.harmful + self.harmless
        precision = np.divide(self.harmful, flagged, out=np.zeros_like(flagged), where=flagged > 0)
        return _ratio(float(here @ precision), self.harmful[-1] if len(self.harmful) else 0.0)

    def false_alarms_at(self, recall: float) -> float:
        """The smallest share of harmless rows at or above a cut that finds at least this share of the harmful ones
        (FPR at 95 % TPR for 0.95). Rows of equal score fall together. NaN without rows of both classes."""
        if not self.pairs:
            return math.nan
        # A product such as 0.95 * 20 may be a rounding above the whole number that it is.
        first = int(np.searchsorted(self.harmful, recall * self.harmful[-1] * (1 - 1e-12), side="left"))
        return float(self.harmless[first] / self.harmless[-1])

    def risk_at(self, coverage: float) -> float:
        """The harmful share of what is left when only this share of the rows is kept, the riskiest dropped first. Of
        equal scores at the cut, each is as likely to stay. NaN where nothing is left."""
        total = self.harmful + self.harmless
        if not len(total) or not total[-1] or coverage <= 0:
            return math.nan
        dropped = (1 - coverage) * total[-1]
        found = np.interp(dropped, np.concatenate([[0.0], total]), np.concatenate([[0.0], self.harmful]))
        return float((self.harmful[-1] - found) / (total[-1] - dropped))


@dataclass(frozen=True, eq=False)
class Ranking:
    """Rows in the order of their scores. order: int64 (n,), from the highest score down. ends: int64 (t,), the place
    after the last row of each distinct score. harmful: bool (n,), in that order."""

    order: Int64s
    ends: Int64s
    harmful: Bools

    @classmethod
    def of(cls, scores: npt.NDArray[np.floating], harmful: Bools) -> Ranking:
        """scores: (n,), finite; higher = riskier. ValueError for NaN or other lengths."""
        if scores.shape != harmful.shape or scores.ndim != 1:
            raise ValueError(f"{scores.shape} and {harmful.shape}: one label for each score")
        if np.isnan(scores).any():
            raise ValueError("scores hold NaN; leave those rows out first")
        order = np.argsort(-scores.astype(np.float64), kind="stable")
        ranked = scores[order]
        last = [len(ranked)] if len(ranked) else []
        ends = np.concatenate([np.flatnonzero(ranked[1:] != ranked[:-1]) + 1, last])
        return cls(order, ends.astype(np.int64), harmful[order])

    def curve(self, weights: Int64s | None = None) -> Curve:
        """weights: int64 (n,), how often each row counts, in the order of the scores that were given; default: once."""
        return Curve(self._up_to(self._marks[0], weights), self._up_to(self._marks[1], weights))

    @cached_property
    def _marks(self) -> tuple[Float64s, Float64s]:
        return self.harmful.astype(np.float64), (~self.harmful).astype(np.float64)

    def _up_to(self, marks: Float64s, weights: Int64s | None) -> Float64s:
        each = marks if weights is None else marks * weights[self.order]
        found: Float64s = np.cumsum(each)[self.ends - 1] if len(self.ends) else np.zeros(0)
        return found


@dataclass(frozen=True, eq=False)
class Within:
    """Rows in the order of their strata and, within each, of their scores: for AUROC over the pairs of rows of the same
    stratum, which is what is left of a score once the strata explain nothing.

    order: int64 (m,), the rows that belong to a stratum. harmful: bool (m,), in that order. ends: int64 (t,), the place
    after the last row of each distinct score of a stratum. strata: int64 (t,), whose it is. count: of strata.
    """

    order: Int64s
    harmful: Bools
    ends: Int64s
    strata: Int64s
    count: int

    @classmethod
    def of(cls, scores: npt.NDArray[np.floating], harmful: Bools, strata: Int64s, count: int) -> Within:
        """strata: int64 (n,) in 0..count-1, or -1 for a row of none. ValueError for NaN, or for other lengths."""
        if not scores.shape == harmful.shape == strata.shape or scores.ndim != 1:
            raise ValueError(f"{scores.shape}, {harmful.shape}, {strata.shape}: a label and a stratum for each score")
        rows = np.flatnonzero(strata >= 0)
        values, codes = scores[rows].astype(np.float64), strata[rows]
        if np.isnan(values).any():
            raise ValueError("scores hold NaN; leave those rows out first")
        sort = np.lexsort((-values, codes))
        order, values, codes = rows[sort], values[sort], codes[sort]
        changes = (values[1:] != values[:-1]) | (codes[1:] != codes[:-1])
        last = [len(order)] if len(order) else []
        ends = np.concatenate([np.flatnonzero(changes) + 1, last]).astype(np.int64)
        return cls(order, harmful[order], ends, codes[ends - 1].astype(np.int64), count)

    def auroc(self, weights: Int64s | None = None) -> tuple[float, Float64s]:
        """Over the pairs of all strata, and float64 (count,) of each; NaN without a pair. weights: as for a Ranking."""
        each = np.ones(len(self.order)) if weights is None else weights[self.order].astype(np.float64)
        bad = self._of_scores(each * self.harmful)
        good = self._of_scores(each * ~self.harmful)
        harmful, harmless = self._of_strata(bad), self._of_strata(good)
        # The harmless rows of the same stratum that score lower: those of all strata up to here, less those up to now.
        below = np.cumsum(harmless)[self.strata] - np.cumsum(good)
        in_order = self._of_strata(bad * (below + good / 2))
        pairs = harmful * harmless
        apart = np.divide(in_order, pairs, out=np.full(self.count, np.nan), where=pairs > 0)
        return _ratio(float(in_order.sum()), float(pairs.sum())), apart

    def _of_scores(self, each: Float64s) -> Float64s:
        return np.diff(np.cumsum(each)[self.ends - 1], prepend=0.0) if len(self.ends) else np.zeros(0)

    def _of_strata(self, each: Float64s) -> Float64s:
        return np.bincount(self.strata, weights=each, minlength=self.count).astype(np.float64)


# --- intervals ----------------------------------------------------------------------------------------------------


def resamples(harmful: Bools, count: int, seed: int) -> Iterator[Int64s]:
    """Weights (n,) of a bootstrap that draws harmful and harmless rows apart, as many of each as there are."""
    rng = np.random.default_rng(seed)
    classes = [np.flatnonzero(harmful), np.flatnonzero(~harmful)]
    for _ in range(count):
        weights = np.zeros(len(harmful), dtype=np.int64)
        for rows in classes:
            if len(rows):
                weights[rows] = np.bincount(rng.integers(len(rows), size=len(rows)), minlength=len(rows))
        yield weights


def interval(values: Sequence[float] | Float64s) -> Interval | None:
    """The middle LEVEL of bootstrapped values; those that are NaN are left out. None if nothing is left."""
    found = np.asarray(values, dtype=np.float64)
    found = found[~np.isnan(found)]
    if not len(found):
        return None
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def share_interval(hits: int, total: int) -> Interval | None:
    """Wilson's score interval of a share (Wilson 1927): unlike a bootstrap it has a width where the share is 0 or 1.
    None for no rows. ValueError unless 0 <= hits <= total."""
    if not 0 <= hits <= total:
        raise ValueError(f"{hits} of {total} is no share")
    if not total:
        return None
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    share = hits / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan
