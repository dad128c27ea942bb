"""One conversation as a chat template reads it: its messages, what the row gives the template besides, and which of
the assistant's turns a model is trained on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tamis.operators.conversation.strict_json import parse
from tamis.operators.problems import RowProblem

Message = dict[str, Any]
"""role; content (text; absent in a turn that is only a tool call); and, where the row has them: tool_calls,
tool_call_id, name, tool_plan, and the reasoning under each of REASONING that transformers gives a template."""

REASONING = ("reasoning_content", "thinking", "reasoning")
"""The keys of a turn's reasoning. Templates differ in which one they read."""

_SPOKEN = frozenset({"system", "developer", "user", "assistant"})


@dataclass(frozen=True, slots=True)
class Conversation:
    """messages: they end with the last turn that is trained on.
    variables: names that the template may use besides `messages`: tools, documents, enable_thinking, ...
    trained: the numbers of the assistant's turns that a model is trained on; None for all of them.
    """

    messages: Sequence[Message]
    variables: Mapping[str, Any] = field(default_factory=dict)
    trained: frozenset[int] | None = None

    @property
    def answers(self) -> list[int]:
        """The numbers of the turns that are trained on, in order."""
        turns = (number for number, message in enumerate(self.messages) if message["role"] == "assistant")
        return [number for number in turns if self.trained is None or number in self.trained]

    @property
    def is_plain(self) -> bool:
        """Whether it has only turns with a role and a text, and nothing of tools."""
        return not self.variables and all(
            len(message) == 2 and message["role"] in _SPOKEN and "content" in message for message in self.messages
        )

    def with_text(self, change: Callable[[str], str]) -> Conversation:
        """The same with every text from the row changed: contents, reasoning, and all texts in calls and tools."""
        messages = [
            {key: value if key == "role" else _changed(value, change) for key, value in message.items()}
            for message in self.messages
        ]
        return Conversation(messages, _changed(self.variables, change), self.trained)

    def texts(self) -> Iterator[str]:
        """Every text from the row, and every number as text: what a template may write."""
        for message in self.messages:
            for key, value in message.items():
                if key != "role":
                    yield from _texts(value)
        yield from _texts(self.variables)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        found: dict[str, Any] = {"messages": list(self.messages)}
        if self.variables:
            found["variables"] = dict(self.variables)
        if self.trained is not None:
            found["trained"] = sorted(self.trained)
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Conversation:
        trained = data.get("trained")
        return cls(data["messages"], data.get("variables", {}), None if trained is None else frozenset(trained))

    def for_people(self) -> list[dict[str, str]]:
        """Its messages as roles and texts: reasoning and tool calls are part of the text."""
        return [{"role": message["role"], "content": _shown(message)} for message in self.messages]


def reasoning_of(message: Message) -> str:
    """The turn's separate reasoning, empty if it has none."""
    return next((message[key] for key in REASONING if key in message), "")


def calls_of(message: Message) -> list[dict[str, Any]]:
    """The turn's tool calls, each {"function": {"name", "arguments"}, ...}."""
    return message.get("tool_calls") or []


def arguments_object(arguments: Any) -> dict[str, Any] | None:
    """The arguments of a call as an object; None if they are a text that holds none."""
    if isinstance(arguments, str):
        try:
            arguments = parse(arguments)
        except RowProblem:
            return None
    return arguments if isinstance(arguments, dict) else None


def _shown(message: Message) -> str:
    said = [reasoning_of(message), message.get("content", "")]
    said += [json.dumps(call["function"], ensure_ascii=False) for call in calls_of(message)]
    return "\n\n".join(text for text in said if text)


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _changed(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_changed(item, change) for item in value]
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    else:
        yield str(value)
