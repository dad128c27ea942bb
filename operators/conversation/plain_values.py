"""Values of a row that a chat template gets as they are (tools, tool calls, documents), checked, as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tamis.operators.conversation.columns import checked_text
from tamis.operators.conversation.strict_json import parse
from tamis.operators.problems import RowProblem

_DEEPEST = 64


def plain(value: Any, what: str) -> Any:
    """The value as JSON has it. Raises RowProblem("bad_content"). what: its name in the message."""
    return _plain(value, what, _DEEPEST)


def opened(value: Any, what: str) -> Any:
    """`plain`, where an object or list may also come as JSON text. Other texts are returned as they are."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            value = parse(value)
        except RowProblem as problem:
            if problem.code == "duplicate_keys":
                raise
            return checked_text(value, what)
    return plain(value, what)


def _plain(value: Any, what: str, depth: int) -> Any:
    if depth == 0:
        raise RowProblem("bad_content", f"{what} is nested more than {_DEEPEST} levels deep")
    if isinstance(value, str):
        return checked_text(value, what)
    if value is None or isinstance(value, bool | int | float):
        return value
    if _is_map(value):
        value = dict(value)
    if isinstance(value, Mapping):
        return {checked_text(key, f"a key of {what}"): _plain(item, what, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, what, depth - 1) for item in value]
    raise RowProblem("bad_content", f"{what} holds a {type(value).__name__}, which JSON has not")


def _is_map(value: Any) -> bool:
    """Whether it is an Arrow map: a list of pairs."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, tuple) and len(item) == 2 for item in value)
