"""What a column holds, told from some of its values: chats and their layout, texts, transcripts, tools."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tamis.operators.conversation.speakers import opens_with_answer
from tamis.operators.conversation.turns import split_turns
from tamis.operators.conversation.values import absent, as_turns, blank, exchange, from_json, turns_in
from tamis.operators.problems import RowProblem

_LABEL = re.compile(r"\s*[A-Za-z]{2,12}\s*:")
_ALTERNATIVE = re.compile(r"(.*[^\W\d_].*?)[_ -]?((?<=[_ -])[A-Ha-h]|\d{1,2})", re.DOTALL)
_ANSWER = re.compile(
    r"response|answer|completion|out|reply|ref|candidate|conversation|messages|chat|option|choice|text|generation|model",
    re.IGNORECASE,
)
_PYTHON = re.compile(r"\s*\[\s*\{\s*'")


def filled_values(rows: Sequence[Mapping[str, Any]], column: str) -> list[Any]:
    """The values of a column that are not absent."""
    return [value for row in rows if not absent(value := row.get(column))]


def fits(part: str, values: Sequence[Any]) -> bool:
    """Whether a column of this name holds what the name says, in at least half of the rows that have it: a list of
    turns or exchanges, of tools or documents, or an object. Else its meaning is not certain and it is left out."""
    filled = [value for value in values if not blank(value)]
    return 2 * sum(_is_part(part, value) for value in filled) >= len(filled)


def _is_part(part: str, value: Any) -> bool:
    if isinstance(_opened(value, "{"), Mapping):
        return part != "history"
    items = turns_of(value)
    if items is None:
        return False
    objects = all(isinstance(item, Mapping) for item in items)
    exchanges = part == "history" and all(exchange(item) is not None for item in items)
    return exchanges or (objects and part != "chat_template_kwargs")


def mostly_open_with_answer(values: Sequence[Any]) -> bool:
    """Whether at least half of the chats open with a turn of the assistant."""
    opened = [opens_with_answer(turns) for value in values if (turns := turns_of(value))]
    return bool(opened) and 2 * sum(opened) >= len(opened)


def are_texts(values: Sequence[Any]) -> bool:
    """Whether every value is a text."""
    return all(isinstance(value, str) for value in values)


def holds_turns(text: Any) -> bool:
    """Whether it is JSON text of turns."""
    try:
        return turns_in(text) is not None
    except RowProblem:
        return False


def turns_of(value: Any) -> list[Any] | None:
    """The turns of a list in any form; None for anything else."""
    try:
        turns = as_turns(value)
    except RowProblem:
        return None
    return turns if isinstance(turns, list) and turns else None


def chat_layout(values: Iterable[Any]) -> str | None:
    """The layout of a column of chats, by the keys of the first turn that tells; None if no turn does."""
    for value in values:
        for turn in turns_of(value) or ():
            if isinstance(turn, Mapping):
                if turn.get("role") is not None and "content" in turn and turn.get("text") is None:
                    return "messages"
                if turn.get("role") is not None and turn.get("text") is not None and turn.get("content") is None:
                    return "oasst"
                if turn.get("from") is not None and "value" in turn:
                    return "sharegpt"
            if exchange(turn) is not None:
                return "exchanges"
        texts = _texts_of(value)
        if texts is not None and len(texts) > 1 and not all(map(_LABEL.match, texts[:2])):
            return "alternating"
    return None


def _opened(value: Any, opening: str) -> Any:
    """The value of a JSON text; None if it has a key twice."""
    try:
        return from_json(value, opening)
    except RowProblem:
        return None


def _texts_of(value: Any) -> list[str] | None:
    items = _opened(value, "[")
    is_list = isinstance(items, (list, tuple)) and all(isinstance(item, str) for item in items)
    return list(items) if is_list else None


def are_transcripts(values: Sequence[Any]) -> bool:
    """Whether at least half of the values are texts with turns that include an answer."""
    return bool(values) and 2 * sum(map(_is_transcript, values)) >= len(values)


def _is_transcript(value: Any) -> bool:
    try:
        return isinstance(value, str) and any(role == "assistant" for role, _ in split_turns(value))
    except RowProblem:
        return False


def alternatives(columns: Sequence[str]) -> list[list[str]]:
    """Groups of columns whose names differ by one last word, of letters a to h or numbers, and one of which is that of
    an answer: response_a and response_b, answer1 and answer2. They come in the order in which such a name does."""
    groups: dict[str, list[str]] = {}
    answers: dict[str, None] = {}
    for column in columns:
        if found := _ALTERNATIVE.fullmatch(column):
            groups.setdefault(found[1], []).append(column)
            if _ANSWER.search(column):
                answers.setdefault(found[1])
    return [groups[stem] for stem in answers]


def columns_named_by(values: Sequence[Any], columns: Sequence[str]) -> list[str]:
    """The columns of which the values name one each: by its name, or by the last word of several columns that differ
    in that only, or by its number among these. Empty if some value is another text or number."""
    wanted = {str(value).strip().lower() for value in values}
    if not wanted or not all(isinstance(value, (str, int)) and not isinstance(value, bool) for value in values):
        return []
    by_name = [column for column in columns if column.lower() in wanted]
    if {column.lower() for column in by_name} == wanted:
        return by_name
    for group in alternatives(columns):
        last = {found[2].lower() for each in group if (found := _ALTERNATIVE.fullmatch(each))}
        numbers = {str(number) for number in range(len(group) + 1)}  # counted from 0 or from 1
        if len(group) > 1 and (wanted <= last or wanted <= numbers):
            return group
    return []


def is_pythons_list(value: Any) -> bool:
    """Whether it is a list of turns as Python prints it, which is not JSON."""
    return isinstance(value, str) and _PYTHON.match(value) is not None
