"""`--log-format` and `--quiet`, which every command has, and their meaning for the process."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import os
from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Any, TypeVar

import typer

from tamis.pipeline.commands.ending import fail
from tamis.pipeline.terminal.progress import at_work, phase
from tamis.pipeline.terminal.streams import Aside
from tamis.pipeline.terminal.voice import BEAT_SECONDS, VOICE, last_word, say

Function = TypeVar("Function", bound=Callable[..., Any])

HEARTBEAT = "TAMIS_HEARTBEAT_SECONDS"
"""Environment variable: the longest silence of a log, in seconds."""

_SHORTEST, _LONGEST = 0.001, 86_400.0


class LogFormat(StrEnum):
    """The two forms of what is said while a command runs."""

    text = "text"
    json = "json"


_FLAGS = {
    "log_format": (
        Annotated[
            LogFormat,
            typer.Option(
                "--log-format",
                help="json: all that is said, the result too, is one JSON object a line on stderr.",
            ),
        ],
        LogFormat.text,
    ),
    "quiet": (
        Annotated[bool, typer.Option("--quiet", help="Say only warnings, errors and the result in one line.")],
        False,
    ),
}


class Commands(typer.Typer):
    """Commands that all have these two flags besides their own."""

    def command(self, *arguments: Any, **options: Any) -> Callable[[Function], Function]:
        register = super().command(*arguments, **options)

        def with_flags(function: Function) -> Function:
            register(_with_flags(function))
            return function

        return with_flags


def _with_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def command(*arguments: Any, log_format: LogFormat, quiet: bool, **given: Any) -> Any:
        begin(log_format == LogFormat.json, quiet)
        name = function.__name__
        version = importlib.metadata.version("tamis")
        say(f"tamis {name}", "command", spoken=False, name=name, version=version, pid=os.getpid())
        with at_work():  # called within a program, nothing goes on being said when it is over
            phase("start", f"loading what `tamis {name}` needs")
            return function(*arguments, **given)

    own = inspect.signature(function, eval_str=True)
    flags = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in _FLAGS.items()
    ]
    command.__signature__ = own.replace(parameters=[*own.parameters.values(), *flags])  # type: ignore[attr-defined]
    return command


def foreseen(words: Sequence[str]) -> None:
    """Set the form before the words of the command line are understood: what is wrong with them is said in it, too."""
    before = words[: words.index("--")] if "--" in words else words
    pairs = pairwise([*before, ""])
    begin(
        any(word == "--log-format=json" or (word == "--log-format" and after == "json") for word, after in pairs),
        "--quiet" in before,
    )
    VOICE.every = _heartbeat()


_aside: Aside | None = None


def begin(as_json: bool, quiet: bool) -> None:
    """Set the form of what is said from now on. JSON stays JSON: a log in two forms could not be read."""
    global _aside
    VOICE.quiet, VOICE.answers = quiet, False
    if as_json and _aside is None:
        _aside = Aside()


def end(code: int) -> None:
    """The end of the command: its last object, and nothing after it."""
    if _aside is not None:
        _aside.end(failed=code != 0)
    last_word(code)


def _heartbeat() -> float:
    given = os.environ.get(HEARTBEAT)
    if given is None:
        return BEAT_SECONDS
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not _SHORTEST <= seconds <= _LONGEST:
        fail(f"{HEARTBEAT}: a number of seconds from {_SHORTEST:g} to {_LONGEST:g} is meant", 2)
    return seconds


def code_of(ending: SystemExit) -> int:
    """The exit code that Python makes of it."""
    if ending.code is None:
        return 0
    return ending.code if isinstance(ending.code, int) else 1
