"""Errors by what the user must do about them. Each knows its exit code; none needs a traceback."""

from __future__ import annotations

from collections.abc import Sequence


class TamisError(Exception):
    """Anything that ends a command with a message for a person."""

    exit_code = 1


class ConfigError(TamisError):
    """Fix the job file or the flags."""

    exit_code = 2


class InputError(TamisError):
    """Fix the input. `problems` names each file (or reason) on its own line."""

    exit_code = 3

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__("\n".join([message, *(f"  - {problem}" for problem in problems)]))
        self.problems = tuple(problems)


class ClusterError(TamisError):
    """Ray could not be started or joined, or has not what the job needs."""

    exit_code = 5


class InternalError(TamisError):
    """tamis contradicts itself; nothing was published."""

    exit_code = 70


def error_text(error: BaseException) -> str:
    """One line of an error of the storage, for a person."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__
