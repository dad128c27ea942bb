"""Certified cuts: how much of a corpus can be kept, with proof that few of the kept rows are harmful.

People label rows that were drawn at random from the pool. Candidate sets of the lowest scores are tried in a fixed
order, the smallest first. A set passes if so few of the labelled rows inside are harmful that a set with more than
`alpha` harmful rows would have shown as few with probability at most `delta`. The walk ends at the first set that does
not pass. So the order alone makes all tests together hold: P(the answer holds more than alpha harmful) <= delta, over
the draw of the labels. The scores may be as bad as they like; then nothing passes.

Source: arXiv 2609.12014; docs/certify.md. Nothing here reads a file, and all of it is exact but for float64 rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tamis.operators.statistics.selection import drop_count_of

STEP, STRICTEST, LOOSEST = Fraction(5, 100), Fraction(15, 100), Fraction(70, 100)
"""The shares that are tried: 0.15, 0.20, ... 0.70."""

MOST_LABELS = 1_000_000
"""More is not what people label."""

_ROUNDING = 1e-9

Scores = npt.NDArray[np.floating]
Marks = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class KeepSet:
    """The rows of the pool with score <= threshold. share: of the pool that was aimed at. size: rows that are in the
    set, more than the share where scores are tied."""

    share: Fraction
    threshold: float
    size: int


@dataclass(frozen=True)
class Step:
    """One set that was tried. labelled: rows inside that have a label; harmful: of these. p_value: the probability to
    see as few if more than alpha of the set were harmful."""

    kept: KeepSet
    labelled: int
    harmful: int
    p_value: float
    passed: bool


@dataclass(frozen=True)
class Walk:
    """All sets that were tried, in order: each passed but, perhaps, the last."""

    steps: tuple[Step, ...]

    @property
    def best(self) -> Step | None:
        """The largest set that is certified; None where nothing can be certified."""
        passed = [step for step in self.steps if step.passed]
        return passed[-1] if passed else None


def grid(loosest: Fraction = LOOSEST) -> tuple[Fraction, ...]:
    """The shares that are tried, strict to loose.

    A longer walk is as sure as a shorter one: it begins with the same sets, and ends at the first that fails. So
    `loosest` may be chosen at will; the steps may not. Raises ValueError unless it is one of the steps up to 1.
    """
    if not STRICTEST <= loosest <= 1 or (loosest - STRICTEST) % STEP:
        raise ValueError(f"{float(loosest):g} is none of the shares that are tried: 0.15, 0.2, 0.25, ... 1")
    return tuple(STRICTEST + STEP * step for step in range(int((loosest - STRICTEST) / STEP) + 1))


def place_of(share: Fraction, total: int) -> int:
    """Where, among the `total` scores in ascending order, from 0, the set's last score stands.

    A score is at most the quantile `share`, by linear interpolation, exactly if it is at most the score at this place.
    ValueError if there are no scores.
    """
    if total < 1:
        raise ValueError("no row has a score, so there is nothing to keep")
    return math.floor(share * (total - 1))


def walk(sets: Sequence[KeepSet], scores: Scores, harmful: Marks, alpha: float, delta: float) -> Walk:
    """Try the sets in order, and end at the first that fails.

    sets: nested, the smallest first. scores, harmful: (n,) of the labelled rows, a uniform random sample without
    replacement of the pool that the sets are taken from. alpha: share of harmful rows allowed, read as the written
    decimal. delta: chance that the answer holds more.

    Raises ValueError for alpha outside 0..1, delta outside 0..1 or at its ends, NaN, sets that are not nested, and more
    labelled rows in a set than there are rows.
    """
    check_rates(alpha, delta)
    if scores.shape != harmful.shape or scores.ndim != 1:
        raise ValueError(f"{scores.shape} scores and {harmful.shape} labels: one of each per labelled row")
    if np.isnan(scores).any():
        raise ValueError("a labelled row has no score (NaN); it is not in the pool")
    if any(a.size > b.size or a.threshold > b.threshold for a, b in pairwise(sets)):
        raise ValueError("the sets are not nested, the smallest first")
    exact = scores.astype(np.float64)
    steps = []
    for kept in sets:
        inside = exact <= kept.threshold
        labelled, found = int(inside.sum()), int((inside & harmful).sum())
        p_value = chance(found, kept.size, drop_count_of(alpha, kept.size) + 1, labelled)
        steps.append(Step(kept, labelled, found, p_value, _passes(p_value, delta)))
        if not steps[-1].passed:
            break
    return Walk(tuple(steps))


def _passes(p_value: float, delta: float) -> bool:
    """Whether p_value <= delta; what `chance` may be off by counts as equal, since ties with delta do occur."""
    return p_value <= delta * (1 + _ROUNDING)


def chance(found: int, size: int, harmful: int, drawn: int) -> float:
    """P(X <= found), where X is the number of harmful rows among `drawn` of the `size` rows of a set, `harmful` of
    which are: the tail of the hypergeometric distribution. 0 where a set cannot hold so many.

    Relative error below 1e-9 for a billion rows and 100,000 labels. Raises ValueError for numbers that no draw has.
    """
    if not 0 <= found <= drawn <= size or harmful < 0:
        raise ValueError(f"{found} harmful of {drawn} drawn from a set of {size} with {harmful}: not possible")
    if harmful > size:
        return 0.0
    least, most = max(0, drawn + harmful - size), min(harmful, drawn)
    if found < least:
        return 0.0
    if found >= most:
        return 1.0
    # In logarithms, for the first term may be smaller than any float while the sum is not.
    logs = np.empty(found - least + 1)
    logs[0] = _log_least(size, harmful, drawn)
    k = np.arange(least, found, dtype=np.float64)
    logs[1:] = np.log((harmful - k) * (drawn - k)) - np.log((k + 1) * (size - harmful - drawn + k + 1))
    logs = np.cumsum(logs)
    top = logs.max()
    return min(1.0, math.exp(top) * float(np.exp(logs - top).sum()))


def _log_least(size: int, harmful: int, drawn: int) -> float:
    """The logarithm of the probability of the fewest harmful rows that can be drawn."""
    if drawn + harmful <= size:
        few, many = sorted((harmful, drawn))  # none of the drawn is harmful; either may be counted off
        rest = size - many
    else:
        few, many = sorted((size - harmful, size - drawn))  # all that is left undrawn is harmful
        rest = size - many
    i = np.arange(few, dtype=np.float64)
    return float(np.log((rest - i) / (size - i)).sum())


# --- where nothing can be certified -------------------------------------------------------------------------------


def fewest_labels(size: int, alpha: float, delta: float, rate: float = 0.0) -> int | None:
    """How many rows of a set must be labelled before it passes, if the share `rate` of them turns out harmful (rounded
    up). None if it takes more than MOST_LABELS, or no number of labels would do.

    Raises ValueError for rates outside their ranges.
    """
    check_rates(alpha, delta)
    if not 0 <= rate <= 1:
        raise ValueError(f"rate={rate}: a share lies between 0 and 1")
    allowed, most = drop_count_of(alpha, size) + 1, min(size, MOST_LABELS)

    def passes(drawn: int) -> bool:
        found = min(drawn, math.ceil(rate * drawn - 1e-9))
        return _passes(chance(found, size, allowed, drawn), delta)

    low, high = -1, 0
    while not passes(high):
        if high == most:
            return None
        low, high = high, min(most, max(1, 2 * high))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def safe_share(safe: int, labelled: int, delta: float) -> float:
    """The one-sided Clopper-Pearson lower bound of the share of safe rows, at confidence 1 - delta; 0 without labels.

    Raises ValueError for delta outside 0..1 or at its ends, and for more safe rows than labelled ones.
    """
    check_rates(0.0, delta)
    if not 0 <= safe <= labelled:
        raise ValueError(f"{safe} safe of {labelled} labelled rows: not possible")
    if safe == 0:
        return 0.0
    k = np.arange(safe, labelled + 1, dtype=np.float64)
    # log C(labelled, k), from the top down: C(n, n) is 1.
    steps = np.log(k[1:]) - np.log(labelled - k[1:] + 1)
    choose = np.append(np.cumsum(steps[::-1])[::-1], 0.0)
    low, high = 0.0, 1.0
    for _ in range(80):
        share = (low + high) / 2
        if not low < share < high:
            break
        logs = choose + k * math.log(share) + (labelled - k) * math.log1p(-share)
        low, high = (share, high) if float(np.exp(logs).sum()) <= delta else (low, share)
    return low


def check_rates(alpha: float, delta: float) -> None:
    """ValueError unless 0 <= alpha <= 1 and 0 < delta < 1."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: the share of harmful rows lies between 0 and 1")
    if not 0 < delta < 1:
        raise ValueError(f"delta={delta}: the chance of being wrong lies between 0 and 1, and is neither")
