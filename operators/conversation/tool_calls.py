"""Tool calls and tools in the forms that corpora have -> the form that transformers documents for chat templates:

    tool_calls: [{"type": "function", "function": {"name": ..., "arguments": {...}}}]
    tools: [{"type": "function", "function": {"name": ..., "parameters": ...}}]

Arguments stay text or object, as the row has them: rendering.py gives a template the kind that it reads. Tools are
passed on as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tamis.operators.conversation.columns import checked_text
from tamis.operators.conversation.plain_values import opened
from tamis.operators.problems import RowProblem

_ARGUMENTS = ("arguments", "parameters", "input", "args")


def tool_calls(value: Any, what: str) -> list[dict[str, Any]]:
    """One call or a list of them, as objects or JSON text; empty if it holds none, only nulls. A key of a call or of
    its function that is null counts as absent; a null in the arguments is a value.

    what: its name in messages. Raises RowProblem: bad_tool_call, bad_content, duplicate_keys.
    """
    value = opened(value, what)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise RowProblem("bad_tool_call", f"{what} is no object with a name and arguments, and no list of such")
    calls = [opened(item, what) if isinstance(item, str) else item for item in value]
    return [_call(call, what) for item in calls if (call := _filled(item)) not in ({}, None)]


def _filled(call: Any) -> Any:
    if not isinstance(call, dict):
        return call
    found = {key: _filled(value) if key == "function" else value for key, value in call.items() if value is not None}
    return {key: value for key, value in found.items() if key != "function" or value != {}}


def _call(call: Any, what: str) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise RowProblem("bad_tool_call", f"{what} has a call that is not an object")
    function = call.get("function", call)
    if isinstance(function, str):
        function = _filled(opened(function, what))
    if not isinstance(function, dict):
        raise RowProblem("bad_tool_call", f"{what} has a function that is not an object")
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise RowProblem("bad_tool_call", f"{what} has a call without a name")
    key = next((key for key in _ARGUMENTS if key in function), None)
    arguments = {} if key is None or function[key] == "" else function[key]
    if not isinstance(arguments, dict | str):
        raise RowProblem("bad_tool_call", f"{what} has arguments that are neither an object nor text")
    if "function" not in call:
        called = {"name": name, "arguments": arguments}
        return {"type": "function", **({"id": call["id"]} if "id" in call else {}), "function": called}
    # as it is, in the order of the row, which a template may write
    named = {"arguments" if own == key else own: value for own, value in function.items()}
    return {**call, "function": {**named, "arguments": arguments}}


def template_variables(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a row gives the chat template besides messages, checked. Raises RowProblem: bad_tools, bad_content.

    An empty list of tools counts as none, and so does a null.
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name in ("tools", "documents"):
            listed = _objects(value, name)
            if listed:
                found[name] = listed
        elif value is not None:
            found[checked_text(name, "a template variable's name")] = opened(value, "a template variable")
    return found


def _objects(value: Any, name: str) -> list[dict[str, Any]]:
    value = opened(value, f"the column of {name}")
    if value is None or value == "":
        return []
    if isinstance(value, dict):
        value = [value] if value else []
    if not isinstance(value, list):
        raise RowProblem("bad_tools", f"the row's {name} are not a list of objects")
    items = [opened(item, f"the column of {name}") if isinstance(item, str) else item for item in value]
    if not all(isinstance(item, dict) for item in items):
        raise RowProblem("bad_tools", f"the row's {name} hold something that is not an object")
    return [item for item in items if item]
