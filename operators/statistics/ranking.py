"""The exact n-th largest of any number of float32 scores, in constant memory.

Each score is mapped to a uint32 in an order-preserving way. These are counted by their upper 16 bits (pass 1), then,
in the one bin that contains the answer, by their lower 16 bits (pass 2). Histograms of shards add up, so neither pass
needs all scores in one place. NaN is refused; infinities are ordinary values; -0.0 and 0.0 are the same value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 1 << 16
Counts = npt.NDArray[np.int64]

_SIGN = np.uint32(0x8000_0000)
_LOW = np.uint32(0xFFFF)


@dataclass(frozen=True)
class Cut:
    """The n-th largest score. value: exactly a float32. above: number of larger scores. at: number of equal scores."""

    value: float
    above: int
    at: int


def image(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """uint32 (n,) with image(a) < image(b) exactly if a < b. Raises ValueError for NaN and for dtypes other than
    float32.
    """
    if scores.dtype != np.float32:
        raise ValueError(f"scores must be float32, not {scores.dtype}")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN, which has no rank; quarantine those rows first")
    bits = np.ascontiguousarray(scores).view(np.uint32)
    # Integer arithmetic only: a flush-to-zero mode of the processor cannot change subnormal scores.
    bits = np.where(bits == _SIGN, np.uint32(0), bits)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def value(images: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
    """The inverse of `image`: float32 of the same shape."""
    images = np.asarray(images, dtype=np.uint32)
    return np.where(images & _SIGN, images ^ _SIGN, ~images).view(np.float32)


def coarse_bins(scores: npt.NDArray[np.float32]) -> Counts:
    """int64 (n,) in [0, 65536): the bin of each score in `coarse_histogram`; higher scores have higher bins."""
    return (image(scores) >> np.uint32(16)).astype(np.int64)


def coarse_histogram(scores: npt.NDArray[np.float32]) -> Counts:
    """int64 (65536,): counts by the upper half of the image; higher scores have higher bins."""
    return np.bincount(coarse_bins(scores), minlength=BINS).astype(np.int64, copy=False)


def fine_histogram(scores: npt.NDArray[np.float32], coarse_bin: int) -> Counts:
    """int64 (65536,): the scores of one coarse bin, counted by the lower half of the image."""
    images = image(scores)
    inside = images[(images >> np.uint32(16)) == coarse_bin] & _LOW
    return np.bincount(inside.astype(np.int64), minlength=BINS).astype(np.int64, copy=False)


def bin_of_nth_largest(n: int, coarse: Counts) -> int:
    """The bin of `coarse` for which `nth_largest` asks `fine`, so that one pass serves several n. Raises as it does."""
    total = int(coarse.sum())
    if not 1 <= n <= total:
        raise ValueError(f"n={n}: there are {total} scores to rank")
    return _descend(coarse, n)[0]


def nth_largest(n: int, coarse: Callable[[], Counts], fine: Callable[[int], Counts]) -> Cut:
    """The exact n-th largest score (n counts from 1).

    coarse() and fine(coarse_bin) return the histograms summed over all scores; each is called once, coarse
    first. Raises ValueError if n is not between 1 and the number of scores, or if the two passes saw different
    scores.
    """
    upper = coarse()
    coarse_bin = bin_of_nth_largest(n, upper)
    above = int(upper[coarse_bin + 1 :].sum())
    lower = fine(coarse_bin)
    if int(lower.sum()) != int(upper[coarse_bin]):
        raise ValueError(
            f"the second pass counted {int(lower.sum())} scores where the first counted "
            f"{int(upper[coarse_bin])}: the scores changed in between"
        )
    fine_bin, inside = _descend(lower, n - above)
    answer = value(np.array([coarse_bin << 16 | fine_bin], dtype=np.uint32))
    return Cut(value=float(answer[0]), above=above + inside, at=int(lower[fine_bin]))


def _descend(histogram: Counts, n: int) -> tuple[int, int]:
    """The bin that contains the n-th largest score, and the number of scores in higher bins."""
    from_top = np.cumsum(histogram[::-1])
    place = int(np.searchsorted(from_top, n, side="left"))
    return len(histogram) - 1 - place, int(from_top[place - 1]) if place else 0
