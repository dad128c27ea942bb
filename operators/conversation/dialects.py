"""Which columns of a corpus hold the conversation, and in which layout. The layouts:

    messages     a list of {role, content}
    sharegpt     a list of {from, value}
    oasst        a list of {role, text}
    exchanges    a list of [question, answer], or of {human, assistant}
    alternating  a list of texts; the user speaks first, then both in turn
    alpaca       instruction, optional input, output; instruction and input make one prompt
    pair         a prompt and a response (prompt/completion, question/answer, instruction/response); each a
                 string or, as in TRL's conversational form, a list of turns
    text         one string with "Human:" / "Assistant:" turns (see turns.py)

The first five are chats. A chat may have its last answer in a column beside it (`response`): a text, a turn or a list
of turns. All layouts except `text` may have a column with a system prompt, and what a row gives the chat template
besides messages: `tools`, `documents`, `chat_template_kwargs`. detection.py finds the dialect of a corpus; this module
handles a dialect that a person sets by hand.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

# part -> the columns that usually hold it, the most likely first
CHATS = ("messages", "conversations", "conversation", "chat", "data")
ANSWERS = ("response", "completion", "output", "answer", "chosen", "chosen_messages", "chosen_response")
SYSTEM = ("system", "system_prompt", "system_message")
VARIABLES = ("tools", "documents", "chat_template_kwargs")
"""What a row may give the chat template besides messages; parts and columns have the same names."""

_CHAT_PARTS: dict[str, tuple[str, ...]] = {"messages": (*CHATS, "chosen", "chosen_messages")}
_REQUIRED: dict[str, dict[str, tuple[str, ...]]] = {
    "messages": _CHAT_PARTS,
    "sharegpt": {"conversations": ("conversations", "conversation", "messages", "chosen")},
    "oasst": _CHAT_PARTS,
    "exchanges": _CHAT_PARTS,
    "alternating": {"messages": ("data", *CHATS[:-1])},
    "alpaca": {"instruction": ("instruction",), "output": ("output", "response")},
    "pair": {
        "prompt": ("prompt", "question", "instruction"),
        "response": ("response", "completion", "answer", "chosen"),
    },
    "text": {"text": ("text", "chosen")},
}
_ALL_BUT_TEXT: dict[str, tuple[str, ...]] = {
    "system": SYSTEM,
    "system_prompt": SYSTEM[1:],
    **{name: (name,) for name in VARIABLES},
}
_BESIDE_A_CHAT = {"response": ANSWERS, **_ALL_BUT_TEXT}
_OPTIONAL: dict[str, dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("messages", "sharegpt", "oasst", "exchanges", "alternating"), _BESIDE_A_CHAT),
    "alpaca": {"input": ("input", "context"), "history": ("history",), **_ALL_BUT_TEXT},
    "pair": {"history": ("history",), **_ALL_BUT_TEXT},
    "text": {},
}
# in reading order: system, prompt, answer
_ORDER = (
    *("system", "system_prompt", "history", "messages", "conversations", "instruction", "input", "prompt"),
    *("output", "response", "text", *VARIABLES),
)
# parts that most corpora lack: a column of them is shown only if there is one
_RARE = frozenset({"system_prompt", "history", *VARIABLES})
# other names of a part, accepted in columns set by hand
_ALIASES: dict[str, dict[str, str]] = {
    "messages": {"conversations": "messages", "conversation": "messages"},
    "sharegpt": {"messages": "conversations", "conversation": "conversations"},
    "oasst": {"conversations": "messages", "conversation": "messages"},
    "exchanges": {"conversations": "messages", "conversation": "messages"},
    "alternating": {"conversations": "messages", "conversation": "messages", "data": "messages"},
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
    "ultrachat": "alternating",
}

BY_HAND = (
    "name the columns in input.columns, for example {messages: COLUMN}, {prompt: COLUMN, response: COLUMN} "
    "or {text: COLUMN}"
)

JOIN = "\n"
"""The separator between an alpaca row's instruction and its input, as used by the authors of LARF and LLaMA-Factory."""


@dataclass(frozen=True)
class Dialect:
    """A layout and the columns that fill it.

    name: one of the layouts at the top of this file.
    columns: (part, column) pairs, e.g. (("prompt", "q"), ("response", "a")).
    join: the separator between instruction and input; it has no meaning if there is no input.
    replaces: whether the response of a chat takes the place of an answer that the chat ends with. It does where a
        person named both columns; else such a row is a problem.
    encoded: parts that hold turns as JSON text, as the sampled rows show; a row that does not is a problem.
    checks: (what, column) pairs of columns that say nothing new where a row can be read: "answer" repeats the scored
        answer, "prompt" stands beside a chat that has a prompt of its own, "media" (images, sounds) is empty. A row in
        which that differs is a problem.
    seen: of the columns that are usually part of a conversation, those that the sampled rows have; None if no other
        can come. A row with another one is a problem.
    Raises ValueError for an unknown layout, for parts that the layout does not have, and for missing parts.
    """

    name: str
    columns: tuple[tuple[str, str], ...]
    join: str = JOIN
    replaces: bool = False
    encoded: tuple[str, ...] = ()
    checks: tuple[tuple[str, str], ...] = ()
    seen: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.name not in _REQUIRED:
            raise ValueError(f"unknown dialect {self.name!r}; known are {', '.join(_REQUIRED)}")
        parts = [part for part, _ in self.columns]
        known = parts_of(self.name)
        if len(set(parts)) < len(parts) or not set(_REQUIRED[self.name]) <= set(parts) <= set(known):
            raise ValueError(f"dialect {self.name} has the parts {', '.join(known)}, not {', '.join(parts)}")

    @classmethod
    def of(cls, name: str, **columns: str | None) -> Dialect:
        """From keywords, part=column, in any order; None if the corpus has no such column."""
        return cls(name, tuple((part, column) for part in _ORDER if (column := columns.pop(part, None)) is not None))

    def column(self, part: str) -> str | None:
        """The column that holds this part, or None."""
        return self._by_part.get(part)

    @cached_property
    def _by_part(self) -> dict[str, str]:
        return dict(self.columns)

    @property
    def chat(self) -> str | None:
        """The column of a layout that holds a chat in one column; None for the other layouts."""
        if self.name in ("alpaca", "pair", "text"):
            return None
        return self._by_part.get("messages") or self._by_part.get("conversations")

    @cached_property
    def parts(self) -> frozenset[str]:
        """The columns that hold a part."""
        return frozenset(self._by_part.values())

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """Every column that must be read, none twice."""
        return tuple(dict.fromkeys([*self._by_part.values(), *(column for _, column in self.checks)]))

    def with_part(self, part: str, column: str) -> Dialect:
        """The same layout with this column for a part."""
        return replace(self, columns=Dialect.of(self.name, **{**self._by_part, part: column}).columns)

    def describe(self) -> str:
        """For people: `alpaca (instruction, input -> output)`. Rare parts that no sampled row has are left out."""
        given = [part for part, column in self.columns if part not in _RARE or self.seen is None or column in self.seen]
        answer = next((part for part in ("output", "response") if part in given), None)
        prompt = [self._by_part[part] for part in given if part not in (answer, *VARIABLES)]
        to = "" if answer is None else f" -> {self._by_part[answer]}"
        more = [self._by_part[part] for part in given if part in VARIABLES]
        return f"{self.name} ({', '.join(prompt)}{to}{'; ' if more else ''}{', '.join(more)})"

    def setting(self, available: Sequence[str]) -> str:
        """The settings that give this dialect by hand. available: the columns that the corpus is known to have."""
        named = ", ".join(f"{part}: {_yaml(column)}" for part, column in self.columns if column in available)
        by_name = "" if self.name not in ("oasst", "exchanges", "alternating") else f"input.dialect={self.name} and "
        return f"{by_name}input.columns={{{named}}}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "columns": dict(self.columns),
            **({} if self.column("input") is None else {"join": self.join}),
            **({"replaces": True} if self.replaces else {}),
            **({"encoded": list(self.encoded)} if self.encoded else {}),
            **({"checks": [list(check) for check in self.checks]} if self.checks else {}),
            **({} if self.seen is None else {"seen": list(self.seen)}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Dialect:
        """The inverse of to_dict. Raises KeyError or ValueError if `data` is not a dialect."""
        checks = data.get("checks", [])
        if not isinstance(checks, list) or not all(isinstance(check, list) and len(check) == 2 for check in checks):
            raise ValueError("the checks of a dialect are pairs")
        return cls(
            data["name"],
            tuple(dict(data["columns"]).items()),
            str(data.get("join", JOIN)),
            data.get("replaces") is True,
            _names(data.get("encoded", [])),
            tuple((str(what), str(column)) for what, column in checks),
            None if data.get("seen") is None else _names(data["seen"]),
        )


def _yaml(column: str) -> str:
    """A column's name as a YAML value of one line."""
    return column if re.fullmatch(r"[A-Za-z_][\w.-]*", column) else json.dumps(column)


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("a dialect lists names")
    return tuple(map(str, value))


def parts_of(dialect: str) -> tuple[str, ...]:
    """The parts of a dialect, the required ones first."""
    return (*_REQUIRED[dialect], *_OPTIONAL[dialect])


def optional_column(usual: Sequence[str], available: Sequence[str], complete: bool) -> str | None:
    """The column of an optional part: the first of its usual names that is available.

    If more columns may come later (not complete) and no usual name is available, the first usual name is bound
    anyway, so that later rows with this column do not lose it. In all other rows the part is missing.
    """
    return next((c for c in usual if c in available), None if complete or not usual else usual[0])


def usual_inputs(output: str | None) -> tuple[str, ...]:
    """Usual names of an alpaca corpus's input column, given its output column: Dolly uses context and response."""
    return ("context", "input") if output == "response" else ("input", "context")


def dialect_by_hand(
    name: str | None, columns: Mapping[str, str], available: Sequence[str], complete: bool = True
) -> Dialect:
    """The dialect that a person set by hand.

    name: a dialect, or None to infer it from the parts in `columns`.
    columns: part -> column of the corpus, e.g. {"prompt": "q", "response": "a"}. Missing required parts get their
        usual columns; missing optional parts get them only if `columns` is empty.
    available: the columns of the corpus. Unless `complete`, only the columns of its first rows: the column of an
        optional part then does not have to be among them.

    Raises ValueError for an unknown dialect, part or column (with the nearest name), and for a part without a column.
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
    named_answer = "response" in chosen
    defaults = _REQUIRED[dialect] if columns else _REQUIRED[dialect] | _OPTIONAL[dialect]
    for part, usual in defaults.items():
        if part not in chosen:
            if part == "input" and not complete:
                usual = usual_inputs(chosen["output"])
            free = [column for column in usual if column not in chosen.values()]
            exact = complete or part in _REQUIRED[dialect] or part in ("response", "system_prompt")
            chosen[part] = optional_column(free, available, exact)
            if chosen[part] is None and part in _REQUIRED[dialect]:
                raise ValueError(
                    f"dialect {dialect} needs a column for {part}: set input.columns.{part} to one of "
                    f"{listed(available)}"
                )
    made = Dialect.of(dialect, **chosen)
    return replace(made, replaces=made.chat is not None and named_answer)


def _no_column(key: str, column: str, available: Sequence[str]) -> ValueError:
    hint = _did_you_mean(column, available)
    return ValueError(f"input.columns.{key}: the corpus has no column {column!r}{hint}; it has {listed(available)}")


def _infer(columns: Mapping[str, str]) -> str:
    """The dialect that has these parts. A dialect's own part names are tried before aliases."""
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
    """Column names for a message: at most the first twenty, then how many more there are."""
    shown = ", ".join(columns[:20])
    return f"{shown} and {len(columns) - 20} more" if len(columns) > 20 else shown or "(none)"
