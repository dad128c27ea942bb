"""Text files made for a test, and all their records read span by span."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from hypothesis import HealthCheck, settings

from tamis.pipeline.inputs.text_files import Record, TextFile, csv_header, find_spans, read_records

COMPRESSIONS = (None, "gzip", "zstd")
anywhere = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def pack(data: bytes, compression: str | None) -> bytes:
    if compression == "gzip":
        return gzip.compress(data, 1)
    if compression in ("bz2", "xz"):
        return bz2.compress(data, 1) if compression == "bz2" else lzma.compress(data, preset=0)
    return data if compression is None else pa.compress(data, compression, asbytes=True)  # type: ignore[no-any-return]


_numbers: Iterator[int] = iter(range(10**9))


def store(folder: Path, data: bytes, format: str = "jsonl", compression: str | None = None) -> TextFile:
    """`data` as a file of its own."""
    path = folder / f"{next(_numbers)}.{format}"
    path.write_bytes(pack(data, compression))
    file = TextFile(str(path), format, compression, {})
    if format not in {"csv", "tsv"}:
        return file
    return TextFile(str(path), format, compression, {}, csv_header(file))


def read_all(file: TextFile, rows: int = 1000, size: int = 1 << 30, chunk: int = 1 << 20) -> list[Record]:
    spans = find_spans(file, rows, size, chunk)
    assert [span.start_row for span in spans] == [0, *(span.stop_row for span in spans[:-1])][: len(spans)]
    records = []
    for span in spans:
        found = read_records(file, span)
        assert len(found) == span.stop_row - span.start_row <= rows
        records.extend(found)
    return records
