"""Batched answers are those of `generate`, one prompt at a time, token for token."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from answering import EOS, Published, prompts, save_chat
from hypothesis import given
from hypothesis import strategies as st
from test_representations import COMMON, CONFIGS, GROUPED, VOCABULARY
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma4TextConfig,
    Lfm2Config,
    MambaConfig,
    MptConfig,
    PreTrainedConfig,
    Qwen3NextConfig,
)

from tamis.operators.generation.answers import Generator, batches_of, make_batch
from tamis.operators.model.architecture import rope_boundaries
from tamis.operators.tokens.questions import QuestionTokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
ODD: dict[str, PreTrainedConfig] = {
    "bloom": BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=4, n_head=4),  # takes no positions
    "mpt": MptConfig(vocab_size=VOCABULARY, d_model=32, n_layers=4, n_heads=4, max_seq_len=128),
    "lfm2": Lfm2Config(**GROUPED, layer_types=["conv", "full_attention"] * 2),  # rows cannot leave its cache
    "qwen3_next": Qwen3NextConfig(
        **GROUPED,
        head_dim=8,
        layer_types=["linear_attention", "full_attention"] * 2,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=24,
        num_experts=4,
        num_experts_per_tok=2,
    ),
    "gemma4": Gemma4TextConfig(  # the upper blocks use the keys of the lower ones
        **{**COMMON, "num_key_value_heads": 2},
        head_dim=8,
        global_head_dim=8,
        num_kv_shared_layers=2,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"] * 2,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8,
    ),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return Published(save_chat(CONFIGS["llama"], tmp_path_factory.mktemp("llama")))


def generate(
    published: Published, texts: Sequence[str], new_tokens: int, max_rows: int = 6, **how: Any
) -> list[list[int]]:
    generator = Generator(published.model, frozenset(EOS))
    ids = QuestionTokenizer(published.tokenizer).questions(texts)
    answers: dict[int, list[int]] = {}
    lengths = np.array([len(row) for row in ids])
    with torch.inference_mode():
        for rows in batches_of(lengths, new_tokens, max_rows, rope_boundaries(published.model.config)):
            batch = make_batch([ids[row] for row in rows], new_tokens, CPU)
            found = generator.answers(batch, *generator.prefill(batch), **{"is_done": lambda answer: False, **how})
            answers.update(zip(rows.tolist(), found, strict=True))
    return [answers[row] for row in range(len(texts))]


@pytest.mark.parametrize("name", [*CONFIGS, *ODD])
def test_equals_generate(name: str, tmp_path: Path) -> None:
    published = Published(save_chat({**CONFIGS, **ODD}[name], tmp_path))
    texts = prompts(9, seed=len(name))
    assert generate(published, texts, 24) == published.answers(texts, new_tokens=24)


def test_answers_stop_at_any_of_the_ends_and_leave(llama: Published) -> None:
    texts = prompts(16)
    expected = llama.answers(texts)
    ends = {answer[-1] for answer in expected if len(answer) < 32}
    assert ends == set(EOS)
    batches: list[int] = []
    hook = llama.model.register_forward_pre_hook(
        lambda module, args, kwargs: batches.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    assert generate(llama, texts, 32, max_rows=16) == expected
    hook.remove()
    assert batches[0] == 16
    assert 0 < batches[-1] < 16
    assert sorted(batches, reverse=True) == batches


def test_an_answer_that_is_done_leaves_and_the_others_go_on(llama: Published) -> None:
    texts = prompts(8)
    whole = llama.answers(texts)
    cut = generate(llama, texts, 32, is_done=lambda answer: answer[0] % 2 == 0 and len(answer) == 3)
    assert cut == [answer[:3] if answer[0] % 2 == 0 else answer for answer in whole]
    assert any(len(short) < len(long) for short, long in zip(cut, whole, strict=True))
    assert generate(llama, texts, 32, is_done=lambda answer: True) == [answer[:1] for answer in whole]


def test_one_new_token(llama: Published) -> None:
    texts = prompts(5)
    assert generate(llama, texts, 1) == [answer[:1] for answer in llama.answers(texts, new_tokens=1)]


def test_greedy_is_all_that_is_applied(llama: Published) -> None:
    """`generate` obeys the repetition penalty of a generation config; the search does not."""
    texts = prompts(8)
    expected = generate(llama, texts, 24)
    other = copy.copy(llama)
    other.model = copy.deepcopy(llama.model)
    other.model.generation_config.update(repetition_penalty=5.0, suppress_tokens=[7, 8, 9])
    assert other.answers(texts, new_tokens=24) != expected
    assert generate(other, texts, 24) == expected


def test_padding_never_reaches_an_answer(llama: Published) -> None:
    """Whatever the embeddings of tokens are that no row holds, be it <pad> or another."""
    texts = prompts(6)
    expected = generate(llama, texts, 8)
    held = {token for ids in QuestionTokenizer(llama.tokenizer).questions(texts) for token in ids.tolist()}
    unused = sorted(set(range(VOCABULARY)) - held - {token for answer in expected for token in answer})
    assert unused
    model = copy.deepcopy(llama.model)
    model.get_input_embeddings().weight.data[unused] = float("nan")
    spoilt = copy.copy(llama)
    spoilt.model = model
    assert generate(spoilt, texts, 8) == expected


def test_only_the_last_position_meets_the_head(llama: Published) -> None:
    widths: list[int] = []
    hook = llama.model.lm_head.register_forward_hook(lambda module, args, output: widths.append(output.shape[1]))
    generate(llama, prompts(4), 6)
    hook.remove()
    assert set(widths) == {1}


def test_a_batch() -> None:
    batch = make_batch([np.array([5, 6, 7]), np.array([8])], 2, CPU)
    assert batch.width == 3
    assert batch.mask is not None
    assert batch.tokens.tolist() == [[5, 6, 7, 0, 0], [8, 8, 8, 0, 0]]
    assert batch.mask.tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 1, 2]]
    assert make_batch([np.array([5, 6]), np.array([8, 9])], 2, CPU).mask is None


lengths = st.lists(st.integers(1, 60), min_size=1, max_size=30).map(np.array)


@given(lengths, st.integers(1, 9), st.integers(1, 8), st.sampled_from([(), (24,), (10, 40)]))
def test_batches(lengths: np.ndarray, new_tokens: int, max_rows: int, boundaries: tuple[int, ...]) -> None:
    batches = batches_of(lengths, new_tokens, max_rows, boundaries)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) <= max_rows
        own = lengths[rows]
        assert (np.diff(own) >= 0).all()
        for boundary in boundaries:
            crosses = (own <= boundary) & (own + new_tokens > boundary)
            assert not crosses.any() or len(set(own)) == 1
            assert len(set(own > boundary)) == 1
    if not boundaries:
        assert len(batches) == -(-len(lengths) // max_rows)


def test_a_model_without_a_key_value_cache_is_refused() -> None:
    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2)
    with pytest.raises(ValueError, match="MambaForCausalLM has no key-value cache"):
        Generator(AutoModelForCausalLM.from_config(config), frozenset())
