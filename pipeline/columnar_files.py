"""Parquet and Arrow files: their schema, how to cut them, and the rows of one range as a table."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tamis.pipeline.addresses import is_local, open_filesystem
from tamis.pipeline.ranged import ObjectFile, info_of, open_stream

_HELD_BYTES = 256 << 20
"""A larger row group is decoded anew for every shard of it, in pieces."""

_FILE_MARK = b"ARROW1\0\0"

_BUFFER_BYTES = 8 << 20
"""Of each column of such a row group."""

_WINDOW_BYTES = 64 << 20
"""Of decoded data, of row groups that are fetched in one go."""

_HOLE_BYTES = 1 << 20
"""Between two column chunks, fewer bytes of other columns are fetched along rather than asked for apart."""


@dataclass(frozen=True)
class ColumnarFile:
    """What is needed to open a Parquet or Arrow file anywhere. identity: of its content, so that what is kept of it is
    never stale; kept only if there is one. bytes: its size, 0 if it is not known."""

    url: str
    format: str
    options: Mapping[str, Any]
    identity: str = ""
    bytes: int = 0

    def open(self) -> Any:
        filesystem, path = open_filesystem(self.url, self.options)
        if is_local(filesystem):
            # A mapped file that is cut off while it is read takes the process with it; Arrow files are mapped all the
            # same, as batches that are passed over are then not read.
            return pa.OSFile(path) if self.format == "parquet" else pa.memory_map(path)
        return ObjectFile(filesystem, path, self.bytes or int(info_of(filesystem, path)["size"]))


@dataclass(frozen=True)
class Shape:
    """What the footer says: schema with its metadata, rows, and uncompressed bytes."""

    schema: pa.Schema
    rows: int
    bytes: int


def shape_of(file: ColumnarFile) -> Shape:
    """Raises pa.ArrowInvalid or OSError when the file is cut off or is something else."""
    if file.format == "parquet":
        parquet = pq.ParquetFile(file.open())
        groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
        return Shape(parquet.schema_arrow, parquet.metadata.num_rows, sum(group.total_byte_size for group in groups))
    rows = size = 0
    reader = _arrow_reader(file)
    for batch in _arrow_batches(reader):
        rows, size = rows + batch.num_rows, size + batch.nbytes
    return Shape(reader.schema, rows, size)


def read_rows(file: ColumnarFile, start: int, stop: int, columns: list[str] | None = None) -> pa.Table:
    """Rows start..stop (half-open) in file order, all columns or those named; one value per row and column."""
    pieces: list[pa.RecordBatch] = []
    position, batches = _batches_from(file, start, stop, columns)
    for batch in batches:
        low, high = max(start - position, 0), min(stop - position, batch.num_rows)
        if high > low:
            pieces.append(batch.slice(low, high - low))
        position += batch.num_rows
        if position >= stop:
            break
    schema = pieces[0].schema if pieces else shape_of(file).schema
    table = pa.Table.from_batches(pieces, schema=schema)
    return table if columns is None else table.select(columns)


def _batches_from(
    file: ColumnarFile, start: int, stop: int, columns: list[str] | None
) -> tuple[int, Iterator[pa.RecordBatch]]:
    """Batches that cover start..stop, and the row at which the first of them begins."""
    if file.format != "parquet":
        position, batches = _arrow_from(file, start)
        return position, (batch if columns is None else batch.select(columns) for batch in batches)
    parquet = _OpenParquet(file, columns)
    groups = [group for group in parquet.groups if group.start < stop and group.stop > start]
    if not groups:
        return start, iter(())
    return groups[0].start, parquet.batches(groups, max(stop - start, 1))


# --- Parquet ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Group:
    """A row group: its place among the others, and the rows of the file that it holds."""

    index: int
    start: int
    stop: int
    bytes: int


@dataclass(frozen=True)
class _Held:
    """What a thread keeps for the next shard: it is likely one of the same row group."""

    file: ColumnarFile
    metadata: Any
    columns: Sequence[str] | None = None
    group: int = -1
    table: pa.Table | None = None


class _Local(threading.local):
    """What this thread keeps: of a Parquet file, and the Arrow object that it has open."""

    held: _Held | None = None
    passing: _Passing | None = None


_local = _Local()


class _OpenParquet:
    """A Parquet file of which only `columns` are read."""

    def __init__(self, file: ColumnarFile, columns: list[str] | None) -> None:
        held = _local.held
        self.held = held if held is not None and held.file == file and file.identity else None
        self.file, self.columns = file, columns
        self.source = file.open()
        metadata = self.held.metadata if self.held is not None else None
        # Ranges are fetched by us: `pre_buffer` would ask for each column by itself.
        self.parquet = pq.ParquetFile(self.source, metadata=metadata, pre_buffer=False, page_checksum_verification=True)
        self.groups: list[_Group] = []
        position = 0
        for index in range(self.parquet.num_row_groups):
            found = self.parquet.metadata.row_group(index)
            self.groups.append(_Group(index, position, position + found.num_rows, found.total_byte_size))
            position += found.num_rows

    def batches(self, groups: Sequence[_Group], rows: int) -> Iterator[pa.RecordBatch]:
        """All rows of the groups, in batches of at most `rows`."""
        for window in _windows(groups):
            missing = [group.index for group in window if group.bytes <= _HELD_BYTES and not self._holds(group)]
            if missing and isinstance(self.source, ObjectFile):
                self.source.prefetch(self._ranges(missing))
            for group in window:
                yield from self._of_group(group, rows)

    def _holds(self, group: _Group) -> bool:
        held = self.held
        return held is not None and held.table is not None and (held.group, held.columns) == (group.index, self.columns)

    def _of_group(self, group: _Group, rows: int) -> Iterator[pa.RecordBatch]:
        """Decoded once for all shards of the group that this thread reads, unless it is large."""
        if self.held is not None and self.held.table is not None and self._holds(group):
            yield from self.held.table.to_batches()
            return
        if group.bytes > _HELD_BYTES:
            # In pieces, which are read as they are needed.
            options = {"pre_buffer": False, "buffer_size": _BUFFER_BYTES, "page_checksum_verification": True}
            parquet = pq.ParquetFile(self.source, metadata=self.parquet.metadata, **options)
            yield from parquet.iter_batches(batch_size=rows, row_groups=[group.index], columns=self.columns)
            return
        table = self.parquet.read_row_group(group.index, columns=self.columns)
        if self.file.identity and table.nbytes <= _HELD_BYTES:
            self.held = _local.held = _Held(self.file, self.parquet.metadata, self.columns, group.index, table)
        yield from table.to_batches()

    def _ranges(self, groups: Sequence[int]) -> list[tuple[int, int]]:
        """The bytes of the groups' wanted column chunks, near ones together, in the order of the file."""
        chunks = []
        for group in groups:
            metadata = self.parquet.metadata.row_group(group)
            for index in range(metadata.num_columns):
                chunk = metadata.column(index)
                if self.columns is None or _wanted(chunk.path_in_schema, self.columns):
                    # Where there is a dictionary, its page comes first.
                    first = min(chunk.dictionary_page_offset or chunk.data_page_offset, chunk.data_page_offset)
                    chunks.append((first, first + chunk.total_compressed_size))
        merged: list[tuple[int, int]] = []
        for start, stop in sorted(chunks):
            if merged and start - merged[-1][1] <= _HOLE_BYTES:
                merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
            else:
                merged.append((start, stop))
        return merged


def _wanted(path: str, columns: Sequence[str]) -> bool:
    """path: of a leaf, with dots; a name may have dots itself."""
    return any(path == name or path.startswith(f"{name}.") for name in columns)


def _windows(groups: Sequence[_Group]) -> Iterator[list[_Group]]:
    """Consecutive groups that are fetched together: _WINDOW_BYTES of them, or one that is larger."""
    window: list[_Group] = []
    for group in groups:
        if window and sum(member.bytes for member in window) + group.bytes > _WINDOW_BYTES:
            yield window
            window = []
        window.append(group)
    if window:
        yield window


# --- Arrow --------------------------------------------------------------------------------------------------------


@dataclass
class _Passing:
    """An Arrow object of which the batches before `position` have been passed over; last: the one that ends there."""

    file: ColumnarFile
    batches: Iterator[pa.RecordBatch]
    position: int = 0
    last: pa.RecordBatch | None = None

    def next(self) -> pa.RecordBatch | None:
        self.last = next(self.batches, None)
        self.position += 0 if self.last is None else self.last.num_rows
        return self.last

    def following(self) -> Iterator[pa.RecordBatch]:
        while (batch := self.next()) is not None:
            yield batch


def _arrow_from(file: ColumnarFile, start: int) -> tuple[int, Iterator[pa.RecordBatch]]:
    """Batches that cover the rows from `start` on, and the row at which the first of them begins.

    In a memory-mapped file, passing over the batches before reads only their headers. An object is read forward from
    where this thread stopped last time.
    """
    if is_local(open_filesystem(file.url, file.options)[0]):
        return 0, _arrow_batches(_arrow_reader(file))
    passing, _local.passing = _local.passing, None  # a read that fails leaves it nobody knows where
    behind = 0 if passing is None else passing.position - (passing.last.num_rows if passing.last is not None else 0)
    if passing is None or passing.file != file or not file.identity or start < behind:
        passing = _Passing(file, _arrow_batches(_arrow_reader(file)))
        passing.next()
    while passing.last is not None and passing.position <= start:
        passing.next()
    first = passing.position - (0 if passing.last is None else passing.last.num_rows)

    def batches(opened: _Passing) -> Iterator[pa.RecordBatch]:
        if opened.last is not None:
            yield opened.last
            yield from opened.following()

    _local.passing = passing
    return first, batches(passing)


def _arrow_reader(file: ColumnarFile) -> Any:
    """A reader of the Arrow file format, or of the stream format (what datasets' save_to_disk writes)."""
    filesystem, path = open_filesystem(file.url, file.options)
    if is_local(filesystem):
        try:
            return pa.ipc.open_file(file.open())
        except pa.ArrowInvalid:
            return pa.ipc.open_stream(file.open())
    # From its first byte to its last, as every batch is needed once: the file format is a stream behind a mark.
    stream = open_stream(filesystem, path)
    if stream.peek(len(_FILE_MARK)).startswith(_FILE_MARK):
        stream.read(len(_FILE_MARK))
    return pa.ipc.open_stream(pa.PythonFile(stream, mode="r"))


def _arrow_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        yield from reader
