"""The exact cut over several parts of the scores, as the pipeline makes it over shards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tamis.operators.statistics.ranking import coarse_histogram, fine_histogram, nth_largest
from tamis.operators.statistics.selection import count_ties, decide, threshold_for, tie_quotas


def drop(parts: Sequence[npt.NDArray[np.float32]], count: int) -> npt.NDArray[np.bool_]:
    """bool, over all parts: the riskiest `count`. Cut, ties per part, quotas, decisions per part."""
    cut = None
    if count:
        cut = nth_largest(
            count,
            lambda: sum(coarse_histogram(part) for part in parts),
            lambda chosen: sum(fine_histogram(part, chosen) for part in parts),
        )
    threshold = threshold_for(count, cut)
    assert threshold.at_quota is not None
    quotas = tie_quotas([count_ties(part, threshold) for part in parts], threshold.at_quota)
    return np.concatenate([decide(part, threshold, quota) for part, quota in zip(parts, quotas, strict=True)])
