"""The forms in which columns hold turns and answers, brought to one: a list of objects, or a text.

A list of turns may be a list, JSON text, a list of JSON texts, of maps (Arrow gives a map as key and value pairs) or of
[speaker, text], or an object of lists, as `datasets` makes of a list of objects. What has none of these forms is left
as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from tamis.operators.conversation.speakers import last_answer, speaker
from tamis.operators.conversation.strict_json import parse
from tamis.operators.problems import RowProblem

KEYS = {"messages": ("role", "content"), "sharegpt": ("from", "value"), "oasst": ("role", "text")}
"""layout -> the keys of a turn for who speaks and for what is said."""

_SPEAKERS = frozenset({"system", "user", "human", "assistant", "gpt"})
_EXCHANGES = (
    ("human", "assistant"),
    ("user", "assistant"),
    ("question", "answer"),
    ("prompt", "response"),
    ("query", "response"),
    ("instruction", "output"),
    ("input", "output"),
)


def absent(value: Any) -> bool:
    """Whether a column holds nothing: null, NaN, or an object of nulls only, which a struct column has for a missing
    one."""
    if value is None or isinstance(value, (str, int)):  # most values by far
        return value is None
    if isinstance(value, float):
        return math.isnan(value)
    left = [value]
    while left:
        found = left.pop()
        if isinstance(found, Mapping):
            left.extend(found.values())
        elif found is not None:
            return False
    return True


def blank(value: Any) -> bool:
    """Whether it is absent, or a text or list without anything in it."""
    if isinstance(value, str):
        return not value.strip()
    return absent(value) or value in ([], ())


def as_text(value: Any) -> Any:
    """A text that a table holds as bytes, if it is UTF-8; anything else unchanged."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def from_json(value: Any, opening: str = "[") -> Any:
    """The value of a JSON text that begins with this bracket; anything else unchanged. Raises RowProblem for a key that
    is there twice: readers would differ."""
    if not isinstance(value, str) or not value.lstrip().startswith(opening):
        return value
    try:
        return parse(value)
    except RowProblem as problem:
        if problem.code == "duplicate_keys":
            raise
        return value


def as_turns(value: Any) -> Any:
    """A list of turns in any of its forms as a list of objects; anything else unchanged. Raises as `from_json`."""
    value = from_json(value)
    if isinstance(value, Mapping) and value and all(isinstance(item, (list, tuple)) for item in value.values()):
        lengths = {len(item) for item in value.values()}
        if len(lengths) == 1:
            return [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]
    return [as_turn(item) for item in value] if isinstance(value, (list, tuple)) else value


def as_turn(item: Any) -> Any:
    """One turn in any of its forms as an object; anything else unchanged. Raises as `from_json`."""
    if isinstance(item, str):
        return from_json(item, "{")
    if _names_its_speaker(item):
        return {"role": item[0], "content": item[1]}
    if not isinstance(item, list) or not item:
        return item
    if all(isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in item):
        pairs = item
    elif all(isinstance(pair, Mapping) and set(pair) == {"key", "value"} for pair in item):
        pairs = [(pair["key"], pair["value"]) for pair in item]
        if not all(isinstance(key, str) for key, _ in pairs):
            return item
    else:
        return item
    turn = dict(pairs)
    if len(turn) != len(pairs):
        raise RowProblem("duplicate_keys", "a turn has the same key twice, and readers differ in which one counts")
    return turn


def _names_its_speaker(item: Any) -> bool:
    """Whether it is a pair of who speaks and what is said."""
    is_pair = isinstance(item, (list, tuple)) and len(item) == 2 and all(isinstance(text, str) for text in item)
    return is_pair and item[0].strip().lower() in _SPEAKERS


def turns_in(text: Any) -> list[Any] | None:
    """The turns that a text holds as JSON, a list of them or a single one; None for any other text or value."""
    if not isinstance(text, str) or not text.lstrip().startswith(("[", "{")):
        return None
    if '"role"' not in text and '"from"' not in text and "role\\" not in text and "from\\" not in text:
        return None  # most JSON texts are answers; they are not parsed
    found = as_turns(text)
    if isinstance(found, str):
        found = [from_json(found, "{")]
    return found if found and all(speaker(turn) is not None for turn in found) else None


def exchange(item: Any) -> tuple[Any, Any] | None:
    """A question and its answer, given as a list of both or as an object with usual names; None for anything else."""
    if isinstance(item, (list, tuple)) and len(item) == 2 and all(isinstance(text, str) for text in item):
        return None if _names_its_speaker(item) else (item[0], item[1])
    if isinstance(item, Mapping) and speaker(item) is None:
        for asked, answered in _EXCHANGES:
            if item.get(asked) is not None and item.get(answered) is not None:
                return item[asked], item[answered]
    return None


def rekeyed(turn: Any, role_key: str, content_key: str) -> Any:
    """The turn with these keys for who speaks and what is said, whichever of the usual ones it has."""
    if not isinstance(turn, Mapping) or turn.get(content_key) is not None:
        return turn
    for role, content in KEYS.values():
        if (role, content) != (role_key, content_key) and turn.get(role) is not None and turn.get(content) is not None:
            rest = {key: value for key, value in turn.items() if key not in (role, content, role_key, content_key)}
            return {role_key: turn[role], content_key: turn[content], **rest}
    return turn


def is_number(value: Any) -> bool:
    """Whether an answer is a number, which is read as text: see `spelt`."""
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool) and math.isfinite(value)


def spelt(number: Any) -> str:
    """A number as text: the shortest spelling that gives it back, as Python and JSON write it (42, 0.5, 1e+20)."""
    return repr(number) if isinstance(number, float) else str(number)


def text_of(content: Any) -> str:
    """The text of a turn's content, without the white space around it, to compare two answers: of parts, all texts."""
    if isinstance(content, str):
        return content.strip()
    if is_number(content):
        return spelt(content)
    if isinstance(content, (list, tuple)):
        return "".join(_text_of_part(part) for part in content).strip()
    return ""


def _text_of_part(part: Any) -> str:
    if isinstance(part, str):
        return part
    found = [part.get(key) for key in ("text", "value")] if isinstance(part, Mapping) else []
    return next((text for text in found if isinstance(text, str)), "")


def said(turn: Any) -> str:
    """The text of a turn, whatever its keys."""
    if not isinstance(turn, Mapping):
        return ""
    contents: Sequence[Any] = [turn.get(content) for _, content in KEYS.values()]
    return text_of(next((content for content in contents if content is not None), None))


def answer_in(value: Any) -> str:
    """The text of the answer that a column holds: the text itself, a turn, or the last answer of a list of turns."""
    found = turns_in(value)
    if found is None:
        value = as_turn(value) if isinstance(value, list) else value
        if isinstance(value, Mapping) and speaker(value) is not None:
            found = [value]
        elif isinstance(value, (list, tuple, Mapping)):
            turns = as_turns(value)
            found = turns if isinstance(turns, list) else []
        else:
            return text_of(value)
    return said(last_answer(found))
