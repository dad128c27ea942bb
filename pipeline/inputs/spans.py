"""Spans: consecutive rows of one file and their bytes; and how a file's rows are split into spans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis.pipeline.inputs.row_limits import MAX_ROW_BYTES


@dataclass(frozen=True)
class Span:
    """Consecutive rows of one file and their bytes (half-open, in the unpacked file)."""

    start_row: int
    stop_row: int
    start_byte: int
    stop_byte: int


class Cutter:
    """Splits rows, which are added in order, into spans of at most `rows` rows and about `size` bytes.

    A row longer than MAX_ROW_BYTES is a span by itself, and no other span is so long. The work per row is done in
    NumPy, only the work per span in Python.
    """

    def __init__(self, rows: int, size: int) -> None:
        self._rows, self._size = rows, min(size, MAX_ROW_BYTES)
        self._spans: list[Span] = []
        self._count = self._first_row = self._first_byte = self._last_byte = 0

    def add(self, starts: np.ndarray[Any, Any], stops: np.ndarray[Any, Any]) -> None:
        """Add the next rows: their starts and ends in the file, both int64 (n,) and ascending."""
        done = 0  # of these rows
        while done < len(starts):
            if self._count == self._first_row:  # a span always takes its first row, however long
                self._first_byte = int(starts[done])
                stop = done + 1
            else:
                stop = done
            fit = int(np.searchsorted(stops, self._first_byte + self._size, side="right"))
            stop = max(stop, min(fit, done + self._rows - (self._count - self._first_row)))
            self._count += stop - done
            if stop > done:
                self._last_byte = int(stops[stop - 1])
            if stop < len(starts):
                self._close()
            done = stop

    def end(self) -> list[Span]:
        """End the last span, and return all spans."""
        if self._count > self._first_row:
            self._close()
        return self._spans

    def _close(self) -> None:
        self._spans.append(Span(self._first_row, self._count, self._first_byte, self._last_byte))
        self._first_row = self._count
