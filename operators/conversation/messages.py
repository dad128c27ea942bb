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

from tamis.operators.conversation.detection import as_list, detect
from tamis.operators.conversation.dialects import Dialect, dialect_by_hand
from tamis.operators.conversation.strict_json import parse
from tamis.operators.conversation.turns import split_turns
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
    if dialect.name in ("messages", "sharegpt"):
        part, keys = ("messages", ("role", "content")) if dialect.name == "messages" else _SHAREGPT
        turns = _turns(_value(row, dialect, part), *keys)
    elif dialect.name == "alpaca":
        turns = _alpaca(row, dialect)
    elif dialect.name == "pair":
        turns = _pair(row, dialect)
    else:
        text = _value(row, dialect, "text")
        if text is None:
            raise RowProblem("no_conversation", "the text is missing or null")
        turns = [*split_turns(_string(text, "the text"))]
    return _finish(_with_system(row, dialect, turns))


_SHAREGPT = ("conversations", ("from", "value"))
_Turns = list[tuple[str, Any]]  # (role, content not checked yet)


def _value(row: Mapping[str, Any], dialect: Dialect, part: str) -> Any:
    column = dialect.column(part)
    return None if column is None else row.get(column)


def _turns(value: Any, role_key: str, content_key: str) -> _Turns:
    turns = as_list(value)
    if turns is None:
        raise RowProblem("no_conversation", "the conversation is missing or null")
    if not isinstance(turns, (list, tuple)):
        if isinstance(turns, str) and turns.lstrip().startswith("["):
            _refuse_duplicates(turns)
        raise RowProblem("no_conversation", f"the conversation is not a list of turns but {_kind(turns)}")
    if not turns:
        raise RowProblem("no_conversation", "the conversation has no turns")
    found: _Turns = []
    for number, turn in enumerate(turns):
        if not isinstance(turn, Mapping):
            raise RowProblem("bad_content", f"turn {number} is not an object but {_kind(turn)}")
        role = turn.get(role_key)
        if not isinstance(role, str):
            raise RowProblem("unknown_role", f"turn {number} has no {role_key!r}, or one that is not text")
        known = _ROLES.get(role) or _ROLES.get(role.strip().lower())
        if known is None:
            raise RowProblem(
                "unknown_role",
                f"turn {number} has a role that is none of system, developer, user, assistant, tool",
            )
        for key in _BEYOND_TEXT:
            if turn.get(key):
                raise RowProblem("unsupported_content", f"turn {number} has {key}, which cannot be rendered as text")
        found.append((known, turn.get(content_key)))
    return found


def _refuse_duplicates(text: str) -> None:
    try:
        parse(text)
    except RowProblem as problem:
        if problem.code == "duplicate_keys":
            raise


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


def _alpaca(row: Mapping[str, Any], dialect: Dialect) -> _Turns:
    given = [_value(row, dialect, "instruction"), _value(row, dialect, "input")]
    if given == [None, None]:
        raise RowProblem("no_conversation", "the instruction is missing or null")
    prompts = ["" if value is None else _string(value, "the instruction or input") for value in given]
    # an input of only white space counts as no input; the instruction is kept exactly as it is
    prompt = dialect.join.join(text for text in prompts if text.strip()) or prompts[0]
    return [("user", prompt), ("assistant", _response(_value(row, dialect, "output")))]


def _pair(row: Mapping[str, Any], dialect: Dialect) -> _Turns:
    prompt, response = _value(row, dialect, "prompt"), _value(row, dialect, "response")
    if prompt is None:
        raise RowProblem("no_conversation", "the prompt is missing or null")
    turns = _turns(prompt, "role", "content") if isinstance(prompt, (list, tuple)) else [("user", prompt)]
    if isinstance(response, (list, tuple)):
        return turns + _turns(response, "role", "content")
    return [*turns, ("assistant", _response(response))]


def _response(value: Any) -> Any:
    if value is None:
        raise RowProblem("no_response", "the response is missing or null")
    return value


def _with_system(row: Mapping[str, Any], dialect: Dialect, turns: _Turns) -> _Turns:
    """Puts the system column first, unless it is empty or the conversation opens with its own system turn."""
    system = _value(row, dialect, "system")
    if system is None or system == "" or (turns and turns[0][0] in ("system", "developer")):
        return turns
    return [("system", system), *turns]


def _finish(turns: _Turns) -> list[Message]:
    last = max((i for i, (role, _) in enumerate(turns) if role == "assistant"), default=None)
    if last is None:
        raise RowProblem("no_response", "the conversation has no assistant turn")
    messages = []
    for number, (role, content) in enumerate(turns[: last + 1]):
        if isinstance(content, (list, tuple)):
            content = _joined(content, number)
        text = _string(content, f"the content of turn {number}")
        if role == "assistant" and not text.strip():
            raise RowProblem("empty_response", f"the assistant's turn {number} is empty")
        messages.append({"role": role, "content": text})
    return messages


def _string(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise RowProblem("bad_content", f"{what} is not text but {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowProblem("invalid_utf8", f"{what} holds characters that UTF-8 cannot write") from None
    return value


def _kind(value: Any) -> str:
    """The name of the value's JSON type, for messages that must not show the value."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    return names.get(type(value)) or ("a list" if isinstance(value, (list, tuple)) else "an object")
