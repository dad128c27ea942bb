"""A command's own streams: they accept any text, and libraries do not write between the lines for people. With JSON
nothing else is on stderr."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from contextlib import suppress
from typing import TextIO

from tamis.pipeline.terminal.events import Level
from tamis.pipeline.terminal.text import shown
from tamis.pipeline.terminal.voice import VOICE, say

_OURS = "tamis."


def prepare() -> None:
    """For a command: do not fail for a stream that is closed or has a small character set. Logs and warnings of
    libraries become one line of ours, without a traceback."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed: another file would get its number, and the printed text
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
        elif number and hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")
    logging.raiseExceptions = False  # otherwise a log that cannot be written (full disk) prints a traceback
    logging.lastResort = _Spoken(logging.WARNING)
    warnings.showwarning = _warned


class Aside:
    """Where everything goes that is written to stderr past the voice, while that speaks JSON: Ray's C++ side, a library
    that prints, Python's own last words. A file that only this user can read; it may hold anything, so it is never
    copied into the log."""

    def __init__(self) -> None:
        sys.stderr.flush()
        own = os.dup(2)
        self._path = os.devnull
        try:
            number, self._path = tempfile.mkstemp(prefix="tamis-stderr-", suffix=".log")
        except OSError:  # no room, or nothing may be written there
            number = os.open(os.devnull, os.O_WRONLY)
        os.dup2(number, 2)
        os.close(number)
        VOICE.speak_json(os.fdopen(own, "w", encoding="ascii", newline="\n"))

    def end(self, failed: bool) -> None:
        """Remove the file, unless the command failed and it may say why."""
        with suppress(OSError):
            sys.stderr.flush()
            if self._path == os.devnull:
                return
            if failed and os.path.getsize(self._path):
                say(f"what was written to stderr beside these lines is in {self._path}", level="warning")
            else:
                os.unlink(self._path)


def flush(stream: TextIO) -> None:
    """Write buffered text. Raises OSError if that fails; the text is then discarded, because Python would otherwise try
    again at exit and print its own error."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        raise


class _Spoken(logging.Handler):
    """A log that nobody else handles, as a line of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        level: Level = "error" if record.levelno >= logging.ERROR else "warning"
        if record.name.startswith(_OURS):
            say(record.getMessage(), "storage", level)
        else:
            _of_library(record.name, level, record.getMessage(), f"{os.path.basename(record.pathname)}:{record.lineno}")


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if VOICE.as_json:
        _of_library(category.__name__, "warning", str(message), f"{os.path.basename(filename)}:{lineno}")
    else:
        say(str(message), "warning", "warning")


def _of_library(name: str, level: Level, message: str, place: str) -> None:
    """What a library says. In JSON only that it does: it may quote the data at any length, and a log must not."""
    if not VOICE.as_json:
        say(message, "library", level)
        return
    with suppress(OSError):
        print(f"{place}: {name}: {shown(message)}", file=sys.stderr, flush=True)  # aside
    words = f"{name} has {'an error' if level == 'error' else 'a warning'} ({place}), whose text may be data"
    say(words, "library", level, name=name, place=place)
