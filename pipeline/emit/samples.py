"""Emit: rows + scores + cut -> kept, dropped, quarantine and scores, one file of each per shard, then its receipt.

The original rows are read from the input again (its identity is checked). So captured tables hold no text, and kept/
has exactly the columns, types and metadata of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis.operators.statistics.lengths import decile_of
from tamis.operators.statistics.ranks import RankSums, rank_bins, rank_sums
from tamis.operators.statistics.selection import Threshold, decide
from tamis.pipeline.capture.spec import Captured
from tamis.pipeline.cluster.tasks import stream
from tamis.pipeline.fit.scores import DECIDING
from tamis.pipeline.inputs.originals import originals, quarantine_table
from tamis.pipeline.inputs.sample_ids import sample_ids
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.run import receipts
from tamis.pipeline.run.paths import DROPPED, KEPT, QUARANTINE, SCORES, table_of
from tamis.pipeline.run.receipts import Receipt
from tamis.pipeline.run.set_aside import SetAside, telling
from tamis.pipeline.storage.store import Sealed, Store

SHOWN_RISKIEST, SHOWN_BORDERLINE = 20, 10


class Made(NamedTuple):
    """The results of the earlier stages for one shard."""

    captured: Captured
    scores: Sealed


@dataclass(frozen=True, eq=False)
class EmitSpec:
    """All that a task needs. edges: bin edges of the score histogram. rank_edges: edges of the bins in which scores
    are ranked. score_ranks, length_ranks: midranks by those bins and by number of response tokens."""

    store: Store
    options: Mapping[str, Any]
    key: str
    schema: bytes
    methods: tuple[str, ...]
    decided_by: str
    control: str | None
    threshold: Threshold
    scored: int
    edges: np.ndarray[Any, Any]
    rank_edges: np.ndarray[Any, Any]
    score_ranks: np.ndarray[Any, Any]
    length_ranks: np.ndarray[Any, Any]
    decile_edges: np.ndarray[Any, Any]

    def opened_schema(self) -> pa.Schema:
        return pa.ipc.read_schema(pa.py_buffer(self.schema))


def emit(
    spec: EmitSpec,
    shards: Sequence[Shard],
    quotas: Sequence[int],
    made: Mapping[str, Made],
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


def _emit_shard(item: tuple[str, int, Made], spec: EmitSpec) -> Receipt:
    shard, quota, made = Shard.from_json(item[0]), item[1], item[2]
    captured = spec.store.read_table(
        made.captured.file, ["code", "message", "n_tokens", "n_response_tokens", "truncated"]
    )
    scores = spec.store.read_table(made.scores)
    valid = pc.is_null(captured.column("code")).to_numpy()
    deciding = _plain(scores.column(DECIDING))
    dropped = np.zeros(len(valid), dtype=bool)
    dropped[valid] = decide(deciding[valid], spec.threshold, quota)
    kept = valid & ~dropped
    ids = sample_ids(shard.file.name, shard.span.start_row, shard.rows)
    table, places, unreadable = originals(shard, spec.options, spec.opened_schema(), valid, made.captured.input)

    files = [spec.store.write_table(table_of(KEPT, shard.name), table.filter(pa.array(kept[places])))]
    method_scores = _plain(scores.column(spec.decided_by))
    if dropped.any():
        chosen = table.filter(pa.array(dropped[places]))
        files.append(
            spec.store.write_table(table_of(DROPPED, shard.name), _with_reasons(chosen, method_scores[dropped], spec))
        )
    if not valid.all():
        quarantined = quarantine_table(shard, captured, unreadable)
        files.append(spec.store.write_table(table_of(QUARANTINE, shard.name), quarantined))
    files.append(
        spec.store.write_table(table_of(SCORES, shard.name), _scores_table(shard, ids, captured, scores, dropped, spec))
    )

    facts = _facts(shard, method_scores, dropped, valid, captured, spec)
    facts["files"] = [written.to_receipt() for written in files]
    return receipts.write(spec.store, "emit", shard, spec.key, facts)


# --- the files ----------------------------------------------------------------------------------------------------


def _with_reasons(table: pa.Table, scores: np.ndarray[Any, Any], spec: EmitSpec) -> pa.Table:
    if spec.control is None:
        cut = spec.threshold.value
        reasons = [
            f"{spec.decided_by} score {score:.6g} is {'above' if score > cut else 'at'} the cut {cut:.6g}"
            for score in scores
        ]
    else:
        reasons = [f"{spec.control} control: removed without regard to its score"] * len(scores)
    # The share of scored rows that are less risky; ties count half.
    quantiles = (spec.score_ranks[rank_bins(scores, spec.rank_edges)] - 0.5) / spec.scored
    added = {
        "method": pa.array([spec.decided_by] * len(scores), pa.string()),
        "score": pa.array(scores, pa.float32()),
        "quantile": pa.array(quantiles, pa.float64()),
        "reason": pa.array(reasons, pa.string()),
    }
    for name, column in added.items():
        table = table.append_column(name if name not in table.schema.names else f"tamis_{name}", column)
    return table


def empty_dropped(schema: pa.Schema) -> pa.Table:
    """The table in dropped/ when nothing was dropped: the columns and no rows."""
    table = schema.empty_table()
    added = {"method": pa.string(), "score": pa.float32(), "quantile": pa.float64(), "reason": pa.string()}
    for name, kind in added.items():
        table = table.append_column(name if name not in schema.names else f"tamis_{name}", pa.array([], kind))
    return table


def _scores_table(
    shard: Shard,
    ids: Sequence[str],
    captured: pa.Table,
    scores: pa.Table,
    dropped: np.ndarray[Any, Any],
    spec: EmitSpec,
) -> pa.Table:
    valid = pc.is_null(captured.column("code")).to_numpy()
    decisions = np.where(valid, np.where(dropped, "dropped", "kept"), "quarantined")
    columns: dict[str, Any] = {
        "sample_id": pa.array(ids, pa.string()),
        "source": pa.array([shard.file.name] * shard.rows, pa.string()),
        "row": pa.array(np.arange(shard.span.start_row, shard.span.stop_row), pa.int64()),
    }
    columns.update({name: scores.column(name) for name in spec.methods})
    columns["decision"] = pa.array(decisions.tolist(), pa.string())
    columns.update({name: captured.column(name) for name in ("n_tokens", "n_response_tokens", "truncated")})
    return pa.table(columns)


def _plain(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """float32 (rows,) with 0 where there is no score."""
    values: np.ndarray[Any, Any] = column.combine_chunks().fill_null(0).to_numpy(zero_copy_only=False)
    return values.astype(np.float32)


# --- the numbers --------------------------------------------------------------------------------------------------


def _facts(
    shard: Shard,
    scores: np.ndarray[Any, Any],
    dropped: np.ndarray[Any, Any],
    valid: np.ndarray[Any, Any],
    captured: pa.Table,
    spec: EmitSpec,
) -> dict[str, Any]:
    kept = valid & ~dropped
    lengths = captured.column("n_response_tokens").to_numpy()
    deciles = decile_of(lengths[valid], spec.decile_edges)
    sums = rank_sums(
        rank_bins(scores[valid], spec.rank_edges), lengths[valid], spec.score_ranks, spec.length_ranks, spec.scored
    )
    return {
        "counts": {
            "kept": int(kept.sum()),
            "dropped": int(dropped.sum()),
            "quarantined": int((~valid).sum()),
        },
        "source": shard.file.name,
        "histogram": {
            "kept": _histogram(scores[kept], spec.edges),
            "dropped": _histogram(scores[dropped], spec.edges),
        },
        "deciles": {
            "rows": np.bincount(deciles, minlength=10).tolist(),
            "dropped": np.bincount(deciles[dropped[valid]], minlength=10).tolist(),
        },
        "rank_sums": [sums.count, sums.squares_a, sums.squares_b, sums.products],
        "riskiest": _extreme(scores, valid, lengths, SHOWN_RISKIEST, highest=True),
        "borderline_dropped": _extreme(scores, dropped, lengths, SHOWN_BORDERLINE, highest=False),
        "borderline_kept": _extreme(scores, kept, lengths, SHOWN_BORDERLINE, highest=True),
    }


def _histogram(scores: np.ndarray[Any, Any], edges: np.ndarray[Any, Any]) -> list[int]:
    inside = np.clip(scores.astype(np.float64), edges[0], edges[-1])
    return np.histogram(inside, bins=edges)[0].tolist()  # type: ignore[no-any-return]


def _extreme(
    scores: np.ndarray[Any, Any],
    among: np.ndarray[Any, Any],
    lengths: np.ndarray[Any, Any],
    count: int,
    *,
    highest: bool,
) -> list[tuple[float, int, int]]:
    """(score, place in the shard, response tokens) of the `count` most extreme rows, the most extreme first."""
    # Ties are dropped in corpus order from the top: the last of equal scores is the lowest.
    places = np.flatnonzero(among) if highest else np.flatnonzero(among)[::-1]
    order = np.argsort(-scores[places] if highest else scores[places], kind="stable")[:count]
    return [(float(scores[p]), int(p), int(lengths[p])) for p in places[order]]


def add_sums(a: RankSums, values: Sequence[float]) -> RankSums:
    """`a` plus the sums of one receipt."""
    return a + RankSums(int(values[0]), *(float(value) for value in values[1:]))
