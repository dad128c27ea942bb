"""Errors by what the user must do about them. Each knows its exit code; none needs a traceback."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, quote_plus

from tamis.pipeline.terminal.text import shown, without_quotations


class TamisError(Exception):
    """Anything that ends a command with a message for a person.

    Each argument is one line of the message: a line break or another control character inside a line comes from outside
    (a file name, a library's message) and is escaped.
    """

    exit_code = 1

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(shown(line) for line in lines))

    def __reduce__(self) -> tuple[Callable[..., TamisError], tuple[type[TamisError], str], dict[str, Any]]:
        return _as_said, (type(self), str(self)), dict(self.__dict__)


def _as_said(kind: type[TamisError], message: str) -> TamisError:
    """The error with a message that was escaped before: its line breaks are kept."""
    return kind.__new__(kind, message)


class ConfigError(TamisError):
    """Fix the job file or the flags."""

    exit_code = 2


class InputError(TamisError):
    """Fix the input. `problems` names each file (or reason) on its own line."""

    exit_code = 3
    problems: tuple[str, ...] = ()

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message, *(f"  - {problem}" for problem in problems))
        self.problems = tuple(problems)


class TooLargeError(TamisError):
    """The rows of a shard exceed the memory limit. `reason`: the message without the name of the shard."""

    exit_code = 3
    reason = ""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class IncompleteError(TamisError):
    """Some shards failed; the rest is done."""

    exit_code = 4


class ClusterError(TamisError):
    """Ray could not be started or joined, or lacks the resources for the job."""

    exit_code = 5


class StorageError(TamisError):
    """The storage did not answer, despite retries."""

    exit_code = 5


class DriftError(TamisError):
    """The run is done and its output is there, but its data is not like that of the artifact: a person must look."""

    exit_code = 6


class DamagedError(TamisError):
    """A file that an earlier stage wrote is missing, or not as it was written: "NAME: what is wrong with it". Its
    content can be made again (run/mending.py)."""

    exit_code = 5

    @property
    def name(self) -> str:
        """The name of the file, under the root of its store."""
        return str(self).partition(": ")[0]


class InternalError(TamisError):
    """tamis contradicts itself; nothing was published."""

    exit_code = 70


def as_facts(error: Exception) -> dict[str, str]:
    """A worker's error as plain values: libraries on the way to the driver would wrap, rewrite and print exceptions."""
    if isinstance(error, TamisError):
        return {"kind": type(error).__name__, "message": str(error)}
    if isinstance(error, OSError):
        where = f"{error.filename}: " if isinstance(error.filename, str) else ""
        return {"kind": "", "message": f"{type(error).__name__}: {where}{error_text(error)}"}
    return {"kind": "", "message": f"{type(error).__name__}: {without_quotations(error_text(error))}"}


def from_facts(facts: Mapping[str, str]) -> TamisError:
    """The error that was given to `as_facts`; ClusterError for an error that is not ours."""
    for kind in TamisError.__subclasses__():
        if kind.__name__ == facts["kind"]:
            return _as_said(kind, facts["message"])
    return ClusterError(
        f"a worker stopped: {facts['message']}. What is done stays done; run the same command again to go on"
    )


def error_text(error: BaseException) -> str:
    """One line about an error of the storage, for a person; without secrets."""
    if isinstance(error, OSError) and error.strerror:
        return redacted(error.strerror)
    return redacted(" ".join(str(error).split()))[:200] or type(error).__name__


_SECRET_NAME = re.compile(
    r"SECRET|TOKEN|PASSW|CREDENTIAL|CONNECTION_STRING|(ACCESS|ACCOUNT|API)_?KEY|SAS", re.IGNORECASE
)
_SECRET_IN_TEXT = re.compile(
    r"((?:sig|signature|token|secret|password|accountkey|x-amz-[\w-]*|x-goog-[\w-]*)=)[^&\s\"';]+", re.IGNORECASE
)
_SHORTEST_SECRET = 6


def redacted(text: str) -> str:
    """`text` without the values of secrets in the environment (plain or URL-encoded), and without the secrets of signed
    addresses."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET_NAME.search(name):
            for form in {value, quote(value), quote(value, safe=""), quote_plus(value)}:
                text = text.replace(form, "***")
    return _SECRET_IN_TEXT.sub(r"\1***", text)
