"""The elements of a JSON array, one after the other: of a file, or under a key of the object that the file holds.

Memory is bounded by the longest element.
"""

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
_SHOWN_NAMES, _SHOWN_CHARACTERS = 10, 40
_NEAR = 16
"""Characters: an error this close to the end of the text read so far may disappear when more text is read."""


def array_elements(
    stream: Any, base: int = 0, *, chunk: int, inside: bool = False, values: bool = True, key: str = ""
) -> Iterator[tuple[int, int, Any]]:
    """(start byte, stop byte, value or RowProblem) of each element.

    base: place in the file of the stream's first byte. inside: the stream is a piece of the inside of an array.
    values: False where only the places are needed, which is faster. key: the array is under this key of an object, as
    `rows_key` found. An element that is JSON but unusable (duplicate key, nested too deeply) gives a RowProblem;
    ValueError where the array itself is broken, or an element is longer than MAX_ROW_BYTES.
    """
    window = _Window(stream, base, chunk)
    if inside:
        window.skip()
        yield from _elements(window, values)
        return
    window.skip("\ufeff")
    window.skip()
    if key:
        for name in _members(window):
            if name == key and window.next == "[":
                break
            _pass_value(window)
    if window.next != "[":
        raise ValueError("not a JSON array")
    yield from _array(window, values)
    if key:
        return  # `rows_key` has read the rest
    window.skip()
    if window.next:
        raise ValueError("there is more after the end of the JSON array")


def rows_key(stream: Any, wanted: str, *, chunk: int) -> str:
    """The key with the rows of a file that is one JSON object: the only one with a list of objects, or the wanted one.

    Raises ValueError if there is none or more than one, or if the file is not one whole object.
    """
    window = _Window(stream, 0, chunk)
    window.skip("\ufeff")
    window.skip()
    names: list[str] = []
    lists: list[str] = []
    for name in _members(window):
        names.append(name)
        if _pass_value(window):
            lists.append(name)
    window.skip()
    if window.next:
        raise ValueError(
            "there is more after the end of the first JSON object; write one object a line, or all of them as one array"
        )
    found = [name for name in lists if name == wanted] if wanted else lists
    if len(found) == 1:
        return found[0]
    shown = ", ".join(name[:_SHOWN_CHARACTERS] for name in (found or names)[:_SHOWN_NAMES])
    if wanted:
        raise ValueError(f"input.field: the file is no JSON object with one list of objects under {wanted!r} ({shown})")
    if found:
        raise ValueError(
            f"one JSON object with several lists of objects ({shown}); say with input.field which holds rows"
        )
    raise ValueError(
        f"one JSON object, and none of its keys ({shown}) holds a list of objects; a JSON file holds an array of rows, "
        "one object a line, or an object with its rows under one key"
    )


def _members(window: _Window) -> Iterator[str]:
    """The keys of the object that begins here. The caller goes past each value before it asks for the next key."""
    if window.next != "{":
        raise ValueError("not a JSON object")
    window.skip("{")
    window.skip()
    while window.next == '"':
        name, end = window.element(True)
        window.advance(end)
        window.skip()
        if window.next != ":":
            raise ValueError(f"not valid JSON near line {window.line()}")
        window.skip(":")
        window.skip()
        yield str(name)
        window.skip()
        if window.next == ",":
            window.skip(",")
            window.skip()
        elif window.next != "}":
            break
    if not window.next:
        raise ValueError("the JSON object is cut off: its closing brace is missing")
    if window.next != "}":
        raise ValueError(f"not valid JSON near line {window.line()}")
    window.skip("}")


def _pass_value(window: _Window) -> bool:
    """Go past the value that begins here; whether it is a list whose first element is an object."""
    if window.next != "[":
        window.advance(window.element(False)[1])
        return False
    return sum(1 for _ in _array(window, False)) > 0 and window.object_first


def _array(window: _Window, values: bool) -> Iterator[tuple[int, int, Any]]:
    """The elements of the array that begins here, up to and with its closing bracket."""
    window.skip("[")
    window.skip()
    window.object_first = window.next == "{"
    yield from _elements(window, values)
    if not window.next:
        raise ValueError("the JSON array is cut off: its closing bracket is missing")
    window.skip("]")


def _elements(window: _Window, values: bool) -> Iterator[tuple[int, int, Any]]:
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


class _Window:
    """The part of the file in memory. _at: the present position in it; byte: the same position in the file.
    object_first: whether the first element of the last array that was begun is an object."""

    def __init__(self, stream: Any, base: int, chunk: int) -> None:
        self._stream, self._chunk = stream, chunk
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._lines = 1
        self._ended = False
        self._text, self._at, self.byte = "", 0, base
        self.object_first = False

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
