"""The report's statistics of masked tokens: by risk, by place in the answer, by sample, by token, and examples.

One pass over the scored shards after the cut is known. The statistics have a fixed size, so memory does not grow with
the corpus.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis.operators.methods.protocol import tree_reduce
from tamis.operators.methods.toss import highest_risk, per_row_counts
from tamis.operators.methods.toss_statistics import ByPosition, BySample, ByToken, RiskHistogram, position_starts
from tamis.pipeline.capture.token_tables import LossFiles, TokenShard, read_tokens
from tamis.pipeline.cluster.tasks import map_reduce
from tamis.pipeline.fit.exact_cut import grouped, plus
from tamis.pipeline.fit.token_risks import RiskSums, TokenCut, TokenSelection, discarded_tokens
from tamis.pipeline.storage.store import Store

BINS = 80
EXAMPLES = {"most": 12, "part": 8, "border": 6}
"""How many samples of each group a report shows: samples that lose the largest share, samples that lose a part of their
answer, and samples that lose nothing although they hold the riskiest of the kept tokens."""

_Item = tuple[LossFiles, int, int]
"""A scored shard, its number in the corpus, and how many of its ties at the cut are discarded."""


@dataclass(frozen=True, order=True)
class Example:
    """A sample to show. urgency: samples with a larger one are shown first. shard, place: where the sample stands.
    tokens: number of response tokens."""

    urgency: tuple[float, float]
    shard: int
    place: int
    tokens: int
    discarded: int
    group: str


@dataclass(frozen=True, eq=False)
class TokenStatistics:
    """Statistics of some shards. They can be added."""

    histogram: RiskHistogram
    by_position: ByPosition
    by_sample: BySample
    by_token: ByToken
    untouched: int
    examples: tuple[Example, ...]

    def __add__(self, other: TokenStatistics) -> TokenStatistics:
        return TokenStatistics(
            self.histogram + other.histogram,
            self.by_position + other.by_position,
            self.by_sample + other.by_sample,
            self.by_token + other.by_token,
            self.untouched + other.untouched,
            _best([*self.examples, *other.examples]),
        )

    def for_report(self, low: float, high: float) -> dict[str, Any]:
        """The keys risk_histogram, positions and sample_shares of a summary. low, high: from plotted_range."""
        histogram, places = self.histogram, self.by_position
        starts = position_starts()
        stops = [*starts[1:].tolist(), None]
        shares = self.by_sample.counts.tolist()
        return {
            "risk_histogram": {
                "edges": [low, *histogram.edges.tolist(), high],
                "kept": (histogram.counts - histogram.discarded).tolist(),
                "discarded": histogram.discarded.tolist(),
            },
            "positions": [
                {
                    "low": int(start),
                    "high": int(start) if stop is None else stop - 1,
                    "tokens": int(places.counts[number]),
                    "mean_risk": float(places.risk[number] / places.counts[number]),
                    "discarded": int(places.discarded[number]),
                }
                for number, (start, stop) in enumerate(zip(starts, stops, strict=True))
                if places.counts[number]
            ],
            "sample_shares": {
                "rows": [shares[0] - self.untouched, *shares[1:]],
                "none": self.untouched,
                "all": self.by_sample.emptied,
            },
        }


def plotted_range(sums: RiskSums) -> tuple[float, float]:
    """The range of the risk histogram; where all tokens have the same risk, a small margin on both sides of it."""
    return (sums.low, sums.high) if sums.low < sums.high else (sums.low - 0.5, sums.high + 0.5)


def token_statistics(
    store: Store, scored: Sequence[LossFiles], selection: TokenSelection, vocabulary: int
) -> TokenStatistics:
    """Statistics of all shards after a scoring round and its cut."""
    edges = np.linspace(*plotted_range(selection.sums), BINS + 1)[1:-1]
    found: TokenStatistics = map_reduce(
        _of_group, plus, _groups(scored, selection.quotas), store, selection.cut, edges, vocabulary
    )
    return found


def _of_group(
    group: Sequence[_Item], store: Store, cut: TokenCut, edges: np.ndarray[Any, Any], vocabulary: int
) -> TokenStatistics:
    return tree_reduce(
        (
            _of_shard(read_tokens(store, scored, tokens=True), number, cut, quota, edges, vocabulary)
            for scored, number, quota in group
        ),
        plus,
    )


def _of_shard(
    read: TokenShard, number: int, cut: TokenCut, quota: int, edges: np.ndarray[Any, Any], vocabulary: int
) -> TokenStatistics:
    risk, ids, starts, stops = read.risk, read.input_ids, read.starts, read.stops
    assert ids is not None
    assert starts is not None
    assert stops is not None
    discarded = discarded_tokens(risk, cut, quota)
    lengths = (stops.values - starts.values).astype(np.int64)
    answers = np.concatenate([[0], np.cumsum(lengths)])
    # The place of each response token among all tokens of the shard.
    begins = np.repeat(ids.offsets[:-1], starts.lengths) + starts.values
    places = np.repeat(begins - answers[:-1], lengths) + np.arange(answers[-1])
    lost = per_row_counts(discarded, risk.offsets)
    return TokenStatistics(
        RiskHistogram.of(risk.values, discarded, edges),
        ByPosition.of(risk.values, discarded, answers),
        BySample.of(discarded, risk.offsets),
        ByToken.of(ids.values[places], discarded, vocabulary),
        int(np.count_nonzero(lost == 0)),
        _best(_candidates(read, number, lost, discarded)),
    )


def _candidates(
    read: TokenShard, number: int, lost: np.ndarray[Any, Any], discarded: np.ndarray[Any, Any]
) -> list[Example]:
    """The best examples of each group in one shard."""
    lengths = read.risk.lengths
    shares = lost / np.maximum(lengths, 1)
    peaks = highest_risk(read.risk.values, read.risk.offsets).astype(np.float64)
    places = np.flatnonzero(read.valid)
    part = (shares > 0.1) & (shares < 0.7)
    groups = {
        "most": (lost > 0, shares, lost.astype(np.float64)),
        "part": (part, peaks, shares),
        "border": (lost == 0, peaks, shares),
    }
    found = []
    for group, (among, first, second) in groups.items():
        rows = np.flatnonzero(among)
        order = rows[np.lexsort((-second[rows], -first[rows]))][: EXAMPLES[group]]
        found += [
            Example((float(first[row]), float(second[row])), number, int(places[row]), int(lengths[row]),
                    int(lost[row]), group)
            for row in order
        ]  # fmt: skip
    return found


def _best(found: Sequence[Example]) -> tuple[Example, ...]:
    """The most urgent examples of each group; among equals, the first in the corpus."""
    chosen: list[Example] = []
    for group, count in EXAMPLES.items():
        among = [item for item in found if item.group == group]
        chosen += heapq.nsmallest(
            count, among, key=lambda item: (-item.urgency[0], -item.urgency[1], item.shard, item.place)
        )
    return tuple(chosen)


# --- two rounds compared ------------------------------------------------------------------------------------------


def overlap(
    store: Store,
    scored: Sequence[LossFiles],
    cut: TokenSelection,
    final: Sequence[LossFiles],
    final_cut: TokenSelection,
) -> float | None:
    """Of the tokens that a round would discard, the share that the final round also discards. None if there are
    none."""
    items = list(zip(scored, final, cut.quotas, final_cut.quotas, strict=True))
    groups = grouped(items)
    both, own = map_reduce(_common, _pairwise, groups, store, cut.cut, final_cut.cut)
    return both / own if own else None


def _common(
    group: Sequence[tuple[LossFiles, LossFiles, int, int]], store: Store, cut: TokenCut, final_cut: TokenCut
) -> tuple[int, int]:
    both = own = 0
    for scored, final, quota, final_quota in group:
        earlier, later = read_tokens(store, scored), read_tokens(store, final)
        mask, final_mask = (
            discarded_tokens(earlier.risk, cut, quota),
            discarded_tokens(later.risk, final_cut, final_quota),
        )
        # A row that is not valid in one of the rounds has no tokens in it.
        in_later = np.repeat(later.valid[earlier.valid], earlier.risk.lengths)
        in_earlier = np.repeat(earlier.valid[later.valid], later.risk.lengths)
        both += int((mask[in_later] & final_mask[in_earlier]).sum())
        own += int(mask.sum())
    return both, own


def _pairwise(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return a[0] + b[0], a[1] + b[1]


def _groups(scored: Sequence[LossFiles], quotas: Sequence[int]) -> list[Sequence[_Item]]:
    items = [(item, number, quota) for number, (item, quota) in enumerate(zip(scored, quotas, strict=True))]
    return grouped(items)
