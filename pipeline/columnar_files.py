"""Parquet and Arrow files: their schema, how to cut them, and the rows of one range as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tamis.pipeline.addresses import is_local, open_filesystem


@dataclass(frozen=True)
class ColumnarFile:
    """What is needed to open a Parquet or Arrow file anywhere."""

    url: str
    format: str
    options: Mapping[str, Any]

    def open(self) -> Any:
        filesystem, path = open_filesystem(self.url, self.options)
        return pa.memory_map(path) if is_local(filesystem) else filesystem.open(path, "rb")


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
        # Batches before `start` are passed over; in a memory-mapped file that reads only their headers.
        batches = _arrow_batches(_arrow_reader(file))
        return 0, (batch if columns is None else batch.select(columns) for batch in batches)
    parquet = pq.ParquetFile(file.open(), pre_buffer=True)
    position, first = 0, 0
    groups: list[int] = []
    for index in range(parquet.num_row_groups):
        rows = parquet.metadata.row_group(index).num_rows
        if position < stop and position + rows > start:
            first = position if not groups else first
            groups.append(index)
        position += rows
    if not groups:
        return start, iter(())
    batches = parquet.iter_batches(batch_size=max(stop - start, 1), row_groups=groups, columns=columns)
    return first, batches


def _arrow_reader(file: ColumnarFile) -> Any:
    """A reader of the Arrow file format, or of the stream format (what datasets' save_to_disk writes)."""
    try:
        return pa.ipc.open_file(file.open())
    except pa.ArrowInvalid:
        return pa.ipc.open_stream(file.open())


def _arrow_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        yield from reader
