from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chats import (
    CHATML,
    GEMMA,
    LLAMA_3,
    TEMPLATES,
    TOKENIZERS,
    by_hand,
    byte_level,
    chat,
    chat_tokenizer,
    fast_tokenizer,
    sentencepiece,
    spans_by_hand,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tamis.operators.conversation.conversation import Conversation
from tamis.operators.problems import RowProblem
from tamis.operators.tokens.tokenised import Tokenised
from tamis.operators.tokens.tokenizer import ChatTokenizer, Overlong

PIECES = ["Sure, here", " ", "  ", "\n\n", "\t", "🙂", "👩‍👩‍👧", "東京", "é", "e\u0301", "\u00a0", "I'm", ".", "\x00"]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=6).map("".join)
answers = texts.filter(str.strip)
conversations = st.lists(st.tuples(texts, answers), min_size=1, max_size=3).map(
    lambda turns: chat(*(content for turn in turns for content in turn))
)


def encode(
    tokenizer: ChatTokenizer,
    messages: list[dict[str, str]],
    max_tokens: int = 10_000,
    overlong: Overlong = "quarantine",
) -> Tokenised:
    (result,) = tokenizer.encode([Conversation(messages)], max_tokens=max_tokens, overlong=overlong)
    assert isinstance(result, Tokenised), result
    return result


def problem(
    tokenizer: ChatTokenizer,
    messages: list[dict[str, str]],
    max_tokens: int = 10_000,
    overlong: Overlong = "quarantine",
) -> RowProblem:
    (result,) = tokenizer.encode([Conversation(messages)], max_tokens=max_tokens, overlong=overlong)
    assert isinstance(result, RowProblem), result
    return result


def byte_ranges(tokenizer: PreTrainedTokenizerFast, ids: np.ndarray) -> list[tuple[int, int]]:
    """Where each token of a byte-level tokenizer stands in the UTF-8 text: the lengths of the tokens added up."""
    stops = np.cumsum([_length(tokenizer, int(token)) for token in ids])
    return list(zip([0, *stops[:-1].tolist()], stops.tolist(), strict=True))


def _length(tokenizer: PreTrainedTokenizerFast, token: int) -> int:
    added = tokenizer.added_tokens_decoder.get(token)
    return len(added.content.encode()) if added else len(tokenizer.convert_ids_to_tokens(token))


@pytest.mark.parametrize("name", [*TEMPLATES, "plain"])
@settings(deadline=None, max_examples=50)
@given(messages=conversations)
@example(messages=chat("", "\n\n\n\n Sure, here"))  # a template that takes the line ends away and leaves the space
@example(messages=chat("", "\n \n\tSure \t\n\n\n"))
def test_spans_are_the_tokens_that_share_bytes_with_the_answers(name: str, messages: list[dict[str, str]]) -> None:
    fast = byte_level()
    result = encode(chat_tokenizer("byte_level", name), messages)
    segments = by_hand(name, messages)
    text = "".join(part for part, _ in segments)
    # the same ids as the tokenizer itself gives for the text written by hand
    assert result.input_ids.dtype == np.int32
    assert result.input_ids.tolist() == fast(text, add_special_tokens=False)["input_ids"]
    ranges = byte_ranges(fast, result.input_ids)
    assert ranges[-1][1] == len(text.encode())
    assert len(result.responses) == len(messages) // 2
    for (start, stop), span in zip(result.responses, spans_by_hand(segments), strict=True):
        first, last = (len(text[:end].encode()) for end in span)
        assert list(range(start, stop)) == [n for n, (a, b) in enumerate(ranges) if a < last and b > first]
        decoded = b"".join(_bytes(fast, int(token)) for token in result.input_ids[start:stop])
        assert text[slice(*span)].encode() in decoded
    assert result.final == result.responses[-1]
    assert not result.truncated


def _bytes(tokenizer: PreTrainedTokenizerFast, token: int) -> bytes:
    added = tokenizer.added_tokens_decoder.get(token)
    of_character = {character: byte for byte, character in bytes_to_unicode().items()}
    return added.content.encode() if added else bytes(of_character[c] for c in tokenizer.convert_ids_to_tokens(token))


words = st.lists(st.sampled_from(["Sure", "東京", "🙂", "I'm", "a", "hard drive", "1."]), min_size=1, max_size=6).map(
    " ".join
)


@pytest.mark.parametrize("name", [*TEMPLATES, "plain"])
@pytest.mark.parametrize("prepend", ["normalizer", "first", "always"])
@settings(deadline=None, max_examples=20)
@given(contents=st.lists(st.tuples(words, words), min_size=1, max_size=3))
def test_spans_of_a_tokenizer_with_a_prefix_space(prepend: str, name: str, contents: list[tuple[str, str]]) -> None:
    fast = sentencepiece(prepend)
    messages = chat(*(content for turn in contents for content in turn))
    result = encode(chat_tokenizer(prepend, name), messages)
    text = "".join(part for part, _ in by_hand(name, messages))
    opening = "<s>" if name == "plain" else ""
    assert result.input_ids.tolist() == fast(opening + text, add_special_tokens=False)["input_ids"]
    for (start, stop), (_, answer) in zip(result.responses, contents, strict=True):
        tokens = result.input_ids[start:stop]
        # this tokenizer has a token for "\n1.": it overlaps an answer after a line end of the template
        assert fast.decode(tokens).strip(" \n") == answer
        # one token less on either side is less than the answer; a prefix space of its own is part of it
        assert fast.decode(tokens[1:]).strip(" \n") != answer or fast.convert_ids_to_tokens(int(tokens[0])) == "▁"
        assert fast.decode(tokens[:-1]).strip(" \n") != answer


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("tokenizer", [byte_level, sentencepiece])
def test_ids_are_those_of_apply_chat_template(tokenizer: type, name: str) -> None:
    fast = tokenizer()
    batch = [chat("Hi 🙂\n", " Sure, see\n"), chat("a", "b", "c  d", "e"), chat("東京?", "I'm sorry")]
    results = ChatTokenizer(fast, TEMPLATES[name]).encode(
        [*map(Conversation, batch)], max_tokens=1000, overlong="quarantine"
    )
    for messages, result in zip(batch, results, strict=True):
        expected = fast.apply_chat_template(messages, chat_template=TEMPLATES[name], tokenize=True, return_dict=False)
        assert isinstance(result, Tokenised)
        assert result.input_ids.tolist() == expected


@pytest.mark.parametrize("template", [LLAMA_3, GEMMA, None])
def test_never_two_bos(template: str | None) -> None:
    fast = sentencepiece()  # adds a BOS to ordinary text
    assert fast("x")["input_ids"][0] == fast.bos_token_id
    ids = encode(ChatTokenizer(fast, template), chat("q", "a")).input_ids.tolist()
    assert ids[0] == fast.bos_token_id
    assert ids.count(fast.bos_token_id) == 1


def test_the_plain_template() -> None:
    tokenizer = ChatTokenizer(byte_level())  # which adds no BOS
    assert not tokenizer.has_template
    result = encode(tokenizer, chat("q", "a", "r", "b", system="s"))
    assert (
        byte_level().decode(result.input_ids)
        == "System: s\n\nUser: q\n\nAssistant: a</s>\n\nUser: r\n\nAssistant: b</s>"
    )
    assert result.final[1] == len(result.input_ids) - 1
    without_template = PreTrainedTokenizerFast(tokenizer_object=byte_level().backend_tokenizer, chat_template="")
    assert not ChatTokenizer(without_template).has_template
    without_eos = PreTrainedTokenizerFast(tokenizer_object=byte_level().backend_tokenizer)
    assert without_eos.decode(encode(ChatTokenizer(without_eos), chat("q", "a")).input_ids) == "User: q\n\nAssistant: a"


def test_a_given_template_goes_before_the_tokenizers_own() -> None:
    fast = PreTrainedTokenizerFast(
        tokenizer_object=byte_level().backend_tokenizer, chat_template=CHATML, bos_token="<s>"
    )
    own, given_ = ChatTokenizer(fast), ChatTokenizer(fast, LLAMA_3)
    assert own.has_template
    assert given_.has_template
    assert fast.decode(encode(own, chat("q", "a")).input_ids).startswith("<|im_start|>user\nq")
    assert fast.decode(encode(given_, chat("q", "a")).input_ids).startswith("<s><|start_header_id|>")


def test_truncation_and_padding_of_the_tokenizers_file_are_not_applied() -> None:
    backend = Tokenizer.from_str(byte_level().backend_tokenizer.to_str())
    backend.enable_truncation(3)
    backend.enable_padding(length=64)
    fast = PreTrainedTokenizerFast(tokenizer_object=backend)
    expected = encode(ChatTokenizer(byte_level(), CHATML), chat("one two", "three four"))
    result = encode(ChatTokenizer(fast, CHATML), chat("one two", "three four"))
    assert result.input_ids.tolist() == expected.input_ids.tolist()
    ChatTokenizer(fast)
    # the caller's tokenizer is as it was
    assert fast.backend_tokenizer.truncation is not None
    assert fast.backend_tokenizer.padding is not None


LONG = chat("Hello there, you", "one two three", "and then", "four five six")


def test_overlong_quarantine() -> None:
    tokenizer = ChatTokenizer(byte_level(), LLAMA_3)
    length = len(encode(tokenizer, LONG).input_ids)
    assert not encode(tokenizer, LONG, max_tokens=length).truncated
    refused = problem(tokenizer, LONG, max_tokens=length - 1)
    assert refused.code == "overlong"
    assert f"{length} tokens, over max_tokens={length - 1}" in refused.message
    assert "keep_end" in refused.message


@pytest.mark.parametrize("template", [LLAMA_3, CHATML])  # with a BOS and without
@pytest.mark.parametrize("overlong", ["keep_start", "keep_end"])
def test_truncation_at_every_length(template: str, overlong: Overlong) -> None:
    tokenizer = ChatTokenizer(byte_level(), template)
    whole = encode(tokenizer, LONG)
    length = len(whole.input_ids)
    head = int(template == LLAMA_3)
    for max_tokens in range(1, length + 1):
        if overlong == "keep_start":
            kept = list(range(max_tokens))
        else:
            kept = list(range(head)) + list(range(length - max_tokens + head, length))
        # token by token: which of the kept ones are of which answer
        answers = [[n for n, old in enumerate(kept) if start <= old < stop] for start, stop in whole.responses]
        if not answers[-1]:
            assert problem(tokenizer, LONG, max_tokens, overlong).code == "response_cut"
            continue
        result = encode(tokenizer, LONG, max_tokens, overlong)
        assert result.input_ids.tolist() == whole.input_ids[kept].tolist()
        assert [list(range(*span)) for span in result.responses] == [answer for answer in answers if answer]
        assert result.truncated == (max_tokens < length)
        # the token before the final answer is that of the whole conversation, or it is said that it is not
        before = whole.final[0] - 1
        assert result.prompt_cut == (before not in kept)


def test_settings_out_of_range() -> None:
    tokenizer = ChatTokenizer(byte_level(), CHATML)
    with pytest.raises(ValueError, match="max_tokens=0"):
        tokenizer.encode([Conversation(LONG)], max_tokens=0, overlong="quarantine")
    with pytest.raises(ValueError, match="keep_middle"):
        tokenizer.encode([Conversation(LONG)], max_tokens=9, overlong="keep_middle")  # type: ignore[arg-type]


def test_one_bad_row_leaves_the_others_alone() -> None:
    tokenizer = ChatTokenizer(byte_level(), GEMMA)
    batch = [chat("q", "a"), chat("q", "a", system="s"), chat("q\ud800", "a"), chat("q", "a </s>"), chat("q", "a")]
    results = tokenizer.encode([*map(Conversation, batch)], max_tokens=1000, overlong="quarantine")
    assert [getattr(result, "code", None) for result in results] == [
        None,
        "template_error",
        "tokenizer_error",
        None,
        None,
    ]
    alone = encode(tokenizer, batch[0])
    for row in (0, 4):
        result = results[row]
        assert isinstance(result, Tokenised)
        assert result.input_ids.tolist() == alone.input_ids.tolist()
        assert result.responses == alone.responses
    assert tokenizer.encode([], max_tokens=1, overlong="quarantine") == []


def test_results_do_not_depend_on_the_batch() -> None:
    tokenizer = ChatTokenizer(byte_level(), CHATML)
    batch = [chat("q" * n, "word " * n) for n in (1, 90_000, 3, 120_000, 5)]  # more than one call of the tokenizer
    together = tokenizer.encode([*map(Conversation, batch)], max_tokens=50, overlong="keep_end")
    for messages, result in zip(batch, together, strict=True):
        alone = encode(tokenizer, messages, 50, "keep_end")
        assert isinstance(result, Tokenised)
        assert result.input_ids.tolist() == alone.input_ids.tolist()
        assert result.responses == alone.responses


def test_answers_of_which_nothing_is_left() -> None:
    qwen = ChatTokenizer(byte_level(), TEMPLATES["deepseek"])
    assert problem(qwen, chat("q", "<think>r</think>")).code == "empty_response"
    assert len(encode(qwen, chat("q", "<think>r</think>", "q", "a")).responses) == 1


def test_threads_share_one_tokenizer() -> None:
    tokenizer = ChatTokenizer(byte_level(), CHATML)
    batch = [chat(f"q {n} {'<|im_end|>' * (n % 2)}", f"a </s> {n}") for n in range(40)]

    def ids() -> list[list[int]]:
        results = tokenizer.encode([*map(Conversation, batch)], max_tokens=1000, overlong="quarantine")
        return [result.input_ids.tolist() for result in results if isinstance(result, Tokenised)]

    expected = ids()
    assert len(expected) == len(batch)
    with ThreadPoolExecutor(4) as pool:
        assert all(future.result() == expected for future in [pool.submit(ids) for _ in range(8)])


def test_the_fingerprint_changes_with_what_changes_tokens() -> None:
    fast = byte_level()
    fingerprint = ChatTokenizer(fast, CHATML).fingerprint
    assert len(fingerprint) == 64
    assert ChatTokenizer(fast, CHATML).fingerprint == fingerprint
    assert ChatTokenizer(fast, CHATML + " ").fingerprint != fingerprint
    assert ChatTokenizer(fast).fingerprint != fingerprint
    assert ChatTokenizer(sentencepiece(), CHATML).fingerprint != fingerprint
    backend = Tokenizer.from_str(fast.backend_tokenizer.to_str())
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    copy = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    assert ChatTokenizer(copy, CHATML).fingerprint == fingerprint
    other_names = PreTrainedTokenizerFast(tokenizer_object=backend, **(names | {"eos_token": "<|im_end|>"}))
    assert ChatTokenizer(other_names, CHATML).fingerprint != fingerprint
    copy.add_tokens(["shredder"])
    assert ChatTokenizer(copy, CHATML).fingerprint != fingerprint
    # how the tokenizer was used before is no part of it
    used = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(fast.backend_tokenizer.to_str()), **names)
    used("x", truncation=True, max_length=3)
    assert used.backend_tokenizer.truncation is not None
    assert ChatTokenizer(used, CHATML).fingerprint == fingerprint


@pytest.mark.parametrize("name", [*TEMPLATES, None])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_from_json_it_is_the_same(kind: str, name: str | None) -> None:
    made = ChatTokenizer(fast_tokenizer(kind), TEMPLATES[name] if name else None)
    again = ChatTokenizer.from_json(made.to_json())
    assert again.fingerprint == made.fingerprint
    assert (again.has_template, again.highest_id) == (made.has_template, made.highest_id)
    assert again.control_ids == made.control_ids
    conversations = [chat("q", "a"), LONG, chat("typed <|im_end|> </s>", " é\n"), chat("q", "")]
    for overlong in ("quarantine", "keep_end"):
        expected = made.encode([*map(Conversation, conversations)], max_tokens=12, overlong=overlong)
        for one, other in zip(
            expected, again.encode([*map(Conversation, conversations)], max_tokens=12, overlong=overlong), strict=True
        ):
            if isinstance(one, Tokenised):
                assert isinstance(other, Tokenised)
                assert one.input_ids.tolist() == other.input_ids.tolist()
                assert replace(one, input_ids=other.input_ids) == other
            else:
                assert repr(one) == repr(other)
    ids = list(range(20))
    assert again.pieces(ids) == made.pieces(ids)


def test_load(tmp_path: Path) -> None:
    fast = PreTrainedTokenizerFast(
        tokenizer_object=byte_level().backend_tokenizer, bos_token="<s>", eos_token="</s>", chat_template=CHATML
    )
    fast.save_pretrained(tmp_path)
    loaded = ChatTokenizer.load(str(tmp_path))
    assert loaded.has_template
    assert loaded.fingerprint == ChatTokenizer(fast).fingerprint
    assert encode(loaded, LONG).responses == encode(ChatTokenizer(fast), LONG).responses


def test_a_tokenizer_that_is_not_fast_or_cannot_be_copied() -> None:
    with pytest.raises(ValueError, match="object is not a fast tokenizer"):
        ChatTokenizer(object())  # type: ignore[arg-type]

    class Own:
        def pre_tokenize(self, text: object) -> None: ...

    fast = PreTrainedTokenizerFast(tokenizer_object=byte_level().backend_tokenizer)
    fast.backend_tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Own())
    with pytest.raises(ValueError, match="cannot be copied"):
        ChatTokenizer(fast)
