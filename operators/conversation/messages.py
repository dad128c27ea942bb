"""One row of a corpus -> one conversation in the chat schema: a list of {"role", "content"}, all strings.

Roles are system, developer, user, assistant and tool. The conversation ends with the last assistant turn:
turns after it contain no answer and contribute no loss, so they are dropped. Every assistant turn has some text;
other turns may be empty. Contents are kept exactly as they are, except that the `text` dialect strips the white
space of its layout. A row that cannot be read this way is a RowProblem:

    no_conversation      the conversation or the prompt is missing, null, or not a list where a list is required
    no_response          no assistant turn, or the response is null
    empty_response       an assistant turn without any text
    bad_content          a turn or a text of the wrong type
    duplicate_keys       a conversation in JSON text with the same key twice in one turn
    unknown_role         a role that is none of the five and none of their usual aliases
    unsupported_content  tool calls, separate reasoning, images: anything that plain-text messages cannot hold
    no_turns             a text without Human:/Assistant: labels
    invalid_utf8         text that cannot be written as UTF-8 (lone surrogates)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tamis.operators.conversation.columns import Parts, checked_text, kind_of, parts_of_row
from tamis.operators.conversation.detection import detect
from tamis.operators.conversation.dialects import Dialect, dialect_by_hand
from tamis.operators.problems import RowProblem

__all__ = ["Dialect", "Message", "detect", "dialect_by_hand", "normalise"]

Message = dict[str, str]

_ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "tool": "tool",
}
# keys of a turn that hold something besides its text, which the chat schema has no place for
_BEYOND_TEXT = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")


def normalise(row: Mapping[str, Any], dialect: Dialect) -> list[Message]:
    """The conversation of one row.

    row: column -> value, from JSON or Arrow; values may be of any type.
    Raises RowProblem (codes: see the module docstring) and nothing else.
    """
    parts = parts_of_row(row, dialect)
    return _finish(_with_system(parts.system, _turns(parts)))


_Turns = list[tuple[str, Any]]  # (role, content not checked yet)


def _turns(parts: Parts) -> _Turns:
    found: _Turns = []
    for number, turn in enumerate(parts.turns):
        if not isinstance(turn, Mapping):
            raise RowProblem("bad_content", f"turn {number} is not an object but {kind_of(turn)}")
        role = turn.get(parts.role_key)
        if not isinstance(role, str):
            raise RowProblem("unknown_role", f"turn {number} has no {parts.role_key!r}, or one that is not text")
        known = _ROLES.get(role) or _ROLES.get(role.strip().lower())
        if known is None:
            raise RowProblem(
                "unknown_role",
                f"turn {number} has a role that is none of system, developer, user, assistant, tool",
            )
        for key in _BEYOND_TEXT:
            if turn.get(key):
                raise RowProblem("unsupported_content", f"turn {number} has {key}, which cannot be rendered as text")
        found.append((known, turn.get(parts.content_key)))
    return found


def _with_system(system: Any, turns: _Turns) -> _Turns:
    """Puts the system prompt first, unless it is empty or the conversation opens with its own system turn."""
    if system is None or system == "" or (turns and turns[0][0] in ("system", "developer")):
        return turns
    return [("system", system), *turns]


def _joined(content: Sequence[Any], number: int) -> str:
    """The text of a content given as parts, [{"type": "text", "text": ...}, ...], if all parts are text."""
    texts = []
    for part in content:
        filled = {k: v for k, v in part.items() if v is not None} if isinstance(part, Mapping) else {}
        text = filled.get("text")
        if set(filled) != {"type", "text"} or filled["type"] != "text" or not isinstance(text, str):
            raise RowProblem("unsupported_content", f"the content of turn {number} has parts that are not text")
        texts.append(text)
    return "".join(texts)


def _finish(turns: _Turns) -> list[Message]:
    last = max((i for i, (role, _) in enumerate(turns) if role == "assistant"), default=None)
    if last is None:
        raise RowProblem("no_response", "the conversation has no assistant turn")
    messages = []
    for number, (role, content) in enumerate(turns[: last + 1]):
        if isinstance(content, (list, tuple)):
            content = _joined(content, number)
        text = checked_text(content, f"the content of turn {number}")
        if role == "assistant" and not text.strip():
            raise RowProblem("empty_response", f"the assistant's turn {number} is empty")
        messages.append({"role": role, "content": text})
    return messages
