"""One conversation with tool calls, written in the ways that chat templates want it.

Most templates read the arguments of a call as an object, as transformers documents; some write them as they are and
need text. In a turn that is only a call, most have no content, but some templates ask whether it is null, and others
add it to a text. All these say the same, so the first that the template can render is right.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tamis.operators.conversation.conversation import Message, arguments_object, calls_of


def spellings(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """The likeliest first; only one where there are no tool calls."""
    if not any(calls_of(message) for message in messages):
        yield list(messages)
        return
    silent = any(_is_silent(message) for message in messages)
    for arguments in (_as_object, _as_text):
        for content in (_as_it_is, _as_null, _as_empty) if silent else (_as_it_is,):
            yield [_spelt(message, arguments, content) for message in messages]


def _spelt(
    message: Message, arguments: Callable[[Any], Any], content: Callable[[Message], dict[str, Any]]
) -> dict[str, Any]:
    calls = calls_of(message)
    if not calls:
        return message
    spelt = {**message, **content(message)} if _is_silent(message) else dict(message)
    spelt["tool_calls"] = [
        {**call, "function": {**call["function"], "arguments": arguments(call["function"]["arguments"])}}
        for call in calls
    ]
    return spelt


def _is_silent(message: Message) -> bool:
    return bool(calls_of(message)) and not message.get("content")


def _as_it_is(message: Message) -> dict[str, Any]:
    return {}


def _as_null(message: Message) -> dict[str, Any]:
    return {"content": None}


def _as_empty(message: Message) -> dict[str, Any]:
    return {"content": ""}


def _as_object(arguments: Any) -> Any:
    found = arguments_object(arguments)
    return arguments if found is None else found


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
