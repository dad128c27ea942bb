"""The dialect of a corpus, found from its column names and a few of its rows.

Every reading that the columns allow is tried on the rows. Readings that give the same conversations are one. If more
than one is left, the corpus is refused with the settings of each: nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tamis.operators.conversation.columns import parts_of_row
from tamis.operators.conversation.dialects import (
    ANSWERS,
    BY_HAND,
    CHATS,
    SYSTEM,
    VARIABLES,
    Dialect,
    listed,
    optional_column,
    parts_of,
    usual_inputs,
)
from tamis.operators.conversation.layouts import (
    alternatives,
    are_texts,
    are_transcripts,
    chat_layout,
    columns_named_by,
    filled_values,
    fits,
    holds_turns,
    is_pythons_list,
    mostly_open_with_answer,
    turns_of,
)
from tamis.operators.conversation.speakers import opens_with_answer, speaker
from tamis.operators.conversation.usual_names import HISTORIES, PROMPTS, is_media, is_usual, usual
from tamis.operators.conversation.values import KEYS, as_text, blank, said
from tamis.operators.problems import RowProblem

_UNDERSTOOD = (
    "understood are a list of messages (messages, conversations or conversation), instruction/input/output, "
    "prompt/response, prompt/completion, question/answer, instruction/response, chosen/rejected, and a text "
    "with Human:/Assistant: turns"
)
_PAIRS = (
    *(("instruction", "output"), ("instruction", "response")),
    *(("prompt", "response"), ("prompt", "completion"), ("question", "answer")),
)
_RARE_PAIRS = (
    *(("query", "response"), ("question", "response"), ("input", "output")),
    *(("instruction", "completion"), ("instruction", "answer"), ("prompt", "output"), ("prompt", "answer")),
)
"""Tried if there is nothing else."""

_SPOKEN = re.compile(r"dialog|turn|utterance|thread|chat|conv", re.IGNORECASE)
_LONG, _WORDS = 60, 4
"""A name of a column with more characters or words is a sentence."""


SampledRows = Sequence[Mapping[str, Any]]


def detect(columns: Sequence[str], rows: SampledRows, complete: bool = True) -> Dialect:
    """The dialect of a corpus.

    columns: all columns of the corpus. Unless `complete`, only the columns of `rows`: the optional parts are then
    bound by their usual names, because later rows may have them, and a row with any other column that is usually part
    of a conversation will be a problem. Names may be spelt in capitals, with spaces or hyphens.
    rows: some rows of the corpus, used to look into lists and texts.

    A column that holds whole conversations and a pair of prompt and answer columns count equally. `chosen` (in a
    preference corpus, the answer to train on) is tried only if there is no other candidate, and `text` only after
    `chosen`: the original Alpaca files repeat each row in a `text` column. A column that may hold another answer than
    the candidate's is compared with it.

    Raises ValueError, which says what was found, what is understood and how to set the columns by hand.
    """
    spelt = _spelling(columns)
    as_usual = all(name == column for name, column in spelt.items())
    found = _detect(
        spelt, [row if as_usual and _is_plain(row, spelt) else _respelt(row, spelt) for row in rows], complete
    )
    made = _as_spelt(found, spelt)
    return made if complete else with_seen(made, columns)


def with_seen(dialect: Dialect, columns: Sequence[str]) -> Dialect:
    """The dialect of a corpus whose later rows may have other columns than these."""
    seen = tuple(sorted(column for column in columns if is_usual(column)))
    return dialect if dialect.seen == seen else replace(dialect, seen=seen)


def with_media(dialect: Dialect, columns: Sequence[str]) -> Dialect:
    """The dialect, with a check of every column of images, videos or sounds: a row with something in one is a
    problem."""
    found = [("media", column) for column in columns if is_media(column) and column not in dialect.reads]
    return replace(dialect, checks=(*dialect.checks, *found)) if found else dialect


def with_encoded(dialect: Dialect, rows: SampledRows) -> Dialect:
    """The dialect, with the parts that hold turns as JSON text in at least half of the rows."""
    columns = [(part, column) for part, column in dialect.columns if part in ("prompt", "output", "response")]
    found = []
    for part, column in columns:
        texts = [value for value in filled_values(rows, column) if not blank(value)]
        if texts and 2 * sum(map(holds_turns, texts)) >= len(texts):
            found.append(part)
    return dialect if dialect.encoded == tuple(found) else replace(dialect, encoded=tuple(found))


def with_layout(dialect: Dialect, rows: SampledRows) -> Dialect:
    """The dialect of a person who named a column of chats, and not their layout: with the layout of the rows."""
    if dialect.name != "messages" or dialect.chat is None:
        return dialect
    layout = chat_layout(filled_values(rows, dialect.chat)) or "messages"
    parts = dict(dialect.columns)
    parts[_chat_part(layout)] = parts.pop("messages")
    return replace(dialect, name=layout, columns=Dialect.of(layout, **parts).columns)


def _detect(spelt: Mapping[str, str], rows: SampledRows, complete: bool) -> Dialect:
    columns = list(spelt)
    readings = _chats(columns, rows, complete, CHATS) + _pairs(columns, rows, complete, _PAIRS)
    if not readings:
        readings = _chosen(columns, rows, complete)
    if not readings:
        readings = _pairs(columns, rows, complete, _RARE_PAIRS)
    if not readings:
        chats = _chats(columns, rows, complete, HISTORIES)
        readings = [chat for chat in chats if chat.column("response") is not None and chat.name in KEYS]
    if not readings and "text" in columns and are_transcripts(filled_values(rows, "text")):
        readings = [Dialect.of("text", text="text")]
    for reading in readings:
        _refuse_flags(reading, spelt, rows)
    if not readings:
        raise ValueError(f"no conversation found in {_names(spelt)}; {_hint(columns, rows)}{BY_HAND}")
    first = readings[0]
    others = [reading for reading in readings[1:] if not _agree(first, reading, rows)]
    if others:
        found = "; ".join(_as_spelt(reading, spelt).describe() for reading in [first, *others])
        raise ValueError(
            f"the columns hold more than one conversation: {found}; set {_either([first, *others], spelt)}"
        )
    repeated = [("answer", chat) for reading in readings[1:] if (chat := reading.chat) and chat not in first.reads]
    made = _checked(replace(first, checks=(*first.checks, *repeated)) if repeated else first, spelt, rows)
    return with_media(made, columns)


def _refuse_flags(reading: Dialect, spelt: Mapping[str, str], rows: SampledRows) -> None:
    """ValueError for an answer's column that only names the column with the answer: chosen: "a" beside response_a."""
    answer = reading.column("response") or reading.column("output") or reading.column("text")
    named = columns_named_by(filled_values(rows, answer), [*spelt]) if answer is not None else []
    prompt = reading.chat or reading.column("prompt") or reading.column("instruction")
    if answer is None or not named:
        return
    names = [spelt[column] for column in named]
    asked = "" if prompt is None else f"{'prompt' if reading.chat is None else 'messages'}: {spelt[prompt]}, "
    one, itself = (f"{{{asked}response: {column}}}" for column in (names[0], spelt[answer]))
    raise ValueError(
        f"{spelt[answer]} seems to say which of {listed(names)} counts, and to be no answer itself; write the one that "
        f"counts into a column of its own, or set input.columns={one} to take one column in all rows, or "
        f"input.columns={itself} if it is the answer"
    )


def _names(spelt: Mapping[str, str]) -> str:
    """The columns for a message. Names that may be the text of a row are not shown."""
    shown = [name if len(name) <= _LONG and len(name.split()) <= _WORDS else "..." for name in spelt.values()]
    return f"the columns {listed(shown)}"


def _hint(columns: Sequence[str], rows: SampledRows) -> str:
    if any(len(column) > _LONG or len(column.split()) > _WORDS for column in columns):
        return (
            "some of their names are sentences: if the first line of a CSV file is a row, write a line with the names "
            "of the columns before it; "
        )
    several = next((group for group in alternatives(columns) if len(group) > 1), None)
    if several is not None:
        return (
            f"{listed(several)} seem to be answers or chats of which one counts; write that one into a column of its "
            "own, or name one of them for all rows; "
        )
    for column in columns:
        layout = chat_layout(filled_values(rows, column)) if column not in CHATS else None
        if layout is not None and (layout != "alternating" or _SPOKEN.search(column)):
            setting = Dialect.of(layout, **{_chat_part(layout): column}).setting([column])
            return f"{column} seems to hold chats: set {setting}; "
    for column in (*CHATS, *ANSWERS):
        if column in columns and not filled_values(rows, column):
            return f"{column} is null in all sampled rows; "
    for column in CHATS:
        if any(map(is_pythons_list, filled_values(rows, column))):
            return f"{column} holds a list as Python prints it; write it with json.dumps; "
    for column in CHATS:
        turns = next((found for value in filled_values(rows, column) if (found := turns_of(value))), [])
        if turns and isinstance(turns[0], Mapping):
            keys = ", ".join(str(key)[:20] for key in [*turns[0]][:4])
            return (
                f"the entries in {column} have the keys {keys}, and understood are turns of {{role, content}}, "
                "{from, value} and {role, text}; "
            )
    if "parent_id" in columns and "message_id" in columns:
        return "each row seems to be a single message of a tree; join the messages of a conversation into one row; "
    return f"{_UNDERSTOOD}; "


# --- readings -----------------------------------------------------------------------------------------------------


def _made(name: str, columns: Sequence[str], rows: SampledRows, complete: bool, **parts: str | None) -> Dialect:
    """A reading, with the optional parts that the corpus has or may have."""
    known = parts_of(name)
    if "system" in known:
        parts["system"] = optional_column(SYSTEM, columns, complete)
        parts["system_prompt"] = _first(columns, *(column for column in SYSTEM if column != parts["system"]))
    for part in ("history", *VARIABLES):
        if part in known and fits(part, filled_values(rows, part)):
            parts[part] = optional_column((part,), columns, complete)
    made = with_encoded(Dialect.of(name, **parts), rows)
    return made if complete else with_seen(made, columns)


def _chats(columns: Sequence[str], rows: SampledRows, complete: bool, names: Sequence[str]) -> list[Dialect]:
    found = []
    for column in names:
        layout = chat_layout(filled_values(rows, column)) if column in columns else None
        if layout is None or (column == "data" and layout not in ("alternating", "messages", "sharegpt")):
            continue
        chat = _made(layout, columns, rows, complete, **{_chat_part(layout): column})
        prompt = next((name for name in PROMPTS if not all(blank(value) for value in filled_values(rows, name))), None)
        if prompt is not None:
            if mostly_open_with_answer(filled_values(rows, column)):
                found += [chat, _made("pair", columns, rows, complete, prompt=prompt, response=column)]
                continue
            chat = replace(chat, checks=(("prompt", prompt),))
        answers = [answer for answer in ANSWERS if answer in columns]
        found += [reading for answer in answers if (reading := _answered(chat, answer, rows)) is not None] or [chat]
    return found


def _answered(chat: Dialect, answer: str, rows: SampledRows) -> Dialect | None:
    """The chat with the answer of a column, if that follows the chat in at least one row, and in half of those in which
    the two can be told apart."""
    answered = with_encoded(chat.with_part("response", answer), rows)
    follows, differs = 0, 0
    for row in rows:
        if not blank(row.get(answer)):
            turns, problem = _read(answered, row)
            differs += problem == "two_answers"
            follows += turns is not None and len(turns) > len(_read(chat, row)[0] or turns)
    return answered if follows > 0 and follows >= differs else None


def _pairs(
    columns: Sequence[str], rows: SampledRows, complete: bool, names: Sequence[tuple[str, str]]
) -> list[Dialect]:
    found = []
    for prompt, answer in names:
        if prompt in columns and answer in columns:
            found += _asked(prompt, answer, columns, rows, complete)
    return found


def _asked(prompt: str, answer: str, columns: Sequence[str], rows: SampledRows, complete: bool) -> list[Dialect]:
    """The readings of a prompt and its answer. A text that goes with a prompt of text makes an alpaca row of it."""
    pair = _made("pair", columns, rows, complete, prompt=prompt, response=answer)
    if _any_lists(rows, prompt, answer) or pair.encoded:
        outcomes = [_read(pair, row)[1] for row in rows if not blank(row.get(prompt)) and not blank(row.get(answer))]
        if 2 * outcomes.count("two_answers") <= len(outcomes):
            return [pair]
        layout = chat_layout(filled_values(rows, prompt)) or "messages"
        chat = _made(layout, columns, rows, complete, **{_chat_part(layout): prompt})
        return [chat, chat.with_part("response", answer)]
    names = usual_inputs(answer) if prompt == "instruction" else ("context", "input")
    given = [name for name in names if name in columns and name != prompt]
    also = _first([name for name in given if are_texts(filled_values(rows, name))], *names)
    if also is None and not complete and prompt == "instruction" and not {*names} & {*columns}:
        also = names[0]
    if also is None and (prompt, answer) != ("instruction", "output"):
        return [pair]
    return [_made("alpaca", columns, rows, complete, instruction=prompt, input=also, output=answer)]


def _chosen(columns: Sequence[str], rows: SampledRows, complete: bool) -> list[Dialect]:
    """`chosen` is a whole conversation, or only the answer if there is also a prompt column."""
    column = _first(columns, "chosen", "chosen_messages")
    if column is None:
        return []
    values = filled_values(rows, column)
    if values and all(isinstance(value, (bool, int, float)) for value in values):
        return []  # which of some answers was chosen, not the answer
    prompt = _first(columns, *PROMPTS)
    layout = chat_layout(values)
    if layout in KEYS:
        if prompt is None or not mostly_open_with_answer(values):
            chat = _made(layout, columns, rows, complete, **{_chat_part(layout): column})
            return [chat if prompt is None else replace(chat, checks=(("prompt", prompt),))]
    elif are_transcripts(values):
        return [Dialect.of("text", text=column)]
    return [] if prompt is None else _asked(prompt, column, columns, rows, complete)


# --- the rows under a reading -------------------------------------------------------------------------------------


def _read(reading: Dialect, row: Mapping[str, Any]) -> tuple[list[Any] | None, str]:
    """The turns of a row, or None and the code of its problem."""
    try:
        return parts_of_row(row, reading).turns, ""
    except RowProblem as problem:
        return None, problem.code


def _agree(one: Dialect, other: Dialect, rows: SampledRows) -> bool:
    """Whether two readings give the same conversation in every row that both can read, and there is one."""
    if other.chat is not None and other.name not in KEYS:
        return False  # later rows could not be checked
    pairs = [(_read(one, row)[0], _read(other, row)[0]) for row in rows]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    return bool(both) and all(_gist(a) == _gist(b) for a, b in both)


def _gist(turns: Sequence[Any]) -> list[tuple[str | None, str]]:
    return [(speaker(turn), said(turn)) for turn in turns]


def _checked(reading: Dialect, spelt: Mapping[str, str], rows: SampledRows) -> Dialect:
    """The reading, with a check of every column that may hold another answer. ValueError if one does in most rows."""
    known = set(reading.reads)
    for column in ANSWERS:
        if column not in spelt or column in known:
            continue
        checked = replace(reading, checks=(*reading.checks, ("answer", column)))
        filled = [number for number, row in enumerate(rows) if not blank(row.get(column))]
        outcomes = {number: _read(checked, rows[number])[1] for number in filled}
        differing = [number for number, code in outcomes.items() if code == "two_answers"]
        agreeing = sum(code == "" for code in outcomes.values())
        if differing and len(differing) >= agreeing:
            other = _with_answer(reading, column, rows)
            raise ValueError(
                f"the columns hold more than one answer: {_as_spelt(reading, spelt).describe()}, or that in "
                f"{spelt[column]}; they differ in "
                f"{len(differing)} of {len(filled)} sampled rows that have both, first in row {differing[0]} (counted "
                f"from 0); set {_either([reading, other], spelt)}"
            )
        reading = checked
    return reading


def _with_answer(reading: Dialect, column: str, rows: SampledRows) -> Dialect:
    """The reading with the answer of another column, or that column alone if it holds whole conversations."""
    turns = [found for value in filled_values(rows, column) if (found := turns_of(value))]
    if turns and not any(map(opens_with_answer, turns)):
        return Dialect.of("messages", messages=column)
    if reading.name == "text":
        return Dialect.of("pair", prompt=reading.column("text"), response=column)
    return reading.with_part("output" if reading.name == "alpaca" else "response", column)


def _either(readings: Sequence[Dialect], spelt: Mapping[str, str]) -> str:
    return " or ".join(_as_spelt(reading, spelt).setting([*spelt.values()]) for reading in readings)


# --- names --------------------------------------------------------------------------------------------------------


def _spelling(columns: Sequence[str]) -> dict[str, str]:
    """usual name -> the corpus's name of a column. A name that is spelt in the usual way goes before another."""
    found: dict[str, str] = {}
    own = set(columns)
    for column in columns:
        name = usual(column)
        taken = name in own or name in found or not is_usual(column)
        found[column if taken and column != name else name] = column
    return found


def _as_spelt(reading: Dialect, spelt: Mapping[str, str]) -> Dialect:
    """The reading with the corpus's own names of its columns."""
    if all(name == column for name, column in spelt.items()):
        return reading
    return replace(
        reading,
        columns=tuple((part, spelt.get(column, column)) for part, column in reading.columns),
        checks=tuple((what, spelt[column]) for what, column in reading.checks),
        seen=None if reading.seen is None else tuple(spelt.get(column, column) for column in reading.seen),
    )


def _is_plain(row: Mapping[str, Any], spelt: Mapping[str, str]) -> bool:
    """Whether the row need not be copied to be read: it has no other columns, and no text as bytes."""
    return row.keys() <= spelt.keys() and not any(issubclass(kind, bytes) for kind in {*map(type, row.values())})


def _respelt(row: Mapping[str, Any], spelt: Mapping[str, str]) -> Mapping[str, Any]:
    return {name: as_text(row[column]) for name, column in spelt.items() if column in row}


def _any_lists(rows: SampledRows, *columns: str) -> bool:
    """Whether any of these columns holds a list of turns, which a pair may hold and an alpaca row may not."""
    return any(isinstance(row.get(column), (list, tuple, Mapping)) for row in rows for column in columns)


def _first(columns: Sequence[str], *wanted: str) -> str | None:
    return next((column for column in wanted if column in columns), None)


def _chat_part(layout: str) -> str:
    """The part that holds the chat."""
    return "conversations" if layout == "sharegpt" else "messages"
