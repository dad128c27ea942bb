"""Fit: captured vectors -> artifact, scores, and the exact cut. No model; seconds on CPUs.

Each step is a map over groups of shards and a reduce over a fixed tree, so the result is bit-identical for any number
of workers, and the driver holds only histograms and artifacts.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import safetensors.numpy

from tamis.operators.methods import Method
from tamis.operators.methods.protocol import CORPUS, Artifact, Features, Reduce, tree_reduce
from tamis.operators.methods.scoring import scores_of
from tamis.operators.statistics.lengths import length_histogram
from tamis.operators.statistics.ranking import coarse_histogram
from tamis.operators.statistics.ranks import rank_bins
from tamis.operators.statistics.selection import (
    Threshold,
    drop_count_of,
    random_keys,
)
from tamis.pipeline.capture.spec import score_column
from tamis.pipeline.cluster.tasks import map_reduce
from tamis.pipeline.errors import ConfigError, DamagedError
from tamis.pipeline.fit.exact_cut import exact_cut, grouped, plus
from tamis.pipeline.inputs.sample_ids import sample_ids
from tamis.pipeline.inputs.shards import Shard, role_of
from tamis.pipeline.job.sections import SelectionSpec
from tamis.pipeline.run.paths import ARTIFACT, ARTIFACT_FACTS, FITTED, table_of
from tamis.pipeline.storage.store import Sealed, Store
from tamis.pipeline.terminal.voice import say_damaged

T = TypeVar("T")

DECIDING = "deciding"
"""The column of FITTED that decides: a method's score, or the seeded random score of a control."""


LENGTHS = "n_response_tokens"
"""The column of FITTED, and of captured tables, with the length of each row's answers."""


@dataclass(frozen=True)
class ScoreSpec:
    """How to score captured shards. control_seed: None, or the seed of random scores that decide instead. captures:
    where the captures lie, if not in the store that gets the scores. ready: the captures hold scores already. carried:
    columns of the captures that stand beside the scores, too. vectors: the columns of vectors that are read; None:
    all."""

    store: Store
    methods: Mapping[str, Method]
    artifacts: Mapping[str, Artifact]
    decided_by: str
    control_seed: int | None
    longest: int
    captures: Store | None = None
    ready: bool = False
    carried: tuple[str, ...] = ()
    vectors: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class ScoreSums:
    """Sums over the deciding scores of some shards: histograms by score and by response length, and the range of the
    method's score. files: the score file of each shard, in corpus order."""

    coarse: np.ndarray[Any, Any]
    lengths: np.ndarray[Any, Any]
    low: float
    high: float
    files: tuple[Sealed, ...]

    @property
    def count(self) -> int:
        return int(self.coarse.sum())

    def __add__(self, other: ScoreSums) -> ScoreSums:
        return ScoreSums(
            self.coarse + other.coarse,
            self.lengths + other.lengths,
            min(self.low, other.low),
            max(self.high, other.high),
            self.files + other.files,
        )


@dataclass(frozen=True, eq=False)
class Selection:
    """The cut: which scores are dropped, how many ties each shard drops, and the numbers for the reports."""

    threshold: Threshold
    quotas: tuple[int, ...]
    dropped: int
    at_cut: int
    sums: ScoreSums

    @property
    def digest(self) -> str:
        """Digest of everything that decides where a row goes, so that one output never mixes the rows of two cuts."""
        facts = [self.threshold.value, self.threshold.at_quota, self.quotas, self.sums.files]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


# --- artifacts ----------------------------------------------------------------------------------------------------


def fit_methods(
    store: Store,
    methods: Mapping[str, Method],
    blocks: int,
    captures: Mapping[str, Sequence[Sealed]],
    on_done: Callable[[int], None],
) -> dict[str, Artifact]:
    """Fit every method on the captured tables of each role, one file per shard. A method that has rows of its own drawn
    from the corpus is fitted to them alone. Raises ConfigError when the data cannot support a method."""
    artifacts = {}
    for name, method in methods.items():
        own = {source: captures.get(role_of(name, source), ()) for source in method.sources()}
        corpus = captures.get(role_of(name, CORPUS), captures[CORPUS])
        try:
            columns = [request.column for request in method.requests(blocks)]
            reduce = reduce_over(store, {CORPUS: corpus, **own}, on_done, columns)
            artifacts[name] = method.fit(reduce, blocks)
        except ValueError as error:
            raise ConfigError(f"{name} cannot be fitted: {error}") from None
    return artifacts


def reduce_over(
    store: Store,
    captures: Mapping[str, Sequence[Sealed]],
    on_done: Callable[[int], None],
    columns: Sequence[str] | None = None,
) -> Reduce:
    """A Reduce over captured shards as a tree of Ray tasks: the same tree as the one without Ray. columns: those of
    vectors that are read; default: all."""

    def reduce(map: Callable[[Features], T], combine: Callable[[T, T], T], source: str = CORPUS) -> T:
        files = captures.get(source, ())
        if not files:
            raise ValueError(
                f"source {source!r} has no shards; there are {sorted(name for name in captures if captures[name])}"
            )
        groups = grouped(files)

        def leaf(group: Sequence[Sealed]) -> T:
            return tree_reduce((map(read_features(store, file, columns)) for file in group), combine)

        return map_reduce(leaf, combine, groups, on_done=lambda number: on_done(len(groups[number])))

    return reduce


def read_features(store: Store, file: Sealed, columns: Sequence[str] | None = None) -> Features:
    """Column -> float32 (n, d): the rows of one captured shard that are not quarantined. columns: default: all."""
    return features_of(store.read_table(file, None if columns is None else ["code", *columns]))


def features_of(table: pa.Table) -> Features:
    """The same of a captured table, or of rows of it."""
    code = table.column("code")
    # Most shards have no quarantined row: a filter would only copy them.
    valid = (table if code.null_count == len(code) else table.filter(pc.is_null(code))).combine_chunks()
    features: dict[str, np.ndarray[Any, Any]] = {}
    for field in table.schema:
        if pa.types.is_fixed_size_list(field.type):
            column = valid.column(field.name)
            flat = pa.concat_arrays([chunk.flatten() for chunk in column.chunks]) if column.num_chunks else pa.array([])
            features[field.name] = (
                flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, field.type.list_size)
            )
    return features


def save_artifacts(
    store: Store, artifacts: Mapping[str, Artifact], facts: Mapping[str, Any], folder: str = ARTIFACT
) -> list[dict[str, Any]]:
    """Write OUT/artifact: one safetensors file per method, and artifact.json with every number a person may want."""
    files = []
    for name, artifact in artifacts.items():
        arrays = {key: np.ascontiguousarray(value) for key, value in artifact.arrays.items()}
        files.append(store.write(f"{folder}/{name}.safetensors", safetensors.numpy.save(arrays)))
    listed = [file.to_dict() for file in files]
    tree = {**facts, "methods": {name: artifact.facts for name, artifact in artifacts.items()}, "files": listed}
    files.append(store.write_facts(_facts_in(folder), tree))
    return [file.to_receipt() for file in files]


def load_artifacts(store: Store, key: str, folder: str = ARTIFACT) -> dict[str, Artifact] | None:
    """The artifacts that an interrupted run with the same settings fitted; None if there are none or one is damaged."""
    name = _facts_in(folder)
    if not store.exists(name):
        return None
    try:
        tree = store.read_facts(name)
        if tree.get("key") != key:
            return None
        files = [Sealed(file["name"], file["sha256"]) for file in tree["files"]]
        arrays = [safetensors.numpy.load(store.read(file)) for file in files]
    except ValueError as error:
        say_damaged(f"damaged: {name}: {error}; it is made again")
    except DamagedError as error:
        say_damaged(f"damaged: {error}; it is made again")
    else:
        methods = zip(tree["methods"].items(), arrays, strict=True)
        return {method: Artifact(found, facts) for (method, facts), found in methods}
    return None


def _facts_in(folder: str) -> str:
    return f"{folder}/{ARTIFACT_FACTS.removeprefix(f'{ARTIFACT}/')}"


# --- scores -------------------------------------------------------------------------------------------------------


def score_shards(
    spec: ScoreSpec, shards: Sequence[Shard], captures: Sequence[Sealed], on_done: Callable[[int], None]
) -> ScoreSums:
    """Write FITTED for every shard, and return the sums over all shards. ConfigError when nothing could be scored.

    captures: one file per shard.
    """
    members = zip(shards, captures, strict=True)
    groups = grouped([(shard.name, shard.file.name, shard.span.start_row, file) for shard, file in members])
    sums = map_reduce(_score_group, _add, groups, spec, on_done=lambda number: on_done(len(groups[number])))
    if not sums.count:
        raise ConfigError("no row could be scored: all are quarantined")
    return sums


def _add(a: ScoreSums, b: ScoreSums) -> ScoreSums:
    return a + b


def _score_group(group: Sequence[tuple[str, str, int, Sealed]], spec: ScoreSpec) -> ScoreSums:
    return tree_reduce((_score_one(*member, spec) for member in group), _add)


def _score_one(name: str, source: str, start_row: int, captured: Sealed, spec: ScoreSpec) -> ScoreSums:
    read = None if spec.vectors is None else {"code", LENGTHS, *spec.carried, *spec.vectors}
    table = (spec.captures or spec.store).read_table(captured, None if read is None else sorted(read))
    valid = pc.is_null(table.column("code")).to_numpy()
    scores = _ready(table, spec, valid) if spec.ready else _computed(table, spec, name, int(valid.sum()))
    columns: dict[str, Any] = {method: _spread(found, valid) for method, found in scores.items()}
    method_scores = columns[spec.decided_by].drop_null().to_numpy()
    deciding = deciding_scores(method_scores, source, start_row, valid, spec.control_seed)
    lengths = table.column(LENGTHS).to_numpy()[valid]
    columns[DECIDING] = _spread(deciding, valid)
    columns |= {name: table.column(name) for name in (LENGTHS, *spec.carried)}
    written = spec.store.write_table(table_of(FITTED, name), pa.table(columns))
    return ScoreSums(
        coarse_histogram(deciding),
        length_histogram(lengths, spec.longest),
        float(method_scores.min(initial=np.inf)),
        float(method_scores.max(initial=-np.inf)),
        (written.sealed,),
    )


def deciding_scores(
    method_scores: np.ndarray[Any, Any],
    source: str,
    start_row: int,
    valid: np.ndarray[Any, Any],
    control_seed: int | None,
) -> np.ndarray[Any, Any]:
    """float32, one for each valid row of a shard: the method's scores, or the random ones of a control. valid: of all
    rows of the shard, which begins at start_row of the file `source`."""
    if control_seed is None:
        return method_scores
    ids = sample_ids(source, start_row, len(valid))
    return random_keys([ids[place] for place in np.flatnonzero(valid)], control_seed)


def _computed(table: pa.Table, spec: ScoreSpec, shard: str, rows: int) -> dict[str, np.ndarray[Any, Any]]:
    try:
        return scores_of(spec.methods, spec.artifacts, features_of(table), rows)
    except ValueError as error:
        raise ConfigError(f"shard {shard}: {error}") from None


def _ready(table: pa.Table, spec: ScoreSpec, valid: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The scores that the corpus pass has written, as `_computed` gives them."""
    return {name: table.column(score_column(name)).to_numpy()[valid].astype(np.float32) for name in spec.methods}


def _spread(scores: np.ndarray[Any, Any], valid: np.ndarray[Any, Any]) -> pa.Array:
    """One score per row of the shard, null where the row is quarantined."""
    full = np.zeros(len(valid), dtype=np.float32)
    full[valid] = scores
    return pa.array(full, mask=~valid)


def read_scores(store: Store, file: Sealed, column: str = DECIDING) -> np.ndarray[Any, Any]:
    """float32 scores of one shard, in sample order, without the rows that have no score."""
    found = store.read_table(file, [column]).column(column)
    scores: np.ndarray[Any, Any] = found.combine_chunks().drop_null().to_numpy(zero_copy_only=False)
    return scores.astype(np.float32)


def rank_histogram(
    store: Store, files: Sequence[Sealed], column: str, edges: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """int64 (len(edges) + 1,): how many scores of `column` lie in each bin, over all files of scores."""
    histogram: np.ndarray[Any, Any] = map_reduce(_count_ranks, plus, grouped(files), store, column, edges)
    return histogram


def _count_ranks(group: Sequence[Sealed], store: Store, column: str, edges: np.ndarray[Any, Any]) -> Any:
    total = np.zeros(len(edges) + 1, dtype=np.int64)
    for file in group:
        total += np.bincount(rank_bins(read_scores(store, file, column), edges), minlength=len(total))
    return total


# --- the cut ------------------------------------------------------------------------------------------------------


def select_by(wanted: SelectionSpec, store: Store, sums: ScoreSums) -> Selection:
    """The exact cut that is wanted.

    Raises ConfigError for a count above the size of the corpus, and for a cut that drops more than half unless the job
    allows that.
    """
    rule, amount = wanted.rule
    files = sums.files
    if rule == "threshold":
        threshold = Threshold(float(amount))
        dropped = count_above(store, files, threshold)
        quotas, at_cut = (0,) * len(files), 0
        _refuse_majority(wanted, dropped, sums.count)
    else:
        dropped = count_to_drop(wanted, sums.count)
        threshold, quotas, at_cut = exact_cut(store, files, read_scores, dropped, sums.coarse)
    return Selection(threshold, quotas, dropped, at_cut, sums)


def count_to_drop(wanted: SelectionSpec, scored: int) -> int:
    """How many of the scored rows a share or a count drops. ConfigError as for `select_by`."""
    rule, amount = wanted.rule
    dropped = int(amount) if rule == "drop_count" else drop_count_of(amount, scored)
    if dropped > scored:
        raise ConfigError(f"drop_count {dropped:,} is more than the {scored:,} rows that could be scored")
    _refuse_majority(wanted, dropped, scored)
    return dropped


def _refuse_majority(wanted: SelectionSpec, dropped: int, scored: int) -> None:
    if dropped * 2 > scored and not wanted.allow_majority:
        raise ConfigError(
            f"the cut-off would drop {dropped:,} of {scored:,} scored rows ({dropped / scored:.0%}), more than "
            "half; choose another, or set selection.allow_majority: true if that is meant"
        )


def count_above(store: Store, files: Sequence[Sealed], threshold: Threshold) -> int:
    """How many deciding scores are above the threshold's value, over all files of scores."""
    found: int = map_reduce(_count_above, plus, grouped(files), store, threshold)
    return found


def _count_above(group: Sequence[Sealed], store: Store, threshold: Threshold) -> int:
    return sum(int((read_scores(store, file).astype(np.float64) > threshold.value).sum()) for file in group)


def shown_cut(threshold: Threshold) -> float | None:
    """The cut as a number for a report; None when nothing is dropped."""
    return None if math.isinf(threshold.value) else threshold.value
