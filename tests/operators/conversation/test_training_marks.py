"""Which turns are trained on: the last of them is the sample's answer, and the others have no loss."""

from __future__ import annotations

from typing import Any

import pytest

from tamis.operators.conversation.messages import Conversation, Dialect, normalise
from tamis.operators.problems import UNSCORED, RowProblem

MESSAGES = Dialect.of("messages", messages="messages")


def read(*marks: dict[str, Any]) -> Conversation:
    """A chat in which the answers have these marks."""
    turns = []
    for number, mark in enumerate(marks):
        turns += [
            {"role": "user", "content": f"q{number}", "weight": 1, "train": False, "loss_weight": 0.0},
            {"role": "assistant", "content": f"a{number}", **mark},
        ]
    return normalise({"messages": turns}, MESSAGES)


OFF: list[dict[str, Any]] = [
    {"weight": 0},
    {"weight": 0.0},
    {"weight": "0"},
    {"loss_weight": 0.0},
    {"train": False},
    {"training": False},
    {"trainable": "false"},
    {"loss": False},
    {"loss": 0},
    {"weight": 0, "train": False},
]
ON: list[dict[str, Any]] = [
    {},
    {"weight": 1},
    {"weight": 0.5},
    {"loss_weight": 2.0},
    {"train": True},
    {"loss": "true"},
    {"weight": None, "train": None, "mask": None},
]


@pytest.mark.parametrize("off", OFF)
@pytest.mark.parametrize("on", ON)
def test_the_last_trained_turn_is_the_answer(off: dict[str, Any], on: dict[str, Any]) -> None:
    found = read(off, on, on, off)
    assert found.messages[-1]["content"] == "a2"
    assert found.answers == [3, 5]
    assert read(on, on, off).trained is None
    assert all(set(message) == {"role", "content"} for message in found.messages)


@pytest.mark.parametrize("off", OFF)
def test_no_trained_turn(off: dict[str, Any]) -> None:
    with pytest.raises(RowProblem) as caught:
        read(off, off)
    assert caught.value.code == "no_trained_turn"
    assert caught.value.code in UNSCORED


def test_the_turns_of_a_prompt_are_not_trained_on() -> None:
    """As TRL has no loss on them, though the assistant may be among them."""
    user, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    pair = Dialect.of("pair", prompt="prompt", response="completion")
    for completion, expected in (("b", [3]), ([answer], [3]), ([answer, user, answer], [3, 5])):
        found = normalise({"prompt": [user, answer, user], "completion": completion}, pair)
        assert found.answers == expected
    with pytest.raises(RowProblem, match="no_response"):
        normalise({"prompt": [user, answer, user], "completion": [user]}, pair)


def test_a_turn_that_is_not_trained_on_may_be_empty() -> None:
    assert read({"content": "", "weight": 0}, {}).messages[1] == {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    "mark",
    [
        {"mask": True},
        {"mask": 0},
        {"train_detail": [{"begin_offset": 0, "end_offset": 3, "train": False}]},
        {"weight": 1, "train": False},
        {"weight": -1},
        {"weight": float("nan")},
        {"weight": "heavy"},
        {"weight": [1]},
        {"train": 0.5},
        {"loss": 1.37},
    ],
)
def test_a_mark_that_can_be_read_in_two_ways_is_refused(mark: dict[str, Any]) -> None:
    with pytest.raises(RowProblem) as caught:
        read({}, mark)
    assert caught.value.code == "unclear_weight"


def test_both_meanings_of_mask_are_named() -> None:
    with pytest.raises(RowProblem, match=r"`not trained on`.*`trained on`.*rename it to `train`"):
        read({"mask": 1})
