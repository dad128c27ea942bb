"""Which tokens fall: risk + cut -> what becomes of each row of a shard, and what a trainer reads of it.

kept/ has the original columns and the columns that a trainer reads: input_ids, attention_mask (1 everywhere: trainers
know a tokenised corpus by it), labels with -100 on prompt and discarded tokens, and the risk of every response token.
The token that ends an answer's turn keeps its label, because a model should learn to stop. A sample whose response
tokens are all discarded goes to dropped/.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from tamis.operators.methods.toss import per_row_counts, training_columns, turn_ends
from tamis.pipeline.capture.token_tables import LossFiles, Ragged, TokenShard, read_tokens
from tamis.pipeline.emit.shard import Decided, EmitSpec
from tamis.pipeline.fit.token_risks import TokenCut, discarded_tokens
from tamis.pipeline.inputs.shards import Shard


class TokensMade(NamedTuple):
    """The results of the earlier stages for one shard. input: digest of the rows that were scored."""

    scored: LossFiles
    input: str


@dataclass(frozen=True, eq=False)
class TokenSpec(EmitSpec):
    """method: its name, for the tables. control_ids: of the tokens that only the chat template writes."""

    method: str
    cut: TokenCut
    control_ids: frozenset[int]

    def decide(self, shard: Shard, quota: int, made: TokensMade) -> Decided:
        read = read_tokens(self.store, made.scored, tokens=True)
        discarded = discarded_tokens(read.risk, self.cut, quota)
        counts = per_row_counts(discarded, read.risk.offsets)
        emptied = counts == read.risk.lengths
        means = _means(read.risk)
        dropped = np.zeros(len(read.valid), dtype=bool)
        dropped[read.valid] = emptied
        return Decided(
            captured=read.facts,
            input=made.input,
            dropped=dropped,
            reasons=_reasons(means[emptied], counts[emptied], self.method),
            scores=_scores(read, means, counts, self.method),
            facts={
                "quarantined": dict(Counter(read.facts.column("code").drop_null().to_pylist())),
                "messages": _messages(read.facts),
                "tokens": {"response": len(discarded), "discarded": int(discarded.sum())},
            },
            trained=partial(_with_training_columns, read=read, discarded=discarded, control_ids=self.control_ids),
        )


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
        "attention_mask": _lists(pa.array(np.ones(len(labels), dtype=np.int8)), offsets),
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


def _reasons(scores: np.ndarray[Any, Any], counts: np.ndarray[Any, Any], method: str) -> dict[str, pa.Array]:
    return {
        "method": pa.array([method] * len(counts), pa.string()),
        "score": pa.array(scores, pa.float32()),
        "reason": pa.array([f"all {count} response tokens are discarded" for count in counts], pa.string()),
    }


def _scores(
    read: TokenShard, means: np.ndarray[Any, Any], counts: np.ndarray[Any, Any], method: str
) -> dict[str, pa.Array]:
    highest = np.maximum.reduceat(np.append(read.risk.values, np.float32(-np.inf)), read.risk.offsets[:-1])

    def spread(values: np.ndarray[Any, Any], kind: pa.DataType) -> pa.Array:
        full = np.zeros(len(read.valid), dtype=values.dtype)
        full[read.valid] = values
        return pa.array(full, kind, mask=~read.valid)

    return {
        method: spread(means, pa.float32()),
        f"{method}_highest": spread(highest, pa.float32()),
        "n_discarded": spread(counts, pa.int32()),
    }
