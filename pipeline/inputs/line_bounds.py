"""Where the lines of a file lie, found from pieces that can be read in any order.

A piece knows where its own lines are. Of the two lines that its edges cut, it knows only whether its part is blank.
`Joiner` joins the pieces in order, without their bytes: a line may span any number of pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Bounds = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
"""Starts and ends of some lines in the file, both int64 (n,); a line does not include its newline."""

WHITE = b" \t\r\n\v\f"
"""A line with only these bytes is not a row."""

_IS_INK = ~np.isin(np.arange(256), np.frombuffer(WHITE, dtype=np.uint8))
_NONE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Lines:
    """The lines of one piece. size: its bytes; first, last: the places of its first and last newline, or None.

    gaps, lengths: unsigned, (n,), for the n non-blank lines between those two: the bytes from the end of the line
    before (or `first`) to the line's start, and the line's own length. The smallest type that holds them takes a byte
    or two per line. head_ink, tail_ink: whether the text before `first` and after `last` is not blank; without a
    newline, head_ink covers the whole piece.
    """

    size: int
    first: int | None
    last: int | None
    gaps: np.ndarray[Any, Any]
    lengths: np.ndarray[Any, Any]
    head_ink: bool
    tail_ink: bool

    def bounds(self) -> Bounds:
        """The bounds of the n lines, counted from the start of the piece."""
        steps = np.empty(2 * len(self.gaps), dtype=np.int64)
        steps[0::2], steps[1::2] = self.gaps, self.lengths
        places = np.cumsum(steps) + (self.first or 0)
        return places[0::2], places[1::2]


def lines_in(data: bytes | memoryview) -> Lines:
    """The lines of a piece of a file; fastest for pieces of about a megabyte, whose arrays fit a CPU cache."""
    characters = np.frombuffer(data, dtype=np.uint8)
    newlines = np.flatnonzero(characters == 10)
    if not len(newlines):
        return Lines(len(data), None, None, _NONE, _NONE, _has_ink(data), False)
    first, last = int(newlines[0]), int(newlines[-1])
    starts, stops = newlines[:-1] + 1, newlines[1:]
    keep = _IS_INK[characters[starts]]
    if not keep.all():  # most lines begin with a brace; of the others, all bytes are checked
        keep = np.logical_or.reduceat(_IS_INK[characters[: last + 1]], starts)
        starts, stops = starts[keep], stops[keep]
    gaps = starts - np.concatenate([[first], stops[:-1]])[: len(starts)]
    lengths = stops - starts
    return Lines(
        len(data), first, last, _small(gaps), _small(lengths), _has_ink(data[:first]), _has_ink(data[last + 1 :])
    )


class Joiner:
    """Joins the lines of a file from its pieces, which are added in order."""

    def __init__(self) -> None:
        self._base = self._open = 0
        self._ink = False

    def add(self, piece: Lines) -> Bounds:
        """The lines that end in this piece and are not blank."""
        base, self._base = self._base, self._base + piece.size
        self._ink = self._ink or piece.head_ink
        if piece.first is None or piece.last is None:
            return _NONE, _NONE
        starts, stops = (places + base for places in piece.bounds())
        if self._ink:
            starts, stops = np.append(self._open, starts), np.append(base + piece.first, stops)
        self._open, self._ink = base + piece.last + 1, piece.tail_ink
        return starts, stops

    def end(self) -> Bounds:
        """The last line, if no newline ends it."""
        return (np.array([self._open]), np.array([self._base])) if self._ink else (_NONE, _NONE)


def _has_ink(data: bytes | memoryview) -> bool:
    # Checking the beginning first avoids a copy of a line of megabytes.
    return bool(bytes(data[:64]).strip(WHITE) or bytes(data).strip(WHITE))


def _small(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))
