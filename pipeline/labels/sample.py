"""`tamis sample`: a finished run -> a sheet of rows drawn at random, for people to label."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tamis.operators.conversation.conversation import Conversation
from tamis.operators.conversation.messages import Dialect, normalise
from tamis.operators.problems import RowProblem
from tamis.pipeline.errors import ConfigError, DamagedError, InputError
from tamis.pipeline.inputs.shards import rows_of
from tamis.pipeline.labels.draw import Smallest, pool_of, strata_of
from tamis.pipeline.labels.read import finished_run
from tamis.pipeline.labels.sheet import Drawn, check_ending, sheet
from tamis.pipeline.run.paths import DROPPED, KEPT, SCORES
from tamis.pipeline.storage.store import Sealed, Store
from tamis.pipeline.terminal.progress import Progress, at_work, phase


@dataclass(frozen=True)
class Sampled:
    """path: of the sheet. strata: name -> (rows that have a score, rows drawn)."""

    path: str
    strata: Mapping[str, tuple[int, int]]

    @property
    def rows(self) -> int:
        return sum(drawn for _, drawn in self.strata.values())


@at_work()
def sample(store: Store, count: int, seed: int, column: str | None, output: str) -> Sampled:
    """Draw `count` of the rows that the run scored, and write them to `output`, a new file.

    column: of the corpus, says of every row whether its request is harmful; half of the sample is then drawn from
    either kind. Raises ConfigError if there is no finished run, fewer rows, or `output` cannot be what it should be;
    InputError for files of the run that are not as it wrote them, and for a row in which the column says nothing.
    """
    check_ending(output)
    if count < 1:
        raise ConfigError(f"--for-labels {count}: draw at least one row")
    folder, name = os.path.split(output)
    target = Store(folder or ".", store.options)
    if f"{target.path()}/".startswith(f"{store.path()}/"):
        raise ConfigError(f"--output {output}: lies in the output of the run; choose a place beside it")
    if target.exists(name):
        raise ConfigError(f"--output {output}: is there already, perhaps with labels; choose another name")
    manifest = finished_run(store)
    with undamaged(store):
        phase("sample", "drawing rows")
        drawn, strata = _draw(store, manifest, count, seed, column)
        rows = _with_texts(store, manifest, drawn, strata, seed)
    target.write(name, sheet(rows, name))
    return Sampled(target.path(name), strata)


@contextmanager
def undamaged(store: Store) -> Iterator[None]:
    """InputError for a file of a finished run that is not as the run wrote it: nothing can make it again."""
    try:
        yield
    except DamagedError as error:
        raise InputError(f"{store.path()}: {error}; put it back from a copy (see `tamis verify`)") from None


def allot(count: int, populations: Sequence[int]) -> list[int]:
    """How many rows to draw of each stratum: the same number of each, and of a smaller one all of it.

    Raises ValueError if there are not so many rows.
    """
    if count > sum(populations):
        raise ValueError(f"{count} rows are to be drawn of {sum(populations)}")
    taken = [0] * len(populations)
    for number, place in enumerate(sorted(range(len(populations)), key=populations.__getitem__)):
        fair = (count - sum(taken)) // (len(populations) - number)
        taken[place] = min(populations[place], fair)
    return taken


def _draw(
    store: Store, manifest: Mapping[str, Any], count: int, seed: int, column: str | None
) -> tuple[dict[str, list[int]], dict[str, tuple[int, int]]]:
    """stratum -> the places of its rows in the order of the draw; and its size and how many were drawn."""
    first = {name: Smallest(count) for name in strata_of(column)}
    sizes = dict.fromkeys(first, 0)
    for part in pool_of(store, manifest, manifest["selected_by"], column):
        first[part.stratum].add(part.keys(seed), part.places, part.scores)
        sizes[part.stratum] += len(part.places)
    try:
        counts = allot(count, list(sizes.values()))
    except ValueError:
        raise ConfigError(
            f"--for-labels {count}: the run scored {sum(sizes.values()):,} rows; ask for no more than that"
        ) from None
    drawn = {name: first[name].places[:many].tolist() for name, many in zip(sizes, counts, strict=True)}
    return drawn, {name: (sizes[name], many) for name, many in zip(sizes, counts, strict=True)}


def _with_texts(
    store: Store,
    manifest: Mapping[str, Any],
    drawn: Mapping[str, Sequence[int]],
    strata: Mapping[str, tuple[int, int]],
    seed: int,
) -> list[Drawn]:
    """The drawn rows in the order of the draw, with their conversations from kept/ and dropped/."""
    stratum_of = {place: name for name, places in drawn.items() for place in places}
    wanted = np.array(sorted(stratum_of), dtype=np.int64)
    dialects = {file["path"]: Dialect.from_dict(file["columns"]) for file in manifest["input"]["files"]}
    sealed = {entry["name"]: Sealed(entry["name"], entry["sha256"]) for entry in manifest["files"]}
    names = sorted(name for name in sealed if name.startswith(f"{SCORES}/"))
    progress = Progress("sample", len(names), unit="files", brief=True)
    found: dict[int, Drawn] = {}
    before = 0
    for name in names:
        table = store.read_table(sealed[name], ["sample_id", "source", "row", "decision"])
        low, high = np.searchsorted(wanted, [before, before + table.num_rows])
        texts = _texts(store, sealed, name.removeprefix(f"{SCORES}/"), table, wanted[low:high] - before, dialects)
        for here, text in texts.items():
            stratum = stratum_of[before + here]
            sample_id, source, row = (table.column(name)[here].as_py() for name in ("sample_id", "source", "row"))
            population, sampled = strata[stratum]
            found[before + here] = Drawn(text, sample_id, source, row, stratum, population, sampled, seed)
        before += table.num_rows
        progress.advance(1)
    progress.finish()
    # In turn, so that whoever stops early has labelled of each stratum.
    turns = [place for turn in zip_longest(*drawn.values()) for place in turn if place is not None]
    return [found[place] for place in turns]


def _texts(
    store: Store,
    sealed: Mapping[str, Sealed],
    shard: str,
    scores: pa.Table,
    wanted: np.ndarray[Any, Any],
    dialects: Mapping[str, Dialect],
) -> dict[int, str]:
    """The text of the wanted rows of one shard, by their place in it. kept/ and dropped/ have no number of a row: they
    hold the rows of their decision in the order of scores/."""
    texts: dict[int, str] = {}
    decisions = np.array(scores.column("decision").to_pylist(), dtype=object)
    for part, decision in ((KEPT, "kept"), (DROPPED, "dropped")):
        there = np.flatnonzero(decisions == decision)
        here = [place for place in wanted.tolist() if decisions[place] == decision]
        if not here:
            continue
        name = f"{part}/{shard}"
        if name not in sealed:
            raise InputError(f"{store.path(name)}: is not in the manifest; see `tamis verify`")
        dialect = dialects[scores.column("source")[0].as_py()]
        whole = pq.ParquetFile(pa.BufferReader(store.read(sealed[name])), page_checksum_verification=True)
        if whole.metadata.num_rows != len(there):
            raise InputError(
                f"{store.path(name)} has {whole.metadata.num_rows:,} rows, {SCORES}/ {len(there):,}; see `tamis verify`"
            )
        columns = [column for column in dialect.reads if column in whole.schema_arrow.names]
        rows = whole.read(columns).take(pa.array(np.searchsorted(there, here)))
        for place, row in zip(here, rows_of(rows, 0), strict=True):
            texts[place] = _text(row.value, dialect)
    return texts


def _text(value: Mapping[str, Any] | RowProblem, dialect: Dialect) -> str:
    try:
        if isinstance(value, RowProblem):
            raise value
        return text_of(normalise(value, dialect))
    except RowProblem as problem:
        return f"(tamis cannot show this row: {problem.code}; look it up in its source)"


def text_of(conversation: Conversation) -> str:
    """A conversation as plain text, each turn under its role."""
    return "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in conversation.for_people())
