"""Who speaks in a turn: what the choice of columns must know of it before messages.py checks the turns themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CALL = "call"
"""The role of a turn of the assistant whose content is a tool call."""

ROLES = {
    **dict.fromkeys(("system",), "system"),
    **dict.fromkeys(("developer",), "developer"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "gpt4", "gpt-4", "bot", "model", "ai", "bing", "bard", "claude", "chat"),
        "assistant",
    ),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response", "function_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), CALL),
}
"""The words for a role, in lower case -> system, developer, user, assistant, tool or CALL."""

_AS = {CALL: "assistant", "developer": "system"}

ROLE_KEYS = ("role", "from")


def speaker(turn: Any) -> str | None:
    """assistant, user, system, tool, or the turn's own word for another one; None if it names none."""
    role = next((turn[key] for key in ROLE_KEYS if turn.get(key) is not None), None) if _is_object(turn) else None
    if not isinstance(role, str):
        return None
    name = role.strip().lower()
    known = ROLES.get(name, name)
    return _AS.get(known, known)


def is_answer(turn: Any) -> bool:
    """Whether the assistant speaks."""
    return speaker(turn) == "assistant"


def opens_with_answer(turns: Sequence[Any]) -> bool:
    """Whether the first turn that is not the system's is the assistant's."""
    first = next((turn for turn in turns if speaker(turn) != "system"), None)
    return is_answer(first)


def last_answer(turns: Sequence[Any]) -> Any:
    """The last turn of the assistant; None if there is none."""
    return next((turn for turn in reversed(turns) if is_answer(turn)), None)


def _is_object(turn: Any) -> bool:
    return isinstance(turn, Mapping)
