from __future__ import annotations

import re
from typing import Any

import pytest

from tamis.operators.conversation.detection import detect
from tamis.operators.conversation.dialects import dialect_by_hand
from tamis.operators.conversation.remarks import Remarks, remarks

ASK, REPLY = {"role": "user", "content": "What is a newt?"}, {"role": "assistant", "content": "An amphibian."}
PAIR = {"prompt": "What is a newt?", "response": "An amphibian."}


def of(*rows: dict[str, Any]) -> Remarks:
    """The remarks on a corpus of these rows, in whose later rows no other columns can come."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return remarks(detect(columns, rows), columns, rows)


def test_a_plain_corpus_needs_no_word() -> None:
    for row in (PAIR, {"messages": [ASK, REPLY]}, {"instruction": "a", "input": "b", "output": "c"}):
        assert of(row, row) == Remarks((), ())


def test_parts_of_the_prompt_that_are_left_out_are_named() -> None:
    [warning] = of(PAIR, {**PAIR, "few_shot": "Q: Is a frog one?", "passages": ["a"], "examples": None}).warnings
    assert warning.startswith(
        "columns left out of the prompt: few_shot (row 1), passages (row 1), examples (empty in the sampled rows); rows"
    )
    assert "input.columns={instruction: prompt, input: COLUMN, output: response}" in warning
    assert "history: COLUMN" in warning
    [warning] = of({"messages": [ASK, REPLY], "context": "A pond."}).warnings
    assert warning.startswith("columns left out of the prompt: context (row 0); rows")
    assert "must be in the conversation" in warning
    assert "pond" not in warning


def test_a_prompt_that_the_conversation_repeats_is_not_left_out() -> None:
    row = {"prompt": "What is a newt?", "messages": [ASK, REPLY]}
    assert of(row).warnings == ()
    assert of({**row, "prompt": [ASK]}).warnings == ()
    [warning] = of(row, {**row, "prompt": "You are a biologist."}).warnings
    assert "prompt (row 1)" in warning


def test_keys_of_turns_that_no_template_gets_are_named() -> None:
    row = {"messages": [ASK, {**REPLY, "channel": "final", "at": 3, "name": "bot", "note": None, "weight": "1"}]}
    assert of({"messages": [ASK, REPLY]}, row) == Remarks((), ("keys of turns that are not read: channel",))
    many = {"messages": [ASK, {**REPLY, **{f"key{number}": ["x"] for number in range(10)}}]}
    assert of(many).notes[0].endswith("key6, key7 and 2 more")
    assert of({"messages": [ASK, REPLY]}, {"messages": ["no turn", 3, REPLY]}).notes == ()
    [note] = of({"messages": [{**ASK, "learning_goal": "x", "from": None}, {**REPLY, "text": "y", "value": ""}]}).notes
    assert note == "keys of turns that are not read: learning_goal, text"
    said = [{"from": "human", "value": "q", "role": "user", "content": "z"}, {"from": "gpt", "value": "a", "text": ""}]
    [note] = of({"conversations": said}).notes
    assert note == "keys of turns that are not read: from, value"


def test_conversations_that_end_with_a_question() -> None:
    row = {"messages": [ASK, REPLY, ASK]}
    [warning] = of({"messages": [ASK, REPLY]}, row, row).warnings
    assert re.match(r"2 of 3 sampled conversations in messages end with a turn of the user, first in row 1 ", warning)
    assert "input.columns={messages: messages, response: COLUMN}" in warning
    assert of({"messages": [ASK], "response": "An amphibian."}).warnings == ()


def test_prompts_that_are_transcripts() -> None:
    row = {**PAIR, "prompt": "\n\nHuman: What is a newt?\n\nAssistant: Guess.\n\nHuman: A fish.\n\nAssistant:"}
    [warning] = of(PAIR, row).warnings
    assert warning.startswith(
        "prompt holds conversations with Human:, Assistant: or other labels in 1 of 2 sampled rows"
    )
    assert of({**PAIR, "prompt": "Human: who is that?"}).warnings == ()


def test_a_system_prompt_that_the_chat_overrides() -> None:
    own = [{"role": "system", "content": "Be brief."}, ASK, REPLY]
    [warning] = of({"messages": own, "system": "Be long."}, {"messages": own, "system": "Be brief."}).warnings
    assert warning.startswith("1 of 2 sampled conversations open with a system turn of their own, first row 0 ")
    assert "Be" not in warning


@pytest.mark.parametrize("labels", [[True, False, False], ["True", "FALSE", "false"]])
def test_answers_that_are_labelled_false(labels: list[Any]) -> None:
    found = of(*({"prompt": "a", "completion": "b", "label": label} for label in labels))
    [warning] = found.warnings
    assert warning.startswith("label: the answers of 2 of 3 sampled rows are labelled false; such answers are scored")


def test_labels_of_which_none_is_false_are_a_note() -> None:
    found = of({**PAIR, "kto_tag": True})
    assert found.warnings == ()
    assert found.notes[0].startswith("kto_tag: the answers of 0 of 1 sampled rows are labelled false")


@pytest.mark.parametrize("labels", [[0, 1], ["positive", "negative"], [None, None]])
def test_labels_of_another_kind_say_nothing_of_the_answer(labels: list[Any]) -> None:
    found = of(*({**PAIR, "label": label} for label in labels))
    assert not any("labelled" in line for line in (*found.warnings, *found.notes))


def test_how_a_prompt_is_joined_is_said_where_it_is_not_alpacas() -> None:
    [note] = of({"context": "A pond.", "question": "What lives here?", "answer": "Newts."}).notes
    assert note.startswith(r"the prompt is question, then context, with '\n' between them (input.join); for the other")
    assert note.endswith("input.columns={instruction: context, input: question, output: answer}")


def test_an_answer_that_takes_the_place_of_another_is_said() -> None:
    rows = [{"messages": [ASK, REPLY], "response": "No."}, {"messages": [ASK], "response": "No."}]
    by_hand = dialect_by_hand(None, {"messages": "messages", "response": "response"}, list(rows[0]))
    [note] = remarks(by_hand, list(rows[0]), rows).notes
    assert note.startswith(
        "response is the answer to the chat in messages; in 1 of 2 sampled rows it takes the place of"
    )


def test_tools_that_nobody_named_are_left_out() -> None:
    row = {**PAIR, "tools": [{"name": "f"}]}
    by_hand = dialect_by_hand(None, {"prompt": "prompt", "response": "response"}, list(row))
    [warning] = remarks(by_hand, list(row), [row]).warnings
    assert warning.startswith("columns left out of the prompt: tools (row 0); rows count from 0")


def test_numbers_as_answers_are_said() -> None:
    [note] = of({"question": "1+1", "answer": None}, {"question": "1+2", "answer": 3}).notes
    assert note.startswith("answer holds numbers, first in row 1 (counted from 0): they are read as the texts")


def test_rejected_answers_and_other_texts_are_said() -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c", **{f"note{n}": "x" for n in range(10)}, "n": 1}
    notes = of(row).notes
    assert notes[0] == "answers in rejected are not scored; they stay with their rows"
    assert notes[1].startswith("text columns that are not read: note0, note1")
    assert notes[1].endswith("note7 and 2 more")


def test_marks_in_words_that_are_not_read() -> None:
    for key, value in (("loss_mask", 0), ("masked", True), ("train_on_turn", False), ("Weight", 0), ("no_loss", True)):
        [warning] = of({"messages": [ASK, REPLY]}, {"messages": [ASK, {**REPLY, key: value}]}).warnings
        assert warning.startswith(f"not read, though it may say what is trained on: {key} (row 1); rows count from 0.")
        [warning] = of({"messages": [ASK, REPLY], key: value}).warnings
        assert f"trained on: {key} (row 0)" in warning
    for key, value in (("weight", 1), ("train", True), ("loss", True), ("name", "newt"), ("loss_mask", None)):
        assert of({"messages": [ASK, {**REPLY, key: value}]}).warnings == ()
    assert of({"messages": [{**ASK, "loss_mask": 0}, REPLY]}).warnings == ()


def test_texts_within_lists_and_objects_are_not_read_either() -> None:
    row = {**PAIR, "ctxs": [{"title": "Ponds"}], "meta": {"by": {"name": "Ann"}}, "scores": [1, 2], "best": True}
    assert of(row).notes == ("text columns that are not read: ctxs, meta",)


def test_texts_that_a_template_has_rendered() -> None:
    for prompt in ("<|im_start|>user\nA newt?<|im_end|>\n<|im_start|>assistant\n", "[INST] A newt? [/INST]"):
        [warning] = of(PAIR, {**PAIR, "prompt": prompt}).warnings
        assert warning.startswith(
            "1 of 2 sampled rows hold marks of a chat template (<|im_start|>, [INST] and the like)"
        )
        assert "newt" not in warning


def test_transcripts_that_end_with_a_question() -> None:
    [warning] = of({"text": "Human: A newt?\n\nAssistant: Yes.\n\nHuman: Sure?"}).warnings
    assert warning.startswith("1 of 1 sampled conversations in text end with a turn of the user, first in row 0 ")
    assert "COLUMN" not in warning


def test_labels_of_kto_that_are_0_or_1() -> None:
    row = {"prompt": "What is a newt?", "completion": "An amphibian."}
    for bad, good in ((0, 1), ("0", "1"), (0.0, 1.0)):
        for rows in (
            [{**row, "label": bad}, {**row, "label": good}],
            [{**PAIR, "kto_tag": bad}, {**PAIR, "kto_tag": 1}],
        ):
            [warning] = of(*rows).warnings
            assert "the answers of 1 of 2 sampled rows are labelled false" in warning
    assert of({**row, "label": 0}, {**row, "label": 3}).warnings == ()


@pytest.mark.parametrize("column", ["reasoning", "Complex_CoT", "thinking", "model_rationale"])
def test_reasoning_beside_the_answer_is_said(column: str) -> None:
    [warning] = of(PAIR, {**PAIR, column: "It hatches."}).warnings
    assert warning.startswith(f"columns that may be the first part of the answer are not read: {column} (row 1); rows")
    assert of({**PAIR, column: ""}).warnings == ()


def test_rows_of_several_splits_are_said() -> None:
    for values in (("train", "test"), ("Training", "held out")):
        [warning] = of(*({**PAIR, "split": value} for value in values)).warnings
        assert warning.startswith("split has 2 values among the sampled rows, as of train and test")
    for values in (("train", "train"), ("en", "de")):
        assert of(*({**PAIR, "split": value} for value in values)).warnings == ()
