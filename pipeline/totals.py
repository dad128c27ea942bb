"""Receipts added up: what a run has done so far. Memory grows with the number of shards and files, never with rows."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.operators.schema import MAX_COLUMNS, unify_schemas
from tamis.operators.spearman import RankSums
from tamis.pipeline.capture_spec import Captured
from tamis.pipeline.emit import SHOWN_BORDERLINE, SHOWN_RISKIEST, add_sums
from tamis.pipeline.errors import InputError
from tamis.pipeline.originals import decode_schema
from tamis.pipeline.receipts import Receipt
from tamis.pipeline.set_aside import SetAside
from tamis.pipeline.sources import CORPUS
from tamis.pipeline.store import Sealed

MOST_COLUMNS = 4 * MAX_COLUMNS
"""Of the whole corpus in JSON; a shard has MAX_COLUMNS at most. Every shard is written with all of them."""

Pick = tuple[float, int, int, int]
"""(score, shard index, place in the shard, response tokens)"""


@dataclass
class CaptureTotals:
    """Of the corpus; `bad_references` counts quarantined rows of the reference sets. failed: shards set aside.
    fallbacks: why the CPU computed where Ray counts GPUs. captured: by the shard's name, of the references, too."""

    rows: int = 0
    tokens: int = 0
    truncated: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    precisions: set[str] = field(default_factory=set)
    fallbacks: set[str] = field(default_factory=set)
    bad_references: Counter[str] = field(default_factory=Counter)
    schemas: dict[str, int] = field(default_factory=dict)
    failed: list[SetAside] = field(default_factory=list)
    captured: dict[str, Captured] = field(default_factory=dict)
    new_rows: int = 0
    new_tokens: int = 0
    forward_seconds: float = 0.0
    load_seconds: float = 0.0
    _columns: set[str] = field(default_factory=set)
    _started: float = float("inf")
    _finished: float = 0.0

    def add(self, receipt: Receipt, *, new: bool) -> None:
        """new: captured by this command, not by an earlier one that was interrupted."""
        if new:
            self.new_rows += receipt["rows"]
            self.new_tokens += receipt["tokens"]
            self.forward_seconds += receipt["seconds"]["forward_seconds"]
            self.load_seconds = max(self.load_seconds, receipt["seconds"]["load_seconds"])
            self._started = min(self._started, receipt["started"])
            self._finished = max(self._finished, receipt["finished"])
        file = Sealed(receipt["file"]["name"], receipt["file"]["sha256"])
        self.captured[receipt["shard"]] = Captured(file, receipt["input"])
        self.precisions.add(receipt["precision"])
        if receipt.get("fallback") is not None:
            self.fallbacks.add(receipt["fallback"])
        if receipt["role"] != CORPUS:
            self.bad_references.update(receipt["quarantined"])
            return
        self.rows += receipt["rows"]
        self.tokens += receipt["tokens"]
        self.truncated += receipt["truncated"]
        self.codes.update(receipt["quarantined"])
        for code, message in receipt["messages"].items():
            self.messages.setdefault(code, message)
            self.examples.setdefault(code, receipt["examples"][code])
        if receipt["schema"] is not None:
            if receipt["schema"] not in self.schemas:
                self._note_columns(receipt)
            known = self.schemas.get(receipt["schema"], receipt["index"])
            self.schemas[receipt["schema"]] = min(known, receipt["index"])

    def _note_columns(self, receipt: Receipt) -> None:
        """InputError as soon as all JSON rows together have too many columns; in whatever order the shards come, it is
        the same in the end."""
        self._columns.update(decode_schema(receipt["schema"]).names)
        if len(self._columns) > MOST_COLUMNS:
            raise InputError(
                f"the JSON rows have more than {MOST_COLUMNS:,} different top-level keys, which would be as many "
                "columns; put keys that differ from row to row into one object, or take out the files that bring them"
            )

    @property
    def quarantined(self) -> int:
        return self.codes.total()

    @property
    def seconds(self) -> float:
        """From the first forward pass of this command to the end of the last; model load and Ray's start excluded."""
        return max(self._finished - self._started, 0.0)

    def seen_schema(self) -> pa.Schema | None:
        """The unsettled schema of all JSON rows, columns in the order of the corpus; None without JSON."""
        schema = None
        for text in sorted(self.schemas, key=self.schemas.__getitem__):
            shard_schema = decode_schema(text)
            schema = shard_schema if schema is None else unify_schemas(schema, shard_schema)
        return schema


@dataclass
class EmitTotals:
    """Of every emitted shard."""

    bins: int
    counts: Counter[str] = field(default_factory=Counter)
    sources: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    deciles: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros((2, 10), dtype=np.int64))
    rank_sums: RankSums = field(default_factory=RankSums)
    files: list[dict[str, Any]] = field(default_factory=list)
    riskiest: list[Pick] = field(default_factory=list)
    borderline_dropped: list[Pick] = field(default_factory=list)
    borderline_kept: list[Pick] = field(default_factory=list)
    rows: int = 0
    failed: list[SetAside] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.histogram = np.zeros((2, self.bins), dtype=np.int64)
        self._sums: dict[int, list[float]] = {}

    def add(self, receipt: Receipt) -> None:
        self.rows += receipt["rows"]
        self.counts.update(receipt["counts"])
        source = self.sources[receipt["source"]]
        source[0] += receipt["rows"] - receipt["counts"]["quarantined"]
        source[1] += receipt["counts"]["dropped"]
        self.histogram += np.array([receipt["histogram"]["kept"], receipt["histogram"]["dropped"]])
        self.deciles += np.array([receipt["deciles"]["rows"], receipt["deciles"]["dropped"]])
        self._sums[receipt["index"]] = receipt["rank_sums"]
        self.files.extend(receipt["files"])
        self.riskiest = self._best(self.riskiest, receipt, "riskiest", SHOWN_RISKIEST, -1)
        self.borderline_dropped = self._best(
            self.borderline_dropped, receipt, "borderline_dropped", SHOWN_BORDERLINE, 1
        )
        self.borderline_kept = self._best(self.borderline_kept, receipt, "borderline_kept", SHOWN_BORDERLINE, -1)

    def final_rank_sums(self) -> RankSums:
        """Added in plan order, so that the last digits do not depend on which shard was done first."""
        total = RankSums()
        for index in sorted(self._sums):
            total = add_sums(total, self._sums[index])
        return total

    @staticmethod
    def _best(held: list[Pick], receipt: Receipt, name: str, count: int, sign: int) -> list[Pick]:
        new = [(score, receipt["index"], place, length) for score, place, length in receipt[name]]
        # Among equal scores: the one that comes first in the corpus where the highest are wanted, the last otherwise.
        return heapq.nsmallest(
            count, [*held, *new], key=lambda pick: (sign * pick[0], -sign * pick[1], -sign * pick[2])
        )


@dataclass
class TokenTotals:
    """Of every emitted shard of a method that masks tokens. sources: rows, dropped rows, response tokens, discarded.
    codes: quarantined rows by their code, messages: one for each."""

    rows: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    sources: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0, 0]))
    files: list[dict[str, Any]] = field(default_factory=list)
    failed: list[SetAside] = field(default_factory=list)

    def add(self, receipt: Receipt) -> None:
        self.rows += receipt["rows"]
        self.counts.update(receipt["counts"])
        self.tokens.update(receipt["tokens"])
        self.codes.update(receipt["quarantined"])
        self.messages = {**receipt["messages"], **self.messages}
        self.files.extend(receipt["files"])
        rows = receipt["rows"] - receipt["counts"]["quarantined"]
        found = (rows, receipt["counts"]["dropped"], receipt["tokens"]["response"], receipt["tokens"]["discarded"])
        source = self.sources[receipt["source"]]
        for number, value in enumerate(found):
            source[number] += value
