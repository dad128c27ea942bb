"""One score out of those of several models: each clipped to the middle of its corpus and divided by its spread there.

    score = mean over models of clip(g, p1, p99) / std(clip(g, p1, p99))        p1, p99, std over the corpus

(arXiv 2607.15081; docs/methods.md, "CSA"). Clipping makes the outermost rows equal. A row that is at or beyond the same
end in every model stands above (or below) all rows that are not, so there the unclipped g takes the place of the
clipped one: no other row changes its place, and rows that clipping makes equal are ranked by their unclipped scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]

LOWEST, HIGHEST = 1, 99
"""The percentiles that scores are clipped to."""


@dataclass(frozen=True)
class Scale:
    """How the scores of one model are made comparable: clipped to low and high, then divided by spread."""

    low: float
    high: float
    spread: float


UNSCALED = Scale(-math.inf, math.inf, 1.0)
"""Leaves scores as they are."""


@dataclass(frozen=True)
class Spread:
    """Count, mean, and sum of squared deviations of some numbers; `a + b` has those of both together."""

    count: int
    mean: float
    squares: float

    def __add__(self, other: Spread) -> Spread:
        count = self.count + other.count
        if not count:
            return self
        apart, share = other.mean - self.mean, other.count / count
        squares = self.squares + other.squares + apart**2 * self.count * share
        return Spread(count, self.mean + apart * share, squares)

    @property
    def deviation(self) -> float:
        """The standard deviation, of the population as numpy has it; 0 for no numbers."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0


def spread_of(scores: Float32s, low: float, high: float) -> Spread:
    """Of the scores (n,), clipped."""
    if not len(scores):
        return Spread(0, 0.0, 0.0)
    clipped = np.clip(scores.astype(np.float64), low, high)
    mean = float(clipped.mean())
    return Spread(len(clipped), mean, float(((clipped - mean) ** 2).sum()))


def places_of(percent: int, count: int) -> tuple[int, int, float]:
    """Where the percentile of `count` sorted numbers lies: the places below and above it (from 0, ascending), and how
    far it is from the one to the other, as numpy's `linear` has it."""
    place, rest = divmod((count - 1) * percent, 100)
    return place, min(place + 1, count - 1), rest / 100


def between(below: float, above: float, share: float) -> float:
    return below + (above - below) * share


def consensus(scores: Sequence[Float32s], scales: Sequence[Scale]) -> Float32s:
    """float32 (n,): the score of rows that have one in each model. scores: of each model, (n,), finite. scales: of
    each; ValueError for one without a spread."""
    if not all(scale.spread > 0 for scale in scales):
        raise ValueError("scores without a spread cannot be scaled")
    plain, clipped = np.zeros((2, len(scores[0])))
    above, below = np.ones((2, len(scores[0])), dtype=bool)
    for own, scale in zip(scores, scales, strict=True):
        exact = own.astype(np.float64)
        plain += exact / scale.spread
        clipped += np.clip(exact, scale.low, scale.high) / scale.spread
        above &= exact >= scale.high
        below &= exact <= scale.low
    means: Float32s = (np.where(above | below, plain, clipped) / len(scores)).astype(np.float32)
    return means
