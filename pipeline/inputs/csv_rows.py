"""The rows of a CSV or TSV file and their places. Rows longer than MAX_ROW_BYTES are never in memory as a whole."""

from __future__ import annotations

import codecs
import csv
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from tamis.pipeline.inputs.row_limits import MAX_ROW_BYTES

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))

_FIELD, _PLAIN, _QUOTED, _AFTER_QUOTE = range(4)
"""Where a byte stands: at the start of a field, in an unquoted field, in a quoted field, or after a quote in that."""


def lines_of(stream: Any, size: int) -> Iterator[bytes]:
    """Lines with their newline. A line longer than MAX_ROW_BYTES comes in pieces; only the last has the newline."""
    tail: list[bytes] = []
    held = 0
    while chunk := stream.read(size):
        *whole, rest = chunk.split(b"\n")
        if whole:
            whole[0] = b"".join([*tail, whole[0]])
            yield from (line + b"\n" for line in whole)
            tail, held = [], 0
        tail.append(rest)
        held += len(rest)
        if held > MAX_ROW_BYTES:
            yield b"".join(tail)
            tail, held = [], 0
    if held:
        yield b"".join(tail)


def csv_rows(lines: Iterable[bytes], format: str, base: int = 0) -> Iterator[tuple[int, int, list[str] | None]]:
    """(start byte, stop byte, fields) of each row. The first line starts at byte `base` of the file; quoted fields may
    span lines. Fields are None for a row longer than MAX_ROW_BYTES, [] for a blank line. ValueError for an open quote.
    """
    rest = iter(lines)
    delimiter = "\t" if format == "tsv" else ","
    start = consumed = base
    line_number = 0

    def decoded() -> Iterator[str]:
        nonlocal consumed, line_number
        for line in rest:
            body = line.removeprefix(codecs.BOM_UTF8) if consumed == 0 else line
            # a row continues after the end of a line only inside quotes
            state = _QUOTED if consumed > start else _FIELD
            consumed += len(line)
            line_number += 1
            if consumed - start > MAX_ROW_BYTES:
                raise _TooLarge(body, state)
            yield body.decode("utf-8", "surrogateescape")

    reader = csv.reader(decoded(), delimiter=delimiter, strict=True)
    while True:
        start = consumed
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"not valid CSV near line {line_number} ({error})") from None
        except _TooLarge as large:
            state: int | None = _state_after(large.line, large.state, delimiter.encode())
            while state is not None and (line := next(rest, None)) is not None:
                consumed += len(line)
                line_number += 1
                state = _state_after(line, state, delimiter.encode())
            if state == _QUOTED:
                raise ValueError(f"not valid CSV near line {line_number} (unexpected end of data)") from None
            yield start, consumed, None
            reader = csv.reader(decoded(), delimiter=delimiter, strict=True)
            continue
        yield start, consumed, fields


class _TooLarge(Exception):
    """A row became too long. line: the line at which it did; state: the state before the first byte of this line."""

    def __init__(self, line: bytes, state: int) -> None:
        super().__init__()
        self.line, self.state = line, state


def _state_after(line: bytes, state: int, delimiter: bytes) -> int | None:
    """The state after this line, or piece of a line; None if the row ends with it. ValueError as csv.reader raises."""
    of_note = re.compile(b'\n|%s"' % re.escape(delimiter))
    place = 0
    while place < len(line):
        if state == _QUOTED:
            quote = line.find(b'"', place)
            if quote < 0:
                return _QUOTED
            state, place = _AFTER_QUOTE, quote + 1
            continue
        byte = line[place : place + 1]
        if byte == b"\n":
            return None
        if state == _AFTER_QUOTE:
            if byte not in (b'"', delimiter, b"\r"):
                raise ValueError(f"not valid CSV: {delimiter!r} expected after '\"'")
            state = {b'"': _QUOTED, delimiter: _FIELD}.get(byte, _AFTER_QUOTE)
            place += 1
        elif state == _FIELD and byte == b'"':
            state, place = _QUOTED, place + 1
        else:
            found = of_note.search(line, place)
            if found is None:
                return _FIELD if line.endswith(delimiter) else _PLAIN
            state, place = (_PLAIN, found.start()) if found[0] == b"\n" else (_QUOTED, found.end())
    return state
