"""Byte ranges of large JSON Lines files: read anywhere, in any order, and joined into the spans of each file.

A range describes where its lines are in a byte or two per line. The split into spans depends on all rows before, so the
driver makes it, range by range, and drops the range afterwards: it holds only spans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tamis.pipeline.errors import TamisError
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.inputs.layouts import HEAD_BYTES, layout_of
from tamis.pipeline.inputs.line_bounds import Joiner, Lines, lines_in
from tamis.pipeline.inputs.spans import Cutter, Span
from tamis.pipeline.storage.addresses import open_filesystem
from tamis.pipeline.storage.ranged import read_range

RANGE_BYTES = 32 << 20
"""Two concurrent requests to an object store, and at most about two seconds of work."""

_PIECE_BYTES = 1 << 20
"""The lines are found in pieces of this size: on arrays of 32 MB this would take three times as long."""


@dataclass(frozen=True)
class Range:
    """Bytes start..stop (half-open) of a file, the range `number` of its `count`."""

    file: SourceFile
    number: int
    count: int
    start: int
    stop: int


def ranges_of(file: SourceFile, size: int = RANGE_BYTES) -> list[Range]:
    """The whole file, in order, in ranges of at least `size` bytes."""
    count = max(file.bytes // size, 1)
    edges = [file.bytes * number // count for number in range(count + 1)]
    return [Range(file, number, count, start, stop) for number, (start, stop) in enumerate(pairwise(edges))]


def is_large(file: SourceFile, size: int = RANGE_BYTES) -> bool:
    """Whether the file can be split into ranges, and is large enough to be worth it."""
    return file.format == "jsonl" and file.compression is None and file.bytes > 2 * size


def lines_of(part: Range, options: Mapping[str, Any]) -> list[Lines] | None:
    """Where the lines of a range are, piece by piece; None if it cannot be read. Raises StorageError or ConfigError."""
    filesystem, path = open_filesystem(part.file.url, options)
    try:
        data = memoryview(read_range(filesystem, path, part.start, part.stop))
    except TamisError:
        raise
    except (OSError, ValueError):
        return None
    if part.number == 0 and not _has_lines(bytes(data[:HEAD_BYTES])):
        return None
    return [lines_in(data[place : place + _PIECE_BYTES]) for place in range(0, len(data), _PIECE_BYTES)]


def _has_lines(head: bytes) -> bool:
    """Whether a file that its name calls JSON Lines begins so; the scan of the whole file says what it is otherwise."""
    try:
        return not layout_of(head, False, "jsonl").format
    except ValueError:
        return False


class FileSpans:
    """The spans of one file, joined from the lines of its ranges in any order; the same as those of `find_spans`."""

    def __init__(self, rows: int, size: int) -> None:
        self._cutter, self._joiner = Cutter(rows, size), Joiner()
        self._early: dict[int, Sequence[Lines] | None] = {}
        self._turn = 0
        self._readable = True

    def add(self, part: Range, lines: Sequence[Lines] | None) -> list[Span] | None:
        """The spans once the last missing range is added; an empty list if a range could not be read. Before that,
        None."""
        self._early[part.number] = lines
        while self._turn in self._early:
            following = self._early.pop(self._turn)
            self._turn += 1
            if following is None:
                self._readable = False
            for piece in following or () if self._readable else ():
                self._cutter.add(*self._joiner.add(piece))
        if self._turn < part.count:
            return None
        self._cutter.add(*self._joiner.end())
        return self._cutter.end() if self._readable else []
