"""JSON lines, JSON arrays and CSV, plain or compressed: where their rows lie, and the rows of one byte range.

A range of rows is a range of bytes (of the unpacked file), found once when the plan is made, so that any worker can
read its shard without reading the file before it. In a compressed file a worker unpacks forward from where it
stopped last time.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.operators.problems import RowProblem
from tamis.pipeline.addresses import open_filesystem

_CHUNK = 8 << 20
_WHITE = b" \t\r\n\v\f"
_BLANKS = np.frombuffer(_WHITE, dtype=np.uint8)
_MAX_NESTING = 200
"""Deeper rows are refused by a fixed rule: Python's own limit depends on who asks, and stages must agree."""
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))


@dataclass(frozen=True)
class TextFile:
    """What is needed to open a text file anywhere. identity: of its content, so that a kept cursor is never stale."""

    url: str
    format: str
    compression: str | None
    options: Mapping[str, Any]
    header: tuple[str, ...] = ()
    identity: str = ""

    def open(self) -> Any:
        """A stream of the unpacked bytes."""
        filesystem, path = open_filesystem(self.url, self.options)
        raw = filesystem.open(path, "rb")
        if self.compression is None:
            return raw
        return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), self.compression)


@dataclass(frozen=True)
class Span:
    """Consecutive rows of one file and the bytes that hold them (half-open, of the unpacked file)."""

    start_row: int
    stop_row: int
    start_byte: int
    stop_byte: int


@dataclass(frozen=True)
class Record:
    """One row as read. value: its columns, or why it has none; raw: its text as it stands in the file."""

    offset: int
    value: dict[str, Any] | RowProblem
    raw: bytes


# --- where the rows are -------------------------------------------------------------------------------------------


def find_spans(file: TextFile, rows: int, size: int, chunk: int = _CHUNK) -> list[Span]:
    """Cut the file into spans of at most `rows` rows and about `size` bytes. Reads the file once, `chunk` bytes a time.

    Raises ValueError or OSError when the file as a whole is broken (truncated archive, not an array, open quote).
    """
    spans: list[Span] = []
    count, first_row, first_byte, last_byte = 0, 0, None, 0
    for starts, stops in _row_bounds(file, chunk):
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            if first_byte is None:
                first_byte = start
            elif count - first_row >= rows or stop - first_byte > size:
                spans.append(Span(first_row, count, first_byte, last_byte))
                first_row, first_byte = count, start
            count, last_byte = count + 1, stop
    if first_byte is not None:
        spans.append(Span(first_row, count, first_byte, last_byte))
    return spans


def csv_header(file: TextFile) -> tuple[str, ...]:
    """The column names of a CSV file; ValueError if two are the same or one is empty."""
    with file.open() as stream:
        names = next((fields for _, _, fields in _csv_rows(_lines(stream), file.format) if fields), [])
    if len(set(names)) != len(names) or not all(name.strip() for name in names):
        raise ValueError("the first line of a CSV file must name its columns, each by its own name")
    return tuple(names)


def _row_bounds(file: TextFile, chunk: int) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    with file.open() as stream:
        if file.format == "jsonl":
            yield from _line_bounds(stream, chunk)
        elif file.format == "json":
            yield from _in_batches((start, stop) for start, stop, _ in _array_elements(stream.read()))
        else:
            rows = _csv_rows(_lines(stream, chunk), file.format)
            bounds = ((start, stop) for start, stop, fields in rows if fields)
            yield from _in_batches(islice(bounds, 1, None))  # the first is the header


def _in_batches(
    bounds: Iterator[tuple[int, int]], size: int = 1 << 16
) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """So that the bounds of a long file are never all in memory."""
    while batch := list(islice(bounds, size)):
        table = np.array(batch, dtype=np.int64)
        yield table[:, 0], table[:, 1]


def _line_bounds(stream: Any, size: int) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Start and end of every line that is not blank, by chunks; a line's newline is not part of it."""
    base, tail = 0, [b""]
    while True:
        chunk = stream.read(size)
        if chunk and b"\n" not in chunk:
            tail.append(chunk)  # a line longer than a chunk: join once, when it ends
            continue
        data = b"".join([*tail, chunk])
        characters = np.frombuffer(data, dtype=np.uint8)
        newlines = np.flatnonzero(characters == 10)
        if not chunk and data:
            newlines = np.append(newlines, len(data))
        starts = np.concatenate([[0], newlines[:-1] + 1]) if len(newlines) else newlines
        # Most lines begin with a brace; only those that do not are looked at one by one.
        maybe = np.flatnonzero(np.isin(characters[starts], _BLANKS))
        blank = [i for i in maybe if not data[starts[i] : newlines[i]].strip(_WHITE)]
        keep = np.ones(len(newlines), dtype=bool)
        keep[blank] = False
        yield starts[keep] + base, newlines[keep] + base
        if not chunk:
            return
        done = int(newlines[-1]) + 1
        base, tail = base + done, [data[done:]]


def _array_elements(data: bytes, base: int = 0, *, piece: bool = False) -> Iterator[tuple[int, int, Any]]:
    """(start byte, stop byte, value) of each element of a JSON array, or of the inside of one. ValueError if broken."""
    text = data.decode("utf-8", "surrogateescape")
    decoder = json.JSONDecoder()
    position = 1 if text.startswith("\ufeff") else 0
    position = _skip(text, position)
    if not piece and text[position : position + 1] == "[":
        position = _skip(text, position + 1)
    elif not piece:
        raise ValueError("a .json file must hold an array of rows; for one object per line name it .jsonl")
    at_byte, at_char = base, 0
    while position < len(text) and text[position] != "]":
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, getattr(error, "pos", position)) + 1
            raise ValueError(f"not valid JSON near line {line}") from None
        start_byte = at_byte + len(text[at_char:position].encode("utf-8", "surrogateescape"))
        stop_byte = start_byte + len(text[position:end].encode("utf-8", "surrogateescape"))
        yield start_byte, stop_byte, value
        at_byte, at_char = stop_byte, end
        position = _skip(text, end)
        if position < len(text) and text[position] == ",":
            position = _skip(text, position + 1)
        elif position < len(text) and text[position] != "]":
            raise ValueError(f"not valid JSON near line {text.count(chr(10), 0, position) + 1}")
    if not piece and position >= len(text):
        raise ValueError("the JSON array is cut off: its closing bracket is missing")
    if not piece and _skip(text, position + 1) != len(text):
        raise ValueError("there is more after the end of the JSON array")


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _lines(stream: Any, size: int = _CHUNK) -> Iterator[bytes]:
    """Lines with their newline, of any stream of bytes."""
    tail = b""
    while chunk := stream.read(size):
        *whole, tail = (tail + chunk).split(b"\n")
        yield from (line + b"\n" for line in whole)
    if tail:
        yield tail


def _csv_rows(lines: Iterable[bytes], format: str, base: int = 0) -> Iterator[tuple[int, int, list[str]]]:
    """(start byte, stop byte, fields) of each CSV row, the first line being at byte `base` of the file; quoted fields
    may span lines. ValueError for an open quote."""
    consumed = base

    def decoded() -> Iterator[str]:
        nonlocal consumed
        for line in lines:
            body = line.removeprefix(codecs.BOM_UTF8) if consumed == 0 else line
            consumed += len(line)
            yield body.decode("utf-8", "surrogateescape")

    reader = csv.reader(decoded(), delimiter="\t" if format == "tsv" else ",", strict=True)
    while True:
        start = consumed
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"not valid CSV near line {reader.line_num} ({error})") from None
        yield start, consumed, fields


# --- the rows themselves ------------------------------------------------------------------------------------------


def read_records(file: TextFile, span: Span) -> list[Record]:
    """The rows of `span`, in order; a row that cannot be parsed carries its problem. Never fewer than the span says."""
    data = _read_range(file, span.start_byte, span.stop_byte)
    if file.format == "jsonl":
        return list(_parse_lines(data, span.start_byte))
    if file.format == "json":
        base = span.start_byte
        elements = _array_elements(data, base, piece=True)
        return [_from_json(value, data[start - base : stop - base], start) for start, stop, value in elements]
    base = span.start_byte
    rows = _csv_rows(iter(io.BytesIO(data)), file.format, base)
    return [
        _from_csv(fields, file.header, data[start - base : stop - base], start)
        for start, stop, fields in rows
        if fields
    ]


def _parse_lines(data: bytes, base: int) -> Iterator[Record]:
    offset = base
    for line in data.split(b"\n"):
        if line.strip(_WHITE):
            yield _parse_line(line, offset)
        offset += len(line) + 1


def _parse_line(line: bytes, offset: int) -> Record:
    body = line.removeprefix(codecs.BOM_UTF8) if offset == 0 else line
    try:
        value = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Record(offset, RowProblem("invalid_utf8", f"byte {error.start} of the line is not UTF-8"), line)
    except json.JSONDecodeError as error:
        return Record(offset, RowProblem("malformed_json", f"{error.msg} at character {error.pos}"), line)
    except (
        ValueError,
        RecursionError,
    ) as error:  # integers of thousands of digits, thousands of nested brackets
        return Record(offset, RowProblem("malformed_json", f"not readable: {type(error).__name__}"), line)
    return _from_json(value, line, offset)


def _from_json(value: Any, raw: bytes, offset: int) -> Record:
    if not isinstance(value, dict):
        return Record(
            offset,
            RowProblem("not_an_object", f"the row is a JSON {type(value).__name__}, not an object"),
            raw,
        )
    if raw.count(b"[") + raw.count(b"{") > _MAX_NESTING and _is_deep(value):
        return Record(offset, RowProblem("malformed_json", f"nested deeper than {_MAX_NESTING} levels"), raw)
    lowered = raw.lower()
    if b"\\ud" in lowered or _has_surrogates(raw):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return Record(
                offset,
                RowProblem("invalid_utf8", "a string holds half of a surrogate pair or bad bytes"),
                raw,
            )
    return Record(offset, value, raw)


def _is_deep(value: Any) -> bool:
    level: list[Any] = [value]
    for _ in range(_MAX_NESTING):
        containers = [inner for inner in level if isinstance(inner, dict | list)]
        level = [inner for outer in containers for inner in (outer.values() if isinstance(outer, dict) else outer)]
        if not level:
            return False
    return any(isinstance(inner, dict | list) for inner in level)


def _has_surrogates(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def _from_csv(fields: list[str], header: Sequence[str], raw: bytes, offset: int) -> Record:
    if len(fields) != len(header):
        problem = RowProblem("malformed_csv", f"the row has {len(fields)} fields where the header names {len(header)}")
        return Record(offset, problem, raw)
    if _has_surrogates(raw):
        return Record(offset, RowProblem("invalid_utf8", "the row is not UTF-8"), raw)
    return Record(offset, dict(zip(header, fields, strict=True)), raw)


class _Local(threading.local):
    """The one compressed file that this thread has open, and how far it is unpacked."""

    cursor: tuple[TextFile, Any, int] | None = None


_local = _Local()


def _read_range(file: TextFile, start: int, stop: int) -> bytes:
    if file.compression is None:
        filesystem, path = open_filesystem(file.url, file.options)
        data: bytes = filesystem.cat_file(path, start=start, end=stop)
        return data
    cursor = _local.cursor
    _local.cursor = None  # a read that fails half way leaves the stream nobody knows where
    if cursor is None or cursor[0] != file or cursor[2] > start:
        cursor = (file, file.open(), 0)
    stream, position = cursor[1:]
    while position < start:
        position += len(_some(stream, min(_CHUNK, start - position)))
    data = stream.read(stop - start)
    _local.cursor = (file, stream, position + len(data))
    return data


def _some(stream: Any, size: int) -> bytes:
    data: bytes = stream.read(size)
    if not data:
        raise OSError("the file ends before the rows that the plan found in it")
    return data
