"""One row of a corpus -> the turns of its conversation as the corpus has them, and what else the columns give.

This module knows which column holds which part; messages.py knows what a turn may be. Which answer is scored follows
from the dialect alone. A row that the dialect does not fit is a problem and never read in another way:

    two_answers      a chat that ends with an answer, and another answer in the column beside it
    two_prompts      an answer that opens with a prompt of its own, or a chat without one beside a column that has one
    two_systems      two columns with different system prompts
    unplanned_column a column that is usually part of a conversation and that no sampled row had
    multimodal       a row with something in a column of images, videos or sounds
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tamis.operators.conversation.dialects import VARIABLES, Dialect
from tamis.operators.conversation.speakers import is_answer, last_answer, opens_with_answer, speaker
from tamis.operators.conversation.turns import split_turns
from tamis.operators.conversation.usual_names import is_media, is_usual
from tamis.operators.conversation.values import (
    KEYS,
    absent,
    answer_in,
    as_text,
    as_turn,
    as_turns,
    blank,
    exchange,
    from_json,
    is_number,
    rekeyed,
    said,
    spelt,
    turns_in,
)
from tamis.operators.problems import RowProblem

Row = Mapping[str, Any]


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


def parts_of_row(row: Row, dialect: Dialect) -> Parts:
    """The parts of one row. Raises RowProblem (codes: above, and in messages.py)."""
    _refuse_media(row, dialect)
    _refuse_unplanned(row, dialect)
    role_key, content_key = KEYS.get(dialect.name, KEYS["messages"])
    prompt, answer = _turns(row, dialect)
    turns = [*prompt, *answer]
    for what, column in dialect.checks:  # "media" says which columns are read, and _refuse_media looks at them
        _check(what, column, as_text(row.get(column)), turns)
    return Parts(turns, role_key, content_key, _system(row, dialect), _variables(row, dialect), len(prompt))


def turn(role: str, content: Any) -> dict[str, Any]:
    """A turn in the form of the messages dialect."""
    return {"role": role, "content": content}


_Turns = tuple[list[Any], list[Any]]  # the prompt that the row holds apart from its answer, and the other turns


def _turns(row: Row, dialect: Dialect) -> _Turns:
    if dialect.chat is not None:
        return _with_response(_chat(as_text(row.get(dialect.chat)), dialect.name), row, dialect)
    if dialect.name == "alpaca":
        return [], [*_history(row, dialect), *_alpaca(row, dialect)]
    if dialect.name == "pair":
        return _pair(row, dialect)
    text = _value(row, dialect, "text")
    if absent(text):
        raise RowProblem("no_conversation", "the text is missing or null")
    return [], [turn(role, content) for role, content in split_turns(checked_text(text, "the text"))]


def _value(row: Row, dialect: Dialect, part: str) -> Any:
    column = dialect.column(part)
    return None if column is None else as_text(row.get(column))


# --- chats --------------------------------------------------------------------------------------------------------


def _chat(value: Any, layout: str) -> list[Any]:
    if layout == "alternating":
        texts = _list_of(from_json(value), value)
        return [turn(("user", "assistant")[number % 2], text) for number, text in enumerate(texts)]
    turns = _list_of(as_turns(value), value)
    if layout == "oasst":
        return [{**item, "role": "user"} if _is_prompter(item) else item for item in turns]
    return turns if layout in KEYS else _exchanges(turns, "the conversation")


def _is_prompter(item: Any) -> bool:
    return isinstance(item, Mapping) and item.get("role") == "prompter"


def _list_of(turns: Any, value: Any) -> list[Any]:
    """The list of turns that the value was read as; RowProblem if it is none, or empty."""
    if absent(value):
        raise RowProblem("no_conversation", "the conversation is missing or null")
    if not isinstance(turns, (list, tuple)):
        raise RowProblem("no_conversation", f"the conversation is not a list of turns but {kind_of(turns)}")
    if not turns:
        raise RowProblem("no_conversation", "the conversation has no turns")
    return list(turns)


def _exchanges(items: Sequence[Any], what: str) -> list[Any]:
    turns: list[Any] = []
    for number, item in enumerate(items):
        found = exchange(item)
        if found is None:
            raise RowProblem("bad_content", f"entry {number} of {what} is not a question with its answer")
        turns += [turn("user", found[0]), turn("assistant", found[1])]
    return turns


def _with_response(turns: list[Any], row: Row, dialect: Dialect) -> _Turns:
    """The chat, and after it the answer of the column beside it."""
    column = dialect.column("response")
    if column is None:
        return [], turns
    value, ends = as_text(row.get(column)), is_answer(turns[-1])
    if blank(value) and ends and not dialect.replaces:
        return [], turns
    answer = _answer(value, "response", dialect)
    if not ends:
        return turns, answer
    if _same(turns[-1], last_answer(answer)):
        return [], turns
    if not dialect.replaces:
        chat = dialect.chat
        raise RowProblem(
            "two_answers",
            f"the chat in {chat} ends with an answer, and {column} holds another; set input.columns to one of "
            f"{{messages: {chat}}} and {{messages: {chat}, response: {column}}}",
        )
    while turns and is_answer(turns[-1]):
        turns.pop()
    if not turns:
        raise RowProblem("no_conversation", "the chat holds nothing but an answer")
    return turns, answer


# --- prompt and answer --------------------------------------------------------------------------------------------


def _alpaca(row: Row, dialect: Dialect) -> list[Any]:
    given = [_value(row, dialect, "instruction"), _value(row, dialect, "input")]
    if all(map(absent, given)):
        raise RowProblem("no_conversation", "the instruction is missing or null")
    prompts = ["" if absent(value) else checked_text(value, "the instruction or input") for value in given]
    # an input of only white space counts as no input; the instruction is kept exactly as it is
    prompt = dialect.join.join(text for text in prompts if text.strip()) or prompts[0]
    return [turn("user", prompt), *_answer(_value(row, dialect, "output"), "output", dialect)]


def _pair(row: Row, dialect: Dialect) -> _Turns:
    prompt = _value(row, dialect, "prompt")
    if absent(prompt):
        raise RowProblem("no_conversation", "the prompt is missing or null")
    turns = _given_turns(prompt, "prompt", dialect)
    history, answer = _history(row, dialect), _answer(_value(row, dialect, "response"), "response", dialect)
    if turns is None:
        return [], [*history, turn("user", prompt), *answer]
    if not is_answer(turns[-1]):
        return [*history, *turns], answer
    if _same(turns[-1], last_answer(answer)):
        return [], [*history, *turns]
    prompts, answers = dialect.column("prompt"), dialect.column("response")
    raise RowProblem(
        "two_answers",
        f"the turns in {prompts} end with an answer, and {answers} holds another; set input.columns to one of "
        f"{{messages: {prompts}}} and {{messages: {prompts}, response: {answers}}}",
    )


def _same(one: Any, other: Any) -> bool:
    """Whether two answers say the same; calls of tools, which have no text, only if they are equal."""
    return said(one) == said(other) and (said(one) != "" or one == other)


def _history(row: Row, dialect: Dialect) -> list[Any]:
    """The turns before the prompt: a list of [question, answer], or of turns."""
    value = _value(row, dialect, "history")
    if blank(value):
        return []
    items = as_turns(value)
    if not isinstance(items, (list, tuple)):
        raise RowProblem("bad_content", f"the history is not a list but {kind_of(items)}")
    if items and all(isinstance(item, Mapping) and exchange(item) is None for item in items):
        return [rekeyed(item, *KEYS["messages"]) for item in items]
    return _exchanges(items, "the history")


def _answer(value: Any, part: str, dialect: Dialect) -> list[Any]:
    """The turns of an answer: one, unless the column holds a list. The first is the assistant's."""
    if absent(value):
        raise RowProblem("no_response", "the response is missing or null")
    turns = _given_turns(value, part, dialect)
    keys = KEYS.get(dialect.name, KEYS["messages"])
    if turns is None:
        text = spelt(value) if is_number(value) else value
        return [{keys[0]: "assistant", keys[1]: text}]
    if not any(speaker(item) is not None for item in turns):
        raise RowProblem("no_response", "the response is a list or an object, and holds no turns; it must be one text")
    if last_answer(turns) is None:
        raise RowProblem("no_response", "the response holds no turn of the assistant")
    if not is_answer(turns[0]):
        raise RowProblem("two_prompts", "the response opens with a turn that is not the assistant's")
    return [rekeyed(item, *keys) for item in turns]


def _given_turns(value: Any, part: str, dialect: Dialect) -> list[Any] | None:
    """The turns of a prompt or an answer that is a turn or a list of turns, also as JSON text; None for a text."""
    if isinstance(value, str):
        found = turns_in(value)
        encoded = part in dialect.encoded
        if (found is not None) != encoded and value.strip():
            is_one = "is" if encoded else "is not"
            raise RowProblem(
                "bad_content", f"the {part} of the sampled rows {is_one} JSON text of turns, here it differs"
            )
    elif isinstance(value, (list, tuple, Mapping)):
        turns = as_turns(as_turn(value))
        found = [turns] if isinstance(turns, Mapping) else list(turns)
        if not found:
            raise RowProblem("no_response" if part != "prompt" else "no_conversation", f"the {part} has no turns")
    else:
        found = None
    return None if found is None else [rekeyed(item, *KEYS["messages"]) for item in found]


# --- what else the columns give -----------------------------------------------------------------------------------


def _system(row: Row, dialect: Dialect) -> Any:
    given = [_value(row, dialect, part) for part in ("system", "system_prompt")]
    given = [value for value in given if not absent(value) and value != ""]
    if len(given) == 2 and given[0] != given[1] and not any(map(blank, given)):
        raise RowProblem("two_systems", "two columns hold different system prompts; name one in input.columns.system")
    return next((value for value in given if not blank(value)), given[0] if given else None)


def _variables(row: Row, dialect: Dialect) -> dict[str, Any]:
    found = {name: value for name in VARIABLES if not blank(value := _value(row, dialect, name))}
    if "chat_template_kwargs" not in found:
        return found
    more = from_json(found.pop("chat_template_kwargs"), "{")
    if not isinstance(more, Mapping):
        raise RowProblem("bad_content", f"chat_template_kwargs is not an object but {kind_of(more)}")
    given = {key: value for key, value in more.items() if value is not None}
    if twice := sorted(given.keys() & found.keys()):
        raise RowProblem("bad_content", f"{twice[0]} is a column and in chat_template_kwargs, too")
    return {**found, **given}


def _refuse_media(row: Row, dialect: Dialect) -> None:
    """Rows of JSON may have such a column though no sampled row has it, and also where a person named the columns."""
    for column, value in row.items():
        if is_media(column) and column not in dialect.parts and not blank(as_text(value)):
            raise RowProblem("multimodal", f"the row has something in {column}, which a text model cannot read")


def _refuse_unplanned(row: Row, dialect: Dialect) -> None:
    if dialect.seen is None:
        return
    for column, value in row.items():
        if is_usual(column) and column not in dialect.seen and column not in dialect.reads and not blank(value):
            raise RowProblem(
                "unplanned_column",
                f"the row has a column {column}, which no sampled row has; set input.columns to the columns that count",
            )


def _check(what: str, column: str, value: Any, turns: Sequence[Any]) -> None:
    if blank(value):
        return
    if what == "answer" and answer_in(value) != said(last_answer(turns)):
        raise RowProblem(
            "two_answers",
            f"{column} holds another answer than the conversation, though not in the sampled rows; name the columns "
            "that count in input.columns",
        )
    if what == "prompt" and opens_with_answer(turns):
        raise RowProblem("two_prompts", f"the conversation has no prompt of its own, but {column} may be one")


# --- texts --------------------------------------------------------------------------------------------------------


def checked_text(value: Any, what: str) -> str:
    """The value, if it is a text that UTF-8 can write. Raises RowProblem. what: its name in the message."""
    value = as_text(value)
    if isinstance(value, bytes):
        raise RowProblem("invalid_utf8", f"{what} holds bytes that are not UTF-8")
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
