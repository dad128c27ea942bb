"""What a chat template does not write: tools, tool calls, results of tools and reasoning must not be lost in silence.

Words that the text does not contain are put into each of these, and the conversation is rendered once more. What a
word does not come back from has been left out. Reasoning is another matter: templates strip it from earlier turns by
design, so what counts is whether the template writes the reasoning of a last turn at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tamis.operators.conversation.conversation import REASONING, Message, calls_of, reasoning_of
from tamis.operators.problems import RowProblem

_MOST_INSTRUCTIONS = 8
_LONG = 16
"""Characters that a template does not write by itself."""
_MOST_SAID = 1000
"""As many are looked up one by one in a text."""

Write = Callable[[Sequence[Message], Mapping[str, Any]], str]
"""messages, variables -> the rendered text. Raises RowProblem."""


def left_out(write: Write, messages: Sequence[Message], variables: Mapping[str, Any], text: str) -> RowProblem | None:
    """RowProblem("not_rendered") if the template leaves out a tool, a tool call, or the result of a tool.

    text: the rendered conversation.
    """
    probes = _Probes(text)
    probed = {name: probes.listed(value, name) for name, value in variables.items() if name in ("tools", "documents")}
    asked = [probes.message(message, number) for number, message in enumerate(messages)]
    if not probes.words:
        return None
    try:
        missing = probes.missing(write(asked, {**variables, **probed}))
    except RowProblem:
        # A template may check names or results: what stands in its text in so many letters is not lost.
        missing = next((what for what, said in probes.said.items() if said not in text), None)
    if missing is None:
        return None
    return RowProblem(
        "not_rendered", f"the chat template leaves out {missing}; set model.template to one that writes it"
    )


def instructions_left_out(
    write: Write, messages: Sequence[Message], variables: Mapping[str, Any], text: str
) -> RowProblem | None:
    """The same for the system's and the developer's turns, which some templates pass over.

    A turn that stands in the text in so many letters is there, unless it is short or another turn repeats it; for
    others the conversation is rendered again.
    """
    turns = [number for number, message in enumerate(messages) if message["role"] in ("system", "developer")]
    for number in turns[:_MOST_INSTRUCTIONS]:
        message = messages[number]
        said = message["content"].strip()
        others = (other.get("content", "") for place, other in enumerate(messages) if place != number)
        if not said or (said in text and len(said) >= _LONG and not any(said in other for other in others)):
            continue
        word = next(mark for mark in _marks() if mark not in text)
        probed = [*messages[:number], {**message, "content": message["content"] + word}, *messages[number + 1 :]]
        try:
            written = word in write(probed, variables).lower()
        except RowProblem:
            written = False
        if not written:
            said = f"the chat template leaves out the {message['role']}'s turn {number}"
            return RowProblem("not_rendered", f"{said}; set model.template to one that writes it")
    return None


def writes_reasoning(write: Write) -> bool:
    """Whether the template writes the reasoning of a last turn, under one of the names of REASONING."""
    word = "zqreasonedzq"
    answer = {"role": "assistant", "content": "x", **dict.fromkeys(REASONING, word)}
    for before in ([], [{"role": "system", "content": "x"}]):
        try:
            return word in write([*before, {"role": "user", "content": "x"}, answer], {})
        except RowProblem:
            continue
    return False


def reasoning_left_out(messages: Sequence[Message]) -> RowProblem | None:
    """The problem of a conversation with reasoning, for a template that writes none."""
    number = next((number for number, message in enumerate(messages) if reasoning_of(message).strip()), None)
    if number is None:
        return None
    return RowProblem(
        "not_rendered",
        f"the chat template does not write the reasoning of turn {number}, which stands apart from its content; set "
        "model.template to one that does, or put it into the content",
    )


class _Probes:
    """words: what is probed, in the order of the words in it. said: what is probed -> its text."""

    def __init__(self, text: str) -> None:
        self.words: list[str] = []
        self.said: dict[str, str] = {}
        self._mark = next(mark for mark in _marks() if mark not in text)

    def missing(self, text: str) -> str | None:
        """The first of what is probed whose word is not in this text."""
        found = {int(number) for number in re.findall(rf"{self._mark}(\d{{1,9}})zq", text.lower())}
        return next((what for number, what in enumerate(self.words) if number not in found), None)

    def message(self, message: Message, number: int) -> Message:
        calls = calls_of(message)
        if message["role"] == "tool":
            return {**message, "content": self._in(message["content"], f"the tool's result in turn {number}")}
        changed = dict(message)
        if "tool_plan" in message:
            changed["tool_plan"] = self._in(message["tool_plan"], f"the tool_plan of turn {number}")
        if calls:
            changed["tool_calls"] = [self._call(call, number, which) for which, call in enumerate(calls)]
            if (message.get("content") or "").strip():
                changed["content"] = self._in(message["content"], f"the text beside a tool call in turn {number}")
        return changed

    def listed(self, values: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
        return [self._listed(value, f"the row's {what} (number {which})") for which, value in enumerate(values)]

    def _listed(self, value: dict[str, Any], what: str) -> dict[str, Any]:
        function = value.get("function")
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            return {**value, "function": {**function, "name": self._in(function["name"], what)}}
        key = next((key for key in ("name", "text", "content") if isinstance(value.get(key), str)), None)
        return value if key is None else {**value, key: self._in(value[key], what)}

    def _call(self, call: dict[str, Any], number: int, which: int) -> dict[str, Any]:
        what = f"tool call {which} of turn {number}"
        function = {**call["function"], "name": self._in(call["function"]["name"], what)}
        function["arguments"] = self._deep(function["arguments"], f"the arguments of {what}", [False])
        return {**call, "function": function}

    def _deep(self, value: Any, what: str, done: list[bool]) -> Any:
        """The value with a word in the first scalar that it holds."""
        if done[0]:
            return value
        if isinstance(value, dict):
            return {key: self._deep(item, what, done) for key, item in value.items()}
        if isinstance(value, list):
            return [self._deep(item, what, done) for item in value]
        done[0] = True
        return self._in(value if isinstance(value, str) else str(value), what)

    def _in(self, text: str, what: str) -> str:
        word = f"{self._mark}{len(self.words)}zq"
        self.words.append(what)
        if len(self.said) < _MOST_SAID:
            self.said[what] = text.strip()
        return text + word


def _marks() -> Iterator[str]:
    number = 0
    while True:
        yield f"zq{number}n"
        number += 1
