"""What a plan says of the columns of a corpus: what is left out of the prompt, what is read in a way of its own, and
which answers are scored that a trainer might leave out. The lines hold names and numbers of rows, never a row's text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tamis.operators.conversation.columns import Parts, parts_of_row
from tamis.operators.conversation.conversation import REASONING
from tamis.operators.conversation.dialects import Dialect, listed
from tamis.operators.conversation.speakers import speaker
from tamis.operators.conversation.training_marks import MARKS
from tamis.operators.conversation.turns import split_turns
from tamis.operators.conversation.usual_names import MEDIA, is_prompt_part, usual
from tamis.operators.conversation.values import KEYS, blank, is_number, said, text_of
from tamis.operators.problems import RowProblem

_LABELS = frozenset({"label", "kto_tag", "kto_label"})
_AS_FLAGS = {"0": "false", "0.0": "false", "1": "true", "1.0": "true"}
_REJECTED = frozenset({"rejected", "rejected_messages", "rejected_response"})
_NAMED = 8
_READ_IN_TURNS = frozenset(
    {
        *(key for pair in KEYS.values() for key in pair),
        *(*MARKS, *REASONING, *MEDIA, "tool_calls", "function_call", "name", "tool_call_id", "tool_plan"),
    }
)
_LIKE_A_MARK = re.compile(r"(?:.*_)?(?:no_?)?(?:loss|mask|masked|train\w*|learn\w*|weights?)(?:_.*)?")
_REASONS = re.compile(
    r"(?:.*_)?(?:cot|chain_of_thought|thoughts?|thinking|think|reasoning(?:_content|_trace|_steps)?|rationale|scratchpad)"
)
_SPLITS = frozenset({"train", "training", "validation", "valid", "val", "dev", "test", "eval", "evaluation"})
_RENDERED = re.compile(
    r"<\|(?:im_start|start_header_id|user|assistant|start|turn)\|>|\[INST\]|<start_of_turn>"
    r"|<\uff5c(?:User|Assistant)\uff5c>"
)


@dataclass(frozen=True)
class Remarks:
    """warnings: what may differ from what the user means. notes: how columns are read. One line each."""

    warnings: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Sample:
    dialect: Dialect
    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    parts: Sequence[Parts | None]  # of each row; None if it is a problem

    def filled(self, column: str) -> dict[int, Any]:
        """The values of a column, by the number of the row."""
        return {number: row[column] for number, row in enumerate(self.rows) if not blank(row.get(column))}


def remarks(dialect: Dialect, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Remarks:
    """What there is to say of a corpus with these columns under this dialect. rows: some of its rows."""
    sample = _Sample(dialect, columns, rows, [_parts(row, dialect) for row in rows])
    labels, are_false = _labels(sample)
    warnings = [*_left_out(sample), *_open_ends(sample), *_transcripts(sample), *_own_systems(sample)]
    warnings += [*_rendered(sample), *_marks(sample), *_reasons(sample), *_splits(sample)]
    warnings += labels if are_false else []
    notes = [
        *_order(sample),
        *_replaced(sample),
        *_spelling(sample),
        *_rejected(sample),
        *([] if are_false else labels),
        *_unread(sample),
        *_unread_keys(sample),
    ]
    return Remarks(tuple(warnings), tuple(notes))


def _parts(row: Mapping[str, Any], dialect: Dialect) -> Parts | None:
    try:
        return parts_of_row(row, dialect)
    except RowProblem:
        return None


def _problem(row: Mapping[str, Any], dialect: Dialect) -> str:
    """The code of the row's problem; empty if it has none."""
    try:
        parts_of_row(row, dialect)
    except RowProblem as problem:
        return problem.code
    return ""


# --- warnings -----------------------------------------------------------------------------------------------------


def _left_out(sample: _Sample) -> list[str]:
    dialect = sample.dialect
    taken = {column for _, column in dialect.columns} | {column for what, column in dialect.checks if what == "media"}
    found = []
    for column in sample.columns:
        if is_prompt_part(column) and column not in taken:
            filled = sample.filled(column)
            new = [number for number, value in filled.items() if not _is_repeated(value, sample.parts[number])]
            if new or not filled:
                found.append(f"{column} (row {new[0]})" if new else f"{column} (empty in the sampled rows)")
    if not found:
        return []
    return [f"columns left out of the prompt: {listed(found)}; rows count from 0. {_way_in(sample.dialect)}"]


def _way_in(dialect: Dialect) -> str:
    if dialect.name not in ("pair", "alpaca"):
        return (
            "What belongs to the prompt must be in the conversation, or be named in input.columns as system, tools, "
            "documents or chat_template_kwargs"
        )
    names = [
        dialect.column("prompt") or dialect.column("instruction"),
        dialect.column("response") or dialect.column("output"),
    ]
    return (
        f"A text is rendered with input.columns={{instruction: {names[0]}, input: COLUMN, output: {names[1]}}}, a list "
        "of earlier turns with history: COLUMN"
    )


def _is_repeated(value: Any, parts: Parts | None) -> bool:
    """Whether the conversation holds the text already, or all turns of a list. A row without one tells nothing."""
    if parts is None:
        return True
    wanted = [value.strip()] if isinstance(value, str) else [*map(said, value)] if isinstance(value, list) else [""]
    texts = [*map(said, parts.turns), text_of(parts.system)]
    return all(want and any(want in text for text in texts) for want in wanted)


def _open_ends(sample: _Sample) -> list[str]:
    """Chats that a turn of the user ends: what they say last is not rendered, so the answer may be elsewhere."""
    chat = sample.dialect.chat or sample.dialect.column("text")
    if chat is None or sample.dialect.column("response") is not None:
        return []
    ends = [None if parts is None else speaker(parts.turns[-1]) for parts in sample.parts]
    open_ended = [number for number, end in enumerate(ends) if end == "user"]
    if not open_ended:
        return []
    way_in = f". If the last answer is in another column, set input.columns={{messages: {chat}, response: COLUMN}}"
    if sample.dialect.chat is None:
        way_in = ""
    return [
        f"{len(open_ended)} of {len(sample.rows)} sampled conversations in {chat} end with a turn of the user, first "
        f"in row {open_ended[0]} (counted from 0); it is not rendered, and the answer before it is scored{way_in}"
    ]


def _transcripts(sample: _Sample) -> list[str]:
    """Prompts that are a whole conversation in one text: all of it becomes one turn of the user."""
    column = sample.dialect.column("prompt") or sample.dialect.column("instruction")
    found = [] if column is None else [n for n, value in sample.filled(column).items() if _is_transcript(value)]
    if not found:
        return []
    return [
        f"{column} holds conversations with Human:, Assistant: or other labels in {len(found)} of {len(sample.rows)} "
        f"sampled rows, first row {found[0]} (counted from 0); each is rendered as one turn of the user, labels and all"
    ]


def _is_transcript(value: Any) -> bool:
    try:
        return isinstance(value, str) and len({role for role, _ in split_turns(value)} & {"user", "assistant"}) == 2
    except RowProblem:
        return False


def _rendered(sample: _Sample) -> list[str]:
    """Texts that a chat template has rendered already: another template is put around them."""
    found = [
        number
        for number, parts in enumerate(sample.parts)
        if parts is not None and any(_RENDERED.search(said(turn)) for turn in parts.turns)
    ]
    if not found:
        return []
    return [
        f"{len(found)} of {len(sample.rows)} sampled rows hold marks of a chat template (<|im_start|>, [INST] and the "
        f"like) in their text, first row {found[0]} (counted from 0); they stay text within a turn, and the model's "
        "template is put around them"
    ]


def _marks(sample: _Sample) -> list[str]:
    """Keys of the assistant's turns and columns that may say what is trained on, in words that are not read."""
    keys: dict[str, int] = {}
    for number, parts in enumerate(sample.parts):
        for turn in () if parts is None else parts.turns:
            for key in turn if speaker(turn) == "assistant" else ():
                if key not in _READ_IN_TURNS and turn[key] is not None and _LIKE_A_MARK.fullmatch(usual(str(key))):
                    keys.setdefault(str(key), number)
    columns = {
        column: min(filled)
        for column in sample.columns
        if column not in sample.dialect.reads
        and _LIKE_A_MARK.fullmatch(usual(column))
        and (filled := sample.filled(column))
    }
    found = [f"{name} (row {row})" for name, row in (*keys.items(), *columns.items())]
    if not found:
        return []
    return [
        f"not read, though it may say what is trained on: {listed(found)}; rows count from 0. Marks are read on turns, "
        "as train (true or false) or weight (0 or above)"
    ]


def _reasons(sample: _Sample) -> list[str]:
    """Columns of reasoning beside the answer, which trainers of reasoning put before it."""
    filled = {
        column: values
        for column in sample.columns
        if column not in sample.dialect.reads
        and _REASONS.fullmatch(usual(column))
        and any(map(_holds_text, (values := sample.filled(column)).values()))
    }
    if not filled:
        return []
    found = [f"{column} (row {min(values)})" for column, values in filled.items()]
    return [
        f"columns that may be the first part of the answer are not read: {listed(found)}; rows count from 0. If "
        "a model is trained on them, join them with the answer in one column, as the trainer does"
    ]


def _splits(sample: _Sample) -> list[str]:
    """A column that says of which split a row is: the rows of all of them are read."""
    for column in sample.columns:
        if usual(column) in ("split", "subset", "set", "partition") and column not in sample.dialect.parts:
            values = {str(value).strip().lower() for value in sample.filled(column).values()}
            if len(values) > 1 and values & _SPLITS:
                return [
                    f"{column} has {len(values)} values among the sampled rows, as of train and test; the rows of all "
                    "of them are read as one corpus: take out beforehand what is not trained on"
                ]
    return []


def _own_systems(sample: _Sample) -> list[str]:
    column = sample.dialect.column("system")
    other = [
        number
        for number, parts in enumerate(sample.parts)
        if parts is not None
        and not blank(parts.system)
        and speaker(parts.turns[0]) == "system"
        and said(parts.turns[0]) != text_of(parts.system)
    ]
    if not other:
        return []
    return [
        f"{len(other)} of {len(sample.rows)} sampled conversations open with a system turn of their own, first row "
        f"{other[0]} (counted from 0); it is rendered, and the other one in {column} is not"
    ]


def _labels(sample: _Sample) -> tuple[list[str], bool]:
    """What becomes of answers that are labelled as bad ones (KTO), and whether the sampled rows have any."""
    for column in sample.columns:
        filled = sample.filled(column) if usual(column) in _LABELS else {}
        values = [str(value).strip().lower() for value in filled.values()]
        numbers = usual(column) != "label" or sample.dialect.column("response") == "completion"  # of KTO for sure
        if numbers:
            values = [_AS_FLAGS.get(value, value) for value in values]
        if values and set(values) <= {"true", "false"}:
            bad = values.count("false")
            return [
                f"{column}: the answers of {bad} of {len(values)} sampled rows are labelled false; such answers are "
                "scored like any other: take the rows out beforehand if nothing is trained on them"
            ], bad > 0
    return [], False


# --- notes --------------------------------------------------------------------------------------------------------


def _order(sample: _Sample) -> list[str]:
    instruction, text = sample.dialect.column("instruction"), sample.dialect.column("input")
    if text is None or instruction == "instruction" or not sample.filled(text):
        return []
    answer = sample.dialect.column("output")
    return [
        f"the prompt is {instruction}, then {text}, with {sample.dialect.join!r} between them (input.join); for the "
        f"other order set input.columns={{instruction: {text}, input: {instruction}, output: {answer}}}"
    ]


def _replaced(sample: _Sample) -> list[str]:
    if not sample.dialect.replaces:
        return []
    strict = replace(sample.dialect, replaces=False)
    count = sum(_problem(row, strict) == "two_answers" for row in sample.rows)
    chat, column = sample.dialect.chat, sample.dialect.column("response")
    return [
        f"{column} is the answer to the chat in {chat}; in {count} of {len(sample.rows)} sampled rows it takes the "
        "place of another answer that the chat ends with"
    ]


def _spelling(sample: _Sample) -> list[str]:
    column = sample.dialect.column("output") or sample.dialect.column("response")
    numbers = [] if column is None else [n for n, value in sample.filled(column).items() if is_number(value)]
    if not numbers:
        return []
    return [
        f"{column} holds numbers, first in row {numbers[0]} (counted from 0): they are read as the texts that JSON has "
        "for them, like 42, 0.5 or 1e+20"
    ]


def _rejected(sample: _Sample) -> list[str]:
    found = [column for column in sample.columns if usual(column) in _REJECTED]
    return [f"answers in {listed(found)} are not scored; they stay with their rows"] if found else []


def _unread(sample: _Sample) -> list[str]:
    taken = set(sample.dialect.reads)
    found = [
        column
        for column in sample.columns
        if column not in taken
        and not is_prompt_part(column)
        and usual(column) not in _REJECTED
        and any(not blank(value := row.get(column)) and _holds_text(value) for row in sample.rows)
    ]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return [f"text columns that are not read: {', '.join(found[:_NAMED])}{more}"] if found else []


def _unread_keys(sample: _Sample) -> list[str]:
    """Keys of turns that hold texts and that no template gets, as a message's channel. Those like marks stand in
    `_marks`."""
    found = {
        str(key)
        for parts in sample.parts
        for turn in (() if parts is None else parts.turns)
        for key in _beside(turn, KEYS.get(sample.dialect.name, KEYS["messages"]))
        if not (speaker(turn) == "assistant" and _LIKE_A_MARK.fullmatch(usual(str(key))))
        and not blank(turn[key])
        and _holds_text(turn[key])
    }
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return [f"keys of turns that are not read: {', '.join(sorted(found)[:_NAMED])}{more}"] if found else []


def _beside(turn: Any, usual_pair: tuple[str, str]) -> list[str]:
    """The keys of a turn that are not read. A turn that has a pair of keys for its role and content may have the keys
    of another layout, too."""
    if not isinstance(turn, Mapping):
        return []
    pairs = [pair for pair in (usual_pair, *KEYS.values()) if turn.get(pair[0]) is not None and pair[1] in turn]
    others = {key for pair in KEYS.values() for key in pair} - {*pairs[0]} if pairs else set()
    return [key for key in turn if key in others or key not in _READ_IN_TURNS]


def _holds_text(value: Any) -> bool:
    """Whether it is a text, or holds one at any depth."""
    left = [value]
    while left:
        found = left.pop()
        if isinstance(found, str):
            return True
        if isinstance(found, (list, tuple)):
            left.extend(found)
        elif isinstance(found, Mapping):
            left.extend(found.values())
    return False
