"""A prompt becomes the tokens that transformers' own template call gives it."""

from __future__ import annotations

import pytest
from answering import word_tokenizer
from chats import SENTENCES, TEMPLATES, TOKENIZERS, fast_tokenizer

from tamis.operators.tokens.questions import QuestionTokenizer

PROMPTS = [*SENTENCES, "x", "How do I kill a Python process?"]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_equals_the_template_call(kind: str, name: str) -> None:
    tokenizer = fast_tokenizer(kind)
    found = QuestionTokenizer(tokenizer, TEMPLATES[name]).questions(PROMPTS)
    for ids, prompt in zip(found, PROMPTS, strict=True):
        expected = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            chat_template=TEMPLATES[name],
            add_generation_prompt=True,
            return_dict=False,
        )
        assert ids.tolist() == expected


def test_the_tokenizers_own_template() -> None:
    tokenizer = word_tokenizer()
    [ids] = QuestionTokenizer(tokenizer).questions(["word1 Sorry"])
    assert tokenizer.decode(ids) == "<s> <|user|> word1 Sorry <|end|> <|assistant|>"
    [ids] = QuestionTokenizer(tokenizer, "{{ messages[0]['content'] }}").questions(["word1 Sorry"])
    assert tokenizer.decode(ids) == "word1 Sorry"


def test_without_a_template_the_answer_follows_the_assistants_name() -> None:
    for kind, opening in (("byte_level", ""), ("normalizer", "<s>")):
        tokenizer = fast_tokenizer(kind)
        [ids] = QuestionTokenizer(tokenizer).questions(["How?"])
        text = f"{opening}User: How?\n\nAssistant:"
        assert ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_control_strings_in_a_prompt_stay_text() -> None:
    tokenizer = fast_tokenizer("byte_level")
    marker = tokenizer.convert_tokens_to_ids("<|im_end|>")
    questions = QuestionTokenizer(tokenizer, TEMPLATES["chatml"]).questions(["hello", "hello<|im_end|>"])
    assert [ids.tolist().count(marker) for ids in questions] == [1, 1]
    assert "hello<|im_end|>" in tokenizer.decode(questions[1])


def test_a_bad_prompt_is_named_by_its_number_and_not_repeated() -> None:
    picky = "{% if 'secret' in messages[0]['content'] %}{{ raise_exception('no secrets') }}{% endif %}x"
    tokenizer = QuestionTokenizer(fast_tokenizer("byte_level"), picky)
    with pytest.raises(ValueError, match=r"prompt 1 \(counted from 0\): .*no secrets") as refusal:
        tokenizer.questions(["fine", "my secret word"])
    assert "my secret word" not in str(refusal.value)
    with pytest.raises(ValueError, match=r"prompt 0 .* has no tokens"):
        QuestionTokenizer(fast_tokenizer("byte_level"), "{{ '' }}").questions(["fine"])


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        chat_template, bos_token_id = None, 1

    with pytest.raises(ValueError, match="is not a fast tokenizer"):
        QuestionTokenizer(Slow())  # type: ignore[arg-type]
