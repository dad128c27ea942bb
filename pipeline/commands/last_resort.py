"""Unexpected errors: the traceback goes to a file that only this user can read, and the terminal gets one line."""

from __future__ import annotations

import os
import platform
import re
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from importlib.metadata import version

from tamis.pipeline.errors import redacted
from tamis.pipeline.terminal.text import shown, without_quotations
from tamis.pipeline.terminal.voice import say

_PLACE = re.compile(r"\s*File \"[^\"]*\", line \d+")
_LONGEST_LINE, _MOST_LINES = 200, 300


def kept(error: BaseException) -> str:
    """Write the traceback of `error` to a file with mode 0600 in the temporary folder. Returns words for a message that
    say where it is.

    Libraries quote the data that they fail on: longer quotations, long lines and secrets are left out.
    """
    lines = [f"tamis {version('tamis')}, Python {platform.python_version()}, {platform.platform()}", *_told(error)]
    try:
        number, path = tempfile.mkstemp(prefix="tamis-error-", suffix=".log")
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("\n".join(lines) + "\n")
    except OSError:
        return "the temporary folder has no room for the details"
    return f"the details are in {path}"


def watch_threads() -> None:
    """For a command: errors that end a thread, or that nobody can catch, are reported in the same way."""

    def ended(what: str, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, SystemExit | KeyboardInterrupt):
            say(f"{what} failed unexpectedly ({type(error).__name__}); {kept(error)}", "warning", "warning")

    threading.excepthook = lambda told: ended("a thread", told.exc_value)
    sys.unraisablehook = lambda told: ended("tidying up", told.exc_value)


def _told(error: BaseException) -> Iterator[str]:
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        if seen:
            yield "which came of:"
        seen.append(current)
        for frame in traceback.extract_tb(current.__traceback__):
            yield f'  File "{shown(frame.filename)}", line {frame.lineno}, in {frame.name}'
        yield f"{type(current).__module__}.{type(current).__qualname__}:"
        yield from (f"  {_bare(line)}" for line in redacted(str(current)).splitlines()[:_MOST_LINES])
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _bare(line: str) -> str:
    return shown((line if _PLACE.match(line) else without_quotations(line))[:_LONGEST_LINE])
