"""The elements of a JSON array, one after the other. Memory is bounded by the longest element."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from tamis.operators.conversation.strict_json import parse_at
from tamis.operators.problems import RowProblem
from tamis.pipeline.inputs.row_limits import MAX_ROW_BYTES

_SPACE = re.compile(r"[ \t\r\n]*")
_STRUCTURE = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)
_NEAR = 16
"""Characters: an error this close to the end of the text read so far may disappear when more text is read."""


def array_elements(
    stream: Any, base: int = 0, *, chunk: int, inside: bool = False, values: bool = True
) -> Iterator[tuple[int, int, Any]]:
    """(start byte, stop byte, value or RowProblem) of each element.

    base: place in the file of the stream's first byte. inside: the stream is a piece of the inside of an array.
    values: False where only the places are needed, which is faster. An element that is JSON but unusable (duplicate
    key, nested too deeply) gives a RowProblem; ValueError where the array itself is broken, or an element is longer
    than MAX_ROW_BYTES.
    """
    window = _Window(stream, base, chunk)
    if not inside:
        window.skip("\ufeff")
        window.skip()
        if window.next != "[":
            raise ValueError("a .json file must hold an array of rows; for one object per line name it .jsonl")
        window.skip("[")
    window.skip()
    while window.next not in ("", "]"):
        value, end = window.element(values)
        start_byte = window.byte
        window.advance(end)
        yield start_byte, window.byte, value
        window.skip()
        if window.next == ",":
            window.skip(",")
            window.skip()
        elif window.next not in ("", "]"):
            raise ValueError(f"not valid JSON near line {window.line()}")
    if inside:
        return
    if not window.next:
        raise ValueError("the JSON array is cut off: its closing bracket is missing")
    window.skip("]")
    window.skip()
    if window.next:
        raise ValueError("there is more after the end of the JSON array")


class _Window:
    """The part of the file in memory. _at: the present position in it; byte: the same position in the file."""

    def __init__(self, stream: Any, base: int, chunk: int) -> None:
        self._stream, self._chunk = stream, chunk
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._lines = 1
        self._ended = False
        self._text, self._at, self.byte = "", 0, base

    @property
    def next(self) -> str:
        """The character at the present position, "" at the end of the file."""
        if self._at == len(self._text):
            self._grow()
        return self._text[self._at : self._at + 1]

    def skip(self, character: str = "") -> None:
        """Skip this character if it is the next one; without an argument, skip all white space."""
        if character:
            if self.next == character:
                self.advance(self._at + 1)
            return
        while self.next and (found := _SPACE.match(self._text, self._at)) and found.end() > self._at:
            self.advance(found.end())

    def advance(self, to: int) -> None:
        self.byte += len(self._text[self._at : to].encode("utf-8", "surrogateescape"))
        self._at = to

    def line(self, ahead: int = 0) -> int:
        """The line number of the character `ahead` characters after the present position."""
        return self._lines + self._text.count("\n", 0, self._at + ahead)

    def element(self, values: bool) -> tuple[Any, int]:
        """The value that begins here, or its problem, and where it ends."""
        while True:
            try:
                value, end = self._decoded(values)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos + _NEAR >= len(self._text)
                if self._ended or not cut:
                    raise ValueError(f"not valid JSON near line {self.line(error.pos - self._at)}") from None
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, or very deep nesting
                balanced = _balanced(self._text, self._at)
                if balanced is not None:
                    return RowProblem("malformed_json", f"not readable: {type(error).__name__}"), balanced
                if self._ended:
                    raise ValueError(f"not valid JSON near line {self.line()}") from None
            else:
                # a number may continue in the part that is not read yet
                if end < len(self._text) or self._ended:
                    return value, end
            if len(self._text) - self._at > MAX_ROW_BYTES:
                raise ValueError(
                    f"the row that begins near line {self.line()} is longer than {MAX_ROW_BYTES >> 20} MiB, or not "
                    "valid JSON; convert the file to .jsonl (one object per line), where such a row is set aside alone"
                )
            self._grow()

    def _decoded(self, values: bool) -> tuple[Any, int]:
        if values:
            try:
                return parse_at(self._text, self._at)
            except RowProblem as problem:
                return problem, _PLAIN.raw_decode(self._text, self._at)[1]
        return _PLAIN.raw_decode(self._text, self._at)

    def _grow(self) -> None:
        """Drop the text before the position and read more: as much again as is in memory, so that a long element is
        not parsed too often."""
        if self._ended:
            return
        self._lines += self._text.count("\n", 0, self._at)
        held, more = self._text[self._at :], ""
        while not more and not self._ended:  # a chunk may end within a character
            data = self._stream.read(max(self._chunk, len(held)))
            self._ended = not data
            more = self._decoder.decode(data, final=self._ended)
        self._text, self._at = held + more, 0


_PLAIN = json.JSONDecoder()


def _balanced(text: str, position: int) -> int | None:
    """Where the array or object at `position` closes, judged only by its brackets; None if it does not close."""
    depth = 0
    for found in _STRUCTURE.finditer(text, position):
        first = found[0][0]
        depth += (first in "[{") - (first in "]}")
        if depth == 0 and first != '"':
            return found.end()
    return None
