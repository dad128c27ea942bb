"""Emit one shard: each row in kept, dropped or quarantine, a row of scores for each, then the shard's receipt.

A `Decided` says what becomes of each row, by a score of the sample or by masked tokens; everything is written here. The
original rows are read again from the input and compared with those that were captured. So captures hold no text, and
kept/ has the columns, types and metadata of the input to the byte; of JSON rows, the values.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis.operators.conversation.schema import misread_columns
from tamis.operators.problems import UNSCORED
from tamis.pipeline.cluster.tasks import stream
from tamis.pipeline.inputs.added_columns import SAMPLE_ID, WithIds, beside
from tamis.pipeline.inputs.originals import originals, quarantine_table
from tamis.pipeline.inputs.sample_ids import sample_ids
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.run import receipts
from tamis.pipeline.run.paths import DROPPED, INPUT_DIGEST, KEPT, QUARANTINE, SCORES, table_of
from tamis.pipeline.run.receipts import Receipt
from tamis.pipeline.run.set_aside import SetAside, telling
from tamis.pipeline.storage.store import Store

STAGE = "emit"

_CAPTURED = ("n_tokens", "n_response_tokens", "truncated")
"""Columns of captured tables that scores/ has, too."""


def _as_they_are(rows: pa.Table) -> pa.Table:
    return rows


@dataclass(frozen=True, eq=False)
class Decided:
    """What becomes of the rows of one shard.

    captured: a row for each row of the input; its code is null where the row is valid. input: digest of the rows that
    were captured. dropped: bool (rows,), true for valid rows only. reasons: columns that dropped/ has besides those of
    the input, a value for each dropped row. scores: the method's columns of scores/, a value for each row. facts: for
    the receipt. trained: the valid rows -> what kept/ has of them.
    """

    captured: pa.Table
    input: str
    dropped: np.ndarray[Any, Any]
    reasons: Mapping[str, pa.Array]
    scores: Mapping[str, Any]
    facts: Mapping[str, Any]
    trained: Callable[[pa.Table], pa.Table] = _as_they_are


@dataclass(frozen=True, eq=False)
class EmitSpec(ABC):
    """All that a task needs. options: of the input's storage. key: of the receipts. schema: of the corpus's columns in
    kept/, serialised. with_ids: which tables have a column with the sample ids."""

    store: Store
    options: Mapping[str, Any]
    key: str
    schema: bytes
    with_ids: WithIds = field(default="dropped", kw_only=True)
    keeps_unscored: ClassVar[bool] = False
    """Whether rows with a code of UNSCORED go to kept/. A row without tokens has nothing for a trainer to read."""

    @abstractmethod
    def decide(self, shard: Shard, quota: int, made: Any) -> Decided:
        """quota: how many ties at the cut fall in this shard. made: what the stages before have made of it."""

    def observed(
        self, shard: Shard, rows: pa.Table, scored: np.ndarray[Any, Any], dropped: np.ndarray[Any, Any]
    ) -> Mapping[str, Any]:
        """What the receipt says of the rows themselves. rows: as read, without the quarantined ones; scored, dropped:
        of each whether it has a score, and whether it falls."""
        return {}

    def opened_schema(self) -> pa.Schema:
        return pa.ipc.read_schema(pa.py_buffer(self.schema))


def emit(
    spec: EmitSpec,
    shards: Sequence[Shard],
    quotas: Sequence[int],
    made: Mapping[str, Any],
    task_cpus: float,
    on_set_aside: Callable[[SetAside], None] | None = None,
    timeout: float | None = None,
) -> Generator[Receipt]:
    """Write the outputs of every shard and yield its receipt, in any order. Raises InputError if the input changed.

    made: by the shard's name. on_set_aside: told of a shard whose workers all died or hung, or whose rows are too
    large; without it that is an error. timeout: seconds without progress after which workers are taken for hung.
    """
    items = [(shard, quota, made[shard.name]) for shard, quota in zip(shards, quotas, strict=True)]
    lost = telling(on_set_aside, shards)
    for _, receipt in stream(write_shard, items, spec, cpus=task_cpus, on_lost=lost, timeout=timeout):
        yield receipt


def write_shard(item: tuple[Shard, int, Any], spec: EmitSpec) -> Receipt:
    began = time.perf_counter()
    shard, quota, made = item
    decided = spec.decide(shard, quota, made)
    valid = pc.is_null(decided.captured.column("code")).to_numpy()
    kept_so = spec.keeps_unscored & _has_code(decided.captured, UNSCORED)
    out = ~valid & ~kept_so
    rows, places, unreadable = originals(shard, spec.options, spec.opened_schema(), ~out, decided.input)
    dropped = decided.dropped[places]

    ids = pa.array(sample_ids(shard.file.name, shard.span.start_row, shard.rows), pa.string())
    known = {SAMPLE_ID: ids.take(pa.array(places))}
    trained = decided.trained(rows)
    tables = {KEPT: (beside(trained, known) if spec.with_ids == "all" else trained).filter(pa.array(~dropped))}
    if dropped.any():
        fell = pa.array(dropped)
        columns = {} if spec.with_ids == "none" else {SAMPLE_ID: known[SAMPLE_ID].filter(fell)}
        tables[DROPPED] = beside(rows.filter(fell), {**columns, **decided.reasons})
    if out.any():
        tables[QUARANTINE] = quarantine_table(shard, decided.captured, unreadable)
    tables[SCORES] = _scores_table(shard, ids, out, decided)
    files = [spec.store.write_table(table_of(part, shard.name), table) for part, table in tables.items()]
    facts = {
        "source": shard.file.name,
        "counts": {
            "kept": int((~out & ~decided.dropped).sum()),
            "dropped": int(decided.dropped.sum()),
            "quarantined": int(out.sum()),
        },
        "misread": misread_columns(rows),
        "unscored": int(kept_so.sum()),
        **decided.facts,
        **spec.observed(shard, rows, valid[places], dropped),
        "files": [written.to_receipt() for written in files],
        "seconds": time.perf_counter() - began,
    }
    return receipts.write(spec.store, STAGE, shard, spec.key, facts)


def empty_dropped(schema: pa.Schema, *, with_quantile: bool, with_ids: WithIds = "dropped") -> pa.Table:
    """What dropped/ holds when nothing was dropped: its columns and no row."""
    known = {} if with_ids == "none" else {SAMPLE_ID: pa.string()}
    quantile = {"quantile": pa.float64()} if with_quantile else {}
    kinds = {**known, "method": pa.string(), "score": pa.float32(), **quantile, "reason": pa.string()}
    # Not schema.empty_table(), which fails for lists of JSON.
    nothing = pa.Table.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)
    return beside(nothing, {name: pa.array([], kind) for name, kind in kinds.items()})


def _has_code(captured: pa.Table, codes: frozenset[str]) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = pc.is_in(captured.column("code"), pa.array(sorted(codes), pa.string())).to_numpy()
    return found


def _scores_table(shard: Shard, ids: pa.Array, out: np.ndarray[Any, Any], decided: Decided) -> pa.Table:
    """With the digest of the rows that were scored, so that `tamis select` knows them again."""
    decisions = np.where(out, "quarantined", np.where(decided.dropped, "dropped", "kept"))
    return pa.table(
        {
            SAMPLE_ID: ids,
            "source": pa.array([shard.file.name] * shard.rows, pa.string()),
            "row": pa.array(np.arange(shard.span.start_row, shard.span.stop_row), pa.int64()),
            **decided.scores,
            "decision": pa.array(decisions.tolist(), pa.string()),
            **{name: decided.captured.column(name) for name in _CAPTURED},
        },
        metadata={INPUT_DIGEST: decided.input},
    )
