"""The rows of a CSV or TSV file and their places."""

from __future__ import annotations

import codecs
import csv
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from tamis.pipeline.inputs.row_limits import MAX_ROW_BYTES

BY_BACKSLASH = (
    "its quotes seem to be escaped by a backslash, as Spark and MySQL write them, and CSV doubles them; write it anew "
    "(in Spark with .option('escape', '\"')), or as Parquet or JSON lines"
)

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))


def lines_of(stream: Any, size: int) -> Iterator[bytes]:
    """Lines with their newline. A longer one than MAX_ROW_BYTES comes in pieces; only the last has the newline."""
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


def strict_reader(lines: Iterable[str], delimiter: str, quoted: bool) -> Iterator[list[str]]:
    """The rows of Python's own reader. quoted: fields may stand in quotes. csv.Error for a quote out of place."""
    if quoted:
        return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL, strict=True)
    return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)


def csv_rows(
    lines: Iterable[bytes], delimiter: str, quoted: bool = True, base: int = 0, encoding: str = ""
) -> Iterator[tuple[int, int, list[str]]]:
    """(start byte, stop byte, fields) of each row. The first line starts at byte `base` of the file; quoted fields may
    span lines. Fields are [] for a blank line. encoding: of the text, see encodings.py.

    ValueError names the line of a quote that is open or out of place, and of a row longer than MAX_ROW_BYTES: where the
    next row begins is only known after the whole of it.
    """
    consumed = start = base
    line_number = first_line = 1
    escaped = False

    def decoded() -> Iterator[str]:
        nonlocal consumed, line_number, escaped
        for line in lines:
            body = line.removeprefix(codecs.BOM_UTF8) if consumed == 0 else line
            consumed += len(line)
            if consumed - start > MAX_ROW_BYTES:
                raise ValueError(
                    f"the row that begins in line {first_line} (byte {start:,}) is longer than {MAX_ROW_BYTES:,} "
                    "bytes, or a quote in it is not closed; take it out, or convert the file to .jsonl, where such a "
                    "row is set aside alone"
                )
            line_number += 1
            escaped = escaped or b'\\"' in body
            yield body.decode(encoding or "utf-8", "surrogateescape")

    reader = strict_reader(decoded(), delimiter, quoted)
    try:
        for fields in reader:
            yield start, consumed, fields
            start, first_line = consumed, line_number
    except csv.Error as error:
        advice = "; if quotes are part of the text, set input.quoting: none" if quoted else ""
        advice = f"; {BY_BACKSLASH}" if quoted and escaped else advice
        raise ValueError(f"not valid CSV near line {max(line_number - 1, 1)} ({error}){advice}") from None
