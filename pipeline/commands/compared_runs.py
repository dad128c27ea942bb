"""Several finished runs of the same rows, read side by side for `tamis compare`.

Rows are matched by sample_id. A sample id is made of a file's name and a row's number, so it says nothing of the text:
that the texts are the same is told by the digests that scores/ holds of each shard's rows.

Every file that is read is compared with its sha256 in the manifest, and the manifest with its seal. In memory are
columns of numbers, never texts (`bytes_a_row`).
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tamis.operators.statistics.overlap import MOST_SELECTIONS
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.job.sections import RANKS
from tamis.pipeline.labels.read import finished_run, undamaged
from tamis.pipeline.run.folder import facts_in
from tamis.pipeline.run.paths import INPUT_DIGEST, MANIFEST, SCORES
from tamis.pipeline.storage.safe_names import safe_name
from tamis.pipeline.storage.store import Sealed, Store
from tamis.pipeline.terminal.progress import Progress, phase

KEPT, DROPPED, QUARANTINED = 0, 1, 2
DECISIONS = ("kept", "dropped", "quarantined")
_DIGITS = 16


class Part(NamedTuple):
    """A shard of a run. row: its first one, in the file. digest: of its rows as they were read; None where an earlier
    tamis wrote it."""

    source: str
    row: int
    rows: int
    digest: str | None


@dataclass(frozen=True, eq=False)
class Run:
    """name: A, B, ... in the order of the command line. methods: that scored the rows, with RANKS where that decided.
    Of each row in corpus order: ids (uint64), decisions (int8), lengths of the answers (int32), sources (int32, places
    in source_names), scores (float32, NaN where there is none). shards: in corpus order."""

    name: str
    store: Store
    manifest: Mapping[str, Any]
    methods: tuple[str, ...]
    ids: npt.NDArray[np.uint64]
    decisions: npt.NDArray[np.int8]
    lengths: npt.NDArray[np.int32]
    sources: npt.NDArray[np.int32]
    source_names: tuple[str, ...]
    scores: Mapping[str, npt.NDArray[np.float32]]
    shards: tuple[Part, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def decided_by(self) -> str:
        return str(self.manifest["selected_by"])

    @cached_property
    def files(self) -> dict[str, Mapping[str, Any]]:
        """The input files of the manifest, by name."""
        return {str(file["path"]): file for file in self.manifest["input"]["files"]}


@dataclass(frozen=True, eq=False)
class Matched:
    """Runs side by side. places: of each run, int64 (n,), where the n shared rows lie in it; None if they are all of
    its rows, in its order. unproven: shared rows of which nothing tells whether they hold the same text in all runs."""

    runs: tuple[Run, ...]
    shared: int
    places: tuple[npt.NDArray[np.int64] | None, ...]
    unproven: int = 0
    notes: tuple[str, ...] = ()

    def of(self, run: int, column: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A column of a run, of the shared rows in their order, which is that of the first run."""
        places = self.places[run]
        return column if places is None else column[places]


def bytes_a_row(methods: Sequence[int]) -> int:
    """The memory that a row takes at most, beside what one shard takes. methods: how many scores each run has."""
    held = sum(8 + 1 + 4 + 4 + 4 * count for count in methods)
    matching = (8 + 4) * len(methods) + 40
    ranks = (4 + 8) * sum(methods)
    return held + matching + ranks


# --- reading ------------------------------------------------------------------------------------------------------


def read_runs(stores: Sequence[Store]) -> list[Run]:
    """ConfigError for fewer than two runs, the same one twice, too many, or one that cannot be compared; InputError
    where a file is not as its run wrote it."""
    if not 2 <= len(stores) <= MOST_SELECTIONS:
        raise ConfigError(f"compare: name two runs or more, at most {MOST_SELECTIONS}; there are {len(stores)}")
    urls = [store.path().rstrip("/") for store in stores]
    twice = next((url for url in urls if urls.count(url) > 1), None)
    if twice is not None:
        raise ConfigError(f"compare: {twice} is named twice")
    manifests = [_manifest(store) for store in stores]
    return [
        read_run(name, store, manifest)
        for name, store, manifest in zip(string.ascii_uppercase, stores, manifests, strict=False)
    ]


def _manifest(store: Store) -> dict[str, Any]:
    phase("compare", "reading the manifests")
    if store.exists(MANIFEST) and facts_in(store, MANIFEST).get("kind") == "tokens":
        raise ConfigError(f"compare: the run in {store.path()} masked tokens; runs that score samples are compared")
    return finished_run(store)


def read_run(name: str, store: Store, manifest: Mapping[str, Any]) -> Run:
    sealed = [Sealed(safe_name(str(file["name"]), MANIFEST), str(file["sha256"])) for file in manifest["files"]]
    files = sorted(file for file in sealed if file.name.startswith(f"{SCORES}/"))
    if not files:
        raise _not_ours(store, "it has no scores")
    methods = [str(method["name"]) for method in manifest["methods"]]
    parts: dict[str, list[npt.NDArray[Any]]] = {}
    sources: dict[str, int] = {}
    shards: list[Part] = []
    with undamaged(store):
        for number, table in enumerate(_tables(store, files, name)):
            if not number and RANKS in table.column_names and RANKS not in methods:
                methods.append(RANKS)
            for column, values in _columns(store, table, methods, sources, shards).items():
                parts.setdefault(column, []).append(values)
    columns = {column: np.concatenate(values) for column, values in parts.items()}
    run = Run(
        name,
        store,
        manifest,
        tuple(methods),
        columns["ids"],
        columns["decisions"],
        columns["lengths"],
        columns["sources"],
        tuple(sources),
        {method: columns[f"score {method}"] for method in methods},
        tuple(shards),
    )
    _check(run)
    return run


def _tables(store: Store, files: Sequence[Sealed], name: str) -> Iterator[pa.Table]:
    progress = Progress(f"run {name}", len(files), unit="files", brief=True)
    for file in files:
        yield store.read_table(file)
        progress.advance(1)
    progress.finish()


def _columns(
    store: Store,
    table: pa.Table,
    methods: Sequence[str],
    sources: dict[str, int],
    shards: list[Part],
) -> dict[str, npt.NDArray[Any]]:
    """One shard. sources, shards: are added to."""
    wanted = {"sample_id", "source", "row", "decision", "n_response_tokens", *methods}
    if not table.num_rows or not wanted <= set(table.column_names):
        raise _not_ours(store, "a table of it has not the columns that it should have")
    of = pc.unique(table.column("source")).to_pylist()
    if len(of) != 1:
        raise _not_ours(store, "a table of it is of several files")
    source = str(of[0])
    digest = (table.schema.metadata or {}).get(INPUT_DIGEST.encode())
    first = int(table.column("row")[0].as_py())
    shards.append(Part(source, first, table.num_rows, None if digest is None else digest.decode()))
    decisions = pc.index_in(table.column("decision"), pa.array(DECISIONS))
    if decisions.null_count:
        raise _not_ours(store, "it says what became of a row in a word that is none")
    found: dict[str, npt.NDArray[Any]] = {
        "ids": _ids(store, table.column("sample_id")),
        "decisions": decisions.to_numpy().astype(np.int8),
        "lengths": table.column("n_response_tokens").fill_null(0).to_numpy().astype(np.int32),
        "sources": np.full(table.num_rows, sources.setdefault(source, len(sources)), dtype=np.int32),
    }
    for method in methods:
        scores = table.column(method)
        if scores.type != pa.float32():
            raise _not_ours(store, f"{method} is no score")
        found[f"score {method}"] = scores.combine_chunks().to_numpy(zero_copy_only=False).astype(np.float32)
    return found


def _ids(store: Store, column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """uint64 (n,) of ids of 16 hex digits."""
    words = column.to_pylist()
    try:
        if any(len(word) != _DIGITS for word in words):
            raise ValueError
        return np.frombuffer(bytes.fromhex("".join(words)), dtype=">u8").astype(np.uint64)
    except (TypeError, ValueError):
        raise _not_ours(store, "a sample id is not one that tamis makes") from None


def _check(run: Run) -> None:
    """InputError where the scores contradict the manifest or themselves."""
    counts = run.manifest["counts"]
    for decision, name in enumerate(DECISIONS):
        found = int((run.decisions == decision).sum())
        if found != counts[name]:
            raise _not_ours(run.store, f"it has {found:,} rows {name}, its manifest {counts[name]:,}")
    if len(np.unique(run.ids)) != len(run.ids):
        raise _not_ours(run.store, "two of its rows have the same sample id, so rows cannot be matched")
    if run.decided_by not in run.scores:
        raise _not_ours(run.store, f"it has no scores of {run.decided_by}, by which it decided")
    fell = run.decisions == DROPPED
    if np.isnan(run.scores[run.decided_by][fell]).any():
        raise _not_ours(run.store, "it dropped rows that have no score")


def _not_ours(store: Store, what: str) -> InputError:
    return InputError(f"compare: {store.path(SCORES)} is damaged, or of another version of tamis: {what}")


# --- matching -----------------------------------------------------------------------------------------------------


def match(runs: Sequence[Run], *, shared_only: bool = False) -> Matched:
    """The rows that all runs have. ConfigError, with how many ids match, where a run has others and `shared_only` is
    not set, or none is shared; InputError where the same id is of another text."""
    first = runs[0]
    orders = [None if _same(first, run) else np.argsort(run.ids, kind="stable") for run in runs]
    found = [_found(first.ids, run, order) for run, order in zip(runs, orders, strict=True)]
    in_all = np.ones(len(first), dtype=bool)
    for there in found:
        if there is not None:
            in_all &= there >= 0
    shared = int(in_all.sum())
    partial = any(len(run) != shared for run in runs)
    if partial:
        sizes = ", ".join(f"{run.name} has {len(run):,} rows" for run in runs)
        if not shared:
            raise ConfigError(
                f"compare: the runs are of different corpora: {sizes}, and no sample id is in all of them"
            )
        if not shared_only:
            raise ConfigError(
                f"compare: the runs are not of the same rows: {sizes}, and {shared:,} sample ids are in all of them; "
                "compare runs over one corpus, or add --shared-only to compare these rows alone"
            )
    here = np.flatnonzero(in_all) if shared != len(first) else None
    places = tuple(here if each is None else each if here is None else each[here] for each in found)
    unproven = _unproven(runs, in_all)
    notes = []
    if partial:
        notes.append(f"only the {shared:,} rows that all runs have are compared")
    if unproven:
        notes.append(
            f"of {unproven:,} of the shared rows nothing tells whether they hold the same text in all runs: their "
            "shards are cut or read in another way; only their file names and row numbers are the same"
        )
    return Matched(tuple(runs), shared, places, unproven, tuple(notes))


def _same(a: Run, b: Run) -> bool:
    return len(a) == len(b) and bool(np.array_equal(a.ids, b.ids))


def _found(ids: npt.NDArray[np.uint64], run: Run, order: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64] | None:
    """int64: where each of these ids is in the run, -1 where it is not; None if they are its own, in its order."""
    if order is None:
        return None
    ordered = run.ids[order]
    at = np.minimum(np.searchsorted(ordered, ids), len(ordered) - 1)
    return np.where(ordered[at] == ids, order[at], -1)


def _unproven(runs: Sequence[Run], shared: npt.NDArray[np.bool_]) -> int:
    """How many shared rows are not proven to hold the same text in all runs. InputError if some hold another one.
    shared: bool, over the rows of the first run."""
    first = runs[0]
    proven = shared.copy()
    for run in runs[1:]:
        theirs = {(shard.source, shard.row, shard.rows): shard.digest for shard in run.shards}
        same_file = {source for source in first.source_names if _same_file(first, run, source)}
        start = 0
        for shard in first.shards:
            rows = slice(start, start + shard.rows)
            start += shard.rows
            digest = theirs.get((shard.source, shard.row, shard.rows))
            comparable = None not in (digest, shard.digest) and _read_as(first, shard.source) == _read_as(
                run, shard.source
            )
            if comparable and digest != shard.digest:
                raise InputError(
                    f"compare: rows {shard.row:,} to {shard.row + shard.rows - 1:,} of {shard.source} hold other texts "
                    f"in {run.store.path()} than in {first.store.path()}, under the same sample ids: these are "
                    "different corpora"
                )
            if not comparable and shard.source not in same_file:
                proven[rows] = False
    return int((shared & ~proven).sum())


def _same_file(a: Run, b: Run, source: str) -> bool:
    return _file(a, source) is not None and _file(a, source) == _file(b, source)


def _file(run: Run, source: str) -> tuple[Any, ...] | None:
    """What identifies an input file of a run: its address, size, and time, etag or commit."""
    file = run.files.get(source, {})
    return (file["url"], file["bytes"], file["identity"]) if {"url", "bytes", "identity"} <= file.keys() else None


def _read_as(run: Run, source: str) -> Any:
    """Which columns of a file were read."""
    return run.files.get(source, {}).get("columns")
