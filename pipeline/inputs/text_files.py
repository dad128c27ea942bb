"""JSON lines, JSON arrays and CSV, plain or compressed: where their rows lie, and the rows of one byte range.

A range of rows is a range of bytes (of the unpacked file), found once when the plan is made. So any worker can read its
shard without reading the bytes before it. In a compressed file, a worker unpacks forward from the place where it
stopped last time.
"""

from __future__ import annotations

import io
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np

from tamis.operators.conversation.strict_json import parse
from tamis.operators.problems import RowProblem
from tamis.pipeline.inputs.csv_rows import BY_BACKSLASH, csv_rows, lines_of
from tamis.pipeline.inputs.decompression import Unpacked
from tamis.pipeline.inputs.encodings import in_utf8, not_utf8
from tamis.pipeline.inputs.json_arrays import array_elements, rows_key
from tamis.pipeline.inputs.layouts import AS_NAMED, OBJECT, Layout, layout_of, usual_delimiter
from tamis.pipeline.inputs.layouts import HEAD_BYTES as LAYOUT_BYTES
from tamis.pipeline.inputs.line_bounds import WHITE, Bounds, Joiner, lines_in
from tamis.pipeline.inputs.row_limits import HEAD_BYTES, MAX_COLUMNS, MAX_ROW_BYTES, too_large
from tamis.pipeline.inputs.spans import Cutter
from tamis.pipeline.inputs.spans import Span as Span
from tamis.pipeline.storage.addresses import is_local, open_filesystem
from tamis.pipeline.storage.ranged import Told, open_stream, read_range

_CHUNK = 8 << 20
_SHOWN_CHARACTERS = 60
_BEFORE = b"\xef\xbb\xbf" + WHITE
_MAX_NESTING = 200
"""Rows with deeper nesting are refused. The limit is fixed because Python's own limit depends on the caller's stack,
and all stages must agree."""


@dataclass(frozen=True)
class TextFile:
    """All that is needed to open a text file anywhere. format: by its name. identity: of its content, so that a kept
    cursor is never stale. layout: as `examine` found it. encoding: of its text, see encodings.py. held: all of its
    bytes, where `small_in_memory` has read them."""

    url: str
    format: str
    compression: str | None
    options: Mapping[str, Any]
    header: tuple[str, ...] = ()
    identity: str = ""
    layout: Layout = AS_NAMED
    encoding: str = ""
    held: bytes | None = field(default=None, repr=False)

    @property
    def kind(self) -> str:
        """The format that the file has."""
        return self.layout.format or self.format

    def open(self, tell: Callable[[int], None] | None = None) -> Any:
        """A stream of the unpacked bytes. tell: called with the number of stored bytes that are read."""
        raw = io.BytesIO(self.held) if self.held is not None else open_stream(*open_filesystem(self.url, self.options))
        if tell is not None:
            raw = Told(raw, tell)
        if self.compression is None:
            return raw
        return Unpacked(raw, self.compression)


@dataclass(frozen=True)
class Record:
    """One row as read. value: its columns, or its problem. raw: its text in the file; only the beginning where the row
    is longer than MAX_ROW_BYTES. size: bytes of the whole row."""

    offset: int
    value: dict[str, Any] | RowProblem
    raw: bytes
    size: int


def small_in_memory(file: TextFile, size: int) -> TextFile:
    """The file, with its bytes if the first bytes that are looked at are all of them: then it is read in one go, by one
    request. Else, or where it is compressed, unchanged. size: its bytes as stored. Raises OSError."""
    if file.compression is not None or size >= LAYOUT_BYTES:
        return file
    data, _ = _head(file, size, LAYOUT_BYTES)
    return replace(file, held=data) if len(data) < LAYOUT_BYTES else file  # it may have grown


def examine(file: TextFile, size: int, delimiter: str = "", quoting: str = "", field: str = "") -> Layout:
    """How the rows of a file lie in it. size: its bytes as stored. delimiter, quoting, field: as a person has set them,
    see `files.Wanted`. Raises ValueError or OSError if it is none of what its format may be, or cannot be read."""
    head, whole = _head(file, size, LAYOUT_BYTES)
    if file.format == "json" and not whole and b"\n" not in head and head[:LAYOUT_BYTES].lstrip(_BEFORE)[:1] == b"{":
        # One object a line, or one object alone: only the end of the first line tells.
        head, whole = _head(file, size, MAX_ROW_BYTES)
    layout = layout_of(in_utf8(head, file.encoding), whole, file.format, delimiter, quoting, field)
    if layout.format != OBJECT:
        return layout
    with file.open() as stream:
        return replace(layout, format="json", key=rows_key(stream, field, chunk=_CHUNK))


def _head(file: TextFile, size: int, most: int) -> tuple[bytes, bool]:
    """The first bytes of the unpacked file, and whether they are all."""
    if file.held is not None:
        return file.held[:most], len(file.held) < most
    filesystem, path = open_filesystem(file.url, file.options)
    if file.compression is None and not is_local(filesystem):  # in one request
        return read_range(filesystem, path, 0, min(size, most)), size <= most
    with open_stream(filesystem, path) if file.compression is None else file.open() as stream:
        head: bytes = stream.read(most)
    return head, len(head) < most


# --- where the rows are -------------------------------------------------------------------------------------------


def find_spans(
    file: TextFile, rows: int, size: int, chunk: int = _CHUNK, tell: Callable[[int], None] | None = None
) -> list[Span]:
    """Split the file into spans of at most `rows` rows and about `size` bytes. Reads the file once, `chunk` bytes at a
    time.

    A row longer than MAX_ROW_BYTES is a span by itself, and no other span is so long. tell: called with the number of
    bytes read. Raises ValueError or OSError when the file as a whole is broken (truncated archive, not an array, open
    quote) or exceeds the decompression bomb limit.
    """
    cutter = Cutter(rows, size)
    for starts, stops in _row_bounds(file, chunk, tell):
        cutter.add(starts, stops)
    return cutter.end()


def csv_header(file: TextFile) -> tuple[str, ...]:
    """The column names of a CSV file. A column without a name, such as the index that pandas writes, is called as
    pandas and `datasets` call it. ValueError if two names are the same."""
    with file.open() as stream:
        names = next((fields for _, _, fields in _csv_rows(file, lines_of(stream, _CHUNK)) if fields), [])
    names = _named(names)
    if not _is_utf8(",".join(names).encode("utf-8", "surrogateescape")):
        raise ValueError(
            "its first line is not UTF-8; set input.encoding (such as cp1252 for Windows-1252), or convert the file "
            "(iconv -f ITS_ENCODING -t UTF-8 OLD > NEW)"
        )
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ValueError(f"the first line names two columns {twice[0][:_SHOWN_CHARACTERS]!r}; rename one of them")
    return tuple(names)


def _named(names: Sequence[str]) -> list[str]:
    return [name if name.strip() else f"Unnamed: {place}" for place, name in enumerate(names)]


def _csv_rows(file: TextFile, lines: Iterable[bytes], base: int = 0) -> Iterator[tuple[int, int, list[str]]]:
    delimiter = file.layout.delimiter or usual_delimiter(file.format)
    return csv_rows(lines, delimiter, file.layout.quoted, base, file.encoding)


def _row_bounds(file: TextFile, chunk: int, tell: Callable[[int], None] | None) -> Iterator[Bounds]:
    with file.open(tell) as stream:
        if file.kind == "jsonl":
            yield from _line_bounds(stream, chunk)
        elif file.kind == "json":
            elements = array_elements(stream, chunk=chunk, values=False, key=file.layout.key)
            yield from _in_batches((start, stop) for start, stop, _ in elements)
        else:
            rows = _csv_rows(file, lines_of(stream, chunk))
            bounds = ((start, stop) for start, stop, fields in rows if fields)
            yield from _in_batches(islice(bounds, 1, None))  # the first is the header


def _in_batches(bounds: Iterator[tuple[int, int]], size: int = 1 << 16) -> Iterator[Bounds]:
    """The bounds in batches, so that the bounds of a long file are never all in memory."""
    while batch := list(islice(bounds, size)):
        table = np.array(batch, dtype=np.int64)
        yield table[:, 0], table[:, 1]


def _line_bounds(stream: Any, size: int) -> Iterator[Bounds]:
    """The bounds of every line that is not blank, chunk by chunk; a long line is never in memory as a whole."""
    joiner = Joiner()
    while chunk := stream.read(size):
        yield joiner.add(lines_in(chunk))
    yield joiner.end()


# --- the rows themselves ------------------------------------------------------------------------------------------


def read_records(file: TextFile, span: Span, most: int | None = None) -> list[Record]:
    """The rows of `span`, in order; a row that cannot be parsed has its problem as value. Never fewer than the span
    says.

    most: how many rows are enough; the others are not parsed.
    """
    base, size = span.start_byte, span.stop_byte - span.start_byte
    if size > MAX_ROW_BYTES:
        return [Record(base, too_large(size), _read_range(file, base, base + HEAD_BYTES), size)][:most]
    data = _read_range(file, base, span.stop_byte)
    return list(islice(_parse(file, data, base), most))


def _parse(file: TextFile, data: bytes, base: int) -> Iterator[Record]:
    if file.kind == "jsonl":
        yield from _parse_lines(data, base, file.encoding)
    elif file.kind == "json":
        elements = array_elements(io.BytesIO(data), base, chunk=len(data) + 1, inside=True)
        for start, stop, value in elements:
            raw = data[start - base : stop - base]
            yield _parse_line(raw, start, file.encoding) if file.encoding else _from_json(value, raw, start)
    else:
        for start, stop, fields in _csv_rows(file, io.BytesIO(data), base):
            if fields:
                raw = in_utf8(data[start - base : stop - base], file.encoding)
                yield _from_csv(fields, file.header, raw, start, file.encoding)


def _parse_lines(data: bytes, base: int, encoding: str) -> Iterator[Record]:
    offset = base
    for line in data.split(b"\n"):
        if line.strip(WHITE):
            yield _parse_line(line, offset, encoding)
        offset += len(line) + 1


def _parse_line(line: bytes, offset: int, encoding: str) -> Record:
    line = in_utf8(line, encoding)
    try:
        # A mark may stand before any line, where files were joined.
        value = parse(line.decode("utf-8").lstrip("\ufeff"))
    except UnicodeDecodeError:
        value = RowProblem("invalid_utf8", not_utf8(line, encoding))
    except RowProblem as problem:
        value = problem
    return _from_json(value, line, offset, decoded=True)


def _from_json(value: Any, raw: bytes, offset: int, *, decoded: bool = False) -> Record:
    """decoded: the text is known to be UTF-8."""
    return Record(offset, _usable(value, raw, decoded), raw, len(raw))


def _usable(value: Any, raw: bytes, decoded: bool) -> dict[str, Any] | RowProblem:
    if isinstance(value, RowProblem):
        return value
    if not isinstance(value, dict):
        return RowProblem("not_an_object", f"the row is a JSON {type(value).__name__}, not an object")
    if len(value) > MAX_COLUMNS:
        return RowProblem("too_many_columns", f"the row has {len(value):,} keys, more than {MAX_COLUMNS:,}")
    if raw.count(b"[") + raw.count(b"{") > _MAX_NESTING and _is_deep(value):
        return RowProblem("malformed_json", f"nested deeper than {_MAX_NESTING} levels")
    if (b"\\u" in raw and b"\\ud" in raw.lower()) or not (decoded or _is_utf8(raw)):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return RowProblem("invalid_utf8", "a string holds half of a surrogate pair or bad bytes")
    return value


def _is_deep(value: Any) -> bool:
    level: list[Any] = [value]
    for _ in range(_MAX_NESTING):
        containers = [inner for inner in level if isinstance(inner, dict | list)]
        level = [inner for outer in containers for inner in (outer.values() if isinstance(outer, dict) else outer)]
        if not level:
            return False
    return any(isinstance(inner, dict | list) for inner in level)


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _from_csv(fields: list[str], header: Sequence[str], raw: bytes, offset: int, encoding: str) -> Record:
    value: dict[str, Any] | RowProblem
    if _is_header(fields, header):
        value = RowProblem("malformed_csv", "the row repeats the header; files may have been joined with theirs")
    elif len(fields) != len(header):
        why = f"; {BY_BACKSLASH}" if b'\\"' in raw else ""
        value = RowProblem(
            "malformed_csv", f"the row has {len(fields)} fields where the header names {len(header)}{why}"
        )
    elif not _is_utf8(raw):
        value = RowProblem("invalid_utf8", not_utf8(raw, encoding))
    else:
        value = dict(zip(header, fields, strict=True))
    return Record(offset, value, raw, len(raw))


def _is_header(fields: Sequence[str], header: Sequence[str]) -> bool:
    """Whether a row is the header once more, as where CSV files were joined."""
    if len(header) < 2 or fields[-1] not in (header[-1], ""):
        return False
    return _named([fields[0].removeprefix("\ufeff"), *fields[1:]]) == [*header]


class _Local(threading.local):
    """The one compressed file that this thread has open, and how far it has been unpacked."""

    cursor: tuple[TextFile, Any, int] | None = None


_local = _Local()


def _read_range(file: TextFile, start: int, stop: int) -> bytes:
    if file.held is not None:
        return file.held[start:stop]
    if file.compression is None:
        filesystem, path = open_filesystem(file.url, file.options)
        return read_range(filesystem, path, start, stop)
    cursor = _local.cursor
    _local.cursor = None  # after a failed read, the position of the stream is unknown
    if cursor is None or cursor[0] != file or cursor[2] > start:
        cursor = (file, file.open(), 0)
    stream, position = cursor[1:]
    while position < start:
        position += len(_some(stream, min(_CHUNK, start - position)))
    data: bytes = stream.read(stop - start)
    _local.cursor = (file, stream, position + len(data))
    return data


def _some(stream: Any, size: int) -> bytes:
    data: bytes = stream.read(size)
    if not data:
        raise OSError("the file ends before the rows that the plan found in it")
    return data
