"""Texts made to take hours or gigabytes: each ends in seconds, as tokens or as a problem of its own."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tamis.operators.conversation.conversation import Conversation
from tamis.operators.conversation.messages import Dialect, normalise
from tamis.operators.conversation.turns import split_turns
from tamis.operators.problems import RowProblem
from tamis.operators.tokens.answers import unused_characters
from tamis.operators.tokens.tokenised import Tokenised
from tamis.operators.tokens.tokenizer import MOST_BYTES, ChatTokenizer

TRIMMING = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim | replace('ab', '') }}<|end|>{% endfor %}"


def chat(answers: list[str]) -> Conversation:
    turns = zip(["q"] * len(answers), answers, strict=True)
    return Conversation(
        [
            {"role": role, "content": text}
            for pair in turns
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
    )


def test_a_hundred_thousand_turns(tiny_model: Path) -> None:
    tokenizer = ChatTokenizer.load(str(tiny_model))
    [found] = tokenizer.encode([chat(["x"] * 50_000)], max_tokens=100, overlong="keep_end")
    assert isinstance(found, Tokenised)
    assert len(found.input_ids) == 100


def test_a_template_that_hides_a_hundred_thousand_answers_is_given_up(tiny_model: Path) -> None:
    tokenizer = ChatTokenizer(AutoTokenizer.from_pretrained(tiny_model), TRIMMING)
    few, many = chat(["x"] * 50 + [" aabb x "]), chat(["x"] * 50_000 + [" aabb x "])
    found, refused = tokenizer.encode([few, many], max_tokens=100_000, overlong="quarantine")
    assert isinstance(found, Tokenised)
    assert len(found.responses) == 51
    assert isinstance(refused, RowProblem)
    assert refused.code == "too_many_turns"


def test_more_than_any_model_reads_is_not_tokenised(tiny_model: Path) -> None:
    tokenizer = ChatTokenizer.load(str(tiny_model))
    began = time.process_time()
    texts = ["a" * MOST_BYTES, "é" * (MOST_BYTES // 2)]
    for found in tokenizer.encode([chat([text]) for text in texts], max_tokens=10, overlong="keep_end"):
        assert isinstance(found, RowProblem)
        assert found.code == "overlong"
    assert time.process_time() - began < 5


def test_a_text_that_holds_every_private_character(tiny_model: Path) -> None:
    private = "".join(map(chr, range(0x100000, 0x10FFFE)))
    assert unused_characters(private[:-2], 2) == (private[-2], private[-1])
    with pytest.raises(RowProblem, match="unsupported_content"):
        unused_characters(private[:-1], 2)
    [found] = ChatTokenizer.load(str(tiny_model)).encode([chat([private])], max_tokens=10, overlong="keep_end")
    assert isinstance(found, RowProblem)


@pytest.mark.parametrize(
    "text",
    [
        "### Instruction: a\n" + "### Input: b\n" * 300_000,
        "Human: a\n" * 300_000,
        "### Human: a" * 300_000,
        "Human:" + "\n   " * 1_000_000,
        "### Human:" + "### " * 1_000_000,
        " " * 4_000_000,
        "#" * 4_000_000,
    ],
    ids=["inputs", "labels", "guanaco", "blank lines", "hashes", "spaces", "one hash"],
)
def test_labels_are_found_in_linear_time(text: str) -> None:
    began = time.process_time()
    with suppress(RowProblem):
        split_turns(text)
    assert time.process_time() - began < 20


def test_a_key_twice_in_a_conversation_that_came_as_text() -> None:
    dialect = Dialect.of("messages", messages="messages")
    turn = '{"role": "user", "content": "harmless", "content": "other"}'
    with pytest.raises(RowProblem, match="duplicate_keys"):
        normalise({"messages": f'[{turn}, {{"role": "assistant", "content": "x"}}]'}, dialect)
