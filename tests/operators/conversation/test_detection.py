from __future__ import annotations

import json
from typing import Any

import pytest

from tamis.operators.conversation.detection import detect
from tamis.operators.conversation.dialects import Dialect

CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
SHARE = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
ALPACA = "alpaca (instruction, input -> output)"
TEXT = "\n\nHuman: a\n\nAssistant: b"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": CHAT, "id": 1}, "messages (messages)"),
        ({"conversation": CHAT}, "messages (conversation)"),
        ({"conversations": CHAT}, "messages (conversations)"),
        ({"conversations": SHARE, "system": "s"}, "sharegpt (system, conversations)"),
        ({"messages": SHARE}, "sharegpt (messages)"),
        ({"messages": json.dumps(CHAT)}, "messages (messages)"),
        ({"messages": CHAT, "prompt": "a", "prompt_id": "1"}, "messages (messages)"),
        ({"instruction": "a", "input": "", "output": "b"}, "alpaca (instruction, input -> output)"),
        ({"instruction": "a", "output": "b"}, "alpaca (instruction -> output)"),
        ({"instruction": "a", "input": "", "output": "b", "text": TEXT}, ALPACA),
        ({"instruction": "a", "context": "", "response": "b"}, "alpaca (instruction, context -> response)"),
        ({"instruction": "a", "response": "b"}, "pair (instruction -> response)"),
        ({"prompt": "a", "response": "b", "system_prompt": "s"}, "pair (system_prompt, prompt -> response)"),
        ({"prompt": "a", "completion": "b"}, "pair (prompt -> completion)"),
        ({"question": "a", "answer": "b"}, "pair (question -> answer)"),
        ({"chosen": TEXT, "rejected": TEXT}, "text (chosen)"),
        ({"chosen": CHAT, "rejected": CHAT}, "messages (chosen)"),
        ({"prompt": "a", "chosen": CHAT, "rejected": CHAT}, "messages (chosen)"),
        ({"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": CHAT[1:]}, "pair (prompt -> chosen)"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "pair (prompt -> chosen)"),
        ({"text": TEXT}, "text (text)"),
    ],
)
def test_detected(row: dict[str, Any], said: str) -> None:
    dialect = detect(list(row), [row])
    assert dialect.describe() == said
    assert detect(sorted(row, reverse=True), [row]) == dialect


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"instruction": "a", "output": "b"}, "alpaca (system, instruction, input -> output)"),
        ({"instruction": "a", "context": "", "output": "b"}, "alpaca (system, instruction, context -> output)"),
        ({"instruction": "a", "response": "b"}, "alpaca (system, instruction, context -> response)"),
        ({"instruction": CHAT[:1], "response": CHAT[1:]}, "pair (system, instruction -> response)"),
        ({"prompt": "a", "response": "b"}, "pair (system, prompt -> response)"),
        ({"prompt": "a", "response": "b", "system_prompt": "s"}, "pair (system_prompt, prompt -> response)"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "pair (system, prompt -> chosen)"),
        ({"conversations": SHARE}, "sharegpt (system, conversations)"),
        ({"messages": CHAT}, "messages (system, messages)"),
        ({"text": TEXT}, "text (text)"),
    ],
)
def test_where_more_columns_may_come_the_optional_ones_are_bound(row: dict[str, Any], said: str) -> None:
    assert detect(list(row), [row], complete=False).describe() == said


def test_rows_that_tell_nothing_are_passed_over() -> None:
    rows = [
        {"messages": None},
        {},
        {"messages": []},
        {"messages": "x"},
        {"messages": [None, 3]},
        {"messages": SHARE},
    ]
    assert detect(["messages"], rows) == Dialect.of("sharegpt", conversations="messages")


def test_a_text_is_taken_if_half_of_the_rows_have_turns() -> None:
    assert detect(["text"], [{"text": TEXT}, {"text": "prose"}]).name == "text"
    with pytest.raises(ValueError, match="no conversation found"):
        detect(["text"], [{"text": TEXT}, {"text": "prose"}, {"text": 3}])


@pytest.mark.parametrize(
    "row",
    [
        {"messages": CHAT, "conversations": SHARE},
        {"prompt": "a", "response": "b", "completion": "c"},
        {"instruction": "a", "output": "b", "question": "c", "answer": "d"},
        {"instruction": "a", "output": "b", "response": "c"},
        {"messages": CHAT, "question": "c", "answer": "d"},
    ],
)
def test_ambiguity_is_refused_with_the_choices(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"more than one conversation.*; .*input\.columns") as caught:
        detect(list(row), [row])
    assert str(caught.value).count("(") >= 2


@pytest.mark.parametrize("row", [{}, {"a": 1}, {"text": "prose"}, {"prompt": "a"}, {"messages": "x"}, {"chosen": "x"}])
def test_nothing_found_says_what_is_understood(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no conversation found in the columns .*understood.*input\.columns"):
        detect(list(row), [row])
