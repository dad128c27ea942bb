"""Labels, matched to the rows of a finished run.

    labels = read_labels("labels.jsonl", store)       # or the name of a column of the corpus, or "column:NAME"
    labels.need_both()                                # where one class alone is of no use
    labels.rows.column("larf"), labels.harmful        # what scores/ says of each labelled row, and its label

Of a column, the labels are read from kept/ and dropped/, which hold the rows of the input as they were read: so they
are those of the rows that were scored, even if the input has changed since. Every file is checked by the checksum in
the manifest. Rows are streamed, a shard at a time; only labelled ones are held.
"""

from __future__ import annotations

import io
import json
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tamis.pipeline.errors import ConfigError, DamagedError, InputError
from tamis.pipeline.inputs.formats import split_suffixes
from tamis.pipeline.labels.files import Entries, Key, read_file
from tamis.pipeline.labels.words import harmful_of
from tamis.pipeline.run.folder import facts_in
from tamis.pipeline.run.paths import DROPPED, INCOMPLETE, KEPT, MANIFEST, SCORES
from tamis.pipeline.run.row_places import RowPlaces, shard_of
from tamis.pipeline.storage.store import Sealed, Store
from tamis.pipeline.terminal.progress import Progress, phase

COLUMN = "column:"
"""Before the name of a column that could also be a file."""


@dataclass(frozen=True, eq=False)
class Labels:
    """The labelled rows of a run, in corpus order.

    rows: the columns of scores/ (sample_id, source, row, the methods' scores, decision, n_response_tokens, ...), a row
    for each labelled one. A score is null where the row is in quarantine, or was kept without one. harmful: bool (n,).
    places: int64 (n,), the rows' numbers in the corpus, from 0 on through all files. methods: the score columns, those
    that hold fractions. total: the rows of the corpus. empty: rows whose label is empty. source: what was read, in
    words. column: that was read, None for a file. digests: row's number -> what the labels say of the text that they
    are of (see texts.py), for the rows of which they say it. sha256: of each file that was read, by its
    name.
    """

    rows: pa.Table
    harmful: npt.NDArray[np.bool_]
    places: npt.NDArray[np.int64]
    methods: tuple[str, ...]
    total: int
    empty: int
    source: str
    column: str | None = None
    digests: Mapping[int, frozenset[str]] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.harmful)

    @property
    def by_sample_id(self) -> dict[str, bool]:
        return dict(zip(self.rows.column("sample_id").to_pylist(), self.harmful.tolist(), strict=True))

    def need_both(self) -> None:
        """InputError if the labels hold one class only."""
        harmful = int(self.harmful.sum())
        if harmful in (0, len(self)):
            which, other = ("harmless", "harmful") if harmful == 0 else ("harmful", "harmless")
            raise InputError(
                f"--labels: all {len(self):,} labelled rows are {which}, so nothing tells how well a score parts the "
                f"two; label some {other} rows, too"
            )


def finished_run(store: Store) -> dict[str, Any]:
    """The manifest of a finished run that scored samples. ConfigError if there is none."""
    if not store.exists(MANIFEST):
        also = "; the run is incomplete, run the same `tamis curate` again" if store.exists(INCOMPLETE) else ""
        raise ConfigError(f"{store.path()}: no finished run here (there is no {MANIFEST}); see `tamis status`{also}")
    manifest = facts_in(store, MANIFEST)
    if manifest.get("kind") == "tokens":
        raise ConfigError(f"{store.path()}: the run masked tokens; labels are for runs that score samples")
    return manifest


@contextmanager
def undamaged(store: Store) -> Iterator[None]:
    """InputError for a file of a finished run that is not as the run wrote it: nothing can make it again."""
    try:
        yield
    except DamagedError as error:
        raise InputError(f"{store.path()}: {error}; put it back from a copy (see `tamis verify`)") from None


def read_labels(source: str, store: Store) -> Labels:
    """The labels in a file, or in a column of the corpus, beside the scores of the run in `store`.

    source: the path or address of a file (labels/files.py says what it holds), the name of a column, or "column:NAME".
    Empty labels are counted and left out. Raises ConfigError if there is no such file and column, or both; InputError
    for labels that name no row of this run, contradict each other, or are no labels, and for files of the run that are
    not as it wrote them. Messages name row numbers, never text.
    """
    phase("labels", "reading the labels")
    manifest = finished_run(store)
    sealed = {entry["name"]: Sealed(entry["name"], entry["sha256"]) for entry in manifest["files"]}
    total = int(manifest["counts"]["rows_in"])
    digests: Mapping[int, frozenset[str]] = {}
    sha256: Mapping[str, str] = {}
    with undamaged(store):
        column = _column(source, store, sealed)
        if column is None:
            entries = read_file(source, store.options)
            matched = _Matched(entries)
            parts = list(_of_file(store, sealed, matched))
            matched.check()
            sha256 = entries.sha256
            digests = {place: frozenset(said) for place, said in matched.digests.items()}
            ways = " and ".join(_ways(entries, len(manifest["input"]["files"])))
            empty, words = entries.empty, f"the file {posixpath.basename(source)} ({ways})"
        else:
            as_json = column in manifest.get("json_columns", [])
            counted = [0]
            corpus = RowPlaces(store, manifest["files"])
            parts = list(_of_column(store, sealed, corpus, column, as_json, counted))
            empty, words = counted[0], f"the corpus's column {column}"
    labelled = [part for part in parts if len(part[1])]
    if not labelled:
        raise InputError(f"--labels: {words} labels no row of this run; fill it in")
    rows = pa.concat_tables([table for table, _, _ in labelled])
    harmful = np.concatenate([label for _, label, _ in labelled])
    places = np.concatenate([place for _, _, place in labelled])
    methods = tuple(each.name for each in rows.schema if pa.types.is_floating(each.type))
    return Labels(rows, harmful, places, methods, total, empty, words, column, digests, sha256)


def _ways(entries: Entries, files: int) -> list[str]:
    """How the labels name their rows: with several files, a number means two things."""
    numbers = "by row number" + (f" through all {files:,} files" if files > 1 else "")
    ways = {str: "by sample_id", int: numbers, tuple: "by row number in each file"}
    used = {type(key) for key in entries.harmful}
    return [words for kind, words in ways.items() if kind in used]


# --- a file or a column -------------------------------------------------------------------------------------------


def _column(source: str, store: Store, sealed: Mapping[str, Sealed]) -> str | None:
    """The column that `source` names; None if it names a file."""
    first = min((name for name in sealed if name.startswith(f"{KEPT}/")), default=None)
    columns = [] if first is None else pq.read_schema(io.BytesIO(store.read(sealed[first]))).names
    if source.startswith(COLUMN):
        name = source.removeprefix(COLUMN)
        if name not in columns:
            raise ConfigError(f"--labels {source}: the corpus has no such column; it has {_some(columns)}")
        return name
    is_file = "://" in source or os.path.exists(source)
    if is_file and source in columns:
        raise ConfigError(
            f"--labels {source}: there is a file and a column of this name; write ./{source} or {COLUMN}{source}"
        )
    if source in columns:
        return source
    if is_file or split_suffixes(source)[0] is not None or "/" in source:
        return None  # a file that is not there is said by its reader
    raise ConfigError(f"--labels {source}: is no file, and no column of the corpus, which has {_some(columns)}")


def _some(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


# --- the rows -----------------------------------------------------------------------------------------------------

_Part = tuple[pa.Table, npt.NDArray[np.bool_], npt.NDArray[np.int64]]
"""Some rows of one shard's scores, their labels, and their numbers in the corpus."""


def scores_of(store: Store, sealed: Mapping[str, Sealed]) -> Iterator[tuple[str, pa.Table, int]]:
    """Every shard of scores/ in corpus order: its name, its table, and the number of its first row."""
    names = sorted(name for name in sealed if name.startswith(f"{SCORES}/"))
    progress = Progress("labels", len(names), unit="files", brief=True)
    before = 0
    for name in names:
        table = store.read_table(sealed[name])
        yield shard_of(name), table, before
        before += table.num_rows
        progress.advance(1)
    progress.finish()


class _Matched:
    """Which labels of a file have found their row. digests: what they say of its text, by the row's number."""

    def __init__(self, entries: Entries) -> None:
        self.entries = entries
        self.found: set[Key] = set()
        self.digests: dict[int, set[str]] = {}
        self.ids = pa.array([key for key in entries.harmful if isinstance(key, str)], pa.string())
        self.numbers = np.array(sorted(key for key in entries.harmful if isinstance(key, int)), dtype=np.int64)
        self.in_files: dict[str, list[int]] = {}
        for key in entries.harmful:
            if isinstance(key, tuple):
                self.in_files.setdefault(key[0], []).append(key[1])

    def of(self, table: pa.Table, before: int) -> dict[int, bool]:
        """The labels of a shard's rows, by place in it. InputError where two labels of one row differ."""
        said: dict[int, Key] = {}
        for place, key in self._named(table, before):
            self.found.add(key)
            if key in self.entries.digests:
                self.digests.setdefault(before + place, set()).update(self.entries.digests[key])
            other = said.setdefault(place, key)
            if self.entries.harmful[other] != self.entries.harmful[key]:
                raise InputError(
                    f"--labels: {self.entries.lines[key]} contradicts {self.entries.lines[other]}, which names the "
                    f"same row of the corpus ({before + place}); keep one"
                )
        return {place: self.entries.harmful[key] for place, key in said.items()}

    def _named(self, table: pa.Table, before: int) -> Iterator[tuple[int, Key]]:
        if len(self.ids):
            ids = table.column("sample_id")
            for place in np.flatnonzero(pc.is_in(ids, self.ids).to_numpy()):
                yield int(place), ids[int(place)].as_py()
        low, high = np.searchsorted(self.numbers, [before, before + table.num_rows])
        for number in self.numbers[low:high]:
            yield int(number) - before, int(number)
        if self.in_files and table.num_rows:
            source, first = table.column("source")[0].as_py(), table.column("row")[0].as_py()
            for row in self.in_files.get(source, ()):
                if first <= row < first + table.num_rows:
                    yield row - first, (source, row)

    def check(self) -> None:
        """InputError if a label names no row."""
        lost = [key for key in self.entries.harmful if key not in self.found]
        if lost:
            raise InputError(
                f"--labels: {len(lost):,} of the {len(self.entries.harmful):,} labels match no row of this run (the "
                f"first: {self.entries.lines[lost[0]]}); name rows by sample_id as {SCORES}/ has it, or by row, from 0 "
                "on through all files of the corpus, or within the file that the column source names"
            )


def _of_file(store: Store, sealed: Mapping[str, Sealed], matched: _Matched) -> Iterator[_Part]:
    for _, table, before in scores_of(store, sealed):
        labels = matched.of(table, before)
        places = np.array(sorted(labels), dtype=np.int64)
        harmful = np.array([labels[int(place)] for place in places], dtype=bool)
        yield table.take(pa.array(places)), harmful, places + before


def cells_of(places: RowPlaces, shard: str, table: pa.Table, column: str, as_json: bool) -> list[Any]:
    """What a column of the corpus holds, for each row of a shard's scores; None for rows in quarantine."""
    decisions = np.array(table.column("decision").to_pylist(), dtype=object)
    cells: list[Any] = [None] * table.num_rows
    for part, decision in ((KEPT, "kept"), (DROPPED, "dropped")):
        there = np.flatnonzero(decisions == decision)
        found = places.read(part, shard, [column])
        where = places.where(part, shard)
        if found is not None and found.column_names != [column]:
            raise ConfigError(f"the corpus has no column {column} (see the rows in {where})")
        values = [] if found is None else found.column(0).to_pylist()
        if len(values) != len(there):
            raise InputError(f"{where} has {len(values):,} rows, {SCORES}/ {len(there):,}; see `tamis verify`")
        for place, value in zip(there, values, strict=True):
            cells[place] = json.loads(value) if as_json and isinstance(value, str) else value
    return cells


def _of_column(
    store: Store, sealed: Mapping[str, Sealed], corpus: RowPlaces, column: str, as_json: bool, empty: list[int]
) -> Iterator[_Part]:
    """empty: [0] grows by the empty labels. Rows in quarantine have no label: their columns could not be read."""
    for shard, table, before in scores_of(store, sealed):
        cells = cells_of(corpus, shard, table, column, as_json)
        decisions = np.array(table.column("decision").to_pylist(), dtype=object)
        labels: dict[int, bool] = {}
        for place in np.flatnonzero(decisions != "quarantined"):
            try:
                label = harmful_of(cells[place])
            except ValueError as error:
                where = f"column {column}, row {before + place}"
                raise InputError(f"--labels: {where} of the corpus holds no label; {error}") from None
            if label is None:
                empty[0] += 1
            else:
                labels[int(place)] = label
        found = np.array(list(labels), dtype=np.int64)
        yield table.take(pa.array(found)), np.array(list(labels.values()), dtype=bool), found + before
