"""Emit shards: each row in kept, dropped or quarantine, a row of scores for each, then a receipt for each shard.

Shards of a group (groups.py) share their files of kept/ and dropped/. One task writes them, a shard at a time, and the
receipts when all is written: the receipt of the first shard lists the files that they share.

A `Decided` says what becomes of each row, by a score of the sample or by masked tokens; everything is written here. The
original rows are read again from the input and compared with those that were captured. So captures hold no text, and
kept/ has the columns, types and metadata of the input to the byte; of JSON rows, the values.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack
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
from tamis.pipeline.run.row_places import GROUPED, said_of
from tamis.pipeline.run.set_aside import SetAside, set_aside
from tamis.pipeline.storage.store import Store, TableWriter

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


Item = tuple[Shard, int, Any]
"""A shard, how many ties at the cut fall in it, and what the stages before have made of it."""


def emit(
    spec: EmitSpec,
    groups: Sequence[Sequence[Item]],
    task_cpus: float,
    on_set_aside: Callable[[SetAside], None] | None = None,
    timeout: float | None = None,
) -> Generator[Receipt]:
    """Write the outputs of every group and yield the receipts of its shards, in any order. Raises InputError if the
    input changed.

    on_set_aside: told of a shard whose workers all died or hung, or whose rows are too large; without it that is an
    error. The other shards of its group are written, each into files of its own. timeout: seconds without progress
    after which workers are taken for hung.
    """
    apart: list[Item] = []

    def lost(index: int, reason: str) -> None:
        """Find out which shard of the group it is."""
        [(shard, _, _), *others] = group = groups[index]
        if others:
            apart.extend(group)
        elif on_set_aside is not None:
            on_set_aside(set_aside(shard, reason))

    told = None if on_set_aside is None else lost
    for _, done in stream(write_group, groups, spec, cpus=task_cpus, on_lost=told, timeout=timeout):
        yield from done
    if apart:
        yield from emit(spec, [[item] for item in apart], task_cpus, on_set_aside, timeout)


def write_group(group: Sequence[Item], spec: EmitSpec) -> list[Receipt]:
    """Write the tables of these shards, which follow each other in the corpus, and return their receipts. In memory are
    the rows of one of them."""
    names = [shard.name for shard, _, _ in group]
    shared: dict[str, TableWriter] = {}
    held: dict[str, list[tuple[str, int]]] = {part: [] for part in GROUPED}
    found: list[dict[str, Any]] = []
    with ExitStack() as open_files:
        for item in group:
            tables, facts = _tables(item, spec)
            for part in GROUPED:
                table = tables.pop(part, None)
                held[part].append((item[0].name, 0 if table is None else table.num_rows))
                if table is None:
                    continue
                if part not in shared:
                    writing = spec.store.writing_table(table_of(part, names[0]), table.schema)
                    shared[part] = open_files.enter_context(writing)
                shared[part].add(table)
            own = [spec.store.write_table(table_of(part, item[0].name), table) for part, table in tables.items()]
            found.append({**facts, "files": [written.to_receipt() for written in own]})
    files = [{**writer.written.to_receipt(), **said_of(held[part])} for part, writer in shared.items()]
    found[0]["files"] = [*files, *found[0]["files"]]
    group_facts = {"group": [names[0], len(names)]} if len(names) > 1 else {}
    return [
        receipts.write(spec.store, STAGE, shard, spec.key, {**facts, **group_facts})
        for (shard, _, _), facts in zip(group, found, strict=True)
    ]


def _tables(item: Item, spec: EmitSpec) -> tuple[dict[str, pa.Table], dict[str, Any]]:
    """The tables of a shard, by folder, and what its receipt says besides its files."""
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
        "seconds": time.perf_counter() - began,
    }
    return tables, facts


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
