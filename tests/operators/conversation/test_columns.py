"""Which turns a row has under a dialect, and which rows the dialect does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tamis.operators.conversation.columns import checked_text, parts_of_row
from tamis.operators.conversation.dialects import Dialect
from tamis.operators.problems import RowProblem

CHAT = Dialect.of("messages", messages="messages", response="response")
SHARED = Dialect.of("sharegpt", conversations="conversations", response="chosen")
PAIR = Dialect.of(
    "pair", prompt="prompt", response="response", history="history", system="system", system_prompt="more"
)
ALPACA = Dialect.of("alpaca", instruction="instruction", input="input", output="output", history="history")
WITH_TOOLS = Dialect.of("pair", prompt="p", response="r", tools="tools", documents="docs", chat_template_kwargs="more")


def ask(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def reply(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def human(text: Any) -> dict[str, Any]:
    return {"from": "human", "value": text}


def gpt(text: Any) -> dict[str, Any]:
    return {"from": "gpt", "value": text}


def said(row: dict[str, Any], dialect: Dialect) -> list[Any]:
    """The contents of the turns."""
    parts = parts_of_row(row, dialect)
    return [turn[parts.content_key] for turn in parts.turns]


def problem(row: dict[str, Any], dialect: Dialect) -> str:
    with pytest.raises(RowProblem) as caught:
        parts_of_row(row, dialect)
    assert "secret" not in caught.value.message
    return caught.value.code


HISTORY = [ask("a"), reply("b"), ask("c")]


@pytest.mark.parametrize(
    "response",
    [
        "d",
        reply("d"),
        [reply("d")],
        [("role", "assistant"), ("content", "d")],
        gpt("d"),
        {"role": ["assistant"], "content": ["d"]},
    ],
)
def test_the_answer_beside_a_chat_follows_it(response: Any) -> None:
    assert said({"messages": HISTORY, "response": response}, CHAT) == ["a", "b", "c", "d"]
    shared = {"conversations": [human("a"), gpt("b"), human("c")], "chosen": response}
    assert said(shared, SHARED) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("row", "dialect", "count"),
    [
        ({"messages": HISTORY, "response": "d"}, CHAT, 3),
        ({"messages": HISTORY[:2], "response": "b"}, CHAT, 0),
        ({"messages": [*HISTORY[:2], ask("c")], "response": [reply("d")]}, CHAT, 3),
        ({"prompt": HISTORY, "response": "d"}, PAIR, 3),
        ({"prompt": "a", "response": "d", "history": [["b", "c"]]}, PAIR, 0),
        ({"instruction": "a", "output": "d", "history": [["b", "c"]]}, ALPACA, 0),
    ],
)
def test_turns_of_a_prompt_apart_from_its_answer_are_counted(row: dict[str, Any], dialect: Dialect, count: int) -> None:
    """Trainers learn the answers of a history, but not those in a prompt."""
    assert parts_of_row(row, dialect).prompt_turns == count


def test_an_answer_of_several_turns() -> None:
    turns = [reply("d"), {"role": "tool", "content": "e"}, reply("f")]
    assert said({"messages": HISTORY, "response": turns}, CHAT) == ["a", "b", "c", "d", "e", "f"]


def test_a_chat_with_its_answer_needs_none_beside_it() -> None:
    for response in (None, "", " ", "b", " b\n", [reply("b")], {"role": None, "content": None}):
        assert said({"messages": HISTORY[:2], "response": response}, CHAT) == ["a", "b"]


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"messages": HISTORY[:2], "response": "secret"}, "two_answers"),
        ({"messages": HISTORY}, "no_response"),
        ({"messages": HISTORY, "response": None}, "no_response"),
        ({"messages": HISTORY, "response": [ask("secret"), reply("d")]}, "two_prompts"),
        ({"messages": HISTORY, "response": [ask("secret")]}, "no_response"),
        ({"messages": HISTORY, "response": {"text": "secret"}}, "no_response"),
        ({"messages": HISTORY, "response": json.dumps([reply("secret")])}, "bad_content"),
        ({"response": "secret"}, "no_conversation"),
        ({"messages": {"role": None, "content": None}, "response": "secret"}, "no_conversation"),
    ],
)
def test_rows_that_do_not_fit_a_chat_and_its_answer(row: dict[str, Any], code: str) -> None:
    assert problem(row, CHAT) == code


def test_the_answer_takes_the_place_of_the_chats_own_where_a_person_says_so() -> None:
    by_hand = replace(CHAT, replaces=True)
    assert said({"messages": HISTORY[:2], "response": "d"}, by_hand) == ["a", "d"]
    assert said({"messages": [*HISTORY, reply("x"), reply("y")], "response": "d"}, by_hand) == ["a", "b", "c", "d"]
    assert said({"messages": HISTORY, "response": "d"}, by_hand) == ["a", "b", "c", "d"]
    assert problem({"messages": HISTORY[:2], "response": None}, by_hand) == "no_response"
    assert problem({"messages": [reply("x")], "response": "d"}, by_hand) == "no_conversation"


def test_prompts_and_answers_as_turns() -> None:
    assert said({"prompt": HISTORY, "response": [reply("d")]}, PAIR) == ["a", "b", "c", "d"]
    assert said({"prompt": [human("a")], "response": gpt("b")}, PAIR) == ["a", "b"]
    assert said({"prompt": ask("a"), "response": "b"}, PAIR) == ["a", "b"]
    assert said({"prompt": HISTORY[:2], "response": "b"}, PAIR) == ["a", "b"]
    assert problem({"prompt": HISTORY[:2], "response": "secret"}, PAIR) == "two_answers"
    assert problem({"prompt": "a", "response": [ask("secret"), reply("b")]}, PAIR) == "two_prompts"


def test_turns_as_json_text_only_where_the_sampled_rows_have_them() -> None:
    encoded = replace(PAIR, encoded=("prompt", "response"))
    row = {"prompt": json.dumps(HISTORY), "response": json.dumps(reply("d"))}
    assert said(row, encoded) == ["a", "b", "c", "d"]
    assert problem({**row, "response": "secret"}, encoded) == "bad_content"
    assert problem(row, PAIR) == "bad_content"
    answer = '{"role": 3, "roles": ["from"]}'  # JSON that is an answer
    assert said({"prompt": "[1]", "response": answer}, PAIR) == ["[1]", answer]


@pytest.mark.parametrize(("answer", "text"), [(42, "42"), (0.5, "0.5"), (-3.0, "-3.0"), (True, True)])
def test_a_number_is_an_answer_as_text(answer: Any, text: Any) -> None:
    assert said({"prompt": "a", "response": answer}, PAIR)[-1] == text
    assert said({"instruction": "a", "output": answer}, ALPACA)[-1] == text


def test_what_tables_write_for_a_missing_answer() -> None:
    for missing in (None, float("nan"), {"role": None, "content": None}):
        assert problem({"prompt": "a", "response": missing}, PAIR) == "no_response"
        assert problem({"prompt": missing, "response": "b"}, PAIR) == "no_conversation"


PAIRS = [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize(
    "history",
    [
        PAIRS,
        json.dumps(PAIRS),
        [{"question": "a", "answer": "b"}, {"user": "c", "assistant": "d"}],
        [ask("a"), reply("b"), ask("c"), reply("d")],
        [human("a"), gpt("b"), human("c"), gpt("d")],
    ],
)
def test_the_history_goes_before_the_prompt(history: Any) -> None:
    assert said({"instruction": "e", "input": "f", "output": "g", "history": history}, ALPACA)[:4] == list("abcd")
    assert said({"prompt": "e", "response": "f", "history": history}, PAIR) == list("abcdef")
    assert said({"prompt": [ask("e")], "response": "f", "history": history}, PAIR) == list("abcdef")


@pytest.mark.parametrize("history", [None, "", " ", [], "[]"])
def test_no_history(history: Any) -> None:
    assert said({"instruction": "a", "output": "b", "history": history}, ALPACA) == ["a", "b"]


@pytest.mark.parametrize("history", ["secret", 3, [["secret"]], [["secret", None]], ["secret"], [["a", "b", "secret"]]])
def test_a_history_that_is_none(history: Any) -> None:
    assert problem({"instruction": "a", "output": "b", "history": history}, ALPACA) == "bad_content"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"system": "s"}, "s"),
        ({"system": "", "more": "s"}, "s"),
        ({"system": " ", "more": "s"}, "s"),
        ({"system": None, "more": "s"}, "s"),
        ({"system": "s", "more": "s"}, "s"),
        ({"system": "s", "more": ""}, "s"),
        ({"system": "", "more": None}, None),
        ({"system": 3}, 3),
    ],
)
def test_the_system_prompt_of_two_columns(given: dict[str, Any], expected: Any) -> None:
    assert parts_of_row({"prompt": "a", "response": "b", **given}, PAIR).system == expected


def test_two_system_prompts() -> None:
    assert problem({"prompt": "a", "response": "b", "system": "secret", "more": "s"}, PAIR) == "two_systems"


@pytest.mark.parametrize(
    ("given", "variables"),
    [
        ({}, {}),
        ({"tools": None, "docs": [], "more": {}}, {}),
        ({"tools": [{"name": "f"}], "docs": "text"}, {"tools": [{"name": "f"}], "documents": "text"}),
        ({"more": {"enable_thinking": False, "x": None}}, {"enable_thinking": False}),
        ({"more": '{"enable_thinking": false}', "tools": "[1]"}, {"enable_thinking": False, "tools": "[1]"}),
    ],
)
def test_what_a_row_gives_the_template(given: dict[str, Any], variables: dict[str, Any]) -> None:
    assert parts_of_row({"p": "a", "r": "b", **given}, WITH_TOOLS).variables == variables


@pytest.mark.parametrize("more", ["secret", 3, ["secret"], {"tools": ["secret"]}, '{"a": 1, "a": 2}'])
def test_template_arguments_that_are_none(more: Any) -> None:
    row = {"p": "a", "r": "b", "tools": ["t"], "more": more}
    assert problem(row, WITH_TOOLS) in ("bad_content", "duplicate_keys")


def test_rows_with_images_are_problems_and_those_without_go_on() -> None:
    dialect = replace(Dialect.of("messages", messages="m"), checks=(("media", "images"),))
    row = {"m": [ask("a"), reply("b")]}
    for none in (None, [], "", {"bytes": None, "path": None}):
        assert said({**row, "images": none}, dialect) == ["a", "b"]
    for some in (["secret.png"], {"bytes": b"secret", "path": None}, b"secret"):
        assert problem({**row, "images": some}, dialect) == "multimodal"


def test_texts_that_a_table_holds_as_bytes() -> None:
    turns = json.dumps([ask("a"), reply("b")]).encode()
    assert said({"prompt": "é".encode(), "response": b"b"}, PAIR) == ["é", "b"]
    assert said({"messages": turns, "response": b"b"}, CHAT) == ["a", "b"]
    assert checked_text(b"a", "the text") == "a"
    with pytest.raises(RowProblem, match="invalid_utf8"):
        checked_text(b"\xff", "the text")


def test_texts_of_both_in_turn() -> None:
    dialect = Dialect.of("alternating", messages="data")
    parts = parts_of_row({"data": ["a", "b", '{"role": "c"}']}, dialect)
    assert parts.turns == [ask("a"), reply("b"), ask('{"role": "c"}')]
    assert parts_of_row({"data": '["a", "b"]'}, dialect).turns == [ask("a"), reply("b")]
    assert problem({"data": "secret"}, dialect) == "no_conversation"


def test_exchanges() -> None:
    dialect = Dialect.of("exchanges", messages="c")
    for given in ([{"human": "a", "assistant": "b"}, ["c", "d"]], '[["a", "b"], ["c", "d"]]'):
        assert said({"c": given}, dialect) == list("abcd")
    assert problem({"c": [["a", "b"], ["secret"]]}, dialect) == "bad_content"


def test_a_later_row_with_another_answer_is_a_problem() -> None:
    checked = replace(Dialect.of("messages", messages="m"), checks=(("answer", "chosen"), ("prompt", "p")))
    row = {"m": [ask("a"), reply("b")], "p": "a"}
    for chosen in (None, "", "b", "b\n", [ask("a"), reply("b")], reply("b"), json.dumps([reply("b")])):
        assert said({**row, "chosen": chosen}, checked) == ["a", "b"]
    for chosen in ("secret", [ask("a"), reply("secret")], 3, [ask("b")]):
        assert problem({**row, "chosen": chosen}, checked) == "two_answers"
    assert problem({"m": [reply("secret")], "p": "a"}, checked) == "two_prompts"
    assert said({"m": [reply("b")], "p": None}, checked) == ["b"]


@pytest.mark.parametrize("column", ["context", "few_shot", "Completion", "messages", "system_prompt", "tools"])
def test_a_later_row_with_a_column_that_no_plan_has_seen(column: str) -> None:
    planned = replace(Dialect.of("pair", prompt="prompt", response="response"), seen=("examples", "prompt", "response"))
    row = {"prompt": "a", "response": "b", "id": "1", "examples": "x"}
    assert said(row, planned) == ["a", "b"]
    assert said({**row, column: None}, planned) == ["a", "b"]
    assert problem({**row, column: "secret"}, planned) == "unplanned_column"
    assert said({**row, column: "x"}, replace(planned, seen=None)) == ["a", "b"]
