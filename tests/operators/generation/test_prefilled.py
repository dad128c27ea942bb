"""What is kept of the prompts stands in for the blocks below the scaled one, where the architecture allows it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from test_answers import ODD
from test_representations import BLOCKS, CONFIGS, VOCABULARY
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from tamis.operators.generation.answers import Batch, Generator, make_batch
from tamis.operators.generation.prefilled import Prefilled, can_pass_through, keep_prefill
from tamis.operators.generation.scaling import scaled
from tamis.operators.model.architecture import find_blocks

pytestmark = pytest.mark.usefixtures("one_thread")

ALL = {**CONFIGS, **ODD}


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def parts(config: PreTrainedConfig) -> tuple[Generator, nn.ModuleList]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    return Generator(model, frozenset()), model.get_submodule(find_blocks(model, BLOCKS))


def batch(*lengths: int, new_tokens: int = 6) -> Batch:
    random = np.random.default_rng(0)
    return make_batch([random.integers(0, VOCABULARY, length) for length in lengths], new_tokens, torch.device("cpu"))


def answers(generator: Generator, kept: Prefilled, blocks: nn.ModuleList, first: int) -> list[list[int]]:
    return generator.answers(kept.batch, *kept.prefill(generator, blocks, first), is_done=lambda answer: False)


@pytest.mark.parametrize("name", ALL)
def test_from_the_scaled_block_on(name: str) -> None:
    """Same logits and same answers as of the whole model with that block scaled; longer than the windows, too."""
    generator, blocks = parts(ALL[name])
    prompts = batch(20, 3, 11)
    assert can_pass_through(generator, blocks, batch(3, 20)) is (name != "gemma4")
    kept, _, _ = keep_prefill(generator, None if name == "gemma4" else blocks, prompts)
    for first in range(BLOCKS):
        with scaled(blocks[first], 1.3):
            expected, cache = generator.prefill(prompts)
            whole = generator.answers(prompts, expected, cache, is_done=lambda answer: False)
            logits, _ = kept.prefill(generator, blocks, first)
            torch.testing.assert_close(logits, expected)
            assert answers(generator, kept, blocks, first) == whole
        # nothing of it stays in what is kept
        again, _ = kept.prefill(generator, blocks, first)
        torch.testing.assert_close(again, generator.prefill(prompts)[0])


def test_the_unscaled_run_comes_out_to_the_bit() -> None:
    generator, blocks = parts(CONFIGS["llama"])
    kept, expected, _ = keep_prefill(generator, blocks, batch(9, 4, 9))
    for first in range(BLOCKS):
        assert torch.equal(kept.prefill(generator, blocks, first)[0], expected)


def test_blocks_that_share_weights_are_never_left_out() -> None:
    generator, blocks = parts(CONFIGS["llama"])
    blocks[3].mlp = blocks[0].mlp
    assert not can_pass_through(generator, blocks, batch(3, 5))


def test_blocks_that_tell_each_other_more_are_never_left_out() -> None:
    generator, blocks = parts(CONFIGS["llama"])
    secret: list[torch.Tensor] = []
    blocks[1].register_forward_hook(lambda module, args, output: secret.append(output))
    blocks[3].register_forward_hook(lambda module, args, output: output + secret.pop())
    assert not can_pass_through(generator, blocks, batch(3, 5))


def test_what_fails_when_blocks_are_left_out_is_no_failure() -> None:
    generator, blocks = parts(CONFIGS["llama"])
    seen: list[int] = []
    blocks[0].mlp.register_forward_hook(lambda *_: seen.append(1))
    blocks[3].register_forward_hook(lambda *_: seen.pop() and None)
    assert not can_pass_through(generator, blocks, batch(3, 5))


def test_a_lack_of_memory_is_one() -> None:
    generator, blocks = parts(CONFIGS["llama"])

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    blocks[3].register_forward_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        can_pass_through(generator, blocks, batch(3, 5))


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_halves_hold_what_the_whole_holds(name: str) -> None:
    generator, blocks = parts(CONFIGS[name])
    kept, _, _ = keep_prefill(generator, blocks, batch(20, 3, 11, 18, 5))
    expected = answers(generator, kept, blocks, 2)
    halves = kept.halves()
    assert [len(half.batch.tokens) for half in halves] == [2, 3]
    assert [answer for half in halves for answer in answers(generator, half, blocks, 2)] == expected
    assert halves[0].halves()[0].halves() == ()


def test_states_of_linear_attention_cannot_be_halved() -> None:
    generator, blocks = parts(ODD["lfm2"])
    kept, _, _ = keep_prefill(generator, blocks, batch(4, 5))
    assert kept.halves() == ()
