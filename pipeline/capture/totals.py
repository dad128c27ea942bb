"""Totals over the receipts of captures. Memory grows with the number of shards and files, never with rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa

from tamis.operators.conversation.schema import MAX_COLUMNS, unify_schemas
from tamis.operators.problems import UNSCORED
from tamis.pipeline.capture.spec import Captured
from tamis.pipeline.errors import InputError
from tamis.pipeline.inputs.originals import decode_schema
from tamis.pipeline.inputs.shards import CORPUS, is_drawn
from tamis.pipeline.run.receipts import Receipt
from tamis.pipeline.run.set_aside import SetAside
from tamis.pipeline.storage.store import Sealed

MOST_COLUMNS = 4 * MAX_COLUMNS
"""The most columns of a whole JSON corpus; a shard has at most MAX_COLUMNS. Every shard is written with all of them."""


@dataclass
class CaptureTotals:
    """Totals of the corpus; `bad_references` counts quarantined rows of the reference sets. failed: failed shards.
    drawn_failed, drawn_bad: of the rows that were drawn for a fit, the failed shards, and the quarantined rows by role.
    fallbacks: why the CPU computed where Ray counts GPUs. captured: by shard name, including those of the fit."""

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
    drawn_failed: list[SetAside] = field(default_factory=list)
    drawn_bad: Counter[str] = field(default_factory=Counter)
    captured: dict[str, Captured] = field(default_factory=dict)
    new_rows: int = 0
    new_tokens: int = 0
    forward_seconds: float = 0.0
    load_seconds: float = 0.0
    _columns: set[str] = field(default_factory=set)
    _started: float = float("inf")
    _finished: float = 0.0

    def beside(self) -> CaptureTotals:
        """For more shards: what of these counts for them, too. Their rows and their time do not."""
        return CaptureTotals(
            precisions=set(self.precisions), fallbacks=set(self.fallbacks), captured=dict(self.captured)
        )

    def add(self, receipt: Receipt, *, new: bool) -> None:
        """Add a receipt. new: captured by this command, not by an earlier one that was interrupted."""
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
        if is_drawn(receipt["role"]):
            self.drawn_bad[receipt["role"]] += sum(receipt["quarantined"].values())
            return
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
        """InputError as soon as all JSON rows together have too many columns; the outcome does not depend on the order
        of the shards."""
        self._columns.update(decode_schema(receipt["schema"]).names)
        if len(self._columns) > MOST_COLUMNS:
            raise InputError(
                f"the JSON rows have more than {MOST_COLUMNS:,} different top-level keys, which would be as many "
                "columns; put keys that differ from row to row into one object, or take out the files that bring them"
            )

    @property
    def quarantined(self) -> int:
        """Rows that count against max_quarantined."""
        return sum(rows for code, rows in self.codes.items() if code not in UNSCORED)

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
