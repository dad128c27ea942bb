"""Parquet and Arrow files: their schema, how to split them, and the rows of one range as a table."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tamis.pipeline.inputs.heads import bundled, most_decoded, most_row_by_row
from tamis.pipeline.storage.addresses import is_local, open_filesystem
from tamis.pipeline.storage.ranged import ObjectFile, info_of, open_stream

READ_BYTES = 2 << 30
"""The most bytes of decoded rows in memory: a text that repeats in every row is stored once, so kilobytes may decode to
terabytes."""

HEAD_BYTES = 64 << 20
"""The same limit for the first rows of a file; a few of them are enough."""

_BATCH_ROWS, _BATCH_BYTES = 256, 64 << 20
"""Rows of a row group that are decoded at a time; fewer if they are large."""

_BUFFERED_BYTES = 256 << 20
"""A row group larger than this is read as its bytes are needed, not all at once."""

_FILE_MARK = b"ARROW1\0\0"

_BUFFER_BYTES = 8 << 20
"""Bytes read at a time of each column of such a row group."""

_WINDOW_BYTES = 64 << 20
"""The most decoded bytes of row groups that are fetched together."""

_HOLE_BYTES = 1 << 20
"""A gap of other columns between two column chunks is fetched too, in one request, unless it is larger than this."""


@dataclass(frozen=True)
class ColumnarFile:
    """All that is needed to open a Parquet or Arrow file anywhere. identity: of its content, so that cached state is
    never stale; without one, nothing is cached. bytes: its size, 0 if it is not known."""

    url: str
    format: str
    options: Mapping[str, Any]
    identity: str = ""
    bytes: int = 0

    def open(self) -> Any:
        filesystem, path = open_filesystem(self.url, self.options)
        if is_local(filesystem):
            # The process crashes if a memory-mapped file is truncated while it is read. Arrow files are mapped all the
            # same, because skipped batches are then not read.
            return pa.OSFile(path) if self.format == "parquet" else pa.memory_map(path)
        return ObjectFile(filesystem, path, self.bytes or int(info_of(filesystem, path)["size"]))


@dataclass(frozen=True)
class Footer:
    """The contents of the footer: schema with its metadata, rows, and uncompressed bytes."""

    schema: pa.Schema
    rows: int
    bytes: int


def footer_of(file: ColumnarFile) -> Footer:
    """The footer of a file. Raises pa.ArrowInvalid or OSError when the file is truncated or not of this format."""
    if file.format == "parquet":
        parquet = pq.ParquetFile(file.open())
        groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
        return Footer(parquet.schema_arrow, parquet.metadata.num_rows, sum(group.total_byte_size for group in groups))
    rows = size = 0
    reader = _arrow_reader(file)
    for batch in _arrow_batches(reader):
        rows, size = rows + batch.num_rows, size + _bytes_of(batch)
    return Footer(reader.schema, rows, size)


def _bytes_of(batch: pa.RecordBatch | pa.Table) -> int:
    """The bytes of its rows; of its buffers where pyarrow (below 22, for string views) cannot tell."""
    try:
        return int(batch.nbytes)
    except pa.ArrowException:
        return int(batch.get_total_buffer_size())


class TooManyBytes(ValueError):
    """The decoded rows exceed READ_BYTES, or the size that Arrow can decode in one batch."""

    def __str__(self) -> str:
        return f"its rows are more than {READ_BYTES >> 30} GiB when they are read; lower shard_rows, or take them out"


def read_rows(file: ColumnarFile, start: int, stop: int, columns: list[str] | None = None) -> pa.Table:
    """Rows start..stop (half-open) in file order, all columns or only `columns`; one value per row and column.

    Raises TooManyBytes, and pa.ArrowInvalid or OSError when the file is damaged or cannot be read.
    """
    pieces: list[pa.RecordBatch] = []
    size = 0
    with _forgetting():
        position, batches = _batches_from(file, start, stop, columns)
        for batch in batches:
            low, high = max(start - position, 0), min(stop - position, batch.num_rows)
            if high > low:
                pieces.append(batch.slice(low, high - low))
                size += _bytes_of(pieces[-1])
            if size > READ_BYTES:
                raise TooManyBytes
            position += batch.num_rows
            if position >= stop:
                break
    return _table(file, pieces, columns)


def read_head(file: ColumnarFile, rows: int) -> pa.Table:
    """The first rows: at most `rows`, and no further ones once HEAD_BYTES is reached. Raises as `read_rows`."""
    pieces: list[pa.RecordBatch] = []
    size = 0
    with _forgetting():
        opened = _OpenParquet(file, None) if file.format == "parquet" else None
        whole = _arrow_at_once(file, rows) if opened is None else opened.at_once(rows)
        if whole is not None:
            return whole
        batches = _arrow_from(file, 0)[1] if opened is None else opened.one_by_one(rows)
        for row in islice((batch.slice(i, 1) for batch in batches for i in range(batch.num_rows)), rows):
            pieces.append(row)
            size += _bytes_of(row)
            if size > HEAD_BYTES:
                break
    return _table(file, pieces, None)


def _first_rows(batches: Iterable[pa.RecordBatch], rows: int, most: float) -> tuple[list[pa.RecordBatch], float]:
    """The first `rows` rows, and the most bytes that they take one by one; fewer rows once these are over `most`."""
    pieces: list[pa.RecordBatch] = []
    size = 0.0
    for batch in batches:
        pieces.append(batch.slice(0, rows))
        rows -= pieces[-1].num_rows
        size += most_row_by_row(pieces[-1])
        if not rows or size > most:
            break
    return pieces, size


@contextmanager
def _forgetting() -> Iterator[None]:
    """Drop the open files if a read fails: their position is then unknown. TooManyBytes for too large batches."""
    try:
        yield
    except BaseException as error:
        _local.forget()
        if isinstance(error, pa.ArrowNotImplementedError) and "chunked array outputs" in str(error):
            raise TooManyBytes from None  # lists of text with over 2 GiB in one batch
        raise


def _table(file: ColumnarFile, pieces: Sequence[pa.RecordBatch], columns: list[str] | None) -> pa.Table:
    schema = pieces[0].schema if pieces else footer_of(file).schema
    table = pa.Table.from_batches(pieces, schema=schema)
    return table if columns is None else table.select(columns)


def _batches_from(
    file: ColumnarFile, start: int, stop: int, columns: list[str] | None
) -> tuple[int, Iterator[pa.RecordBatch]]:
    """Batches that cover start..stop, and the row at which the first of them begins."""
    if file.format == "parquet":
        return _open_parquet(file, columns).batches(start, stop)
    position, batches = _arrow_from(file, start)
    return position, (batch if columns is None else batch.select(columns) for batch in batches)


@dataclass
class _Passing:
    """Batches of rows, read up to the row `position`. last: the batch that ends there. first: its first row."""

    batches: Iterator[pa.RecordBatch]
    position: int = 0
    last: pa.RecordBatch | None = None

    @property
    def first(self) -> int:
        return self.position - (0 if self.last is None else self.last.num_rows)

    def reaches(self, start: int) -> bool:
        """Whether the row `start` is in the last batch or still to come."""
        return self.last is not None and self.first <= start

    def advance(self, start: int) -> None:
        """Go on to the batch with the row `start`."""
        while self.position <= start and self._next() is not None:
            pass

    def rest(self) -> Iterator[pa.RecordBatch]:
        """The batches from `last` on. If the caller stops early, `last` is the batch that it took last."""
        while self.last is not None:
            yield self.last
            self._next()

    def _next(self) -> pa.RecordBatch | None:
        self.last = next(self.batches, None)
        self.position += 0 if self.last is None else self.last.num_rows
        return self.last


class _Local(threading.local):
    """The files that this thread has open for its next shard, which is probably the next one of the same file."""

    parquet: _OpenParquet | None = None
    arrow: tuple[ColumnarFile, _Passing] | None = None

    def forget(self) -> None:
        self.parquet = self.arrow = None


_local = _Local()


# --- Parquet ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Group:
    """A row group: its index in the file, and the rows of the file that it holds."""

    index: int
    start: int
    stop: int
    bytes: int


def _open_parquet(file: ColumnarFile, columns: list[str] | None) -> _OpenParquet:
    held = _local.parquet
    if held is not None and (held.file != file or not file.identity):
        held = None
    if held is None or held.columns != columns:
        held = _local.parquet = _OpenParquet(file, columns, None if held is None else held.parquet.metadata)
    return held


class _OpenParquet:
    """A Parquet file of which only `columns` are read. It remembers the position in the row group that was read last.

    Row groups are decoded in batches, never whole: a value that repeats in every row is stored once, so a group of
    megabytes may contain gigabytes of text (which Arrow refuses to decode in one piece).
    """

    def __init__(self, file: ColumnarFile, columns: list[str] | None, metadata: Any = None) -> None:
        self.file, self.columns = file, columns
        self.source = file.open()
        # We fetch the ranges ourselves: `pre_buffer` would make one request per column.
        self.parquet = pq.ParquetFile(self.source, metadata=metadata, pre_buffer=False, page_checksum_verification=True)
        self.groups: list[_Group] = []
        position = 0
        for index in range(self.parquet.num_row_groups):
            found = self.parquet.metadata.row_group(index)
            self.groups.append(_Group(index, position, position + found.num_rows, found.total_byte_size))
            position += found.num_rows
        self._group: _Group | None = None
        self._passing = _Passing(iter(()))

    def batches(self, start: int, stop: int) -> tuple[int, Iterator[pa.RecordBatch]]:
        """Batches that cover start..stop, and the row at which the first of them begins."""
        groups = [group for group in self.groups if group.start < stop and group.stop > start]
        if not groups:
            return start, iter(())
        self._enter(groups[0], start, groups)
        return self._passing.first, self._through(groups)

    def _through(self, groups: Sequence[_Group]) -> Iterator[pa.RecordBatch]:
        yield from self._passing.rest()
        for number, group in enumerate(groups[1:], start=1):
            self._enter(group, group.start, groups[number:])
            yield from self._passing.rest()

    def _enter(self, group: _Group, start: int, wanted: Sequence[_Group]) -> None:
        """Go to the batch of `group` with the row `start`. wanted: the groups that will be read from here on."""
        if self._group != group or not self._passing.reaches(start):
            self._group, self._passing = group, _Passing(self._decoded(group, wanted), group.start)
        self._passing.advance(start)

    def one_by_one(self, rows: int) -> Iterator[pa.RecordBatch]:
        """The groups with the first `rows` rows, each row in a batch of its own."""
        groups = [group for group in self.groups if group.start < rows]
        for number, group in enumerate(groups):
            yield from self._decoded(group, groups[number:], batch_rows=1)

    def at_once(self, rows: int) -> pa.Table | None:
        """The first `rows` rows; None if they may be more than HEAD_BYTES when they are taken one by one."""
        groups = [group for group in self.groups if group.start < min(rows, group.stop)]
        tables: list[pa.Table] = []
        size = 0.0
        for number, group in enumerate(groups):
            table, more = self._head_of(group, min(rows, group.stop) - group.start, groups[number:])
            size += more
            if table is None or size > HEAD_BYTES:
                return None
            tables.append(table)
        return pa.concat_tables(tables) if tables else None

    def _head_of(self, group: _Group, rows: int, wanted: Sequence[_Group]) -> tuple[pa.Table | None, float]:
        """The first rows of a group, and the most bytes that they take one by one; no table where that may be more than
        HEAD_BYTES. Columns whose rows are small for sure are decoded together, the others row by row."""
        schema = self.parquet.schema_arrow
        names = schema.names  # a new list at each asking
        sizes = most_decoded(self.parquet.metadata, schema, group.index, rows)
        together, apart = bundled(sizes or [], HEAD_BYTES)
        if not together or len(set(names)) < len(names):
            return None, 0.0
        parquet, spent = self._ready(group, wanted), 0.0
        columns: dict[str, tuple[pa.Field, pa.ChunkedArray]] = {}
        for places, step in ((apart, 1), *((places, rows) for places in together)):
            asked = [names[place] for place in places]
            decoded = parquet.iter_batches(step, [group.index], asked)
            batches, more = _first_rows(decoded if asked else (), rows, HEAD_BYTES - spent)
            spent += more
            if spent > HEAD_BYTES:
                return None, spent
            part = pa.Table.from_batches(batches, None if batches else pa.schema([]))
            if part.column_names != asked:  # `a.b` may be a column, and a field of the column `a`
                return None, spent
            columns |= dict(zip(asked, zip(part.schema, part.columns, strict=True), strict=True))
        fields, values = zip(*(columns[name] for name in names), strict=True)
        return pa.Table.from_arrays(list(values), schema=pa.schema(list(fields), metadata=schema.metadata)), spent

    def _decoded(
        self, group: _Group, wanted: Sequence[_Group], batch_rows: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The batches of a group. batch_rows: the default depends only on the file's facts about the group, so that the
        batches are the same for every shard."""
        parquet = self._ready(group, wanted)
        if batch_rows is None:
            batch_rows = max(min(_BATCH_ROWS, _BATCH_BYTES * (group.stop - group.start) // max(group.bytes, 1)), 1)
        batches: Iterator[pa.RecordBatch] = parquet.iter_batches(batch_rows, [group.index], self.columns)
        return batches

    def _ready(self, group: _Group, wanted: Sequence[_Group]) -> Any:
        """The file to read the group from, with its bytes at hand."""
        parquet = self.parquet
        if group.bytes > _BUFFERED_BYTES:
            options = {"pre_buffer": False, "buffer_size": _BUFFER_BYTES, "page_checksum_verification": True}
            parquet = pq.ParquetFile(self.source, metadata=parquet.metadata, **options)
        elif isinstance(self.source, ObjectFile) and not self.source.holds(self._ranges([group])):
            self.source.prefetch(self._ranges(_window(wanted)))
        return parquet

    def _ranges(self, groups: Sequence[_Group]) -> list[tuple[int, int]]:
        """The byte ranges of the groups' wanted column chunks in file order; ranges close together are merged."""
        chunks = []
        for group in groups:
            metadata = self.parquet.metadata.row_group(group.index)
            for index in range(metadata.num_columns):
                chunk = metadata.column(index)
                if self.columns is None or _wanted(chunk.path_in_schema, self.columns):
                    # If there is a dictionary page, it comes first.
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
    """Whether a leaf belongs to one of the columns. path: of the leaf, with dots; a name may contain dots itself."""
    return any(path == name or path.startswith(f"{name}.") for name in columns)


def _window(groups: Sequence[_Group]) -> list[_Group]:
    """The first groups, which are fetched together: at most _WINDOW_BYTES of them, or a single larger one."""
    window = [groups[0]]
    for group in groups[1:]:
        if sum(member.bytes for member in window) + group.bytes > _WINDOW_BYTES:
            break
        window.append(group)
    return window


# --- Arrow --------------------------------------------------------------------------------------------------------


def _arrow_from(file: ColumnarFile, start: int) -> tuple[int, Iterator[pa.RecordBatch]]:
    """Batches that cover the rows from `start` on, and the row at which the first of them begins.

    In a memory-mapped file, skipping the earlier batches reads only their headers. An object is read forward from the
    place where this thread stopped last time.
    """
    if is_local(open_filesystem(file.url, file.options)[0]):
        return 0, _arrow_batches(_arrow_reader(file))
    held = _local.arrow
    if held is not None and held[0] == file and file.identity and held[1].reaches(start):
        passing = held[1]
    else:
        passing = _Passing(_arrow_batches(_arrow_reader(file)))
        _local.arrow = (file, passing)
    passing.advance(start)
    return passing.first, passing.rest()


def _arrow_at_once(file: ColumnarFile, rows: int) -> pa.Table | None:
    """The first `rows` rows; None if they may be more than HEAD_BYTES when they are taken one by one."""
    pieces, size = _first_rows(_arrow_from(file, 0)[1], rows, HEAD_BYTES)
    return pa.Table.from_batches(pieces) if pieces and size <= HEAD_BYTES else None


def _arrow_reader(file: ColumnarFile) -> Any:
    """A reader of the Arrow file format, or of the stream format (what datasets' save_to_disk writes)."""
    filesystem, path = open_filesystem(file.url, file.options)
    if is_local(filesystem):
        try:
            return pa.ipc.open_file(file.open())
        except pa.ArrowInvalid:
            return pa.ipc.open_stream(file.open())
    # Read from the first byte to the last, because every batch is needed once: the file format is a stream after a
    # magic number.
    stream = open_stream(filesystem, path)
    if stream.peek(len(_FILE_MARK)).startswith(_FILE_MARK):
        stream.read(len(_FILE_MARK))
    return pa.ipc.open_stream(pa.PythonFile(stream, mode="r"))


def _arrow_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        yield from reader
