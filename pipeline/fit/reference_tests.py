"""Every method of a run tested on references that its fit has not seen (operators/methods/reference_test.py).

tests = [
    {method, against: safe | corpus, borrowed, folds, unsafe, others,      rows on either side
     auroc, length, better_by: {value, low, high}, longer,                  figures of operators/statistics/telling.py
     equal_length: {value, low, high} or null, equal_pairs, spearman, partial_spearman}
    {method, untested}                                                      why, in words
]                                                                           of_artifact: true where it brought them

borrowed: the method whose references were used, where the method takes none of its own. The vectors were captured for
the fit already; the corpus side is a sample of its rows, seeded, or where the corpus pass wrote scores, those whose
vectors it kept. One task for each method; the driver holds the sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis.operators.methods import Method
from tamis.operators.methods.protocol import CORPUS, Artifact
from tamis.operators.methods.reference_test import FOLDS, UNSAFE, Rows, Untested, held_out
from tamis.operators.statistics.telling import tell
from tamis.pipeline.capture.chosen_rows import DRAWN_SHARDS, spread
from tamis.pipeline.capture.spec import SAMPLED_ROWS, sample_column
from tamis.pipeline.cluster.tasks import map_reduce
from tamis.pipeline.fit.exact_cut import grouped
from tamis.pipeline.fit.scores import features_of
from tamis.pipeline.inputs.shards import role_of
from tamis.pipeline.storage.store import Sealed, Store

CORPUS_ROWS = SAMPLED_ROWS
CORPUS_SHARDS = DRAWN_SHARDS
MOST_REFERENCES = 1000
"""Of one set. Of a larger one, every second, third, ... row is used."""

FROZEN = (
    "this run captures no references, and applies an artifact that brings no test of its methods (an earlier tamis "
    "made it, or it was fitted again from the captures of nights)"
)


class Capture(NamedTuple):
    """A captured shard, and how many rows it has."""

    file: Sealed
    rows: int


Test = dict[str, Any]


def reference_tests(
    store: Store,
    methods: Mapping[str, Method],
    blocks: int,
    artifacts: Mapping[str, Artifact],
    captures: Mapping[str, Sequence[Capture]],
    seed: int,
    *,
    scored: bool = False,
) -> list[Test]:
    """The tests of all methods, in their order. captures: by role; CORPUS and each method's reference sets. scored: the
    corpus pass wrote scores, and vectors of a sample."""
    columns = sorted({request.column for method in methods.values() for request in method.requests(blocks)})
    if scored:
        some = [captures[CORPUS][place].file for place in spread(len(captures[CORPUS]), CORPUS_ROWS)]
        corpus: Rows | None = map_reduce(_kept_rows, _beside, grouped(some), store, columns)
    else:
        corpus = map_reduce(_corpus_rows, _also, grouped(_sample(captures[CORPUS], seed)), store, columns)
    if corpus is not None:
        corpus = Rows(corpus.features, corpus.lengths, np.arange(len(corpus)))
    found: list[Test] = map_reduce(
        _test, _join, [[name] for name in methods], store, dict(methods), blocks, dict(artifacts),
        {role: files for role, files in captures.items() if role != CORPUS}, corpus,
        MOST_REFERENCES,
    )  # fmt: skip
    return found


def _join(a: list[Test], b: list[Test]) -> list[Test]:
    return a + b


def _sample(captures: Sequence[Capture], seed: int) -> list[tuple[Sealed, list[int]]]:
    """Which rows of which shards: CORPUS_ROWS of all rows in shards that lie evenly over the corpus."""
    shards = [captures[place] for place in spread(len(captures), CORPUS_SHARDS)]
    ends = np.cumsum([capture.rows for capture in shards])
    total = int(ends[-1])
    chosen = np.sort(np.random.default_rng(seed).choice(total, min(CORPUS_ROWS, total), replace=False))
    parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    return [
        (capture.file, (part - (end - capture.rows)).tolist())
        for capture, part, end in zip(shards, parts, ends, strict=True)
        if len(part)
    ]


def _corpus_rows(group: Sequence[tuple[Sealed, list[int]]], store: Store, columns: Sequence[str]) -> Rows | None:
    """None where a shard holds no vectors, but only what was made of them."""
    rows = _read(store, group[0][0], columns, np.array(group[0][1]))
    for file, places in group[1:]:
        rows = _also(rows, _read(store, file, columns, np.array(places)))
    return rows


def _kept_rows(group: Sequence[Sealed], store: Store, columns: Sequence[str]) -> Rows:
    """The rows of these scored shards whose vectors were kept. Rows.places: in the shard."""
    found = []
    for file in group:
        table = store.read_table(file, ["n_response_tokens", *map(sample_column, columns)])
        kept = table.column(sample_column(columns[0])).is_valid().to_numpy()
        table = table.filter(kept)
        features = {name: _vectors(table.column(sample_column(name))) for name in columns}
        lengths = table.column("n_response_tokens").to_numpy().astype(np.int64)
        found.append(Rows(features, lengths, np.flatnonzero(kept)))
    return reduce(_beside, found)


def _vectors(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    values = column.combine_chunks().flatten().to_numpy().astype(np.float32, copy=False)
    return values.reshape(len(column), -1) if len(column) else np.zeros((0, 0), np.float32)


def _also(a: Rows | None, b: Rows | None) -> Rows | None:
    return None if a is None or b is None else _beside(a, b)


def _beside(a: Rows, b: Rows) -> Rows:
    if not len(a) or not len(b):
        return a if len(a) else b
    features = {name: np.concatenate([a.features[name], b.features[name]]) for name in a.features}
    return Rows(features, np.concatenate([a.lengths, b.lengths]), np.concatenate([a.places, b.places]))


def _read(store: Store, file: Sealed, columns: Sequence[str], places: np.ndarray[Any, Any]) -> Rows | None:
    """These rows of a captured shard, without the quarantined ones. Rows.places: in the shard. None without vectors."""
    table = store.read_table(file, ["code", "n_response_tokens", *columns]).take(places)
    if not set(columns) <= set(table.schema.names):
        return None
    valid = pc.is_null(table.column("code")).to_numpy()
    lengths = table.column("n_response_tokens").to_numpy()[valid].astype(np.int64)
    return Rows(features_of(table), lengths, places[valid])


# --- in a task ----------------------------------------------------------------------------------------------------


def _test(
    group: Sequence[str],
    store: Store,
    methods: Mapping[str, Method],
    blocks: int,
    artifacts: Mapping[str, Artifact],
    references: Mapping[str, Sequence[Capture]],
    corpus: Rows | None,
    most: int,
) -> list[Test]:
    [name] = group
    method, artifact = methods[name], artifacts[name]
    columns = [request.column for request in method.requests(blocks)]
    try:
        sets, borrowed = _sets(name, method, methods, store, columns, references, most)
        found = held_out(method, blocks, artifact, sets, corpus)
        tested = [(against, tell(folds)) for against, folds in found.items()]
    except Untested as error:
        return [{"method": name, "untested": str(error)}]
    facts = []
    for against, told in tested:
        numbers = asdict(told)
        sizes = {"unsafe": numbers.pop("positive"), "others": numbers.pop("negative")}
        facts.append({"method": name, "against": against, "borrowed": borrowed, "folds": FOLDS, **sizes, **numbers})
    return facts


def _sets(
    name: str,
    method: Method,
    methods: Mapping[str, Method],
    store: Store,
    columns: Sequence[str],
    references: Mapping[str, Sequence[Capture]],
    most: int,
) -> tuple[dict[str, Rows], str | None]:
    """The rows to test a method on by source, and the method that they are of where it is another one. Untested."""
    owner = name
    if not method.sources():
        others = [other for other, kind in methods.items() if role_of(other, UNSAFE) in references and kind.sources()]
        if not others:
            raise Untested(
                "it takes no references, and no method of the job has some that it could be tested on; "
                "add contrast to the job's methods for that"
            )
        owner = others[0]
    sources = method.sources() or (UNSAFE,)
    roles = {source: references.get(role_of(owner, source), ()) for source in sources}
    if not any(roles.values()):
        raise Untested(FROZEN)
    step = max(-(-sum(capture.rows for capture in files) // most) for files in roles.values())
    return {source: _set(store, files, columns, step) for source, files in roles.items() if files}, (
        None if owner == name else owner
    )


def _set(store: Store, captures: Sequence[Capture], columns: Sequence[str], step: int) -> Rows:
    """Every step-th row of a set. Rows.places: the number of each among those."""
    before, found = 0, []
    for capture in captures:
        places = np.arange(-before % step, capture.rows, step)
        rows = _read(store, capture.file, columns, places)
        if rows is None:
            raise Untested("no vectors of its references were captured")
        found.append(Rows(rows.features, rows.lengths, (rows.places + before) // step))
        before += capture.rows
    rows = found[0]
    for more in found[1:]:
        rows = _beside(rows, more)
    return rows
