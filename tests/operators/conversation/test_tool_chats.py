"""Turns with tool calls, results, reasoning and parts, in the forms that corpora have."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from tamis.operators.conversation import messages as module
from tamis.operators.conversation.columns import Parts
from tamis.operators.conversation.messages import Conversation, Dialect, normalise
from tamis.operators.problems import RowProblem

MESSAGES = Dialect.of("messages", messages="messages", system="system")
SHAREGPT = Dialect.of("sharegpt", conversations="conversations")


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def read(*turns: Any, **columns: Any) -> Conversation:
    return normalise({"messages": list(turns), **columns}, MESSAGES)


def last(*turns: Any) -> dict[str, Any]:
    return read(user("q"), *turns).messages[-1]


def called(arguments: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", **more, "function": {"name": "tides", "arguments": arguments}}


NORTH = {"harbour": "north"}
AS_TEXT = json.dumps(NORTH)
THOUGHT = {"thinking": "hm", "reasoning_content": "hm"}


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ({"tool_calls": [called(AS_TEXT, id="c")]}, [called(AS_TEXT, id="c")]),
        ({"content": None, "tool_calls": [called(NORTH)]}, [called(NORTH)]),
        ({"tool_calls": [{"name": "tides", "arguments": NORTH}]}, [called(NORTH)]),
        ({"tool_calls": [{"id": "c", "name": "tides", "parameters": AS_TEXT}]}, [called(AS_TEXT, id="c")]),
        ({"tool_calls": {"name": "tides"}}, [called({})]),
        ({"tool_calls": [called("")]}, [called({})]),
        ({"tool_calls": json.dumps([called(NORTH)])}, [called(NORTH)]),
        ({"tool_calls": [json.dumps(called(NORTH))]}, [called(NORTH)]),
        ({"function_call": {"name": "tides", "arguments": AS_TEXT}}, [called(AS_TEXT)]),
        # what a table makes of calls that differ, and of turns without any
        (
            {"tool_calls": [called({"harbour": "north", "day": None}, id=None)]},
            [called({"harbour": "north", "day": None})],
        ),
        ({"tool_calls": [called(NORTH)], "function_call": {"name": None, "arguments": None}}, [called(NORTH)]),
        # null stands in JSON text on purpose
        ({"tool_calls": json.dumps([called({"day": None})])}, [called({"day": None})]),
        ({"content": [{"type": "tool_use", "id": "c", "name": "tides", "input": NORTH}]}, [called(NORTH, id="c")]),
        ({"content": [{"toolUse": {"toolUseId": "c", "name": "tides", "input": NORTH}}]}, [called(NORTH, id="c")]),
        ({"content": [{"type": "tool_call", "value": json.dumps(called(NORTH)["function"])}]}, [called(NORTH)]),
    ],
)
def test_calls(turn: dict[str, Any], expected: list[dict[str, Any]]) -> None:
    assert last({"role": "assistant", **turn}) == {"role": "assistant", "tool_calls": expected}


@pytest.mark.parametrize("calls", [None, [], {}, "", "[]", [None], [{"id": None, "function": None}]])
@pytest.mark.parametrize("key", ["tool_calls", "function_call"])
def test_no_call_is_none(key: str, calls: Any) -> None:
    assert last(assistant("a", **{key: calls})) == assistant("a")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("tides(north)", "bad_tool_call"),
        (3, "bad_tool_call"),
        ([3], "bad_tool_call"),
        ([{"arguments": NORTH}], "bad_tool_call"),
        ([{"name": "tides", "arguments": [1]}], "bad_tool_call"),
        ([{"function": "tides"}], "bad_tool_call"),
        ([{"name": "tides", "arguments": {"when": datetime.date(2020, 1, 1)}}], "bad_content"),
        ([{"name": "tides", "arguments": {"x": "\ud800"}}], "invalid_utf8"),
        ('{"name": "a", "name": "b"}', "duplicate_keys"),
    ],
)
def test_calls_refused(value: Any, code: str) -> None:
    with pytest.raises(RowProblem) as caught:
        read(user("q"), assistant("a", tool_calls=value))
    assert caught.value.code == code


def test_a_call_nested_without_end() -> None:
    value: Any = 1
    for _ in range(2000):
        value = [value]
    with pytest.raises(RowProblem, match="bad_content"):
        read(user("q"), assistant("a", tool_calls=[{"name": "f", "arguments": {"x": value}}]))


def test_openai() -> None:
    found = read(
        user("q"),
        {"role": "assistant", "content": None, "tool_calls": [called(AS_TEXT, id="c")], "refusal": None},
        {"role": "tool", "tool_call_id": "c", "content": "06:10", "name": None},
        assistant("Six."),
        user("Thanks."),
    )
    assert found == Conversation(
        [
            user("q"),
            {"role": "assistant", "tool_calls": [called(AS_TEXT, id="c")]},
            {"role": "tool", "content": "06:10", "tool_call_id": "c"},
            assistant("Six."),
        ]
    )


def test_openai_before_tools() -> None:
    found = read(
        user("q"),
        assistant(None, function_call={"name": "tides", "arguments": AS_TEXT}),
        {"role": "function", "name": "tides", "content": "06:10"},
        assistant("Six."),
    )
    assert found.messages[1:3] == [
        {"role": "assistant", "tool_calls": [called(AS_TEXT)]},
        {"role": "tool", "content": "06:10", "name": "tides"},
    ]


def test_anthropic() -> None:
    found = read(
        user([{"type": "text", "text": "q", "cache_control": {"type": "ephemeral"}}]),
        assistant(
            [
                {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "c", "name": "tides", "input": NORTH},
            ]
        ),
        user(
            [
                {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "06:10"}]},
                {"type": "tool_result", "tool_use_id": "d", "content": "none", "is_error": True},
                {"type": "text", "text": "And?"},
            ]
        ),
        assistant([{"type": "text", "text": "Si"}, {"type": "text", "text": "x."}]),
        system=[{"type": "text", "text": "Be kind.", "cache_control": None}],
    )
    assert found.messages == [
        {"role": "system", "content": "Be kind."},
        user("q"),
        {"role": "assistant", "content": "I look.", **THOUGHT, "tool_calls": [called(NORTH, id="c")]},
        {"role": "tool", "content": "06:10", "tool_call_id": "c"},
        {"role": "tool", "content": "none", "tool_call_id": "d"},
        user("And?"),
        assistant("Six."),
    ]


def test_bedrock() -> None:
    found = read(
        user([{"text": "q"}, {"cachePoint": {"type": "default"}}]),
        assistant([{"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}}, {"text": "I look."}]),
        user(
            [{"toolResult": {"toolUseId": "c", "content": [{"json": {"at": 6}}, {"text": "!"}], "status": "success"}}]
        ),
        assistant([{"text": "Six."}]),
    )
    assert found.messages[1:3] == [
        assistant("I look.", **THOUGHT),
        {"role": "tool", "content": '{"at": 6}!', "tool_call_id": "c"},
    ]


def test_bedrock_text_for_a_guardrail() -> None:
    """The model reads it, too: it is part of the prompt."""
    guarded = {"text": {"text": "q", "qualifiers": ["query"]}, "image": None}
    assert read(user([{"text": "A: "}, {"guardContent": guarded}]), assistant("a")).messages[0] == user("A: q")
    image = {"image": {"format": "png"}}
    for inner, code in (
        (image, "multimodal"),
        ({"text": None, **image}, "multimodal"),
        ({**guarded, **image}, "multimodal"),
        ({"text": "q"}, "unsupported_content"),
        ({"text": {}}, "bad_content"),
    ):
        with pytest.raises(RowProblem) as raised:
            read(user([{"text": "A: "}, {"guardContent": inner}]), assistant("a"))
        assert raised.value.code == code


def test_llama_factory() -> None:
    """Version 1's parts, and its tools in the system turn."""
    tool = {"type": "function", "function": {"name": "tides", "parameters": {"default": None}}}
    found = read(
        {"role": "system", "content": [{"type": "text", "value": "s"}, {"type": "tools", "value": json.dumps([tool])}]},
        user([{"type": "text", "value": "q"}]),
        assistant([{"type": "reasoning", "value": "hm"}, {"type": "text", "value": "A"}], loss_weight=1.0),
    )
    assert found == Conversation(
        [{"role": "system", "content": "s"}, user("q"), assistant("A", **THOUGHT)], {"tools": [tool]}
    )


@pytest.mark.parametrize(
    "role", ["gpt", "chatgpt", "gpt4", "bing", "bard", "claude", "ai", "chat", "model", "bot", "Assistant"]
)
def test_names_of_the_assistant(role: str) -> None:
    row = {"conversations": [{"from": "human", "value": "q"}, {"from": role, "value": "a"}]}
    assert normalise(row, SHAREGPT).messages == [user("q"), assistant("a")]


def test_sharegpt_with_tools() -> None:
    turns = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": json.dumps({"name": "tides", "arguments": NORTH})},
        {"from": "observation", "value": "06:10"},
        {"from": "gpt", "value": "Six."},
    ]
    assert normalise({"conversations": turns}, SHAREGPT).messages[2:] == [
        {"role": "assistant", "tool_calls": [called(NORTH)]},
        {"role": "tool", "content": "06:10"},
        assistant("Six."),
    ]


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning(key: str) -> None:
    found = last(assistant("a", **{key: "hm"}))
    assert found == assistant("a", **{**THOUGHT, key: "hm"})
    assert last(assistant("a", **{key: None})) == assistant("a")
    # as transformers gives it to a template
    assert last(assistant("a", **{key: ""})) == assistant("a", **{"thinking": "", "reasoning_content": "", key: ""})
    assert last(assistant("a", **{"reasoning": "", key: "hm"}))["reasoning_content"] == "hm"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "u"}},
        {"type": "image", "text": None},
        {"type": "input_audio", "input_audio": {}},
        {"type": "document", "source": {}},
        {"image": {"format": "png"}},
        {"type": "text", "text": "a", "image_url": "u"},
        {"type": "tool_result", "content": [{"type": "image", "source": {}}]},
    ],
)
def test_what_is_not_text_is_named(part: dict[str, Any]) -> None:
    with pytest.raises(RowProblem) as caught:
        read(user([part, {"type": "text", "text": "q"}]), assistant("a"))
    assert caught.value.code == "multimodal"


@pytest.mark.parametrize("key", ["images", "audio", "video"])
def test_media_beside_the_text(key: str) -> None:
    assert read({**user("q"), key: []}, assistant("a", **{key: None})).messages == [user("q"), assistant("a")]
    with pytest.raises(RowProblem, match="multimodal"):
        read({**user("<image>q"), key: ["a.png"]}, assistant("a"))


@pytest.mark.parametrize(
    ("turns", "code"),
    [
        ([user([{"type": "embedding", "value": "x"}]), assistant("a")], "unsupported_content"),
        ([user("q"), assistant([{"type": "tool_use", "name": "f", "input": {}}, {"type": "text", "text": "a"}])],
         "unsupported_content"),
        ([user("q"), assistant([{"type": "text", "text": "a"}, {"type": "thinking", "thinking": "t"}])],
         "unsupported_content"),
        ([user("q"), assistant([{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "a"}])],
         "unsupported_content"),
        ([user([{"type": "thinking", "thinking": "t"}]), assistant("a")], "unsupported_content"),
        ([{**user("q"), "tool_calls": [called({})]}, assistant("a")], "unsupported_content"),
        ([user("q"), assistant([{"type": "tool_result", "content": "x"}])], "unsupported_content"),
        ([user("q"), assistant("a", thinking="x", reasoning="y")], "unsupported_content"),
        ([user("q"), assistant("a", thinking=3)], "bad_content"),
        ([user("q"), assistant(None, thinking="x")], "empty_response"),
    ],
)  # fmt: skip
def test_turns_refused(turns: list[dict[str, Any]], code: str) -> None:
    with pytest.raises(RowProblem) as caught:
        read(*turns)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"tools": None, "documents": []}, {}),
        ({"tools": "[]"}, {}),
        ({"tools": json.dumps([{"name": "f"}])}, {"tools": [{"name": "f"}]}),
        (
            {"tools": [json.dumps({"name": "f"}), {"name": "g", "strict": None}]},
            {"tools": [{"name": "f"}, {"name": "g", "strict": None}]},
        ),
        ({"tools": {"name": "f"}}, {"tools": [{"name": "f"}]}),
        # an Arrow map
        ({"tools": [{"name": "f", "labels": [("a", "b")]}]}, {"tools": [{"name": "f", "labels": {"a": "b"}}]}),
        ({"enable_thinking": False, "other": None}, {"enable_thinking": False}),
    ],
)
def test_variables(monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], expected: dict[str, Any]) -> None:
    monkeypatch.setattr(module, "parts_of_row", lambda row, _: Parts(row["messages"], variables=given))
    assert read(user("q"), assistant("a")).variables == expected


@pytest.mark.parametrize("tools", ["none", 3, [3], ["tides"]])
def test_tools_refused(monkeypatch: pytest.MonkeyPatch, tools: Any) -> None:
    monkeypatch.setattr(module, "parts_of_row", lambda row, _: Parts(row["messages"], variables={"tools": tools}))
    with pytest.raises(RowProblem, match="bad_tools"):
        read(user("q"), assistant("a"))


def test_for_people() -> None:
    shown = read(user("q"), assistant("A", thinking="hm", tool_calls=[called(NORTH)])).for_people()
    assert shown == [
        user("q"),
        assistant('hm\n\nA\n\n{"name": "tides", "arguments": {"harbour": "north"}}'),
    ]
