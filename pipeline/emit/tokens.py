"""Emit of a method that masks tokens: rows + risk + cut -> kept, dropped, quarantine and scores of each shard.

kept/ has the original columns and the columns that a trainer reads: input_ids, labels with -100 on prompt and discarded
tokens, and the risk of every response token. The token that ends an answer's turn keeps its label, because a model
should learn to stop. A sample whose response tokens are all discarded goes to dropped/.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from tamis.operators.methods.toss import per_row_counts, training_columns, turn_ends
from tamis.pipeline.capture.token_tables import LossFiles, Ragged, TokenShard, read_tokens
from tamis.pipeline.cluster.tasks import stream
from tamis.pipeline.fit.token_risks import TokenCut, discarded_tokens
from tamis.pipeline.inputs.originals import originals, quarantine_table
from tamis.pipeline.inputs.sample_ids import sample_ids
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.run import receipts
from tamis.pipeline.run.paths import DROPPED, KEPT, QUARANTINE, SCORES, table_of
from tamis.pipeline.run.receipts import Receipt
from tamis.pipeline.run.set_aside import SetAside, telling
from tamis.pipeline.storage.store import Store

STAGE = "emit"


class TokensMade(NamedTuple):
    """The results of the earlier stages for one shard. input: digest of the rows that were scored."""

    scored: LossFiles
    input: str


@dataclass(frozen=True, eq=False)
class TokenEmitSpec:
    """All that a task needs. method: the method's name, for the tables. control_ids: ids of the tokens that only the
    chat template writes."""

    store: Store
    options: Mapping[str, Any]
    key: str
    schema: bytes
    method: str
    cut: TokenCut
    control_ids: frozenset[int]

    def opened_schema(self) -> pa.Schema:
        return pa.ipc.read_schema(pa.py_buffer(self.schema))


def emit_tokens(
    spec: TokenEmitSpec,
    shards: Sequence[Shard],
    quotas: Sequence[int],
    made: Mapping[str, TokensMade],
    task_cpus: float,
    on_set_aside: Callable[[SetAside], None] | None = None,
    timeout: float | None = None,
) -> Generator[Receipt]:
    """Write the outputs of every shard and yield its receipt, in any order. Raises InputError if the input changed.

    made: by shard name. on_set_aside: called with a shard whose workers all died or hung, or whose rows are too large;
    without it that is an error. timeout: seconds without progress after which workers count as hung.
    """
    items = [(shard.to_json(), quota, made[shard.name]) for shard, quota in zip(shards, quotas, strict=True)]
    lost = telling(on_set_aside, shards)
    for _, receipt in stream(_emit_shard, items, spec, cpus=task_cpus, on_lost=lost, timeout=timeout):
        yield receipt


def _emit_shard(item: tuple[str, int, TokensMade], spec: TokenEmitSpec) -> Receipt:
    shard, quota, made = Shard.from_json(item[0]), item[1], item[2]
    read = read_tokens(spec.store, made.scored, tokens=True)
    discarded = discarded_tokens(read.risk, spec.cut, quota)
    counts = per_row_counts(discarded, read.risk.offsets)
    emptied = counts == read.risk.lengths
    table, _, unreadable = originals(shard, spec.options, spec.opened_schema(), read.valid, made.input)
    trained = _with_training_columns(table, read, discarded, spec.control_ids)

    files = [spec.store.write_table(table_of(KEPT, shard.name), trained.filter(pa.array(~emptied)))]
    means = _means(read.risk)
    if emptied.any():
        chosen = _with_reasons(table.filter(pa.array(emptied)), means[emptied], counts[emptied], spec.method)
        files.append(spec.store.write_table(table_of(DROPPED, shard.name), chosen))
    if not read.valid.all():
        quarantined = quarantine_table(shard, read.facts, unreadable)
        files.append(spec.store.write_table(table_of(QUARANTINE, shard.name), quarantined))
    scores = _scores_table(shard, read, means, counts, emptied, spec.method)
    files.append(spec.store.write_table(table_of(SCORES, shard.name), scores))
    facts = {
        "source": shard.file.name,
        "counts": {
            "kept": int((~emptied).sum()),
            "dropped": int(emptied.sum()),
            "quarantined": int((~read.valid).sum()),
        },
        "quarantined": dict(Counter(read.facts.column("code").drop_null().to_pylist())),
        "messages": _messages(read.facts),
        "tokens": {"response": len(discarded), "discarded": int(discarded.sum())},
        "files": [written.to_receipt() for written in files],
    }
    return receipts.write(spec.store, STAGE, shard, spec.key, facts)


def _messages(facts: pa.Table) -> dict[str, str]:
    """Code -> the message of one row with that code."""
    return {code: text for code, text in zip(*(facts.column(name).to_pylist() for name in ("code", "message")),
                                             strict=True) if code is not None}  # fmt: skip


def _with_training_columns(
    table: pa.Table, read: TokenShard, discarded: np.ndarray[Any, Any], control_ids: frozenset[int]
) -> pa.Table:
    assert read.input_ids is not None
    assert read.starts is not None
    assert read.stops is not None
    labels, risk, scored = training_columns(
        read.input_ids.values, read.input_ids.offsets, read.starts.values, read.stops.values, read.starts.offsets,
        read.risk.values, discarded,
    )  # fmt: skip
    offsets = read.input_ids.offsets
    ends = turn_ends(read.input_ids.values, offsets, read.stops.values, read.stops.offsets, control_ids)
    labels[ends] = read.input_ids.values[ends]
    columns = {
        "input_ids": _lists(pa.array(read.input_ids.values, pa.int32()), offsets),
        "labels": _lists(pa.array(labels, pa.int64()), offsets),
        "token_risk": _lists(pa.array(risk, pa.float32(), mask=~scored), offsets),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def _lists(values: pa.Array, offsets: np.ndarray[Any, Any]) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values).cast(pa.list_(values.type))


def _means(risk: Ragged) -> np.ndarray[Any, Any]:
    """float32 (rows,): the mean risk of each row's response tokens. Every row must have response tokens."""
    sums = np.add.reduceat(np.append(risk.values, 0.0).astype(np.float64), risk.offsets[:-1])
    means: np.ndarray[Any, Any] = (sums / np.maximum(risk.lengths, 1)).astype(np.float32)
    return means


def _with_reasons(table: pa.Table, scores: np.ndarray[Any, Any], counts: np.ndarray[Any, Any], method: str) -> pa.Table:
    added = {
        "method": pa.array([method] * len(counts), pa.string()),
        "score": pa.array(scores, pa.float32()),
        "reason": pa.array([f"all {count} response tokens are discarded" for count in counts], pa.string()),
    }
    for name, column in added.items():
        table = table.append_column(name if name not in table.schema.names else f"tamis_{name}", column)
    return table


def empty_dropped(schema: pa.Schema) -> pa.Table:
    """The table in dropped/ when nothing was dropped: the columns and no rows."""
    nothing = np.zeros(0, dtype=np.float32)
    return _with_reasons(schema.empty_table(), nothing, nothing, "")


def _scores_table(
    shard: Shard,
    read: TokenShard,
    means: np.ndarray[Any, Any],
    counts: np.ndarray[Any, Any],
    emptied: np.ndarray[Any, Any],
    method: str,
) -> pa.Table:
    decisions = np.full(len(read.valid), "quarantined", dtype="<U11")
    decisions[read.valid] = np.where(emptied, "dropped", "kept")
    starts = read.risk.offsets[:-1]
    highest = np.maximum.reduceat(np.append(read.risk.values, np.float32(-np.inf)), starts)

    def spread(values: np.ndarray[Any, Any], kind: pa.DataType) -> pa.Array:
        full = np.zeros(len(read.valid), dtype=values.dtype)
        full[read.valid] = values
        return pa.array(full, kind, mask=~read.valid)

    return pa.table(
        {
            "sample_id": pa.array(sample_ids(shard.file.name, shard.span.start_row, shard.rows), pa.string()),
            "source": pa.array([shard.file.name] * shard.rows, pa.string()),
            "row": pa.array(np.arange(shard.span.start_row, shard.span.stop_row), pa.int64()),
            method: spread(means, pa.float32()),
            f"{method}_highest": spread(highest, pa.float32()),
            "n_discarded": spread(counts, pa.int32()),
            "decision": pa.array(decisions.tolist(), pa.string()),
            **{name: read.facts.column(name) for name in ("n_tokens", "n_response_tokens", "truncated")},
        }
    )
