"""One row of a corpus -> the turns of its conversation as the corpus has them, and what else the columns give.

This module knows which column holds which part; messages.py knows what a turn may be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tamis.operators.conversation.detection import as_list
from tamis.operators.conversation.dialects import Dialect
from tamis.operators.conversation.strict_json import parse
from tamis.operators.conversation.turns import split_turns
from tamis.operators.problems import RowProblem


@dataclass(frozen=True, slots=True)
class Parts:
    """turns: not checked yet; a turn should be a mapping with `role_key` and `content_key`.
    system: the value of the column with the system prompt, None if there is none.
    variables: what the row gives the chat template besides messages (tools, documents), not checked yet.
    prompt_turns: how many of the first turns are a prompt that the row holds apart from its answer: trainers (TRL, for
        prompt and completion) have no loss on them, also not on the assistant's turns among them.
    """

    turns: list[Any]
    role_key: str = "role"
    content_key: str = "content"
    system: Any = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    prompt_turns: int = 0


def parts_of_row(row: Mapping[str, Any], dialect: Dialect) -> Parts:
    """The parts of one row. Raises RowProblem (codes: see messages.py)."""
    system = _value(row, dialect, "system")
    if dialect.name == "messages":
        return Parts(_list_of_turns(_value(row, dialect, "messages")), system=system)
    if dialect.name == "sharegpt":
        return Parts(_list_of_turns(_value(row, dialect, "conversations")), "from", "value", system)
    if dialect.name == "alpaca":
        return Parts(_alpaca(row, dialect), system=system)
    if dialect.name == "pair":
        prompt, answer = _pair(row, dialect)
        return Parts([*prompt, *answer], system=system, prompt_turns=len(prompt))
    text = _value(row, dialect, "text")
    if text is None:
        raise RowProblem("no_conversation", "the text is missing or null")
    return Parts([turn(role, content) for role, content in split_turns(checked_text(text, "the text"))], system=system)


def turn(role: str, content: Any) -> dict[str, Any]:
    """A turn in the form of the messages dialect."""
    return {"role": role, "content": content}


def _value(row: Mapping[str, Any], dialect: Dialect, part: str) -> Any:
    column = dialect.column(part)
    return None if column is None else row.get(column)


def _list_of_turns(value: Any) -> list[Any]:
    turns = as_list(value)
    if turns is None:
        raise RowProblem("no_conversation", "the conversation is missing or null")
    if not isinstance(turns, (list, tuple)):
        if isinstance(turns, str) and turns.lstrip().startswith("["):
            _refuse_duplicates(turns)
        raise RowProblem("no_conversation", f"the conversation is not a list of turns but {kind_of(turns)}")
    if not turns:
        raise RowProblem("no_conversation", "the conversation has no turns")
    return list(turns)


def _refuse_duplicates(text: str) -> None:
    try:
        parse(text)
    except RowProblem as problem:
        if problem.code == "duplicate_keys":
            raise


def _alpaca(row: Mapping[str, Any], dialect: Dialect) -> list[Any]:
    given = [_value(row, dialect, "instruction"), _value(row, dialect, "input")]
    if given == [None, None]:
        raise RowProblem("no_conversation", "the instruction is missing or null")
    prompts = ["" if value is None else checked_text(value, "the instruction or input") for value in given]
    # an input of only white space counts as no input; the instruction is kept exactly as it is
    prompt = dialect.join.join(text for text in prompts if text.strip()) or prompts[0]
    return [turn("user", prompt), turn("assistant", _response(_value(row, dialect, "output")))]


def _pair(row: Mapping[str, Any], dialect: Dialect) -> tuple[list[Any], list[Any]]:
    """The turns of the prompt and those of the answer."""
    prompt, response = _value(row, dialect, "prompt"), _value(row, dialect, "response")
    if prompt is None:
        raise RowProblem("no_conversation", "the prompt is missing or null")
    turns = _list_of_turns(prompt) if isinstance(prompt, (list, tuple)) else [turn("user", prompt)]
    if isinstance(response, (list, tuple)):
        return turns, _list_of_turns(response)
    return turns, [turn("assistant", _response(response))]


def _response(value: Any) -> Any:
    if value is None:
        raise RowProblem("no_response", "the response is missing or null")
    return value


def checked_text(value: Any, what: str) -> str:
    """The value, if it is a text that UTF-8 can write. Raises RowProblem. what: its name in the message."""
    if not isinstance(value, str):
        raise RowProblem("bad_content", f"{what} is not text but {kind_of(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowProblem("invalid_utf8", f"{what} holds characters that UTF-8 cannot write") from None
    return value


def kind_of(value: Any) -> str:
    """The name of the value's JSON type, for messages that must not show the value."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    return names.get(type(value)) or ("a list" if isinstance(value, (list, tuple)) else "an object")
