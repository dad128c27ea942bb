"""A content given as a list of parts -> its text, reasoning, tool calls and tool results.

Read are the parts of OpenAI ({"type": "text"}, also input_text, output_text, refusal), Anthropic (text, thinking,
tool_use, tool_result), Bedrock ({"text"}, {"toolUse"}, {"toolResult"}, {"reasoningContent"}) and LLaMA-Factory v1
({"type": "text" | "reasoning" | "tool_call" | "tools", "value"}). Marks for a cache are no content. Texts are joined
without anything in between, as the templates of multimodal models do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tamis.operators.conversation.columns import checked_text
from tamis.operators.conversation.plain_values import plain
from tamis.operators.conversation.tool_calls import tool_calls
from tamis.operators.problems import RowProblem

_MEDIA = re.compile(r"image|audio|video|file|document", re.IGNORECASE)
_TEXT = {"text", "input_text", "output_text", "refusal"}
_REASONING = {"thinking", "reasoning", "thought"}
_BESIDE = {"type", "cache_control", "citations", "annotations", "logprobs", "id", "index", "signature"}
_BEDROCK = {"text": "text", "toolUse": "tool_use", "toolResult": "tool_result", "reasoningContent": "reasoning"}


@dataclass
class Content:
    """text: None if there is no part with text. results: (id of the call or None, text), in order; they stand before
    the text. tools: the value of a `tools` part."""

    text: str | None = None
    reasoning: str | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)
    results: list[tuple[str | None, str]] = field(default_factory=list)
    tools: Any = None


def read_content(parts: Sequence[Any], number: int) -> Content:
    """number: the turn's, for messages. Raises RowProblem: multimodal, unsupported_content, bad_content, bad_tool_call,
    duplicate_keys."""
    found = Content()
    for part in parts:
        _add(found, {"type": "text", "text": part} if isinstance(part, str) else part, number)
    return found


def _add(found: Content, part: Any, number: int) -> None:
    given = {key: value for key, value in part.items() if value is not None} if isinstance(part, Mapping) else {}
    kind, given = _kind(given)
    what = f"the content of turn {number}"
    if kind == "cachePoint":
        return
    if kind in _TEXT:
        if found.calls:
            raise _misplaced(number, "text after a tool call")
        found.text = (found.text or "") + checked_text(_only(given, ("text", "value", "content", kind), number), what)
    elif kind in _REASONING:
        if found.text or found.calls:
            raise _misplaced(number, "reasoning after text or a tool call")
        said = _only(given, (kind, "text", "value", "content"), number)
        if isinstance(said, Mapping):  # Bedrock's
            said = (said.get("reasoningText") or {}).get("text") if "reasoningText" in said else None
        found.reasoning = (found.reasoning or "") + checked_text(said, f"the reasoning of turn {number}")
    elif kind == "tool_call":
        called = given["value"] if "value" in given else {k: v for k, v in given.items() if k not in ("type", "index")}
        found.calls += tool_calls(called, f"the tool call of turn {number}")
    elif kind == "tool_use":
        call = {"id": given.get("id", given.get("toolUseId")), "name": given.get("name"), "input": given.get("input")}
        found.calls += tool_calls(call, f"the tool call of turn {number}")
    elif kind == "tool_result":
        if found.text:
            raise _misplaced(number, "a tool's result after text")
        key = given.get("tool_use_id", given.get("toolUseId"))
        found.results.append((None if key is None else checked_text(key, "a call's id"), _result(given, number)))
    elif kind == "tools" and found.tools is None:
        found.tools = given.get("value")
    elif _MEDIA.search(kind) or any(_MEDIA.search(key) for key in given if kind == ""):
        raise RowProblem("multimodal", f"turn {number} holds an image, sound, video or file; tamis reads text")
    else:
        raise RowProblem("unsupported_content", f"the content of turn {number} has parts that are not text")


def _kind(given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The part's kind, and what it holds. Bedrock's parts have no type but one key, which names the kind."""
    kind = given.get("type")
    if isinstance(kind, str):
        return kind, dict(given)
    if "type" not in given and len(given) == 1:
        [(key, value)] = given.items()
        name = _BEDROCK.get(key, key)
        if key == "guardContent" and isinstance(value, Mapping):
            beside = {other: item for other, item in value.items() if other != "text" and item is not None}
            if any(_MEDIA.search(str(other)) for other in beside):
                return "image", {}
            if isinstance(value.get("text"), Mapping):
                # The model reads this text like any other. Its qualifiers are for the guardrail.
                return "text", {"text": value["text"].get("text"), **beside}
        if name in ("tool_use", "tool_result") and isinstance(value, Mapping):
            return name, {key: item for key, item in value.items() if item is not None}
        return name, {name: value}
    return "", dict(given)


def _only(given: Mapping[str, Any], keys: Sequence[str], number: int) -> Any:
    """The value under one of these keys, if the part holds nothing else."""
    named = [key for key in dict.fromkeys(keys) if key in given]
    if len(named) != 1 or not set(given) <= {*named, *_BESIDE}:
        media = any(_MEDIA.search(key) for key in given)
        raise RowProblem(
            "multimodal" if media else "unsupported_content",
            f"the content of turn {number} has a part with other keys than its text",
        )
    return given[named[0]]


def _result(given: Mapping[str, Any], number: int) -> str:
    content = given.get("content", "")
    if isinstance(content, str):
        return checked_text(content, f"the tool's result in turn {number}")
    if not isinstance(content, list | tuple):
        raise RowProblem("bad_content", f"the tool's result in turn {number} is neither text nor a list of parts")
    texts = []
    for part in content:
        filled = {key: value for key, value in part.items() if value is not None} if isinstance(part, Mapping) else {}
        if set(filled) == {"json"}:
            texts.append(json.dumps(plain(filled["json"], f"the tool's result in turn {number}"), ensure_ascii=False))
        else:
            inner = read_content([part], number)
            if inner.text is None:
                raise RowProblem("unsupported_content", f"the tool's result in turn {number} has parts without text")
            texts.append(inner.text)
    return "".join(texts)


def _misplaced(number: int, what: str) -> RowProblem:
    return RowProblem("unsupported_content", f"turn {number} has {what}, which no chat template keeps in that order")
