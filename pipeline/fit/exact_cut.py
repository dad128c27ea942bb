"""The exact cut over any number of shards: the n largest values of all, with ties resolved in corpus order.

A map over groups of shards and a reduce over a fixed tree, twice: once for the histogram within the bin that holds the
cut, once for the ties of each shard. The driver holds histograms and a number for each shard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from tamis.operators.statistics.ranking import BINS, coarse_histogram, fine_histogram, nth_largest
from tamis.operators.statistics.selection import Threshold, count_ties, threshold_for, tie_quotas
from tamis.pipeline.cluster.tasks import map_reduce
from tamis.pipeline.storage.store import Store

T = TypeVar("T")

GROUP = 16
"""Shards per task; a power of two, so that a group is a subtree of the fixed tree."""

Values = Callable[[Store, Any], np.ndarray[Any, Any]]
"""(store, what there is of one shard) -> its float32 values, in corpus order. Ray must be able to pickle it."""


class ExactCut(NamedTuple):
    """quotas: of each shard, how many of the values that are exactly the threshold's are among the largest.
    at: how many such values there are in all shards."""

    threshold: Threshold
    quotas: tuple[int, ...]
    at: int


def exact_cut(
    store: Store, shards: Sequence[Any], values: Values, count: int, coarse: np.ndarray[Any, Any]
) -> ExactCut:
    """Of the `count` largest values. coarse: `coarse_histogram` over all shards, with at least `count` values."""
    none = (0,) * len(shards)
    if not count:
        return ExactCut(threshold_for(0, None), none, 0)
    groups = grouped(shards)
    cut = nth_largest(count, lambda: coarse, lambda bin: map_reduce(_fine, plus, groups, store, values, bin))
    threshold = threshold_for(count, cut)
    if not threshold.at_quota:
        return ExactCut(threshold, none, cut.at)
    ties = ties_of(store, shards, values, threshold)
    return ExactCut(threshold, tuple(tie_quotas(ties, threshold.at_quota)), cut.at)


def coarse_of(store: Store, shards: Sequence[Any], values: Values) -> np.ndarray[Any, Any]:
    """`coarse_histogram` over all shards."""
    found: np.ndarray[Any, Any] = map_reduce(_coarse, plus, grouped(shards), store, values)
    return found


def ties_of(store: Store, shards: Sequence[Any], values: Values, threshold: Threshold) -> list[int]:
    """Of each shard, how many values are exactly the threshold's."""
    found: list[int] = map_reduce(_ties, plus, grouped(shards), store, values, threshold)
    return found


def grouped(shards: Sequence[T]) -> list[Sequence[T]]:
    """What one task does each."""
    return [shards[start : start + GROUP] for start in range(0, len(shards), GROUP)]


def plus(a: Any, b: Any) -> Any:
    return a + b


def _coarse(group: Sequence[Any], store: Store, values: Values) -> np.ndarray[Any, Any]:
    total = np.zeros(BINS, dtype=np.int64)
    for shard in group:
        total += coarse_histogram(values(store, shard))
    return total


def _fine(group: Sequence[Any], store: Store, values: Values, coarse_bin: int) -> np.ndarray[Any, Any]:
    total = np.zeros(BINS, dtype=np.int64)
    for shard in group:
        total += fine_histogram(values(store, shard), coarse_bin)
    return total


def _ties(group: Sequence[Any], store: Store, values: Values, threshold: Threshold) -> list[int]:
    return [count_ties(values(store, shard), threshold) for shard in group]
