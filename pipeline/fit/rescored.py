"""The scores of a finished run, ready for another cut: each shard's table as a fresh run's fit would write it.

Its rows that were not scored keep their code, and what the report needs of each row stands beside the scores, so the
stages that follow need nothing else.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tamis.operators.methods.protocol import tree_reduce
from tamis.operators.problems import UNSCORED
from tamis.operators.statistics.lengths import length_histogram
from tamis.operators.statistics.ranking import coarse_histogram
from tamis.pipeline.cluster.tasks import map_reduce
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.fit.exact_cut import grouped, plus
from tamis.pipeline.fit.scores import DECIDING, LENGTHS, ScoreSums, deciding_scores
from tamis.pipeline.run.paths import FITTED, INPUT_DIGEST, table_of
from tamis.pipeline.storage.store import Sealed, Store

_BESIDE = ("n_tokens", "n_response_tokens", "truncated")


@dataclass(frozen=True)
class RescoreSpec:
    """parent: holds scores/ and quarantine/. store: gets the tables. decided_by, control_seed, longest: as for
    ScoreSpec."""

    store: Store
    parent: Store
    methods: tuple[str, ...]
    decided_by: str
    control_seed: int | None
    longest: int


class Scored(NamedTuple):
    """A shard of the finished run: its name, where its rows lie, and its tables; quarantine: None if it has none."""

    name: str
    source: str
    start_row: int
    rows: int
    scores: Sealed
    quarantine: Sealed | None


@dataclass(frozen=True, eq=False)
class Rescored:
    """inputs: of each shard, the digest of the rows that were scored."""

    sums: ScoreSums
    inputs: tuple[str, ...]

    def __add__(self, other: Rescored) -> Rescored:
        return Rescored(self.sums + other.sums, self.inputs + other.inputs)


def rescore(spec: RescoreSpec, shards: Sequence[Scored], on_done: Callable[[int], None]) -> Rescored:
    """Write FITTED for every shard, and return the sums over all. ConfigError if a table is not one of such a run.
    The tables are those that `check_scores` has let pass."""
    groups = grouped(shards)
    found: Rescored = map_reduce(_group, plus, groups, spec, on_done=lambda number: on_done(len(groups[number])))
    return found


def check_scores(store: Store, tables: Sequence[Sealed]) -> None:
    """ConfigError, which names one, if tables of scores do not say which rows were scored. Ray must be running."""
    silent: list[str] = map_reduce(_silent, plus, grouped(tables), store)
    if silent:
        raise ConfigError(
            f"select: {store.path(silent[0])} does not say which rows were scored: an earlier tamis wrote it; run its "
            "job again in a new output folder"
        )


def _silent(group: Sequence[Sealed], store: Store) -> list[str]:
    return [file.name for file in group if not _digest_in(pq.read_schema(io.BytesIO(store.read(file))))]


def _digest_in(schema: pa.Schema) -> str:
    """Of the rows that were scored; empty if an earlier tamis wrote the table."""
    digest: bytes = (schema.metadata or {}).get(INPUT_DIGEST.encode(), b"")
    return digest.decode()


def _group(group: Sequence[Scored], spec: RescoreSpec) -> Rescored:
    return tree_reduce((_one(shard, spec) for shard in group), plus)


def _one(shard: Scored, spec: RescoreSpec) -> Rescored:
    table = spec.parent.read_table(shard.scores)
    codes, messages = _problems(shard, table, spec)
    valid = pc.is_null(codes).to_numpy(zero_copy_only=False)
    scores = {name: table.column(name).combine_chunks() for name in spec.methods}
    for name, column in scores.items():
        if column.type != pa.float32() or not np.array_equal(column.is_valid().to_numpy(zero_copy_only=False), valid):
            raise _not_ours(shard, spec, f"{name} has not a score for each row that can have one")
    method_scores = scores[spec.decided_by].drop_null().to_numpy(zero_copy_only=False)
    deciding = deciding_scores(method_scores, shard.source, shard.start_row, valid, spec.control_seed)
    full = np.zeros(len(valid), dtype=np.float32)
    full[valid] = deciding
    columns = {
        **scores,
        DECIDING: pa.array(full, mask=~valid),
        "code": codes,
        "message": messages,
        **{name: table.column(name) for name in _BESIDE},
    }
    written = spec.store.write_table(table_of(FITTED, shard.name), pa.table(columns))
    lengths = table.column(LENGTHS).to_numpy()[valid]
    sums = ScoreSums(
        coarse_histogram(deciding),
        length_histogram(lengths, spec.longest),
        float(method_scores.min(initial=np.inf)),
        float(method_scores.max(initial=-np.inf)),
        (written.sealed,),
    )
    return Rescored(sums, (_digest_in(table.schema),))


def _problems(shard: Scored, table: pa.Table, spec: RescoreSpec) -> tuple[pa.Array, pa.Array]:
    """Code and message of each row; both null where it was scored."""
    place = (shard.source, shard.start_row, shard.rows)
    found = (table.column("source")[0].as_py(), table.column("row")[0].as_py(), table.num_rows)
    if found != place:
        raise _not_ours(shard, spec, "it is of other rows than the input has there")
    decisions = table.column("decision").combine_chunks()
    out = pc.equal(decisions, "quarantined").to_numpy(zero_copy_only=False)
    set_aside = None if shard.quarantine is None else spec.parent.read_table(shard.quarantine, ["code", "message"])
    if int(out.sum()) != (0 if set_aside is None else set_aside.num_rows):
        raise _not_ours(shard, spec, "it says another number of quarantined rows than there is")
    codes = np.full(table.num_rows, None, dtype=object)
    messages = codes.copy()
    # Rows of which a model learns nothing are in kept/, without a score.
    [unscored] = UNSCORED
    codes[~table.column(spec.decided_by).combine_chunks().is_valid().to_numpy(zero_copy_only=False)] = unscored
    if set_aside is not None:
        codes[out] = set_aside.column("code").to_pylist()
        messages[out] = set_aside.column("message").to_pylist()
    return pa.array(codes, pa.string()), pa.array(messages, pa.string())


def _not_ours(shard: Scored, spec: RescoreSpec, what: str) -> ConfigError:
    return ConfigError(f"select: {spec.parent.path(shard.scores.name)}: {what}; run its job again in a new folder")
