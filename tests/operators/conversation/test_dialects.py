from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tamis.operators.conversation.dialects import Dialect, dialect_by_hand

dialect = Dialect.of
LATE = {
    "history": "history",
    "tools": "tools",
    "documents": "documents",
    "chat_template_kwargs": "chat_template_kwargs",
}
ALPACA = dialect("alpaca", instruction="instruction", input="input", output="output")


def test_round_trip_through_json() -> None:
    made = dialect("alpaca", output="o", instruction="i", input="c")
    assert made.columns == (("instruction", "i"), ("input", "c"), ("output", "o"))
    assert Dialect.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (ALPACA, "alpaca (instruction, input -> output)"),
        (dialect("pair", prompt="q", response="a", system="s"), "pair (s, q -> a)"),
        (dialect("messages", messages="chat"), "messages (chat)"),
        (dialect("text", text="chosen"), "text (chosen)"),
        (dialect("messages", messages="chat", response="r", tools="t"), "messages (chat -> r; t)"),
        (dialect("pair", prompt="q", response="a", history="h", tools="t"), "pair (h, q -> a; t)"),
        (replace(dialect("pair", prompt="q", response="a", history="h", tools="t"), seen=("q",)), "pair (q -> a)"),
    ],
)
def test_describe(known: Dialect, said: str) -> None:
    assert known.describe() == said


def test_what_joins_instruction_and_input_goes_with_the_dialect() -> None:
    joined = replace(ALPACA, join=" ")
    assert joined.to_dict()["join"] == " "
    assert Dialect.from_dict(joined.to_dict()) == joined
    assert "join" not in dialect("alpaca", instruction="a", output="b").to_dict()


def test_what_the_rows_have_shown_goes_with_the_dialect() -> None:
    made = replace(
        dialect("messages", messages="m", response="r"),
        replaces=True,
        encoded=("response",),
        checks=(("answer", "chosen"),),
        seen=("m", "r"),
    )
    assert Dialect.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert made.reads == ("m", "r", "chosen")


def test_the_setting_that_gives_a_dialect() -> None:
    named = dialect("messages", messages="the chat", response="r", system="s")
    assert named.setting(["the chat", "r"]) == 'input.columns={messages: "the chat", response: r}'
    assert dialect("oasst", messages="m").setting(["m"]) == "input.dialect=oasst and input.columns={messages: m}"


@pytest.mark.parametrize(
    "data",
    [
        {"name": "text", "columns": {"text": "a"}, "checks": 3},
        {"name": "text", "columns": {"text": "a"}, "checks": [["answer"]]},
        {"name": "text", "columns": {"text": "a"}, "encoded": "prompt"},
        {"name": "text", "columns": {"text": "a"}, "seen": 3},
        {"name": "nothing", "columns": {}},
        {"name": "pair", "columns": {"prompt": "a"}},
        {"name": "text", "columns": {"text": "a", "more": "b"}},
    ],
)
def test_not_a_dialect(data: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Dialect.from_dict(data)


@pytest.mark.parametrize(
    ("name", "columns", "available", "expected"),
    [
        (None, {"text": "chosen"}, ["chosen", "rejected"], dialect("text", text="chosen")),
        (None, {"prompt": "q", "response": "a"}, ["q", "a"], dialect("pair", prompt="q", response="a")),
        (None, {"messages": "chat"}, ["chat"], dialect("messages", messages="chat")),
        (None, {"conversations": "chat"}, ["chat"], dialect("sharegpt", conversations="chat")),
        (None, {"question": "q", "answer": "a"}, ["q", "a"], dialect("pair", prompt="q", response="a")),
        (
            None,
            {"instruction": "q", "output": "a"},
            ["q", "a", "input"],
            dialect("alpaca", instruction="q", output="a"),
        ),
        (
            None,
            {"instruction": "q", "response": "a", "context": "c"},
            ["q", "a", "c"],
            dialect("alpaca", instruction="q", output="a", input="c"),
        ),
        ("sharegpt", {"messages": "chat"}, ["chat"], dialect("sharegpt", conversations="chat")),
        ("alpaca", {}, ["instruction", "input", "output", "text"], ALPACA),
        (
            "pair",
            {"system": "s"},
            ["s", "question", "answer"],
            dialect("pair", prompt="question", response="answer", system="s"),
        ),
        (
            "prompt/completion",
            {},
            ["prompt", "completion"],
            dialect("pair", prompt="prompt", response="completion"),
        ),
        ("Text", {}, ["chosen"], dialect("text", text="chosen")),
        ("ultrachat", {}, ["data"], dialect("alternating", messages="data")),
        ("oasst", {"conversation": "c"}, ["c"], dialect("oasst", messages="c")),
        (
            None,
            {"messages": "m", "response": "r"},
            ["m", "r"],
            replace(dialect("messages", messages="m", response="r"), replaces=True),
        ),
        (
            None,
            {"conversations": "c", "response": "r", "tools": "t"},
            ["c", "r", "t"],
            replace(dialect("sharegpt", conversations="c", response="r", tools="t"), replaces=True),
        ),
        (
            None,
            {"instruction": "q", "output": "a", "history": "h"},
            ["q", "a", "h"],
            dialect("alpaca", instruction="q", output="a", history="h"),
        ),
        ("messages", {}, ["messages", "answer"], dialect("messages", messages="messages", response="answer")),
    ],
)
def test_by_hand(name: str | None, columns: dict[str, str], available: list[str], expected: Dialect) -> None:
    assert dialect_by_hand(name, columns, available) == expected


@pytest.mark.parametrize(
    ("name", "columns", "said"),
    [
        ("alpacca", {}, "did you mean 'alpaca'"),
        (None, {}, "neither a dialect nor columns"),
        (None, {"promt": "q", "response": "a"}, "did you mean 'prompt'"),
        (None, {"prompt": "questoin", "response": "answer"}, "did you mean 'question'"),
        (None, {"prompt": "question"}, "fit no dialect"),
        ("pair", {"text": "question"}, "no part 'text'"),
        ("pair", {"prompt": "question", "response": "question"}, "twice"),
        ("pair", {"prompt": "question", "instruction": "answer"}, "twice"),
        ("messages", {}, "needs a column for messages"),
    ],
)
def test_by_hand_refuses(name: str | None, columns: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dialect_by_hand(name, columns, ["question", "answer"])


@pytest.mark.parametrize(
    ("name", "columns", "available", "expected"),
    [
        (None, {"prompt": "q", "response": "a"}, ["q"], None),
        (
            None,
            {"prompt": "q", "response": "a", "system": "s"},
            ["q", "a"],
            dialect("pair", prompt="q", response="a", system="s"),
        ),
        ("alpaca", {}, ["instruction", "output"], dialect("alpaca", **dict(ALPACA.columns), system="system", **LATE)),
        (
            "alpaca",
            {},
            ["instruction", "response", "system_prompt"],
            dialect(
                "alpaca", instruction="instruction", input="context", output="response", system="system_prompt", **LATE
            ),
        ),
        ("alpaca", {"output": "a"}, ["instruction"], None),
        (None, {"prompt": "q", "response": "a"}, ["x", "aa"], None),
        ("text", {}, ["x"], None),
    ],
)
def test_by_hand_where_more_columns_may_come(
    name: str | None, columns: dict[str, str], available: list[str], expected: Dialect | None
) -> None:
    if expected is None:
        with pytest.raises(ValueError, match=r"the corpus has no column '.'|needs a column for text"):
            dialect_by_hand(name, columns, available, complete=False)
    else:
        assert dialect_by_hand(name, columns, available, complete=False) == expected
