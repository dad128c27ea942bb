from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.conversation.turns import split_turns
from tamis.operators.problems import RowProblem

A, U, S = "assistant", "user", "system"
C = [(A, "c"), (U, "d")]


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ("\n\nHuman: a b\n\nAssistant: c\n\nHuman: d\n\nAssistant: e", [(U, "a b"), *C, (A, "e")]),
        ("User: a\nAssistant: b\nUser: c\nAssistant: d", [(U, "a"), (A, "b"), (U, "c"), (A, "d")]),
        ("Human: a\r\n\r\nAssistant: b", [(U, "a"), (A, "b")]),
        ("System: be kind\nUser: a\nAssistant: b", [(S, "be kind"), (U, "a"), (A, "b")]),
        ("Assistant: hello\n\nHuman: a\n\nAssistant: b", [(A, "hello"), (U, "a"), (A, "b")]),
        ("Human:a\nAssistant:b", [(U, "a"), (A, "b")]),
        ("\n\nHuman: a\n\nAssistant:", [(U, "a"), (A, "")]),
        ("\n\nHuman: only a question", [(U, "only a question")]),
        ("### Instruction:\na\n\n### Response:\nb", [(U, "a"), (A, "b")]),
        ("It.\n\n### Instruction:\na\n\n### Input:\ni\n\n### Response:\nb", [(S, "It."), (U, "a\n\ni"), (A, "b")]),
        ("### Instruction:\na\n\n### Input:\n\n### Response:\nb", [(U, "a"), (A, "b")]),
        ("### Human: a b### Assistant: c### Human: d", [(U, "a b"), (A, "c"), (U, "d")]),
    ],
)
def test_layouts(text: str, turns: list[tuple[str, str]]) -> None:
    assert split_turns(text) == turns


def test_lines_that_look_like_labels_stay_in_their_turn() -> None:
    # hh-rlhf separates by blank lines: a label at the start of a mere line is content
    quoted = "Write a dialogue.\nHuman: hi\nAssistant: hello\nEnd"
    assert split_turns(f"\n\nHuman: {quoted}\n\nAssistant: ok") == [(U, quoted), (A, "ok")]
    # User: and System: are nobody's labels in a Human:/Assistant: text
    answer = "a table\n\nUser: root\n\nSystem: Linux"
    assert split_turns(f"\n\nHuman: q\n\nAssistant: {answer}") == [(U, "q"), (A, answer)]
    # a blank line before a later label does not make single lines content where the first answer had none
    assert split_turns("User: a\nAssistant: b\nUser: c\n\nAssistant: d") == [
        (U, "a"),
        (A, "b"),
        (U, "c"),
        (A, "d"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "just prose",
        "He said. Human: no",
        "Humans: a\nAssistant: b",
        "### Input:\na\n### Response:\nb",
    ],
)
def test_no_turns(text: str) -> None:
    with pytest.raises(RowProblem) as caught:
        split_turns(text)
    assert caught.value.code == "no_turns"


content = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: ":" not in text and text.strip() == text
)


@given(st.lists(content, min_size=1, max_size=6))
def test_what_was_joined_is_found_again(contents: list[str]) -> None:
    labels = ["Human", "Assistant"]
    text = "".join(f"\n\n{labels[n % 2]}: {content}" for n, content in enumerate(contents))
    assert split_turns(text) == [((U, A)[n % 2], content) for n, content in enumerate(contents)]


@given(
    st.lists(st.sampled_from(["Human:", "Assistant:", "System:", "### Input:", "### Response:", "###", "\n", " ", "x"]))
)
def test_any_mixture_of_labels_is_read_or_refused(pieces: list[str]) -> None:
    try:
        turns = split_turns("".join(pieces))
    except RowProblem:
        return
    assert turns
    assert {role for role, _ in turns} <= {U, A, S}


def test_a_very_long_text_takes_no_longer_than_its_length() -> None:
    text = "\n\nHuman: " + "\n " * 300_000 + "x\n\nAssistant: " + " \n" * 300_000 + "y"
    assert [role for role, _ in split_turns(text)] == [U, A]
