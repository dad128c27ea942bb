"""One row of a corpus -> one conversation, as a chat template reads it.

Roles are system, developer, user, assistant and tool. The conversation ends with the last assistant turn that a model
is trained on (training_marks.py): turns after it contribute no loss, so they are dropped. Every such turn has some text
or a tool call; other turns may be empty. Contents are kept exactly as they are, except that the `text` dialect strips
the white space of its layout. Keys that are null count as absent. A row that cannot be read this way is a RowProblem:

    no_conversation      the conversation or the prompt is missing, null, or not a list where a list is required
    no_response          no assistant turn, or the response is null
    no_trained_turn      every assistant turn is marked as not trained on (see problems.UNSCORED)
    empty_response       an assistant turn without any text or tool call
    unclear_weight       marks of what is trained on that tools read in two ways, or that contradict each other
    bad_content          a turn or a text of the wrong type
    bad_tool_call        a tool call without a name, or with arguments that are neither an object nor text
    bad_tools            tools or documents that are not a list of objects
    duplicate_keys       a conversation in JSON text with the same key twice in one turn
    unknown_role         a role that is none of the five and none of their usual aliases
    multimodal           an image, sound, video or file among the parts of a content
    unsupported_content  other parts of a content than text, reasoning, tool calls and results
    no_turns             a text without Human:/Assistant: labels
    invalid_utf8         text that cannot be written as UTF-8 (lone surrogates)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tamis.operators.conversation.columns import Parts, checked_text, kind_of, parts_of_row
from tamis.operators.conversation.conversation import REASONING, Conversation, Message
from tamis.operators.conversation.detection import detect
from tamis.operators.conversation.dialects import Dialect, dialect_by_hand
from tamis.operators.conversation.parts_of_content import Content, read_content
from tamis.operators.conversation.speakers import CALL, ROLES
from tamis.operators.conversation.tool_calls import template_variables, tool_calls
from tamis.operators.conversation.training_marks import is_trained
from tamis.operators.problems import RowProblem

__all__ = ["Conversation", "Dialect", "Message", "detect", "dialect_by_hand", "normalise"]

_MEDIA = ("image", "images", "audio", "audios", "video", "videos")


def normalise(row: Mapping[str, Any], dialect: Dialect) -> Conversation:
    """The conversation of one row.

    row: column -> value, from JSON or Arrow; values may be of any type.
    Raises RowProblem (codes: see the module docstring) and nothing else.
    """
    parts = parts_of_row(row, dialect)
    turns = [_Turn(number, turn, parts) for number, turn in enumerate(parts.turns)]
    answers = [turn for turn in turns if turn.role in ("assistant", CALL)]
    if not answers:
        raise RowProblem("no_response", "the conversation has no assistant turn")
    learnt_from = [turn for turn in answers if turn.number >= parts.prompt_turns]
    if not learnt_from:
        raise RowProblem("no_response", "the answer has no assistant turn")
    trained = [turn for turn in learnt_from if is_trained(turn.filled, turn.number)]
    if not trained:
        raise RowProblem("no_trained_turn", "every assistant turn is marked as not trained on")
    variables = dict(parts.variables)
    messages = _opening(parts.system, turns, variables)
    numbers = {turn.number for turn in trained}
    learnt = set()
    for turn in turns[: trained[-1].number + 1]:
        read = turn.messages(variables)
        if turn.number in numbers:
            learnt.add(len(messages))
            _check_answer(read[0], turn.number)
        messages += read
    everything = len([turn for turn in answers if turn.number <= trained[-1].number]) == len(trained)
    return Conversation(messages, template_variables(variables), None if everything else frozenset(learnt))


class _Turn:
    """One turn as the corpus has it. Raises RowProblem if it is no object with a known role."""

    def __init__(self, number: int, turn: Any, parts: Parts) -> None:
        if not isinstance(turn, Mapping):
            raise RowProblem("bad_content", f"turn {number} is not an object but {kind_of(turn)}")
        role = turn.get(parts.role_key)
        if not isinstance(role, str):
            raise RowProblem("unknown_role", f"turn {number} has no {parts.role_key!r}, or one that is not text")
        known = ROLES.get(role) or ROLES.get(role.strip().lower())
        if known is None:
            raise RowProblem(
                "unknown_role",
                f"turn {number} has a role that is none of system, developer, user, assistant, tool",
            )
        self.number, self.role = number, known
        self.filled = {key: value for key, value in turn.items() if value is not None}
        self._content = turn.get(parts.content_key)

    def messages(self, variables: dict[str, Any]) -> list[Message]:
        """The messages that it makes: one, or one for each result of a tool and one for the text after them.

        variables: get the tools that stand in the turn's content.
        """
        what = f"the content of turn {self.number}"
        if any(self.filled.get(key) for key in _MEDIA):
            raise RowProblem("multimodal", f"turn {self.number} holds an image, sound or video; tamis reads text")
        if self.role == CALL:
            calls = tool_calls(self._content, f"the tool call of turn {self.number}")
            if not calls:
                raise RowProblem("bad_tool_call", f"turn {self.number} is a tool call without a call")
            return [{"role": "assistant", "tool_calls": calls}]
        if isinstance(self._content, list | tuple):
            content = read_content(self._content, self.number)
        else:
            content = Content(self._content)
        if content.tools is not None and variables.setdefault("tools", content.tools) is not content.tools:
            raise RowProblem("bad_tools", f"turn {self.number} has tools, and the row has some elsewhere")
        if self.role == "assistant":
            return [self._answer(content)]
        if content.calls or content.reasoning is not None or self._calls():
            raise RowProblem("unsupported_content", f"turn {self.number} has a tool call or reasoning and no assistant")
        results = [
            {"role": "tool", "content": text, **({} if key is None else {"tool_call_id": key})}
            for key, text in content.results
        ]
        if results and not content.text:
            return results
        text = "" if content.text is None and isinstance(self._content, list | tuple) else content.text
        return [*results, {"role": self.role, "content": checked_text(text, what), **self._labels()}]

    def _answer(self, content: Content) -> Message:
        if content.results:
            raise RowProblem("unsupported_content", f"turn {self.number} has a tool's result in the assistant's turn")
        reasoning = {key: self.filled[key] for key in REASONING if key in self.filled}
        if content.reasoning is not None:
            reasoning.setdefault("reasoning_content", content.reasoning)
        for key, said in reasoning.items():
            checked_text(said, f"the {key} of turn {self.number}")
        if len(set(reasoning.values()) - {""}) > 1:
            raise RowProblem("unsupported_content", f"{' and '.join(reasoning)} of turn {self.number} differ")
        if calls := [*content.calls, *self._calls()]:
            text = {} if content.text is None else {"content": content.text}
        else:
            text = {"content": "" if content.text is None else content.text}
        for said in text.values():
            checked_text(said, f"the content of turn {self.number}")
        message: Message = {"role": "assistant", **text}
        if reasoning:
            # Under the names that transformers gives a template.
            said = next(filter(None, reasoning.values()), "")
            message |= dict.fromkeys(("thinking", *reasoning, "reasoning_content"), said)
        return message | ({"tool_calls": calls} if calls else {}) | self._labels()

    def _calls(self) -> list[dict[str, Any]]:
        what = f"the tool calls of turn {self.number}"
        keys = [key for key in ("tool_calls", "function_call") if key in self.filled]
        found = [calls for key in keys if (calls := _calls_under(self.filled[key], what))]
        if len(found) > 1 and found[0] != found[1]:
            raise RowProblem("bad_tool_call", f"turn {self.number} has other calls in tool_calls than in function_call")
        return found[0] if found else []

    def _labels(self) -> dict[str, str]:
        """What a template may read besides."""
        labels = {key: self.filled[key] for key in ("name", "tool_call_id", "tool_plan") if key in self.filled}
        return {
            key: checked_text(value, f"the {key} of turn {self.number}") for key, value in labels.items() if value != ""
        }


def _calls_under(value: Any, what: str) -> list[dict[str, Any]]:
    """As tool_calls, and none for an empty text."""
    return tool_calls(value, what) if value != "" else []


def _opening(system: Any, turns: Sequence[_Turn], variables: dict[str, Any]) -> list[Message]:
    """The system prompt, unless it is empty or the conversation opens with its own system turn."""
    if system is None or system == "" or (turns and turns[0].role in ("system", "developer")):
        return []
    said = _Turn(0, {"role": "system", "content": system}, Parts([]))
    return said.messages(variables)


def _check_answer(message: Message, number: int) -> None:
    if not message.get("content", "").strip() and "tool_calls" not in message:
        raise RowProblem("empty_response", f"the assistant's turn {number} is empty")
