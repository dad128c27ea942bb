"""Which rows people should label: a uniform random sample of the scored rows of a run, without replacement.

Each row has a key, a hash of its sample id under a seed, and the sample is the rows with the smallest keys, in the
order of their keys. So it needs one pass and no list of the corpus; it is the same however the corpus is sharded; it
does not depend on the scores, nor on the keys of the random control; and the first rows of a sample are a sample, so
that whoever stops early has still drawn at random. What was drawn can be told again from the seed: `tamis certify`
does, and trusts no file that says it was random.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tamis.pipeline.errors import InputError
from tamis.pipeline.labels.cells import unshielded
from tamis.pipeline.labels.files import rows_in, whole
from tamis.pipeline.labels.read import cells_of, scores_of
from tamis.pipeline.labels.words import harmful_of
from tamis.pipeline.run.row_places import RowPlaces
from tamis.pipeline.storage.store import Sealed, Store

STRATUM, POPULATION, SAMPLED, SEED = DESIGN = ("stratum", "population", "sampled", "seed")
"""The columns of a sheet that say how its rows were drawn."""
WHOLE = "all"
"""The stratum of a sample that was not stratified."""
_AT_ONCE = 65_536
"""Rows that are gathered before they are sorted."""
_Rows = tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.float32]]
"""Keys, places and scores."""
_ANSWERS = {"yes": True, "no": False}


@dataclass(frozen=True)
class Design:
    """How a sheet says that its rows were drawn. sampled: rows of each stratum, by its name. population: of how many
    they were drawn."""

    seed: int
    sampled: Mapping[str, int]
    population: Mapping[str, int]

    @property
    def column(self) -> str | None:
        """The column of the corpus that tells the strata; None where all rows are one."""
        return next((name.rpartition("=")[0] for name in self.sampled if name != WHOLE), None)


def strata_of(column: str | None) -> tuple[str, ...]:
    """The names of the strata: rows whose request is harmful come first."""
    return (WHOLE,) if column is None else tuple(f"{column}={answer}" for answer in _ANSWERS)


def keys_of(sample_ids: Sequence[str], seed: int) -> npt.NDArray[np.uint64]:
    """uint64 (n,): pseudo-random, a pure function of each id and the seed."""
    of_seed = hashlib.blake2b(digest_size=8, key=str(seed).encode(), person=b"tamis labels")
    digests = []
    for sample_id in sample_ids:
        digest = of_seed.copy()
        digest.update(sample_id.encode())
        digests.append(digest.digest())
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


class Smallest:
    """The `count` rows with the smallest keys, of any number of shards. Equal keys: in corpus order."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._kept: list[_Rows] = [(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.float32))]

    def add(self, keys: npt.NDArray[np.uint64], places: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]) -> None:
        """places: the rows' numbers in the corpus."""
        self._kept.append((keys, places, scores))
        if sum(len(part[0]) for part in self._kept[1:]) > max(self.count, _AT_ONCE):
            self._settle()

    def _settle(self) -> _Rows:
        keys, places, scores = (np.concatenate(column) for column in zip(*self._kept, strict=True))
        first = np.lexsort((places, keys))[: self.count]
        self._kept = [(keys[first], places[first], scores[first])]
        return self._kept[0]

    @property
    def places(self) -> npt.NDArray[np.int64]:
        """int64 (at most count,), in the order of the draw."""
        return self._settle()[1]

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """float32, of the same rows."""
        return self._settle()[2]


@dataclass(frozen=True, eq=False)
class Part:
    """The scored rows of one shard that are in one stratum. shard: name of its files. before: the number of the shard's
    first row in the corpus. places: int64 (n,), numbers in the corpus."""

    stratum: str
    shard: str
    before: int
    table: pa.Table
    places: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]

    def keys(self, seed: int) -> npt.NDArray[np.uint64]:
        ids = self.table.column("sample_id").take(pa.array(self.places - self.before)).to_pylist()
        return keys_of(ids, seed)


def pool_of(store: Store, manifest: Mapping[str, Any], method: str, column: str | None) -> Iterator[Part]:
    """The rows that have a score by `method`, a shard and a stratum at a time, in corpus order. Each file is checked by
    its checksum as it is read.

    Raises InputError for a row in which the column does not say yes or no, or if there is no such column.
    """
    sealed = {entry["name"]: Sealed(entry["name"], entry["sha256"]) for entry in manifest["files"]}
    as_json, corpus = column in manifest.get("json_columns", []), RowPlaces(store, manifest["files"])
    for shard, table, before in scores_of(store, sealed):
        found = table.column(method).combine_chunks()
        here = np.flatnonzero(pc.is_valid(found).to_numpy(zero_copy_only=False))
        scores = found.drop_null().to_numpy(zero_copy_only=False).astype(np.float32)
        if column is None:
            yield Part(WHOLE, shard, before, table, here + before, scores)
            continue
        cells = cells_of(corpus, shard, table, column, as_json)
        answers = np.array([_answer(cells[place], column, before + place) for place in here.tolist()], dtype=np.bool_)
        for name, chosen in zip(strata_of(column), (answers, ~answers), strict=True):
            yield Part(name, shard, before, table, here[chosen] + before, scores[chosen])


def _answer(cell: Any, column: str, row: int) -> bool:
    try:
        answer = harmful_of(cell)
    except ValueError:
        answer = None
    if answer is None:
        raise InputError(
            f"row {row} of the corpus: column {column} says neither yes nor no (1, true, yes, harmful, or 0, false, "
            "no, harmless); fill it in for every row"
        )
    return answer


# --- a sheet that came back ---------------------------------------------------------------------------------------


def design_in(path: str, options: Mapping[str, Any]) -> Design | None:
    """How the rows of a file of labels were drawn, by its own words; None if it says nothing of it.

    Raises InputError where its rows were drawn in two ways, or some do not say how.
    """
    seeds: set[int] = set()
    counts: dict[str, set[tuple[int, int]]] = {}
    silent = 0
    for _, value in rows_in(path, options):
        said = _said_of(value)
        if said is None:
            silent += 1
            continue
        name, seed, count, size = said
        seeds.add(seed)
        counts.setdefault(name, set()).add((count, size))
    if not seeds:
        return None
    if silent:
        raise InputError(
            f"--labels: {silent:,} rows of {path} do not say how they were drawn, and others do (columns "
            f"{', '.join(DESIGN)}); leave them out"
        )
    columns = {name.rpartition("=")[0] if name != WHOLE else None for name in counts}
    if len(seeds) > 1 or len(columns) > 1 or any(len(each) > 1 for each in counts.values()):
        raise InputError(
            f"--labels: the rows of {path} come from more than one draw (columns {', '.join(DESIGN)} differ), so they "
            "are no random sample together; give the labels of one draw"
        )
    once = {name: each.pop() for name, each in counts.items()}
    sampled = {name: count for name, (count, _) in once.items()}
    return Design(seeds.pop(), sampled, {name: size for name, (_, size) in once.items()})


def is_stratified(path: str, options: Mapping[str, Any]) -> bool:
    """Whether rows of a file of labels were drawn by stratum, by its own words: then the labelled rows as a whole are
    no picture of the corpus. Unlike `design_in`, for files that mix draws, too."""
    said = (_said_of(value) for _, value in rows_in(path, options))
    return any(each is not None and each[0] != WHOLE for each in said)


def _said_of(value: Mapping[str, Any]) -> tuple[str, int, int, int] | None:
    """How a row was drawn: stratum, seed, sampled, population. None if it does not say all of it."""
    name = value.get(STRATUM)
    seed, count, size = (whole(value.get(column)) for column in (SEED, SAMPLED, POPULATION))
    if seed is None or count is None or size is None or not isinstance(name, str) or not name:
        return None
    return unshielded(name), seed, count, size
