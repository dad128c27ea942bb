"""Which columns of a corpus hold the conversation, and in which layout. The layouts:

    messages   a list of {role, content}
    sharegpt   a list of {from, value}
    alpaca     instruction, optional input, output; instruction and input make one prompt
    pair       a prompt and a response (prompt/completion, question/answer, instruction/response); each a
               string or, as in TRL's conversational form, a list of {role, content}
    text       one string with "Human:" / "Assistant:" turns (see turns.py)

All but `text` may have a column with a system prompt. detection.py finds the dialect of a corpus; here a
person sets it by hand.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# part -> the columns that usually hold it, the likeliest first
_CHATS = ("messages", "conversations", "conversation")
_SYSTEM = ("system", "system_prompt")
_REQUIRED: dict[str, dict[str, tuple[str, ...]]] = {
    "messages": {"messages": (*_CHATS, "chosen")},
    "sharegpt": {"conversations": ("conversations", "conversation", "messages", "chosen")},
    "alpaca": {"instruction": ("instruction",), "output": ("output", "response")},
    "pair": {
        "prompt": ("prompt", "question", "instruction"),
        "response": ("response", "completion", "answer", "chosen"),
    },
    "text": {"text": ("text", "chosen")},
}
_OPTIONAL: dict[str, dict[str, tuple[str, ...]]] = {
    "messages": {"system": _SYSTEM},
    "sharegpt": {"system": _SYSTEM},
    "alpaca": {"input": ("input", "context"), "system": _SYSTEM},
    "pair": {"system": _SYSTEM},
    "text": {},
}
# as a person reads them: system, prompt, answer
_ORDER = (
    "system",
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
    "prompt",
    "response",
    "text",
)
# other names of a part, understood in columns set by hand
_ALIASES: dict[str, dict[str, str]] = {
    "messages": {"conversations": "messages", "conversation": "messages"},
    "sharegpt": {"messages": "conversations", "conversation": "conversations"},
    "alpaca": {"context": "input", "response": "output"},
    "pair": {
        "question": "prompt",
        "instruction": "prompt",
        "completion": "response",
        "answer": "response",
        "output": "response",
    },
    "text": {},
}
_SPOKEN_NAMES = {
    "prompt_response": "pair",
    "prompt_completion": "pair",
    "question_answer": "pair",
    "instruction_response": "pair",
}

BY_HAND = (
    "name the columns in input.columns, for example {messages: COLUMN}, {prompt: COLUMN, response: COLUMN} "
    "or {text: COLUMN}"
)

JOIN = "\n"
"""Between an alpaca row's instruction and its input, as the authors of LARF and LLaMA-Factory have it."""


@dataclass(frozen=True)
class Dialect:
    """A layout and the columns that fill it.

    name: one of messages, sharegpt, alpaca, pair, text.
    columns: (part, column) pairs, e.g. (("prompt", "q"), ("response", "a")).
    join: what stands between instruction and input; it has no meaning where there is no input.
    Raises ValueError for an unknown layout, or parts that it does not have or lacks.
    """

    name: str
    columns: tuple[tuple[str, str], ...]
    join: str = JOIN

    def __post_init__(self) -> None:
        if self.name not in _REQUIRED:
            raise ValueError(f"unknown dialect {self.name!r}; known are {', '.join(_REQUIRED)}")
        parts = [part for part, _ in self.columns]
        known = parts_of(self.name)
        if len(set(parts)) < len(parts) or not set(_REQUIRED[self.name]) <= set(parts) <= set(known):
            raise ValueError(f"dialect {self.name} has the parts {', '.join(known)}, not {', '.join(parts)}")

    @classmethod
    def of(cls, name: str, **columns: str | None) -> Dialect:
        """By keyword, part=column, in any order; None where the corpus has no such column."""
        return cls(name, tuple((part, column) for part in _ORDER if (column := columns.pop(part, None)) is not None))

    def column(self, part: str) -> str | None:
        """The column that holds this part; None if there is none."""
        return next((column for known, column in self.columns if known == part), None)

    def describe(self) -> str:
        """For people: `alpaca (instruction, input -> output)`."""
        *prompt, answer = [column for _, column in self.columns]
        if self.name in ("alpaca", "pair"):
            return f"{self.name} ({', '.join(prompt)} -> {answer})"
        return f"{self.name} ({', '.join([*prompt, answer])})"

    def to_dict(self) -> dict[str, Any]:
        joined = {} if self.column("input") is None else {"join": self.join}
        return {"name": self.name, "columns": dict(self.columns), **joined}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Dialect:
        """The inverse of to_dict. Raises KeyError or ValueError for anything that is not one."""
        return cls(data["name"], tuple(dict(data["columns"]).items()), str(data.get("join", JOIN)))


def parts_of(dialect: str) -> tuple[str, ...]:
    """The parts of a dialect, the required ones first."""
    return (*_REQUIRED[dialect], *_OPTIONAL[dialect])


def optional_column(usual: Sequence[str], available: Sequence[str], complete: bool) -> str | None:
    """The column of an optional part: the first of its usual names that is there.

    Where more columns may come (not complete), one that is not there yet is bound all the same, so that the rows
    that have it do not lose it; in the other rows it reads as missing.
    """
    return next((c for c in usual if c in available), None if complete or not usual else usual[0])


def usual_inputs(output: str | None) -> tuple[str, ...]:
    """What the input of an alpaca corpus is usually called, by the name of its output: Dolly has context, response."""
    return ("context", "input") if output == "response" else ("input", "context")


def dialect_by_hand(
    name: str | None, columns: Mapping[str, str], available: Sequence[str], complete: bool = True
) -> Dialect:
    """The dialect that a person asked for.

    name: a dialect, or None to infer it from the parts in `columns`.
    columns: part -> column of the corpus, e.g. {"prompt": "q", "response": "a"}; required parts that are
        missing get their usual columns, optional ones only when `columns` is empty.
    available: the columns that the corpus has, or, unless `complete`, those of its first rows. Then the column of
        an optional part need not be among them.

    Raises ValueError for an unknown dialect, part or column (with the nearest name), or a part without one.
    """
    dialect = _infer(columns) if name is None else _known_name(name)
    parts, aliases = parts_of(dialect), _ALIASES[dialect]
    chosen: dict[str, str | None] = {}
    for key, column in columns.items():
        part = key if key in parts else aliases.get(key)
        if part is None:
            hint = _did_you_mean(key, [*parts, *aliases])
            raise ValueError(f"dialect {dialect} has no part {key!r}{hint}; its parts are {', '.join(parts)}")
        if column not in available and (complete or part in _REQUIRED[dialect]):
            raise _no_column(key, column, available)
        if part in chosen or column in chosen.values():
            raise ValueError(f"input.columns.{key}: part {part!r} or column {column!r} is named twice")
        chosen[part] = column
    defaults = _REQUIRED[dialect] if columns else _REQUIRED[dialect] | _OPTIONAL[dialect]
    for part, usual in defaults.items():
        if part not in chosen:
            if part == "input" and not complete:
                usual = usual_inputs(chosen["output"])
            free = [column for column in usual if column not in chosen.values()]
            chosen[part] = optional_column(free, available, complete or part in _REQUIRED[dialect])
            if chosen[part] is None and part in _REQUIRED[dialect]:
                raise ValueError(
                    f"dialect {dialect} needs a column for {part}: set input.columns.{part} to one of "
                    f"{listed(available)}"
                )
    return Dialect.of(dialect, **chosen)


def _no_column(key: str, column: str, available: Sequence[str]) -> ValueError:
    hint = _did_you_mean(column, available)
    return ValueError(f"input.columns.{key}: the corpus has no column {column!r}{hint}; it has {listed(available)}")


def _infer(columns: Mapping[str, str]) -> str:
    """The dialect whose parts these are; a dialect's own names of its parts count before aliases."""
    if not columns:
        raise ValueError(f"neither a dialect nor columns are given; {BY_HAND}")
    for dialect, required in _REQUIRED.items():
        if set(required) <= set(columns) <= set(parts_of(dialect)):
            return dialect
    for dialect, required in _REQUIRED.items():
        parts = {key if key in parts_of(dialect) else _ALIASES[dialect].get(key) for key in columns}
        if set(required) <= parts <= set(parts_of(dialect)):
            return dialect
    known = sorted({part for dialect in _REQUIRED for part in (*parts_of(dialect), *_ALIASES[dialect])})
    for key in columns:
        if key not in known:
            hint = _did_you_mean(key, known)
            raise ValueError(f"input.columns: unknown part {key!r}{hint}; known parts are {', '.join(known)}")
    raise ValueError(f"input.columns: {' and '.join(columns)} fit no dialect; {BY_HAND}")


def _known_name(name: str) -> str:
    key = name.strip().lower().replace("/", "_").replace("-", "_")
    key = _SPOKEN_NAMES.get(key, key)
    if key not in _REQUIRED:
        hint = _did_you_mean(name, [*_REQUIRED, *_SPOKEN_NAMES])
        raise ValueError(f"input.dialect: unknown dialect {name!r}{hint}; known are {', '.join(_REQUIRED)}")
    return key


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def listed(columns: Sequence[str]) -> str:
    """Column names for a message; the first twenty of many."""
    shown = ", ".join(columns[:20])
    return f"{shown} and {len(columns) - 20} more" if len(columns) > 20 else shown or "(none)"
