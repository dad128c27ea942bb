"""How a failed command ends: one line on stderr that says what to do, and an exit code of errors.py."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from tamis.pipeline.commands.last_resort import kept
from tamis.pipeline.errors import ConfigError, InternalError, TamisError, error_text
from tamis.pipeline.terminal.streams import flush
from tamis.pipeline.terminal.text import shown
from tamis.pipeline.terminal.voice import say

_LONGEST = 500


def end(error: BaseException) -> NoReturn:
    """The last line of a command that failed, and its exit code."""
    raised = _unwrapped(error)
    if isinstance(raised, TamisError):
        fail(str(raised), raised.exit_code, type(raised).__name__)
    if hasattr(raised, "format_message"):
        # click's own errors (a flag without its value, an unknown flag) format themselves.
        fail(f"{shown(raised.format_message())[:_LONGEST]}; see `tamis --help`", 2)
    go_on = "what is done stays done, {} and run the same command again to go on"
    if isinstance(raised, BrokenPipeError):
        fail("whoever read the output has left; " + go_on.format("let it be read"), 128 + signal.SIGPIPE)
    if isinstance(raised, OSError):
        where = f"{shown(raised.filename)}: " if isinstance(raised.filename, str) else ""
        advice = "free space / check the storage"
        if raised.errno in (errno.EMFILE, errno.ENFILE):
            advice = "let it open more files (`ulimit -n 65536`)"
        fail(f"{where}{shown(error_text(raised))}; {go_on.format(advice)}", 5)
    if isinstance(raised, MemoryError):
        fail(f"the memory of this machine is used up; {go_on.format('free some')}", 5)
    kind, details = type(raised).__name__, kept(error)
    if type(raised).__module__.startswith("ray."):
        fail(f"Ray failed ({kind}); {go_on.format('see `tamis doctor`')}; {details}", 5)
    unforeseen = f"tamis failed in a way that nobody has foreseen ({kind})"
    fail(f"{unforeseen}; {details}; please report it", InternalError.exit_code)


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Around code that only reads the files of a run: ConfigError where they are not as tamis writes them."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ConfigError(
            f"{where}: what lies there is damaged, or was not written by this tamis ({type(error).__name__}; "
            f"{kept(error)}); put it back from a copy, or run the job again in another folder"
        ) from None


def fail(message: str, code: int, kind: str | None = None) -> NoReturn:
    """Print the message and exit. message: with its final line breaks, and without other control characters. kind: of
    an error of ours, the name of its class."""
    with suppress(OSError):
        flush(sys.stdout)
    with suppress(OSError):
        say(message, "error", "error", exit_code=code, kind=kind)
        flush(sys.stderr)
    sys.exit(code)


def _unwrapped(error: BaseException) -> BaseException:
    """`error`, or the error of a worker inside Ray's wrapper."""
    seen = error
    while type(seen).__module__.startswith("ray."):
        inner = getattr(seen, "cause", None)
        following = inner if isinstance(inner, BaseException) else seen.__cause__
        if following is None or following is seen:
            return seen
        seen = following
    return seen
