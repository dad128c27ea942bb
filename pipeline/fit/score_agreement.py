"""Do the methods of a run agree? Over scores/, as emit has written it, after the cut (operators/statistics/agreement).

agreement = {
    lengths: [{method, spearman, left}]      with the answer's length; left: of the variance of the ranks
    pairs: [{methods: [a, b], spearman, partial_spearman,
             dropped, both, jaccard, by_chance}]
}

dropped: how many rows each of the two would drop by its own score, as many as the run dropped. both: how many of them
both would. by_chance: the share of a method's drops that a random draw of the same size would drop, too. Each method's
own cut is the exact one, ties in corpus order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial as bound
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from tamis.operators.statistics.agreement import (
    correlation,
    jaccard,
    left_of_variance,
    partial,
    rank_gram,
    shared_counts,
)
from tamis.operators.statistics.ranking import coarse_histogram
from tamis.operators.statistics.ranks import midranks, rank_bins, rank_edges
from tamis.operators.statistics.selection import Threshold, decide
from tamis.pipeline.cluster.tasks import map_reduce
from tamis.pipeline.fit.exact_cut import exact_cut, grouped, plus
from tamis.pipeline.fit.scores import rank_histogram, read_scores
from tamis.pipeline.storage.store import Sealed, Store

_LENGTH = "n_response_tokens"


class _Spans(NamedTuple):
    """Of each method: the lowest and the highest score, and `coarse_histogram`."""

    low: np.ndarray[Any, Any]
    high: np.ndarray[Any, Any]
    coarse: np.ndarray[Any, Any]


class _Ranking(NamedTuple):
    """Of one method: the edges of the bins of its scores, their midranks, and its own cut."""

    edges: np.ndarray[Any, Any]
    ranks: np.ndarray[Any, Any]
    threshold: Threshold


def score_agreement(
    store: Store,
    methods: Sequence[str],
    files: Sequence[Sealed],
    dropped: int,
    lengths: np.ndarray[Any, Any],
    alone: float | None,
) -> dict[str, Any]:
    """files: the tables of scores/, in corpus order. dropped: rows that the run dropped. lengths: the histogram of the
    scored rows' lengths. alone: the correlation with the length of a single method, which the emitted shards have
    summed already: then nothing is read."""
    if len(methods) == 1:
        return {"lengths": [_with_length(methods[0], alone)], "pairs": []}
    names = list(methods)
    spans: _Spans = map_reduce(_span, _wider, grouped(files), store, names)
    rankings, quotas = [], []
    for name, low, high, coarse in zip(names, *spans, strict=True):
        edges = rank_edges(float(low), float(high))
        cut = exact_cut(store, files, bound(read_scores, column=name), dropped, coarse)
        rankings.append(_Ranking(edges, midranks(rank_histogram(store, files, name, edges)), cut.threshold))
        quotas.append(cut.quotas)
    items = list(zip(files, zip(*quotas, strict=True), strict=True))
    total = int(lengths.sum())
    gram, shared = map_reduce(_compare, _both, grouped(items), store, names, rankings, midranks(lengths), total)
    last = len(names)
    rho = {pair: correlation(gram, *pair) for pair in combinations(range(last + 1), 2)}
    pairs = []
    for a, b in combinations(range(last), 2):
        pairs.append(
            {
                "methods": [names[a], names[b]],
                "spearman": rho[a, b],
                "partial_spearman": partial(rho[a, b], rho[a, last], rho[b, last]),
                "dropped": dropped,
                "both": int(shared[a, b]),
                "jaccard": jaccard(int(shared[a, b]), int(shared[a, a]), int(shared[b, b])),
                "by_chance": dropped / total,
            }
        )
    return {"lengths": [_with_length(name, rho[at, last]) for at, name in enumerate(names)], "pairs": pairs}


def _with_length(name: str, rho: float | None) -> dict[str, Any]:
    return {"method": name, "spearman": rho, "left": left_of_variance(rho)}


# --- over shards --------------------------------------------------------------------------------------------------


def _span(group: Sequence[Sealed], store: Store, names: Sequence[str]) -> _Spans:
    found = None
    for file in group:
        scores = [read_scores(store, file, name) for name in names]
        here = _Spans(
            np.array([each.min(initial=np.inf) for each in scores]),
            np.array([each.max(initial=-np.inf) for each in scores]),
            np.stack([coarse_histogram(each) for each in scores]),
        )
        found = here if found is None else _wider(found, here)
    assert found is not None
    return found


def _wider(a: _Spans, b: _Spans) -> _Spans:
    return _Spans(np.minimum(a.low, b.low), np.maximum(a.high, b.high), a.coarse + b.coarse)


_Compared = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def _compare(
    group: Sequence[tuple[Sealed, tuple[int, ...]]],
    store: Store,
    names: Sequence[str],
    rankings: Sequence[_Ranking],
    length_ranks: np.ndarray[Any, Any],
    total: int,
) -> _Compared:
    """The sums of products of ranks, the length last, and how many rows every two methods drop."""
    found = None
    for file, quotas in group:
        table = store.read_table(file, [*names, _LENGTH])
        valid = np.asarray(table.column(names[0]).is_valid())
        scores = [table.column(name).to_numpy()[valid].astype(np.float32) for name in names]
        bins = [rank_bins(each, ranking.edges) for each, ranking in zip(scores, rankings, strict=True)]
        lengths = table.column(_LENGTH).to_numpy()[valid].astype(np.int64)
        gram = rank_gram([*bins, lengths], [*(ranking.ranks for ranking in rankings), length_ranks], total)
        drops = [
            decide(each, ranking.threshold, quota)
            for each, ranking, quota in zip(scores, rankings, quotas, strict=True)
        ]
        here = (gram, shared_counts(drops))
        found = here if found is None else _both(found, here)
    assert found is not None
    return found


def _both(a: _Compared, b: _Compared) -> _Compared:
    return plus(a[0], b[0]), plus(a[1], b[1])
