"""The whole table of the layer search equals that of the published way, and the model is left as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from answering import EOS, Published, prompts, save_chat, word_tokenizer
from chats import TOKENIZERS, fast_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_representations import BLOCKS, CONFIGS, VOCABULARY

from tamis.operators.generation.refusals import is_refusal
from tamis.operators.generation.scaled_answers import ScaledAnswers
from tamis.operators.statistics.sensitivity import FACTORS

pytestmark = pytest.mark.usefixtures("one_thread")

CELLS = [(block, factor) for block in range(BLOCKS) for factor in FACTORS]
TEXTS = prompts(14)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat(CONFIGS["llama"], tmp_path_factory.mktemp("llama"))


@pytest.fixture
def scaled_answers(llama: Path) -> ScaledAnswers:
    return ScaledAnswers.load(llama, device="cpu")


def bits(answers: ScaledAnswers) -> dict[str, torch.Tensor]:
    return {key: tensor.clone() for key, tensor in answers._generator.model.state_dict().items()}


def assert_untouched(answers: ScaledAnswers, before: dict[str, torch.Tensor]) -> None:
    after = answers._generator.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert not any("forward" in vars(block) for block in answers._blocks)


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "mixtral"])
def test_the_whole_table_equals_the_published_way(name: str, tmp_path: Path) -> None:
    folder = save_chat(CONFIGS[name], tmp_path)
    published = Published(folder)
    answers = ScaledAnswers.load(folder, dtype="float32", device="cpu")
    before = bits(answers)
    texts = TEXTS[4:]
    unscaled = answers.prepare(texts, new_tokens=24)
    table = {cell: answers.refusals(*cell) for cell in CELLS}
    assert unscaled == published.refusals(texts, new_tokens=24)
    assert table == {cell: published.refusals(texts, cell, new_tokens=24) for cell in CELLS}
    assert_untouched(answers, before)
    assert len(set(table.values())) > 1
    assert any(answer[-1] in EOS and len(answer) < 24 for answer in published.answers(texts, new_tokens=24))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ("llama", "gpt2", "phi3", "mixtral")])
def test_every_architecture(name: str, tmp_path: Path) -> None:
    folder = save_chat(CONFIGS[name], tmp_path)
    published = Published(folder)
    answers = ScaledAnswers.load(folder, dtype="float32", device="cpu")
    before = bits(answers)
    texts = prompts(8, seed=1)
    assert answers.prepare(texts, new_tokens=16) == published.refusals(texts, new_tokens=16)
    for cell in [(0, 0.7), (1, 1.3), (3, 0.8)]:
        assert answers.refusals(*cell) == published.refusals(texts, cell, new_tokens=16)
    assert_untouched(answers, before)


def test_a_factor_of_one_is_the_unscaled_model(scaled_answers: ScaledAnswers) -> None:
    unscaled = scaled_answers.prepare(TEXTS)
    assert [scaled_answers.refusals(block, 1.0) for block in range(BLOCKS)] == [unscaled] * BLOCKS


def test_a_cell_does_not_depend_on_the_cells_before_it(scaled_answers: ScaledAnswers) -> None:
    scaled_answers.prepare(TEXTS)
    table = {cell: scaled_answers.refusals(*cell) for cell in CELLS}
    for cell in reversed(CELLS):
        assert scaled_answers.refusals(*cell) == table[cell]


def test_the_number_of_rows_at_once_does_not_matter(llama: Path) -> None:
    loaded = ScaledAnswers.load(llama, device="cpu")
    model, info = loaded._generator.model, loaded.info
    few = ScaledAnswers(model, "model.layers", info, word_tokenizer(), stops=frozenset(EOS), max_rows=3)
    assert few.prepare(TEXTS) == loaded.prepare(TEXTS)
    assert [few.refusals(*cell) for cell in CELLS[::5]] == [loaded.refusals(*cell) for cell in CELLS[::5]]


def test_prompts_and_markers_can_be_changed(llama: Path, scaled_answers: ScaledAnswers) -> None:
    published = Published(llama)
    for texts, extra in ((TEXTS[:3], []), (TEXTS[3:9], ["WORD7", "word1 word2"]), (TEXTS[:1], ["word"])):
        assert scaled_answers.prepare(texts, markers=extra) == published.refusals(texts, extra=extra)
        assert scaled_answers.refusals(1, 0.7) == published.refusals(texts, (1, 0.7), extra=extra)


def test_the_last_token_of_an_answer_counts_and_no_further_one(llama: Path, scaled_answers: ScaledAnswers) -> None:
    published = Published(llama)
    most = published.answers(TEXTS)
    refused = []
    for tokens in range(1, 33):
        texts = [published.tokenizer.decode(answer[:tokens], skip_special_tokens=True) for answer in most]
        refused.append(sum(map(is_refusal, texts)))
    assert [scaled_answers.prepare(TEXTS, new_tokens=tokens) for tokens in range(1, 33)] == refused
    assert refused[0] < refused[-1]


def test_a_refusal_leaves_the_batch_at_once(scaled_answers: ScaledAnswers) -> None:
    """Every answer has a token of one of these words at its start: no second step is needed."""
    scaled_answers.prepare(TEXTS[:4], markers=["word", "can", "not", "sorry", "<"])
    steps: list[int] = []
    scaled_answers._generator.model.register_forward_pre_hook(lambda *_: steps.append(1))
    assert scaled_answers.refusals(2, 1.1) == 4
    assert len(steps) <= 3


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_an_answer_that_left_would_have_been_a_refusal(kind: str, scaled_answers: ScaledAnswers) -> None:
    """Whatever tokens follow: bytes that are no text, special ones, full stops that take white space away."""
    tokenizer = fast_tokenizer(kind)
    pieces = ["sorry", " sorry", "can", "not", " ", "'t", "\u2019", "t", " .", "n't", " do not", "é", "x"]
    parts = [tokenizer.encode(piece, add_special_tokens=False) for piece in pieces]
    parts += [tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in b"sorry"]), [1], [2]]
    parts += [[tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>")] for byte in (0x79, 0x20, 0xE2, 0x80, 0x99, 0xFF)]
    parts = [[token for token in part if token is not None] for part in parts]
    model, info = scaled_answers._generator.model, scaled_answers.info
    answers = ScaledAnswers(model, "model.layers", info, tokenizer)
    answers._markers = ("sorry ", "can do not")
    left = 0

    @settings(deadline=None, max_examples=300)
    @given(st.lists(st.sampled_from(parts), min_size=1, max_size=7))
    def check(chosen: list[list[int]]) -> None:
        nonlocal left
        tokens = [token for part in chosen for token in part]
        done = [end for end in range(1, len(tokens) + 1) if answers._has_refused(tokens[:end])]
        if done:
            left += 1
            assert is_refusal(answers._text(tokens), answers._markers)

    check()
    assert left > 20


class Fault:
    """A hook on the model that raises from its `after`-th run on, on batches of `rows` or more."""

    def __init__(self, answers: ScaledAnswers, error: BaseException, *, after: int = 1, rows: int = 1) -> None:
        self.error, self.left, self.rows = error, after, rows
        self.batches: list[int] = []
        self.handle = answers._generator.model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module: Any, args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        self.left -= 1
        self.batches.append(len(kwargs["input_ids"]))
        if self.left < 0 and self.batches[-1] >= self.rows:
            raise self.error


@pytest.mark.parametrize("error", [RuntimeError("a mistake"), KeyboardInterrupt()])
@pytest.mark.parametrize("after", [0, 1, 5])
def test_weights_are_the_same_bits_after_a_failure(
    scaled_answers: ScaledAnswers, error: BaseException, after: int
) -> None:
    before = bits(scaled_answers)
    scaled_answers.prepare(TEXTS)
    expected = scaled_answers.refusals(2, 0.7)
    fault = Fault(scaled_answers, error, after=after)
    with pytest.raises(type(error)):
        scaled_answers.refusals(2, 0.7)
    assert_untouched(scaled_answers, before)
    fault.handle.remove()
    assert scaled_answers.refusals(2, 0.7) == expected


@pytest.mark.parametrize("after", [0, 3])
def test_out_of_memory_halves_the_batch(llama: Path, scaled_answers: ScaledAnswers, after: int) -> None:
    unscaled = scaled_answers.prepare(TEXTS)
    expected = [scaled_answers.refusals(*cell) for cell in CELLS[::7]]
    before = bits(scaled_answers)
    fault = Fault(scaled_answers, torch.OutOfMemoryError("CUDA out of memory"), rows=4)
    assert [scaled_answers.refusals(*cell) for cell in CELLS[::7]] == expected
    assert fault.batches[0] == 14
    assert set(fault.batches[-40:]) <= {1, 2, 3}  # and it does not try again what did not fit
    assert_untouched(scaled_answers, before)
    fault.handle.remove()
    other = ScaledAnswers.load(llama, device="cpu")
    fault = Fault(other, torch.OutOfMemoryError("CUDA out of memory"), rows=4, after=after)
    assert other.prepare(TEXTS) == unscaled
    assert max(len(kept.batch.tokens) for kept in other._prompts) < 4
    assert [other.refusals(*cell) for cell in CELLS[::7]] == expected


def test_a_search_that_could_not_be_prepared_has_no_prompts(scaled_answers: ScaledAnswers) -> None:
    """Neither those of before nor the part that was done: a count of them would be silently wrong."""
    scaled_answers.prepare(TEXTS)
    fault = Fault(scaled_answers, RuntimeError("a mistake"), after=40)
    scaled_answers._max_rows = 2
    with pytest.raises(RuntimeError, match="a mistake"):
        scaled_answers.prepare(TEXTS)
    fault.handle.remove()
    with pytest.raises(ValueError, match="call prepare first"):
        scaled_answers.refusals(0, 0.7)


def test_a_prompt_that_never_fits_is_an_error(scaled_answers: ScaledAnswers) -> None:
    scaled_answers.prepare(TEXTS)
    Fault(scaled_answers, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        scaled_answers.refusals(0, 0.7)


def test_half_precision_scales_in_its_own_numbers(llama: Path) -> None:
    """bf16 rounds the product; one prompt at a time, so that the sums are the same, the answers are the twin's."""
    published = Published(llama, dtype=torch.bfloat16)
    answers = ScaledAnswers.load(llama, dtype="bfloat16", device="cpu")
    before = bits(answers)
    for text in TEXTS[:5]:
        assert answers.prepare([text]) == published.refusals([text])
        for cell in CELLS[::6]:
            assert answers.refusals(*cell) == published.refusals([text], cell)
    assert_untouched(answers, before)


def test_the_generation_config_names_the_ends(llama: Path, tmp_path: Path) -> None:
    published = Published(llama)
    expected = published.answers(TEXTS)
    folder = save_chat(CONFIGS["llama"], tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [50, EOS[1]]}))
    answers = ScaledAnswers.load(folder, device="cpu")
    assert answers._generator.stops == {50, *EOS}
    (folder / "generation_config.json").unlink()
    assert ScaledAnswers.load(folder, device="cpu")._generator.stops == set(EOS)
    assert any(answer[-1] == EOS[1] for answer in expected)


@pytest.mark.parametrize("content", ["{", "[]", '{"eos_token_id": "</s>"}', '{"eos_token_id": [2, null]}'])
def test_a_broken_generation_config_is_named(content: str, tmp_path: Path) -> None:
    folder = save_chat(CONFIGS["llama"], tmp_path)
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"generation_config\.json|eos_token_id"):
        ScaledAnswers.load(folder, device="cpu")


def test_what_cannot_be_asked(scaled_answers: ScaledAnswers) -> None:
    with pytest.raises(ValueError, match="call prepare first"):
        scaled_answers.refusals(0, 0.7)
    for texts, tokens in (([], 32), (TEXTS, 0)):
        with pytest.raises(ValueError, match="at least one of each"):
            scaled_answers.prepare(texts, new_tokens=tokens)
    scaled_answers.prepare(TEXTS[:2])
    for block in (-1, BLOCKS):
        with pytest.raises(ValueError, match="has blocks 0 to 3"):
            scaled_answers.refusals(block, 0.7)
    with pytest.raises(ValueError, match="empty refusal marker"):
        scaled_answers.prepare(TEXTS, markers=[" "])


def test_prompts_that_the_model_cannot_take_are_named(scaled_answers: ScaledAnswers) -> None:
    long = " ".join(["word1"] * 93)  # and four tokens of the template: 97, and 32 more than 128
    with pytest.raises(ValueError, match=r"prompt 1 \(counted from 0\) has 97 tokens; with 32"):
        scaled_answers.prepare(["word2", long])
    scaled_answers.prepare(["word2", long], new_tokens=31)
    with pytest.raises(ValueError, match="prompt 0") as refusal:
        ScaledAnswers(
            scaled_answers._generator.model,
            "model.layers",
            scaled_answers.info,
            word_tokenizer(),
            template="{{ raise_exception(messages[0]['content']) }}",
        ).prepare(["secret"])
    assert "secret" not in str(refusal.value)


def test_a_tokenizer_that_is_larger_than_the_model(llama: Path) -> None:
    loaded = ScaledAnswers.load(llama, device="cpu")
    tokenizer = word_tokenizer().__class__.from_pretrained(llama)
    tokenizer.add_tokens(["beyond"])
    answers = ScaledAnswers(loaded._generator.model, "model.layers", loaded.info, tokenizer)
    with pytest.raises(ValueError, match=f"token id {VOCABULARY}, outside the model's vocabulary of {VOCABULARY}"):
        answers.prepare(["beyond"])
