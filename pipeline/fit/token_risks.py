"""Fit of a method that masks tokens: the exact cut over all response tokens, and which samples a round adds.

Each step is a map over groups of shards and a reduce over a fixed tree. The driver holds only histograms and the
samples that a round has picked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tamis.operators.methods.protocol import tree_reduce
from tamis.operators.methods.toss import discard_in_each, highest_risk
from tamis.operators.statistics.ranking import coarse_histogram
from tamis.operators.statistics.selection import Threshold, decide, drop_count_of
from tamis.operators.tokens.tokenised import Tokenised
from tamis.pipeline.capture.token_tables import LossFiles, Ragged, read_tokens
from tamis.pipeline.cluster.tasks import map_reduce
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.fit.exact_cut import coarse_of, exact_cut, grouped, plus
from tamis.pipeline.fit.scores import shown_cut
from tamis.pipeline.storage.store import Store

Places = Mapping[str, Sequence[int]]
"""Rows by shard name: their places in the shard, ascending."""


@dataclass(frozen=True)
class TokenCut:
    """Which tokens are discarded. share: of all response tokens. threshold: None where each sample is cut by itself."""

    share: float
    threshold: Threshold | None

    @property
    def shown(self) -> float | None:
        """The cut as a number for a report; None when nothing is discarded, or each sample has a cut of its own."""
        return None if self.threshold is None else shown_cut(self.threshold)


@dataclass(frozen=True, eq=False)
class RiskSums:
    """Sums over the token risks of some shards: histogram by integer image, range and sum."""

    coarse: np.ndarray[Any, Any]
    low: float
    high: float
    total: float

    @property
    def count(self) -> int:
        return int(self.coarse.sum())

    def __add__(self, other: RiskSums) -> RiskSums:
        return RiskSums(
            self.coarse + other.coarse, min(self.low, other.low), max(self.high, other.high), self.total + other.total
        )


@dataclass(frozen=True, eq=False)
class TokenSelection:
    """The cut, how many ties each shard discards, and the numbers for the reports."""

    cut: TokenCut
    quotas: tuple[int, ...]
    discarded: int | None
    at_cut: int
    sums: RiskSums

    def digest(self, scored: Sequence[LossFiles]) -> str:
        """Digest of everything that decides which tokens are discarded, so that one output never mixes two cuts."""
        threshold = self.cut.threshold
        cut = None if threshold is None else [threshold.value, threshold.at_quota]
        facts = [self.cut.share, cut, self.quotas, scored]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def select_tokens(store: Store, scored: Sequence[LossFiles], share: float, scope: str) -> TokenSelection:
    """The exact cut of a scoring round. Its `discarded` is None where samples are cut one by one: not counted yet.

    Raises ConfigError when there are no tokens. A share that amounts to less than one token discards none.
    """
    sums: RiskSums = map_reduce(_risk_sums, plus, grouped(scored), store)
    if not sums.count:
        raise ConfigError("no token could be scored: all rows are quarantined")
    if scope == "sample":
        return TokenSelection(TokenCut(share, None), (0,) * len(scored), None, 0, sums)
    count = drop_count_of(share, sums.count)
    cut = exact_cut(store, scored, read_risk, count, sums.coarse)
    return TokenSelection(TokenCut(share, cut.threshold), cut.quotas, count, cut.at, sums)


def discarded_tokens(risk: Ragged, cut: TokenCut, quota: int) -> np.ndarray[Any, Any]:
    """bool, one per response token of a shard. quota: how many of its ties at the cut are discarded."""
    if cut.threshold is None:
        return discard_in_each(risk.values, risk.offsets, cut.share)
    return decide(risk.values, cut.threshold, quota)


def _risk_sums(group: Sequence[LossFiles], store: Store) -> RiskSums:
    return tree_reduce((_risk_sum(read_risk(store, scored)) for scored in group), plus)


def _risk_sum(risk: np.ndarray[Any, Any]) -> RiskSums:
    return RiskSums(
        coarse_histogram(risk),
        float(risk.min(initial=np.inf)),
        float(risk.max(initial=-np.inf)),
        float(risk.sum(dtype=np.float64)),
    )


def read_risk(store: Store, scored: LossFiles) -> np.ndarray[Any, Any]:
    """float32, one per response token of a shard."""
    return read_tokens(store, scored).risk.values


# --- TOSS-Pro: the samples that a round adds ----------------------------------------------------------------------


def pick_samples(store: Store, scored: Sequence[LossFiles], count: int, excluded: Places) -> Places:
    """The `count` samples that hold the riskiest tokens (fewer if there are no more), without the excluded ones.

    Walking the tokens from the riskiest down and adding each token's sample gives the same samples as ranking the
    samples by the highest risk of their tokens, so this ranks samples.
    """
    peaks = partial(_highest, excluded=excluded)
    coarse = coarse_of(store, scored, peaks)
    count = min(count, int(coarse.sum()))
    if not count:
        return {}
    cut = exact_cut(store, scored, peaks, count, coarse)
    quotas = dict(zip([item.name for item in scored], cut.quotas, strict=True))
    found: list[tuple[str, list[int]]] = map_reduce(
        _picked, plus, grouped(scored), store, excluded, cut.threshold, quotas
    )
    return {name: places for name, places in found if places}


def _peak(store: Store, scored: LossFiles, excluded: Places) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Places of the rows of a shard that may be picked, and the highest token risk of each."""
    read = read_tokens(store, scored)
    places = np.flatnonzero(read.valid)
    eligible = ~np.isin(places, list(excluded.get(scored.name, ())))
    return places[eligible], highest_risk(read.risk.values, read.risk.offsets)[eligible]


def _highest(store: Store, scored: LossFiles, excluded: Places) -> np.ndarray[Any, Any]:
    return _peak(store, scored, excluded)[1]


def _picked(
    group: Sequence[LossFiles], store: Store, excluded: Places, threshold: Threshold, quotas: Mapping[str, int]
) -> list[tuple[str, list[int]]]:
    found = []
    for scored in group:
        places, peaks = _peak(store, scored, excluded)
        found.append((scored.name, places[decide(peaks, threshold, quotas[scored.name])].tolist()))
    return found


def chosen_rows(store: Store, scored: Sequence[LossFiles], chosen: Places) -> list[Tokenised]:
    """The tokens of the chosen rows, in corpus order. scored: the files of the first round."""
    rows = []
    for item in scored:
        if item.name not in chosen:
            continue
        tokens = read_tokens(store, item, tokens=True)
        ids, starts, stops = tokens.input_ids, tokens.starts, tokens.stops
        assert ids is not None
        assert starts is not None
        assert stops is not None
        for place in np.searchsorted(np.flatnonzero(tokens.valid), chosen[item.name]):
            turns = slice(starts.offsets[place], starts.offsets[place + 1])
            ranges = tuple(zip(starts.values[turns].tolist(), stops.values[turns].tolist(), strict=True))
            rows.append(Tokenised(ids.values[ids.offsets[place] : ids.offsets[place + 1]], ranges, truncated=False))
    return rows


def digest(input_ids: np.ndarray[Any, Any]) -> bytes:
    """Digest of one row's tokens; rows with the same tokens are the same sample to every model."""
    return hashlib.blake2b(np.ascontiguousarray(input_ids, dtype="<i4").tobytes(), digest_size=16).digest()


def shared_rows(
    store: Store, scored: Sequence[LossFiles], references: Mapping[str, frozenset[bytes]]
) -> dict[str, dict[str, list[int]]]:
    """Per reference set, the corpus rows that are in it, too. scored: of the first round."""
    found: list[tuple[str, str, list[int]]] = map_reduce(_shared, plus, grouped(scored), store, dict(references))
    shared: dict[str, dict[str, list[int]]] = {role: {} for role in references}
    for role, name, places in found:
        shared[role][name] = places
    return shared


def _shared(
    group: Sequence[LossFiles], store: Store, references: Mapping[str, frozenset[bytes]]
) -> list[tuple[str, str, list[int]]]:
    found = []
    for scored in group:
        read = read_tokens(store, scored, tokens=True)
        ids, rows = read.input_ids, np.flatnonzero(read.valid)
        assert ids is not None
        digests = [digest(ids.values[start:stop]) for start, stop in zip(ids.offsets, ids.offsets[1:], strict=False)]
        for role, known in references.items():
            places = [int(row) for row, own in zip(rows, digests, strict=True) if own in known]
            if places:
                found.append((role, scored.name, places))
    return found
