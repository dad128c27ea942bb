from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tamis.operators.conversation.columns import parts_of_row
from tamis.operators.conversation.detection import detect
from tamis.operators.conversation.dialects import Dialect
from tamis.operators.problems import RowProblem

CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
SHARE = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
ALPACA = "alpaca (instruction, input -> output)"
ASKED = [*CHAT, {"role": "user", "content": "c"}]
SHARED_QUESTION = SHARE[:1]
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
        ({"messages": ASKED, "response": "d"}, "messages (messages -> response)"),
        (
            {"conversations": SHARED_QUESTION, "chosen": SHARE[1], "rejected": SHARE[1]},
            "sharegpt (conversations -> chosen)",
        ),
        ({"messages": CHAT, "response": "b "}, "messages (messages)"),
        ({"messages": ASKED, "response": "d", "chosen": "d"}, "messages (messages -> response)"),
        ({"messages": CHAT, "conversations": SHARE}, "messages (messages)"),
        ({"messages": CHAT, "prompt": "a", "response": "b"}, "messages (messages)"),
        ({"prompt": "a", "messages": CHAT, "chosen": CHAT, "rejected": CHAT}, "messages (messages)"),
        ({"prompt": json.dumps(CHAT[:1]), "completion": json.dumps(CHAT[1])}, "pair (prompt -> completion)"),
        ({"instruction": "a", "input": "i", "chosen": "b", "rejected": "c"}, "alpaca (instruction, input -> chosen)"),
        ({"context": "i", "question": "a", "answer": "b"}, "alpaca (question, context -> answer)"),
        ({"context": ["i"], "question": "a", "answer": "b"}, "pair (question -> answer)"),
        (
            {"instruction": "a", "output": "b", "history": [["c", "d"]], "system": "", "system_prompt": "s"},
            "alpaca (system, system_prompt, history, instruction -> output)",
        ),
        ({"messages": CHAT, "tools": [], "documents": []}, "messages (messages; tools, documents)"),
        ({"data": ["a", "b"]}, "alternating (data)"),
        ({"history": ASKED, "response": "d"}, "messages (history -> response)"),
        ({"context": SHARED_QUESTION, "answer": "d"}, "sharegpt (context -> answer)"),
        ({"prompt": b"a", "response": b"b", "context": b"c"}, "alpaca (prompt, context -> response)"),
        ({"images": None, "messages": CHAT}, "messages (messages)"),
        ({"conversation": [{"human": "a", "assistant": "b"}]}, "exchanges (conversation)"),
        ({"messages": [{"role": "prompter", "text": "a"}, {"role": "assistant", "text": "b"}]}, "oasst (messages)"),
        ({"INSTRUCTION": "a", "RESPONSE": "b"}, "pair (INSTRUCTION -> RESPONSE)"),
        ({"System Prompt": "s", "Prompt": "a", "Response": "b"}, "pair (System Prompt, Prompt -> Response)"),
        ({"query": "a", "response": "b", "history": [["c", "d"]]}, "pair (history, query -> response)"),
        ({"system_prompt": "s", "question": "a", "response": "b"}, "pair (system_prompt, question -> response)"),
        ({"input": "a", "output": "b"}, "pair (input -> output)"),
        ({"instruction": "a", "output": "b", "history": "Q: c A: d"}, "alpaca (instruction -> output)"),
        ({"question": "a", "answer": "b", "documents": ["c"], "tools": "spade"}, "pair (question -> answer)"),
        ({"question": "a", "answer": "b", "documents": [{"text": "c"}]}, "pair (question -> answer; documents)"),
        ({"prompt": "a", "response": "b", "tools": '[{"name": "f"}]'}, "pair (prompt -> response; tools)"),
        ({"prompt": "a", "response": "b", "tools": {"name": "f"}}, "pair (prompt -> response; tools)"),
        ({"conversations": [["human", "a"], ["gpt", "b"]]}, "messages (conversations)"),
        ({"chosen_messages": CHAT, "rejected_messages": CHAT}, "messages (chosen_messages)"),
        ({"messages": [{**turn, "from": None, "value": None} for turn in CHAT]}, "messages (messages)"),
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
        {"messages": CHAT, "conversations": [SHARE[0], {"from": "gpt", "value": "other"}]},
        {"messages": CHAT[1:], "prompt": "a"},
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


MESSAGES_OR_RESPONSE = (
    "set input.columns={messages: messages} or input.columns={messages: messages, response: response}"
)


@pytest.mark.parametrize(
    ("row", "settings"),
    [
        ({"messages": CHAT, "response": "other"}, MESSAGES_OR_RESPONSE),
        (
            {"conversations": SHARE, "chosen": {"from": "gpt", "value": "other"}},
            "set input.columns={conversations: conversations} or "
            "input.columns={conversations: conversations, response: chosen}",
        ),
        (
            {"prompt": CHAT, "completion": "other"},
            "set input.columns={messages: prompt} or input.columns={messages: prompt, response: completion}",
        ),
        (
            {"prompt": "a", "response": "b", "chosen": "c", "rejected": "d"},
            "set input.columns={prompt: prompt, response: response} or "
            "input.columns={prompt: prompt, response: chosen}",
        ),
        (
            {"instruction": "a", "output": "b", "answer": "c"},
            "set input.columns={instruction: instruction, output: output} or "
            "input.columns={instruction: instruction, output: answer}",
        ),
        (
            {"text": TEXT, "response": "other"},
            "set input.columns={text: text} or input.columns={prompt: text, response: response}",
        ),
        (
            {"messages": ASKED, "chosen": [*ASKED, {"role": "assistant", "content": "d"}]},
            "set input.columns={messages: messages} or input.columns={messages: chosen}",
        ),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_two_answers_are_refused_with_both_settings(row: dict[str, Any], settings: str, complete: bool) -> None:
    with pytest.raises(ValueError, match="more than one") as caught:
        detect(list(row), [row] * 3, complete)
    assert str(caught.value).endswith(settings)
    assert "other" not in str(caught.value)


def test_a_setting_has_the_names_that_the_corpus_has() -> None:
    row = {"Messages": CHAT, "Response": "other"}
    with pytest.raises(ValueError, match=r"or that in Response; .* set input.columns=\{messages: Messages\} or"):
        detect(list(row), [row])


def test_the_first_row_with_two_answers_is_named() -> None:
    rows = [{"messages": CHAT}, {"messages": CHAT, "response": "other"}, {"messages": CHAT, "response": "b"}]
    with pytest.raises(ValueError, match=r"differ in 1 of 2 sampled rows that have both, first in row 1 \(counted"):
        detect(["messages", "response"], rows)


def test_a_few_rows_with_two_answers_are_problems_and_no_refusal() -> None:
    rows = [
        {"messages": ASKED, "response": "d"},
        {"messages": ASKED, "response": "e"},
        {"messages": CHAT, "response": "f"},
    ]
    assert detect(["messages", "response"], rows).column("response") == "response"


def test_a_column_that_repeats_the_answer_is_checked_in_later_rows() -> None:
    rows = [{"messages": CHAT, "response": "b", "chosen": None}]
    assert detect(list(rows[0]), rows).checks == (("answer", "response"), ("answer", "chosen"))


def test_every_row_that_decided_can_be_read() -> None:
    """A check is of another column, never of the one that is read."""
    for row in (
        {"messages": ASKED, "response": "d", "chosen": "d", "completion": [{"role": "assistant", "content": "d"}]},
        {"messages": CHAT, "conversations": SHARE, "prompt": "a", "response": "b", "chosen": CHAT},
        {"prompt": "a", "response": "b", "completion": "b", "answer": "b"},
    ):
        found = detect(list(row), [row])
        assert len({*found.reads}) == len(found.columns) + len(found.checks) == len(row)
        assert parts_of_row(row, found).turns


def test_what_the_sampled_rows_have_is_known_where_more_may_come() -> None:
    row = {"prompt": "a", "response": "b", "few_shot": "x", "id": "1"}
    assert detect(list(row), [row], complete=False).seen == ("few_shot", "prompt", "response")
    assert detect(list(row), [row]).seen is None


def test_a_list_as_python_prints_it_is_named() -> None:
    with pytest.raises(ValueError, match="messages holds a list as Python prints it; write it with"):
        detect(["messages"], [{"messages": str(CHAT)}])


def test_texts_with_labels_are_not_taken_for_texts_of_both_in_turn() -> None:
    with pytest.raises(ValueError, match="no conversation found"):
        detect(["data"], [{"data": ["Human: a", "Assistant: b"]}])


def test_single_messages_of_a_tree_are_named() -> None:
    row = {"message_id": "1", "parent_id": None, "text": "a", "role": "prompter"}
    with pytest.raises(ValueError, match="single message of a tree; join the messages"):
        detect(list(row), [row])


def test_the_number_of_the_chosen_answer_is_no_answer() -> None:
    for chosen in (0, 1.0, True):
        with pytest.raises(ValueError, match="no conversation found"):
            detect(["prompt", "responses", "chosen"], [{"prompt": "a", "responses": ["b", "c"], "chosen": chosen}])


def test_turns_with_other_keys_are_named() -> None:
    turns = [{"speaker": "user", "text": "a"}, {"speaker": "assistant", "text": "b"}]
    with pytest.raises(ValueError, match="entries in conversation have the keys speaker, text, and understood are"):
        detect(["conversation"], [{"conversation": turns}])


def test_lists_of_answers_are_no_turns() -> None:
    for answer in (["a", "b"], {"text": ["a"], "start": [1]}):
        row = {"question": "q", "answer": answer}
        with pytest.raises(RowProblem, match="the response is a list or an object, and holds no turns"):
            parts_of_row(row, detect([*row], [row]))


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"prompt": "q", "response_a": "x", "response_b": "y", "chosen": "a"}, "response_a, response_b"),
        ({"prompt": "q", "response_a": "x", "response_b": "y", "chosen": "response_b"}, "response_b"),
        ({"question": "q", "Answer 1": "x", "Answer 2": "y", "answer": "2"}, "Answer 1, Answer 2"),
        ({"question": "q", "A": "x", "B": "y", "answer": "B"}, "B"),
        ({"question": "q", "answer_1": "x", "answer_2": "y", "answer": 2}, "answer_1, answer_2"),
        ({"question": "q", "answer_a": "x", "answer_b": "y", "answer": 0}, "answer_a, answer_b"),
        ({"messages": [{"role": "user", "content": "q"}], "out_a": "x", "out_b": "y", "chosen": "B"}, "out_a, out_b"),
    ],
)
def test_a_flag_is_no_answer(row: dict[str, Any], named: str) -> None:
    for complete in (True, False):
        with pytest.raises(ValueError, match=f"seems to say which of {named} counts, and to be no answer itself"):
            detect(list(row), [row] * 3, complete)
    said = {key: f"{value}, as I said" if key in ("chosen", "answer") else value for key, value in row.items()}
    assert detect(list(said), [row, said]).column("response") in said  # one text that is none is enough


@pytest.mark.parametrize("flag", [{"winner": "model_a"}, {"chosen": 0}, {}])
def test_several_answers_without_one_that_counts_are_named(flag: dict[str, Any]) -> None:
    row = {"prompt": "q", "response_0": "x", "response_1": "y", "meta_1": "z", "meta_2": "z", **flag}
    with pytest.raises(ValueError, match="response_0, response_1 seem to be answers or chats of which one counts"):
        detect(list(row), [row])


def test_a_column_without_values_is_named() -> None:
    with pytest.raises(ValueError, match="messages is null in all sampled rows"):
        detect(["messages", "id"], [{"messages": None, "id": "x"}])


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("thread", CHAT, "thread seems to hold chats: set input.columns={messages: thread}"),
        ("log", SHARED_QUESTION, "log seems to hold chats: set input.columns={conversations: log}"),
        ("dialog", ["a", "b"], "set input.dialect=alternating and input.columns={messages: dialog}"),
        ("what I said to it", "a", "in the columns ..., id; some of their names are sentences"),
    ],
)
def test_a_chat_under_another_name_is_named(column: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        detect([column, "id"], [{column: value, "id": "x", "tags": ["a", "b"]}])
