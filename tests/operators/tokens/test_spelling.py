"""Pieces of text per token: put together they are the text, and a character in several tokens stands with the last."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tamis.operators.tokens.spelling import in_words, pieces

SENTENCES = ["Hello world, how do you boil an egg?", "Sure! Here is what you asked for.", "naïve café 日本語"] * 4


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    return tokenizer


def metaspace() -> Tokenizer:
    """As SentencePiece's models: the decoder drops the white space before the first token."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first"), decoders.Fuse()]
    )
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=400, special_tokens=special))
    return tokenizer


TOKENIZERS = {"byte level": byte_level(), "metaspace": metaspace()}


def spelled(kind: str, text: str) -> tuple[list[str], str]:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    found = pieces(lambda some: tokenizer.decode(some, skip_special_tokens=False), ids)
    assert len(found) == len(ids)
    return found, tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_white_space_stands_with_its_token(kind: str) -> None:
    found, _ = spelled(kind, "Hello world, how do you")
    assert "".join(found) == "Hello world, how do you"
    assert any(piece.startswith(" ") for piece in found)


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=30))
def test_the_pieces_of_a_text_are_the_text(text: str) -> None:
    found, _ = spelled("byte level", text)
    assert "".join(found) == text


def test_a_character_of_several_tokens_stands_with_the_last() -> None:
    found, _ = spelled("byte level", "x 🎉🎉 y")
    assert found.count("🎉") == 2
    assert "".join(found) == "x 🎉🎉 y"


def test_no_tokens_have_no_pieces() -> None:
    assert pieces(lambda some: "", []) == []


def test_half_a_character_at_the_end_is_shown_as_broken() -> None:
    tokenizer = TOKENIZERS["byte level"]
    ids = tokenizer.encode("ab🎉").ids[:-1]
    assert "".join(pieces(lambda some: tokenizer.decode(some), ids)).startswith("ab")


@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=20))
def test_a_byte_level_name_reads_as_its_text(text: str) -> None:
    [(name, _)] = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text) or [("", 0)]
    assert in_words(name) == text


def test_bytes_that_are_no_whole_character_are_named() -> None:
    assert in_words("ĠâĢ") == " ⟨E2⟩⟨80⟩"
    assert in_words("Ċ") == "\n"
    assert in_words("a\u0142") == "a⟨A0⟩"
    for other in ("<0xE2>", "▁the", "<|im_end|>", "日本", ""):
        assert in_words(other) == other
