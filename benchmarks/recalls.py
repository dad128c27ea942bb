"""Recall: the share of the planted rows that a cut finds, with an interval.

    recall                among the riskiest share of all rows
    recall_among_equals   a planted row counts as found if it stands in the riskiest share of the harmless rows of
                          its length; planted rows with fewer than ENOUGH of those are left out

Intervals are percentiles of a bootstrap that draws the planted rows and the others of each fold again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tamis.operators.statistics.telling import CONFIDENCE, LENGTH_RATIO, RESAMPLES, Fold

ENOUGH = 20
"""Other rows of a planted row's length: of fewer, the riskiest tenth is one row or none."""

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Recall:
    """Of `rows` planted rows; value and bounds are NaN where there is none."""

    value: float
    low: float
    high: float
    rows: int


def recall(folds: Sequence[Fold], drop: float, seed: int = 0) -> Recall:
    """drop: share of all rows of a fold, rounded to whole rows. Equal scores are taken in a seeded random order."""
    rng = np.random.default_rng(seed)
    found, planted = np.zeros(RESAMPLES + 1), np.zeros(RESAMPLES + 1)
    for fold in folds:
        sides = [drawn(rng, len(side)) for side in (fold.positive, fold.negative)]
        scores = np.concatenate([fold.positive, fold.negative])
        shuffled = rng.permutation(len(scores))
        order = shuffled[np.argsort(-scores[shuffled], kind="stable")]
        counts = np.concatenate(sides, axis=1)[:, order]
        inside = within(counts, round(drop * len(scores)))
        found += inside[:, order < len(fold.positive)].sum(axis=1)
        planted += sides[0].sum(axis=1)
    return _of(found, planted, sum(len(fold.positive) for fold in folds))


def recall_among_equals(folds: Sequence[Fold], drop: float, seed: int = 0) -> Recall:
    """drop: share of the other rows of a planted row's length that may score above it; a tie counts half."""
    rng = np.random.default_rng(seed)
    found, planted, rows = np.zeros(RESAMPLES + 1), np.zeros(RESAMPLES + 1), 0
    for fold in folds:
        lengths, others = fold.positive_lengths[:, None].astype(np.float64), fold.negative_lengths[None]
        alike = ((lengths <= LENGTH_RATIO * others) & (others <= LENGTH_RATIO * lengths)).astype(np.float64)
        known = alike.sum(axis=1) >= ENOUGH
        alike, scores = alike[known], fold.positive[known][:, None]
        riskier = alike * ((fold.negative[None] > scores) + 0.5 * (fold.negative[None] == scores))
        mine, theirs = drawn(rng, len(fold.positive))[:, known], drawn(rng, len(fold.negative))
        total = theirs @ alike.T
        mine = mine * (total > 0)
        found += (mine * (theirs @ riskier.T < drop * total)).sum(axis=1)
        planted += mine.sum(axis=1)
        rows += int(known.sum())
    return _of(found, planted, rows)


def drawn(rng: np.random.Generator, rows: int) -> Counts:
    """float64 (RESAMPLES + 1, rows): how often each row is drawn. The first line is the rows as they are."""
    again = rng.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES)
    return np.concatenate([np.ones((1, rows)), again.astype(np.float64)])


def within(counts: Counts, room: int) -> Counts:
    """How many copies of each row are among the first `room`, where the rows stand in order with `counts` copies."""
    before = np.cumsum(counts, axis=1) - counts
    inside: Counts = np.clip(room - before, 0, counts)
    return inside


def _of(found: Counts, planted: Counts, rows: int) -> Recall:
    if not rows:
        return Recall(float("nan"), float("nan"), float("nan"), 0)
    shares = np.divide(found, planted, out=np.full(len(found), np.nan), where=planted > 0)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(shares[1:], [tail, 1 - tail])
    return Recall(float(shares[0]), float(low), float(high), rows)
