"""The two forms of a line for people: text, with one live line on a terminal, and JSON, one object a line."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO

from tamis.pipeline.terminal.events import Event, Level
from tamis.pipeline.terminal.text import shown

_WIPE = "\r\x1b[2K"
_PREFIX: dict[str, str] = {"warning": "warning: ", "error": "error: "}


@dataclass(frozen=True)
class Line:
    """message: what a person reads, one line or several. fields: the same as values. spoken: if False, the line is only
    for machines."""

    event: Event
    message: str
    level: Level = "info"
    stage: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    spoken: bool = True


class TextLines:
    """Lines as text. stream: None is the stderr of the moment, which Ray's session replaces for a while."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._width = 0

    @property
    def live(self) -> bool:
        """Whether there is a line that is written over."""
        return self._out is not None and self._out.isatty()

    @property
    def _out(self) -> TextIO | None:
        return self._stream or sys.stderr  # None in a process that has no stderr

    def write(self, line: Line) -> None:
        """Write a permanent line, in place of the live one."""
        if not line.spoken:
            return
        # An error has line breaks of its own, between lines that are harmless already.
        text = line.message if line.event == "error" else shown(line.message)
        self._put((_WIPE if self._width else "") + _PREFIX.get(line.event, "") + text + "\n")
        self._width = 0

    def draw(self, text: str) -> None:
        """Write the live line over."""
        text = shown(text)[: shutil.get_terminal_size().columns - 1]  # a wrapped line could not be written over
        self._put("\r" + text.ljust(self._width))
        self._width = len(text)

    def settle(self, line: Line) -> None:
        """Write a line over the live one, which stays."""
        self.draw(line.message)
        self._put("\n")
        self._width = 0

    def wipe(self) -> None:
        """Take the live line away."""
        if self._width:
            self._put(_WIPE)
            self._width = 0

    def _put(self, text: str) -> None:
        if (out := self._out) is not None:
            out.write(text)
            out.flush()


class JsonLines:
    """Lines as JSON objects. ASCII alone, and strict: no NaN, no half of a character."""

    live = False

    def __init__(self, stream: TextIO, command_id: str) -> None:
        self._stream = stream
        self._command_id = command_id
        self.run: str | None = None

    def write(self, line: Line) -> None:
        facts = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": line.level,
            "event": line.event,
            "run": self.run,
            "command_id": self._command_id,
            "stage": line.stage,
            "message": line.message,
        }
        facts |= {key: value for key, value in line.fields.items() if value is not None}
        # In one piece: two threads, or two processes with one log, must not write into each other's lines.
        self._stream.write(json.dumps(strict(facts), allow_nan=False) + "\n")
        self._stream.flush()


def strict(value: Any) -> Any:
    """`value` as plain JSON has it. Numbers that it has not are null; bytes of a file name that are no text are
    escaped."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {strict(str(key)): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if hasattr(value, "item"):  # a number of numpy
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
