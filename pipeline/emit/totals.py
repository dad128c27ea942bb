"""Totals over the receipts of emitted shards. Memory grows with the number of shards and files, never with rows."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tamis.operators.statistics.ranks import RankSums
from tamis.pipeline.emit.own_sources import MOST
from tamis.pipeline.emit.samples import SHOWN_BORDERLINE, SHOWN_RISKIEST, add_sums
from tamis.pipeline.run.receipts import Receipt
from tamis.pipeline.run.set_aside import SetAside

Pick = tuple[float, int, int, int]
"""(score, shard index, place in the shard, response tokens)"""


@dataclass
class Emitted:
    """Of every emitted shard. counts: rows kept, dropped and quarantined. misread: by column, JSON texts with numbers
    that `datasets` does not read as they are. failed: shards that were set aside."""

    rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    misread: Counter[str] = field(default_factory=Counter)
    files: list[dict[str, Any]] = field(default_factory=list)
    failed: list[SetAside] = field(default_factory=list)

    def add(self, receipt: Receipt) -> None:
        self.rows += receipt["rows"]
        self.counts.update(receipt["counts"])
        self.misread.update(receipt["misread"])
        self.files.extend(receipt["files"])


@dataclass
class EmitTotals(Emitted):
    """Of samples that were scored. bins: of the histogram. sources: rows and dropped rows of each file. refusing: rows
    of kept and dropped whose answer refuses; not `all_counted` where an earlier version has written a receipt.
    own_sources: rows and dropped rows by the corpus's own column; None where a shard has no such column, or too many
    values."""

    bins: int = 0
    sources: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    deciles: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros((2, 10), dtype=np.int64))
    rank_sums: RankSums = field(default_factory=RankSums)
    refusing: Counter[str] = field(default_factory=Counter)
    all_counted: bool = True
    own_sources: dict[str, list[int]] | None = field(default_factory=dict)
    riskiest: list[Pick] = field(default_factory=list)
    borderline_dropped: list[Pick] = field(default_factory=list)
    borderline_kept: list[Pick] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.histogram = np.zeros((2, self.bins), dtype=np.int64)
        self._sums: dict[int, list[float]] = {}

    def add(self, receipt: Receipt) -> None:
        super().add(receipt)
        source = self.sources[receipt["source"]]
        source[0] += receipt["rows"] - receipt["counts"]["quarantined"] - receipt["unscored"]
        source[1] += receipt["counts"]["dropped"]
        self.histogram += np.array([receipt["histogram"]["kept"], receipt["histogram"]["dropped"]])
        self.deciles += np.array([receipt["deciles"]["rows"], receipt["deciles"]["dropped"]])
        self._sums[receipt["index"]] = receipt["rank_sums"]
        self.refusing.update(receipt.get("refusing", {}))
        self.all_counted &= "refusing" in receipt
        self._add_own(receipt.get("own_sources"))
        self.riskiest = self._best(self.riskiest, receipt, "riskiest", SHOWN_RISKIEST, -1)
        self.borderline_dropped = self._best(
            self.borderline_dropped, receipt, "borderline_dropped", SHOWN_BORDERLINE, 1
        )
        self.borderline_kept = self._best(self.borderline_kept, receipt, "borderline_kept", SHOWN_BORDERLINE, -1)

    def _add_own(self, found: list[list[Any]] | None) -> None:
        if found is None or self.own_sources is None:
            self.own_sources = None
            return
        for value, rows, dropped in found:
            counted = self.own_sources.setdefault(value, [0, 0])
            counted[0] += rows
            counted[1] += dropped
        if len(self.own_sources) > MOST:
            self.own_sources = None

    def final_rank_sums(self) -> RankSums:
        """Added in plan order, so that the last digits do not depend on which shard was done first."""
        total = RankSums()
        for index in sorted(self._sums):
            total = add_sums(total, self._sums[index])
        return total

    @staticmethod
    def _best(held: list[Pick], receipt: Receipt, name: str, count: int, sign: int) -> list[Pick]:
        new = [(score, receipt["index"], place, length) for score, place, length in receipt[name]]
        # Among equal scores, the first in the corpus wins where the highest are wanted, otherwise the last.
        return heapq.nsmallest(
            count, [*held, *new], key=lambda pick: (sign * pick[0], -sign * pick[1], -sign * pick[2])
        )


@dataclass
class TokenTotals(Emitted):
    """Of samples whose tokens were masked. sources: rows, dropped rows, response tokens, discarded of each file.
    codes: quarantined rows by their code, messages: one for each."""

    codes: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)
    tokens: Counter[str] = field(default_factory=Counter)
    sources: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0, 0]))

    def add(self, receipt: Receipt) -> None:
        super().add(receipt)
        self.tokens.update(receipt["tokens"])
        self.codes.update(receipt["quarantined"])
        self.messages = {**receipt["messages"], **self.messages}
        rows = receipt["rows"] - receipt["counts"]["quarantined"]
        found = (rows, receipt["counts"]["dropped"], receipt["tokens"]["response"], receipt["tokens"]["discarded"])
        source = self.sources[receipt["source"]]
        for number, value in enumerate(found):
            source[number] += value
