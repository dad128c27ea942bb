from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tamis.operators.conversation.messages import Conversation, Dialect, detect, normalise
from tamis.operators.problems import RowProblem

MESSAGES = Dialect.of("messages", messages="messages", system="system")
SHAREGPT = Dialect.of("sharegpt", conversations="conversations")
ALPACA = Dialect.of("alpaca", instruction="instruction", input="input", output="output", system="system")
PAIR = Dialect.of("pair", prompt="prompt", response="response", system="system")
TEXT = Dialect.of("text", text="text")
ALL = [MESSAGES, SHAREGPT, ALPACA, PAIR, TEXT]


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def system(content: Any) -> dict[str, Any]:
    return {"role": "system", "content": content}


def chat(*turns: str) -> list[dict[str, Any]]:
    """chat("S be kind", "U hello", "A hi"): a conversation in the chat schema."""
    return [{"S": system, "U": user, "A": assistant}[turn[0]](turn[2:]) for turn in turns]


TURNS = chat("U a", "A b")
PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "image": None}]
TOOL = {"role": "tool", "content": "t"}
DEVELOPER = {"role": "developer", "content": "s"}
SHARED = [
    {"from": "system", "value": "s"},
    {"from": "human", "value": "a"},
    {"from": "gpt", "value": "b"},
    {"from": "user", "value": "c"},
    {"from": "chatgpt", "value": "d", "weight": 1},
]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([user("a"), assistant(" b\n")], [user("a"), assistant(" b\n")]),
        (chat("S s", "U ", "A b", "U c", "A d"), chat("S s", "U ", "A b", "U c", "A d")),
        ([{**DEVELOPER, "name": None}, *TURNS], [DEVELOPER, *TURNS]),
        ([user("a"), TOOL, assistant("b")], [user("a"), TOOL, assistant("b")]),
        ([{"role": " Human", "content": "a"}, {"role": "Model", "content": "b", "tool_calls": None}], TURNS),
        (chat("U a", "A b", "U c", "S d"), TURNS),
        ([*TURNS, user(None)], TURNS),
        ([user(PARTS), assistant("c")], chat("U ab", "A c")),
        (json.dumps(TURNS), TURNS),
    ],
)
def test_messages(given: Any, expected: list[dict[str, str]]) -> None:
    assert normalise({"messages": given}, MESSAGES).messages == expected


@pytest.mark.parametrize(
    ("dialect", "row", "expected"),
    [
        (MESSAGES, {"messages": TURNS, "system": "s"}, chat("S s", "U a", "A b")),
        (MESSAGES, {"messages": chat("S o", "U a", "A b"), "system": "s"}, chat("S o", "U a", "A b")),
        (SHAREGPT, {"conversations": SHARED}, chat("S s", "U a", "A b", "U c", "A d")),
        (SHAREGPT, {"conversations": [*SHARED[:-1], {**SHARED[-1], "weight": 0}]}, chat("S s", "U a", "A b")),
        (ALPACA, {"instruction": "a", "input": "i", "output": "b"}, chat("U a\ni", "A b")),
        (ALPACA, {"instruction": "a ", "input": "", "output": "b"}, chat("U a ", "A b")),
        (replace(ALPACA, join="\n\n"), {"instruction": "a", "input": "i", "output": "b"}, chat("U a\n\ni", "A b")),
        (replace(ALPACA, join="\n\n"), {"instruction": "a", "input": " ", "output": "b"}, TURNS),
        (ALPACA, {"instruction": "a", "input": None, "output": "b"}, TURNS),
        (ALPACA, {"instruction": "a", "input": " \n", "output": "b", "system": "s"}, chat("S s", "U a", "A b")),
        (ALPACA, {"instruction": "", "input": "i", "output": "b", "system": ""}, chat("U i", "A b")),
        (PAIR, {"prompt": "a", "response": "b", "system": None}, TURNS),
        (PAIR, {"prompt": "[1, 2]", "response": "[3]"}, chat("U [1, 2]", "A [3]")),
        (PAIR, {"prompt": chat("S s", "U a"), "response": chat("A b")}, chat("S s", "U a", "A b")),
        (PAIR, {"prompt": chat("U a"), "response": "b"}, TURNS),
        (TEXT, {"text": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c"}, TURNS),
    ],
)
def test_other_dialects(dialect: Dialect, row: dict[str, Any], expected: list[dict[str, str]]) -> None:
    assert normalise(row, dialect).messages == expected


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (None, "no_conversation"),
        ([], "no_conversation"),
        ({"role": "user"}, "no_conversation"),
        ("[not json", "no_conversation"),
        ("[" * 100_000, "no_conversation"),
        ([None, assistant("b")], "bad_content"),
        ([user("a")], "no_response"),
        (chat("U a", "A "), "empty_response"),
        (chat("U a", "A  \n\t "), "empty_response"),
        (chat("U a", "A ", "U c", "A d"), "empty_response"),
        ([user("a"), assistant([])], "empty_response"),
        ([user("a"), assistant(3)], "bad_content"),
        ([user(None), assistant("b")], "bad_content"),
        ([user({"text": "a"}), assistant("b")], "bad_content"),
        ([{"role": "narrator", "content": "a"}, assistant("b")], "unknown_role"),
        ([{"role": ["user"], "content": "a"}, assistant("b")], "unknown_role"),
        ([{"content": "a"}, assistant("b")], "unknown_role"),
        ([user("a"), {**assistant(None), "tool_calls": [{"id": "f"}]}], "bad_tool_call"),
        ([user([{"type": "image", "url": "u"}]), assistant("b")], "multimodal"),
        ([user([3]), assistant("b")], "unsupported_content"),
        ([user("a\ud800"), assistant("b")], "invalid_utf8"),
    ],
)
def test_messages_refused(given: Any, code: str) -> None:
    with pytest.raises(RowProblem) as caught:
        normalise({"messages": given}, MESSAGES)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("dialect", "row", "code"),
    [
        (MESSAGES, {}, "no_conversation"),
        (MESSAGES, {"messages": TURNS, "system": 3}, "bad_content"),
        (SHAREGPT, {"conversations": TURNS}, "unknown_role"),
        (SHAREGPT, {"conversations": [{"from": "function_call", "value": "b"}]}, "bad_tool_call"),
        (ALPACA, {"output": "b"}, "no_conversation"),
        (ALPACA, {"instruction": "a"}, "no_response"),
        (ALPACA, {"instruction": "a", "output": ""}, "empty_response"),
        (ALPACA, {"instruction": "a", "input": 3, "output": "b"}, "bad_content"),
        (PAIR, {"response": "b"}, "no_conversation"),
        (PAIR, {"prompt": "a", "response": None}, "no_response"),
        (PAIR, {"prompt": chat("U a"), "response": []}, "no_response"),
        (PAIR, {"prompt": [], "response": "b"}, "no_conversation"),
        (PAIR, {"prompt": chat("U a"), "response": chat("U b")}, "no_response"),
        (PAIR, {"prompt": 3, "response": "b"}, "bad_content"),
        (PAIR, {"prompt": True, "response": "b"}, "bad_content"),
        (TEXT, {"text": None}, "no_conversation"),
        (TEXT, {"text": 3}, "bad_content"),
        (TEXT, {"text": "prose"}, "no_turns"),
        (TEXT, {"text": "\n\nHuman: a"}, "no_response"),
        (TEXT, {"text": "\n\nHuman: a\n\nAssistant: "}, "empty_response"),
        (TEXT, {"text": "\n\nHuman: a\ud800\n\nAssistant: b"}, "invalid_utf8"),
    ],
)
def test_other_dialects_refused(dialect: Dialect, row: dict[str, Any], code: str) -> None:
    with pytest.raises(RowProblem) as caught:
        normalise(row, dialect)
    assert caught.value.code == code


def test_a_message_never_quotes_the_sample() -> None:
    secret = "hunter2"
    rows: list[tuple[Dialect, dict[str, Any]]] = [
        (MESSAGES, {"messages": secret}),
        (MESSAGES, {"messages": [{"role": secret, "content": secret}]}),
        (MESSAGES, {"messages": [user({secret: secret}), assistant("b")]}),
        (MESSAGES, {"messages": [user([{"type": secret}]), assistant("b")]}),
        (TEXT, {"text": secret}),
        (PAIR, {"prompt": f"{secret}\ud800", "response": secret}),
    ]
    for dialect, row in rows:
        with pytest.raises(RowProblem) as caught:
            normalise(row, dialect)
        assert secret not in str(caught.value)


WORDS = ["user", "assistant", "system", "gpt", "human", "text", "", " ", "a", "\ud800", "[", "[1]"]
words = st.sampled_from([*WORDS, "\n\nHuman: a\n\nAssistant: b", "### Input:"])
keys = st.sampled_from(
    ["role", "content", "from", "value", "type", "text", "tool_calls", "function", "name", "arguments", "weight", "x"]
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | words | st.text()
anything = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4))
columns = st.sampled_from(
    ["messages", "conversations", "instruction", "input", "output", "prompt", "response", "text", "system"]
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(columns, anything))
def test_any_row_is_a_whole_conversation_or_a_row_problem(row: dict[str, Any]) -> None:
    for dialect in ALL:
        try:
            conversation = normalise(row, dialect)
        except RowProblem:
            continue
        messages = conversation.messages
        assert messages[-1]["role"] == "assistant"
        assert conversation.answers[-1] == len(messages) - 1
        for message in messages:
            assert message["role"] in {"system", "developer", "user", "assistant", "tool"}
            assert message["role"] == "assistant" or isinstance(message["content"], str)
        for number in conversation.answers:
            assert messages[number].get("content", "").strip() or messages[number]["tool_calls"]
        "".join(conversation.texts()).encode()
        assert Conversation.from_dict(json.loads(json.dumps(conversation.to_dict()))) == conversation


@given(st.lists(st.dictionaries(columns, anything), max_size=4))
def test_any_rows_are_detected_or_refused_with_a_value_error(rows: list[dict[str, Any]]) -> None:
    names = sorted({name for row in rows for name in row})
    try:
        dialect = detect(names, rows)
    except ValueError:
        return
    assert {column for _, column in dialect.columns} <= set(names)
