"""Does a score tell two sets of rows apart, and more than the length of the rows does? AUROC, with intervals.

    AUROC = the share of pairs (a positive row, a negative one) in which the positive scores higher; a tie counts half

A score that knows nothing has 0.5. Pairs are formed within a fold only, because each fold is scored by a fit of its own
and two fits need not have one scale. Intervals are percentiles of a bootstrap that draws the positive and the negative
rows of each fold again, with replacement; the same draws serve the score and the length, so their difference has an
interval, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tamis.operators.statistics.agreement import correlation, partial

RESAMPLES = 1000
CONFIDENCE = 0.95
LENGTH_RATIO = 1.1
"""Two rows are of equal length if neither is longer than the other by more than this factor."""
EQUAL_LENGTH = 0.55
"""Among pairs of equal length, an AUROC must lie above this: they may differ by a tenth, and so even the length itself
ranks them a little better than chance."""
ENOUGH_PAIRS = 200
"""Of equal length: with fewer there is no figure. A figure also needs ENOUGH_ROWS different rows on either side."""
ENOUGH_ROWS = 8

Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fold:
    """Rows that the fit of this fold has not seen. positive, negative: their scores, float (p,) and (n,). *_lengths:
    how long they are, in the same order."""

    positive: npt.NDArray[np.floating]
    negative: npt.NDArray[np.floating]
    positive_lengths: npt.NDArray[np.integer]
    negative_lengths: npt.NDArray[np.integer]


@dataclass(frozen=True)
class Figure:
    """A value, and the interval of CONFIDENCE around it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Told:
    """How well the rows are told apart, by the score and by their length.

    auroc: of the score. length: of the length, in the direction that tells more: `longer` says whether longer rows are
    the positive ones. better_by: auroc minus length. equal_length: of the score, among the `equal_pairs` pairs of equal
    length; None if they are too few. spearman, partial_spearman: of the score and being positive, before and after the
    length is taken out of both; None where one of them is constant.
    """

    positive: int
    negative: int
    auroc: Figure
    length: Figure
    longer: bool
    better_by: Figure
    equal_length: Figure | None
    equal_pairs: int
    spearman: float | None
    partial_spearman: float | None


def tell(folds: Sequence[Fold], seed: int = 0) -> Told:
    """The figures over all folds. ValueError without a pair, and for scores that are not finite."""
    filled = [fold for fold in folds if len(fold.positive) and len(fold.negative)]
    if not filled:
        raise ValueError("no fold has rows on both sides")
    if not all(np.isfinite(side).all() for fold in filled for side in (fold.positive, fold.negative)):
        raise ValueError("a score is not finite")
    rng = np.random.default_rng(seed)
    drawn = [(_draw(rng, len(fold.positive)), _draw(rng, len(fold.negative))) for fold in filled]
    pairs = [_above(fold.positive, fold.negative) for fold in filled]
    by_length = [_above(fold.positive_lengths, fold.negative_lengths) for fold in filled]
    everywhere = [np.ones_like(each) for each in pairs]
    alike = [_alike(fold.positive_lengths, fold.negative_lengths) for fold in filled]

    score, scores = _share(pairs, everywhere, drawn)
    length, lengths = _share(by_length, everywhere, drawn)
    longer = length >= 0.5
    if not longer:
        length, lengths = 1 - length, 1 - lengths
    equal_pairs = round(sum(float(each.sum()) for each in alike))
    equal = None
    rows = [sum(int(each.any(axis=axis).sum()) for each in alike) for axis in (1, 0)]
    if equal_pairs >= ENOUGH_PAIRS and min(rows) >= ENOUGH_ROWS:
        equal = _figure(*_share(pairs, alike, drawn))
    plain, left = _spearman(filled)
    return Told(
        sum(len(fold.positive) for fold in filled),
        sum(len(fold.negative) for fold in filled),
        _figure(score, scores),
        _figure(length, lengths),
        longer,
        _figure(score - length, scores - lengths),
        equal,
        equal_pairs,
        plain,
        left,
    )


def _draw(rng: np.random.Generator, rows: int) -> Float64s:
    """float64 (RESAMPLES + 1, rows): how often each row is drawn. The first line is the rows as they are."""
    again = rng.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES)
    return np.concatenate([np.ones((1, rows)), again.astype(np.float64)])


def _above(positive: npt.NDArray[Any], negative: npt.NDArray[Any]) -> Float64s:
    """float64 (p, n): 1 where the positive is larger, 0.5 where both are equal."""
    a, b = positive[:, None], negative[None]
    won: Float64s = (a > b) + 0.5 * (a == b)
    return won


def _alike(positive: npt.NDArray[np.integer], negative: npt.NDArray[np.integer]) -> Float64s:
    """float64 (p, n): 1 where both are of equal length."""
    a, b = positive[:, None].astype(np.float64), negative[None].astype(np.float64)
    near: Float64s = ((a <= LENGTH_RATIO * b) & (b <= LENGTH_RATIO * a)).astype(np.float64)
    return near


def _share(
    won: Sequence[Float64s], counted: Sequence[Float64s], drawn: Sequence[tuple[Float64s, Float64s]]
) -> tuple[float, Float64s]:
    """The share of the counted pairs that are won: as the rows are, and in every resample (NaN without a pair)."""
    lines = RESAMPLES + 1
    above, total = np.zeros(lines), np.zeros(lines)
    for wins, counts, (positive, negative) in zip(won, counted, drawn, strict=True):
        above += ((positive @ (wins * counts)) * negative).sum(axis=1)
        total += ((positive @ counts) * negative).sum(axis=1)
    shares = np.divide(above, total, out=np.full(lines, math.nan), where=total > 0)
    return float(shares[0]), shares[1:]


def _figure(value: float, resampled: Float64s) -> Figure:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    return Figure(value, float(low), float(high))


def _spearman(folds: Sequence[Fold]) -> tuple[float | None, float | None]:
    """Of score and side, and the same with the length taken out: over ranks within the folds, as shares of the fold."""
    gram = np.zeros((3, 3))
    for fold in folds:
        side = np.repeat([1.0, 0.0], [len(fold.positive), len(fold.negative)])
        scores = np.concatenate([fold.positive, fold.negative])
        lengths = np.concatenate([fold.positive_lengths, fold.negative_lengths])
        ranks = np.stack([_ranks(each) for each in (scores, side, lengths)])
        gram += ranks @ ranks.T
    plain = correlation(gram, 0, 1)
    return plain, partial(plain, correlation(gram, 0, 2), correlation(gram, 1, 2))


def _ranks(values: npt.NDArray[Any]) -> Float64s:
    """float64 (n,): centred midranks over n, in (-0.5, 0.5)."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    midranks = np.cumsum(counts) - (counts - 1) / 2
    ranks: Float64s = (midranks[inverse] - (len(values) + 1) / 2) / len(values)
    return ranks
