"""The mean score over several models, exact over any number of shards (operators/statistics/consensus.py).

Every shard has a table of scores under the job's own model, and one under each further model. A row that one of these
could not score has no score: it is set aside, with that model's reason. The percentiles and the spread of each model
are over the rows that all of them have scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis.operators.methods.protocol import tree_reduce
from tamis.operators.statistics.consensus import (
    HIGHEST,
    LOWEST,
    UNSCALED,
    Scale,
    Spread,
    between,
    consensus,
    places_of,
    spread_of,
)
from tamis.operators.statistics.lengths import length_histogram
from tamis.operators.statistics.ranking import BINS, coarse_histogram, fine_histogram, nth_largest
from tamis.pipeline.capture.spec import score_column
from tamis.pipeline.cluster.tasks import map_reduce
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.fit.exact_cut import coarse_of, grouped, plus
from tamis.pipeline.fit.scores import DECIDING, LENGTHS, ScoreSums, read_scores
from tamis.pipeline.inputs.sample_ids import sample_ids
from tamis.pipeline.run.paths import CONSENSUS, table_of
from tamis.pipeline.storage.store import Sealed, Store

CARRIED = ("code", "message", "n_tokens", "truncated")
"""Columns of the captures that the tables of scores must have, too."""
_EXAMPLES = 3


class Tables(NamedTuple):
    """A shard: its name, where its rows lie, its scores under the job's model (FITTED, with CARRIED), and its captured
    scores under each further model."""

    name: str
    source: str
    start_row: int
    scores: Sealed
    further: tuple[Sealed, ...]


@dataclass(frozen=True)
class ConsensusSpec:
    """method: whose score becomes the mean; all: that have a column of scores. decided_by: the method that decides, by
    its score unless chance does. models: names, the job's first. longest: as for ScoreSpec."""

    store: Store
    method: str
    all: tuple[str, ...]
    decided_by: str
    by_chance: bool
    models: tuple[str, ...]
    longest: int

    def column(self, number: int) -> str:
        """Of the scores under one model."""
        return f"{self.method}.{number}"


@dataclass(frozen=True, eq=False)
class Gone:
    """Rows that a further model could not score: how many by code, with a message and some sample ids of each."""

    codes: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def __add__(self, other: Gone) -> Gone:
        codes = self.codes + other.codes
        examples = {code: [*self.examples.get(code, ()), *other.examples.get(code, ())][:_EXAMPLES] for code in codes}
        return Gone(codes, {**other.messages, **self.messages}, examples)


@dataclass(frozen=True, eq=False)
class Consensus:
    """sums: over the new tables. gone: of rows that the job's own model has scored. models: facts of each, for the
    manifest."""

    sums: ScoreSums
    gone: Gone
    models: list[dict[str, Any]]


def mean_over_models(spec: ConsensusSpec, shards: Sequence[Tables], *, scaled: bool) -> Consensus:
    """Write CONSENSUS for every shard. scaled: whether scores are clipped and divided by their spread before the mean.

    ConfigError if no row has a score in every model, or the scores of a model are all alike and cannot be scaled.
    """
    joined: _Joined = map_reduce(_join_group, plus, grouped(shards), spec)
    count = joined.rows
    if not count:
        raise ConfigError(f"{spec.method}.models: no row has a score in each of the {len(spec.models)} models")
    found = [_scale(spec, number, joined.files, count) for number in range(len(spec.models))]
    if scaled:
        for name, (scale, _) in zip(spec.models, found, strict=True):
            if not scale.spread > 0:
                raise ConfigError(
                    f"{spec.method}.models: {name} scores all {count:,} rows alike once they are clipped, so its "
                    f"scores cannot be scaled; leave the model out, or set {spec.method}.normalise: none"
                )
    scales = [scale if scaled else UNSCALED for scale, _ in found]
    members = list(zip([shard.name for shard in shards], joined.files, strict=True))
    sums: ScoreSums = map_reduce(_mean_group, plus, grouped(members), spec, scales)
    models = [
        {"model": name, "rows": count, **facts, "p1": scale.low, "p99": scale.high, "std": scale.spread}
        for name, (scale, facts) in zip(spec.models, found, strict=True)
    ]
    return Consensus(sums, joined.gone, models)


# --- the rows that all models have scored ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Joined:
    rows: int
    files: tuple[Sealed, ...]
    gone: Gone

    def __add__(self, other: _Joined) -> _Joined:
        return _Joined(self.rows + other.rows, self.files + other.files, self.gone + other.gone)


def _join_group(group: Sequence[Tables], spec: ConsensusSpec) -> _Joined:
    return tree_reduce((_join(shard, spec) for shard in group), plus)


def _join(shard: Tables, spec: ConsensusSpec) -> _Joined:
    """The shard's table with the scores of every model, all null where one is missing."""
    table = spec.store.read_table(shard.scores)
    codes = table.column("code").to_pylist()
    messages = table.column("message").to_pylist()
    scores = [_numbers(table.column(spec.method))]
    own = pc.is_null(table.column("code")).to_numpy()
    for name, file in zip(spec.models[1:], shard.further, strict=True):
        theirs = spec.store.read_table(file, ["code", "message", score_column(spec.method)])
        scores.append(_numbers(theirs.column(score_column(spec.method))))
        for row in np.flatnonzero(~pc.is_null(theirs.column("code")).to_numpy()):
            if codes[row] is None:
                codes[row] = theirs.column("code")[row].as_py()
                messages[row] = f"{name}: {theirs.column('message')[row].as_py()}"
    valid = np.array([code is None for code in codes], dtype=bool)
    ids = sample_ids(shard.source, shard.start_row, len(valid))
    gone = tree_reduce(
        [Gone(), *(_one(codes[row], messages[row], ids[row]) for row in np.flatnonzero(own & ~valid))], plus
    )
    for name in (*spec.all, DECIDING):
        table = table.set_column(
            table.schema.get_field_index(name), name, _spread(_numbers(table.column(name))[valid], valid)
        )
    for number, found in enumerate(scores):
        table = table.append_column(spec.column(number), _spread(found[valid], valid))
    for name, values in (("code", codes), ("message", messages)):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
    written = spec.store.write_table(table_of(f"{CONSENSUS}/joined", shard.name), table)
    return _Joined(int(valid.sum()), (written.sealed,), gone)


def _one(code: str, message: str, sample_id: str) -> Gone:
    return Gone(Counter({code: 1}), {code: message}, {code: [sample_id]})


def _numbers(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """float32 (rows,) with 0 where there is no score."""
    values: np.ndarray[Any, Any] = column.combine_chunks().fill_null(0).to_numpy(zero_copy_only=False)
    return values.astype(np.float32)


def _spread(scores: np.ndarray[Any, Any], valid: np.ndarray[Any, Any]) -> pa.Array:
    full = np.zeros(len(valid), dtype=np.float32)
    full[valid] = scores
    return pa.array(full, mask=~valid)


# --- the scale of each model ----------------------------------------------------------------------------------------


def _scale(spec: ConsensusSpec, number: int, files: Sequence[Sealed], count: int) -> tuple[Scale, dict[str, Any]]:
    """Of one model, exact over the corpus; and its lowest, highest and mean score."""
    values = partial(read_scores, column=spec.column(number))
    coarse = coarse_of(spec.store, files, values)

    def at(place: int) -> float:
        """The number at this place of all, ascending from 0."""
        fine = partial(map_reduce, _fine, plus, grouped(files), spec.store, spec.column(number))
        return nth_largest(count - place, lambda: coarse, fine).value

    places = {percent: places_of(percent, count) for percent in (LOWEST, HIGHEST)}
    sorted_at = {place: at(place) for below, above, _ in places.values() for place in (below, above)}
    low, high = (between(sorted_at[below], sorted_at[above], share) for below, above, share in places.values())
    clipped: Spread = map_reduce(_clipped, plus, grouped(files), spec.store, spec.column(number), low, high)
    plain: Spread = map_reduce(_clipped, plus, grouped(files), spec.store, spec.column(number), -np.inf, np.inf)
    facts = {"lowest": at(0), "highest": at(count - 1), "mean": plain.mean}
    return Scale(low, high, clipped.deviation), facts


def _fine(group: Sequence[Sealed], store: Store, column: str, bin: int) -> np.ndarray[Any, Any]:
    total = np.zeros(BINS, dtype=np.int64)
    for file in group:
        total += fine_histogram(read_scores(store, file, column), bin)
    return total


def _clipped(group: Sequence[Sealed], store: Store, column: str, low: float, high: float) -> Spread:
    return tree_reduce((spread_of(read_scores(store, file, column), low, high) for file in group), plus)


# --- the mean -------------------------------------------------------------------------------------------------------


def _mean_group(group: Sequence[tuple[str, Sealed]], spec: ConsensusSpec, scales: Sequence[Scale]) -> ScoreSums:
    return tree_reduce((_mean(name, file, spec, scales) for name, file in group), plus)


def _mean(name: str, file: Sealed, spec: ConsensusSpec, scales: Sequence[Scale]) -> ScoreSums:
    table = spec.store.read_table(file)
    valid = table.column(spec.method).is_valid().to_numpy()
    scores = [_numbers(table.column(spec.column(number)))[valid] for number in range(len(scales))]
    means = _spread(consensus(scores, scales), valid)
    table = table.set_column(table.schema.get_field_index(spec.method), spec.method, means)
    decided = table.column(spec.decided_by).combine_chunks()
    if not spec.by_chance:
        table = table.set_column(table.schema.get_field_index(DECIDING), DECIDING, decided)
    written = spec.store.write_table(table_of(CONSENSUS, name), table)
    deciding, shown = _numbers(table.column(DECIDING))[valid], _numbers(table.column(spec.decided_by))[valid]
    return ScoreSums(
        coarse_histogram(deciding),
        length_histogram(table.column(LENGTHS).to_numpy()[valid], spec.longest),
        float(shown.min(initial=np.inf)),
        float(shown.max(initial=-np.inf)),
        (written.sealed,),
    )
