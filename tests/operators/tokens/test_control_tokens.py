from __future__ import annotations

import json

import pytest
from chats import CHATML, SPECIAL, TEMPLATES, TOKENIZERS, byte_level, chat, chat_tokenizer, fast_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tamis.operators.conversation.conversation import Conversation
from tamis.operators.problems import RowProblem
from tamis.operators.tokens.tokenised import Tokenised
from tamis.operators.tokens.tokenizer import ChatTokenizer

MARKERS = [*SPECIAL, "<｜User｜>", "<｜Assistant｜>"]
PIECES = [*MARKERS, "<|im_", "end|>", "<", "s>", "user\n", "x", " ", "\n", "🙂", "</think>"]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=2), max_size=5).map("".join)


def encode(tokenizer: ChatTokenizer, messages: list[dict[str, str]]) -> Tokenised | RowProblem:
    return tokenizer.encode([Conversation(messages)], max_tokens=10_000, overlong="quarantine")[0]


def tokens(tokenizer: ChatTokenizer, messages: list[dict[str, str]]) -> Tokenised:
    result = encode(tokenizer, messages)
    assert isinstance(result, Tokenised), result
    return result


@pytest.mark.parametrize("name", [*TEMPLATES, "plain"])
@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(deadline=None, max_examples=20)
@given(contents=st.lists(st.tuples(texts, texts.filter(str.strip)), min_size=1, max_size=3))
def test_no_control_token_but_the_templates(kind: str, name: str, contents: list[tuple[str, str]]) -> None:
    backend, tokenizer = fast_tokenizer(kind), chat_tokenizer(kind, name)
    written = set(SPECIAL) | ({"<｜User｜>", "<｜Assistant｜>"} if name == "deepseek" else set())
    control = {backend.convert_tokens_to_ids(token) for token in written}
    messages = chat(*(content for turn in contents for content in turn))
    result = encode(tokenizer, messages)
    if isinstance(result, RowProblem):
        # qwen_3 reads the answer: what it makes of a broken <think> may leave nothing, or nothing that can be found
        assert name in ("qwen_3", "deepseek")
        assert result.code in ("unstable_template", "empty_response")
        return
    neutral = tokens(tokenizer, chat(*("x" for turn in contents for _ in turn)))
    assert [i for i in result.input_ids if i in control] == [i for i in neutral.input_ids if i in control]
    assert not control & {i for start, stop in result.responses for i in result.input_ids[start:stop]}
    if kind == "byte_level":  # and nothing of the text is lost
        bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(backend.backend_tokenizer.to_str()))
        assert bare.decode(result.input_ids, clean_up_tokenization_spaces=False) == tokenizer._renderer.text(
            Conversation(messages)
        )


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_text_around_a_typed_marker_is_tokenised_as_ever(kind: str) -> None:
    backend, tokenizer = fast_tokenizer(kind), chat_tokenizer(kind, "chatml")
    typed = tokens(tokenizer, chat("Say <|im_end|> now", "The answer is 42", "again", " I can't")).input_ids.tolist()
    plain = tokens(tokenizer, chat("Say ------ now", "The answer is 42", "again", " I can't")).input_ids.tolist()
    end = backend.convert_tokens_to_ids("<|im_end|>")
    assert typed.count(end) == plain.count(end) == 4
    # from the end of the first turn on, and up to the marker
    assert typed[typed.index(end) :] == plain[plain.index(end) :]
    assert typed[:4] == plain[:4]


def test_a_typed_marker_that_the_tokenizer_makes_of_other_characters() -> None:
    """A normalizer may make a marker out of full-width characters: it is refused, not let through."""
    backend = Tokenizer.from_str(byte_level().backend_tokenizer.to_str())
    backend.normalizer = normalizers.NFKC()
    backend.add_special_tokens([AddedToken("<|im_start|>", special=True, normalized=True)])
    specification = json.loads(backend.to_str())
    for token in specification["added_tokens"]:
        token["normalized"] = token["special"]
    tokenizer = ChatTokenizer(
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(specification))), CHATML
    )
    result = encode(tokenizer, chat("＜|im_start|＞system", "a"))
    assert isinstance(result, RowProblem)
    assert result.code == "special_token_in_text"
    assert isinstance(encode(tokenizer, chat("<|im_start|>system", "a")), Tokenised)


def test_a_marker_put_together_by_the_template_from_two_messages() -> None:
    template = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
    result = encode(ChatTokenizer(byte_level(), template), chat("<|im_", "end|> a"))
    assert isinstance(result, RowProblem)
    assert result.code == "special_token_in_text"


def test_markers_that_take_in_white_space() -> None:
    """Phi-3's markers swallow the white space after them; the answer's own tokens start after them all the same."""
    backend = Tokenizer.from_str(byte_level().backend_tokenizer.to_str())
    specification = json.loads(backend.to_str())
    for token in specification["added_tokens"]:
        token["rstrip"] = token["content"] == "<|im_start|>"
        token["lstrip"] = token["content"] == "<|im_end|>"
    fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(specification)))
    template = "{% for m in messages %}{{ '<|im_start|>' + m.content + '<|im_end|>' }}{% endfor %}"
    tokenizer = ChatTokenizer(fast, template)
    for question in ("q", " \n q </s> <|im_end|> r"):
        result = tokens(tokenizer, chat(question, "\n Sure \n"))
        start, stop = result.final
        assert fast.decode(result.input_ids[start:stop]) == "Sure"
        assert fast.convert_ids_to_tokens(result.input_ids[[start - 1, stop]]) == ["<|im_start|>", "<|im_end|>"]
        assert result.input_ids.tolist().count(fast.convert_tokens_to_ids("<|im_end|>")) == 2


def test_a_tokenizer_that_cannot_tell_them_apart_refuses_the_row() -> None:
    """A model with the marker as a word of its own vocabulary gives it even with special tokens switched off."""
    words = ["<unk>", "<s>", "</s>", "q", "a", "x"]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer = ChatTokenizer(fast)
    assert isinstance(encode(tokenizer, chat("q and more", "a")), Tokenised)
    result = encode(tokenizer, chat("q </s>", "a"))
    assert isinstance(result, RowProblem)
    assert result.code == "special_token_in_text"


def test_the_models_own_unknown_token_is_ordinary_text() -> None:
    backend = Tokenizer(
        models.BPE({"<unk>": 0, "a": 1, "q": 2, "<": 3, "u": 4, "n": 5, "k": 6, ">": 7}, [], unk_token="<unk>")
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    tokenizer = ChatTokenizer(fast, "{% for m in messages %}{{ m.content }}{% endfor %}")
    assert tokens(tokenizer, chat("q東", "a")).input_ids.tolist() == [2, 0, 1]
    assert tokens(tokenizer, chat("q<unk>", "a")).input_ids.tolist() == [2, 3, 4, 5, 6, 7, 1]


def test_tags_of_an_answer_stay_what_the_tokenizer_makes_of_them() -> None:
    backend = byte_level()
    result = tokens(ChatTokenizer(backend, CHATML), chat("q </s>", "<think>\nr\n</think>\n\na"))
    start, stop = result.final
    assert backend.convert_ids_to_tokens(result.input_ids[start:stop])[0] == "<think>"
    assert backend.convert_tokens_to_ids("</think>") in result.input_ids[start:stop]
