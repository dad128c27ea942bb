"""Who speaks in a turn: what the choice of columns must know of it before messages.py checks the turns themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_ANSWERING = frozenset(
    {
        *("assistant", "gpt", "chatgpt", "bot", "model", "ai", "chat", "gpt4", "gpt-4", "bing", "bard", "claude"),
        *("function_call", "tool_call"),
    }
)
_ASKING = frozenset({"user", "human", "prompter"})
_INSTRUCTING = frozenset({"system", "developer"})

ROLE_KEYS = ("role", "from")


def speaker(turn: Any) -> str | None:
    """assistant, user, system, or the turn's own word for another one; None if it names none."""
    role = next((turn[key] for key in ROLE_KEYS if turn.get(key) is not None), None) if _is_object(turn) else None
    if not isinstance(role, str):
        return None
    name = role.strip().lower()
    for known, names in (("assistant", _ANSWERING), ("user", _ASKING), ("system", _INSTRUCTING)):
        if name in names:
            return known
    return name


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
