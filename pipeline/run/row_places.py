"""Which rows of a file in kept/ or dropped/ are which shard's: the one place that knows.

A file there holds the rows of one shard, or of several that follow each other: a row group for each shard that has rows
in it, in corpus order. It is called as its first shard is, and its entry in the manifest says what it holds:
`shards: [[name, rows], ...]`. An entry that does not say is of a file of one shard. scores/ and quarantine/ have a file
for each shard.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tamis.pipeline.errors import DamagedError
from tamis.pipeline.run.paths import DROPPED, KEPT, MANIFEST, table_of
from tamis.pipeline.storage.safe_names import safe_name
from tamis.pipeline.storage.store import Sealed, Store

GROUPED = (KEPT, DROPPED)
"""The folders whose files hold the rows of several shards."""
SHARDS = "shards"
"""Key of a file's entry in the manifest: the shards that it holds, with their numbers of rows."""


class Place(NamedTuple):
    """Where a shard's rows lie. group: their row group; rows: how many. Both None: all rows of the file are the
    shard's. group None and rows 0: the file has none of it."""

    file: Sealed
    bytes: int
    group: int | None
    rows: int | None


def said_of(shards: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """What the entry of a file with these shards and rows has more than that of a file of one shard."""
    return {SHARDS: [list(each) for each in shards]} if len(shards) > 1 else {}


def shard_of(name: str) -> str:
    """The shard that a file is called after."""
    return posixpath.basename(name).removesuffix(".parquet")


def shards_of(entry: Mapping[str, Any]) -> list[tuple[str, int | None]]:
    """The shards of a file and how many rows it has of each, from its entry; None: all that it has."""
    said = entry.get(SHARDS)
    if said is None:
        return [(shard_of(entry["name"]), None)]
    return [(str(shard), int(rows)) for shard, rows in said]


class RowPlaces:
    """Reads kept/ and dropped/ of one output by shards. entries: of the files in its manifest.

    Shards are best read in their order: of each folder, the file that was read last is held in memory. ConfigError for
    a name that leads out of the output.
    """

    def __init__(self, store: Store, entries: Iterable[Mapping[str, Any]]) -> None:
        self._store = store
        self._places: dict[tuple[str, str], Place] = {}
        self._shards: dict[str, list[tuple[str, int | None]]] = {}
        self._held: dict[str, tuple[Sealed, pq.ParquetFile]] = {}
        for entry in entries:
            part = str(entry["name"]).partition("/")[0]
            if part not in GROUPED:
                continue
            file, group = Sealed(safe_name(str(entry["name"]), MANIFEST), entry["sha256"]), 0
            for shard, rows in shards_of(entry):
                self._places[part, shard] = Place(file, entry["bytes"], group if rows else None, rows)
                self._shards.setdefault(file.name, []).append((shard, group if rows else None))
                group += bool(rows)

    def place(self, part: str, shard: str) -> Place | None:
        """Where the rows of a shard lie in a folder; None if it has no file there."""
        return self._places.get((part, shard))

    def where(self, part: str, shard: str) -> str:
        """The file with the shard's rows, for messages; what it would be called if there is none."""
        place = self.place(part, shard)
        return self._store.path(table_of(part, shard) if place is None else place.file.name)

    def shards_in(self, name: str) -> Iterator[tuple[str, list[int] | None]]:
        """Each shard of a file that may have rows there, and its row groups; None: all of them."""
        for shard, group in self._shards[name]:
            if len(self._shards[name]) == 1:
                yield shard, None
            elif group is not None:
                yield shard, [group]

    def opened(self, part: str, shard: str) -> pq.ParquetFile | None:
        """The file with the shard's rows, read as a whole and compared with its checksum; None if there is none.
        DamagedError if it is not as it was written."""
        place = self.place(part, shard)
        if place is None:
            return None
        held = self._held.get(part)
        if held is None or held[0] != place.file:
            self._held.pop(part, None)  # not two of them at a time
            data = pa.BufferReader(self._store.read(place.file))
            held = self._held[part] = place.file, pq.ParquetFile(data, page_checksum_verification=True)
        return held[1]

    def read(self, part: str, shard: str, columns: Sequence[str] | None = None) -> pa.Table | None:
        """The shard's rows in a folder; None if it has no file there. Columns that are not there are passed over.
        DamagedError if the file is not as it was written."""
        opened = self.opened(part, shard)
        return None if opened is None else _rows_at(self._places[part, shard], opened, columns)

    def peek(self, part: str, shard: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The shard's rows without what else is in their file; the checksums of pages are compared, that of the file is
        not. FileNotFoundError if there is no file."""
        place = self.place(part, shard)
        if place is None:
            raise FileNotFoundError(self.where(part, shard))
        with self._store.parquet_file(place.file.name, place.bytes) as opened:
            return _rows_at(place, opened, columns)


def _rows_at(place: Place, opened: pq.ParquetFile, columns: Sequence[str] | None) -> pa.Table:
    wanted = None if columns is None else list(columns)
    if place.rows is None:
        return opened.read(columns=wanted)
    groups = [] if place.group is None else [place.group]
    if groups and groups[-1] >= opened.num_row_groups:
        raise DamagedError(f"{place.file.name}: has not the rows that the manifest says")
    table = opened.read_row_groups(groups, columns=wanted)
    if table.num_rows != place.rows:
        raise DamagedError(f"{place.file.name}: has not the rows that the manifest says")
    return table
