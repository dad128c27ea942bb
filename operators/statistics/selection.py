"""Scores -> drop or keep. Higher scores are riskier; a decision never depends on how the corpus was sharded.

There are three ways to say how much to drop. A share or a count drops exactly that many rows: every score above the
cut, then the first rows equal to it in sample order (shards in plan order, then rows). A threshold drops every score
above it. This module also has the seeded random score for the random control.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from tamis.operators.statistics.ranking import Cut

Decisions = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Threshold:
    """Drops the rows with score > value, and the first `at_quota` rows, in sample order, whose score equals value.

    at_quota None: no count was requested, so every row whose score equals value is kept.
    """

    value: float
    at_quota: int | None = None

    def __post_init__(self) -> None:
        if math.isnan(self.value):
            raise ValueError("threshold: NaN is no threshold")
        if self.at_quota is not None and self.at_quota < 0:
            raise ValueError(f"at_quota={self.at_quota}: a number of rows cannot be negative")


def drop_count_of(share: float, total: int) -> int:
    """floor(share * total), with share read as the written decimal: 0.1 of 30 is 3, 0.29 of 100 is 29.

    Raises ValueError unless 0 <= share <= 1 and total >= 0.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"drop={share}: a share lies between 0 and 1")
    if total < 0:
        raise ValueError(f"total={total}: a number of rows cannot be negative")
    return math.floor(Fraction(Decimal(repr(float(share)))) * total)


def threshold_for(count: int, cut: Cut | None) -> Threshold:
    """The threshold that drops exactly `count` rows; `cut` is the count-th largest score, or None if count is 0.

    Raises ValueError if cut is not the count-th largest score.
    """
    if count == 0:
        return Threshold(math.inf, 0)
    if cut is None or not cut.above < count <= cut.above + cut.at:
        raise ValueError(f"{cut} is not the score of rank {count}")
    return Threshold(cut.value, count - cut.above)


def count_ties(scores: npt.NDArray[np.float32], threshold: Threshold) -> int:
    """The number of scores equal to the threshold's value; `tie_quotas` needs it from each shard."""
    return int(np.count_nonzero(scores.astype(np.float64) == threshold.value))


def tie_quotas(ties_per_shard: Sequence[int], quota: int) -> list[int]:
    """The number of its ties that each shard drops (shards in plan order): the first `quota` ties of the corpus.

    Raises ValueError if there are fewer ties than the quota, or a number is negative.
    """
    if quota < 0 or min(ties_per_shard, default=0) < 0:
        raise ValueError(f"quota={quota}, ties {list(ties_per_shard)[:5]}...: numbers of rows cannot be negative")
    quotas = []
    left = quota
    for ties in ties_per_shard:
        quotas.append(min(ties, left))
        left -= quotas[-1]
    if left:
        raise ValueError(f"{quota} rows are to be dropped at the cut, {quota - left} stand there")
    return quotas


def decide(scores: npt.NDArray[np.float32], threshold: Threshold, quota_here: int = 0) -> Decisions:
    """bool (n,): True if the row is dropped. `quota_here`: this shard's entry of `tie_quotas`.

    Scores and threshold are compared as exact numbers (float64): with threshold 0.1, a score of float32(0.1),
    which is slightly more than 0.1, is dropped. Raises ValueError for NaN, for a quota without at_quota, and for a
    quota larger than the number of ties.
    """
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN; quarantine those rows first")
    exact = scores.astype(np.float64)
    dropped: Decisions = exact > threshold.value
    ties = np.flatnonzero(exact == threshold.value)
    if not 0 <= quota_here <= min(len(ties), threshold.at_quota or 0):
        raise ValueError(
            f"quota_here={quota_here}: {len(ties)} scores here equal the cut, at_quota={threshold.at_quota}"
        )
    dropped[ties[:quota_here]] = True
    return dropped


def random_keys(sample_ids: Sequence[str], seed: int) -> npt.NDArray[np.float32]:
    """float32 (n,), uniform multiples of 2^-24 in [0, 1): a pseudo-random score that is a pure function of
    each sample's id and the seed, so the random control drops the same rows whatever the sharding. Equal keys
    (one pair in 16.8 million) are handled by the tie rule, as for any other score.
    """
    key = str(seed).encode()
    digests = b"".join(hashlib.blake2b(sample_id.encode(), digest_size=4, key=key).digest() for sample_id in sample_ids)
    words = np.frombuffer(digests, dtype="<u4") >> np.uint32(8)
    return words.astype(np.float32) * np.float32(2.0**-24)
