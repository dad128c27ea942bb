"""A model run from one of its blocks on gives the same output, and is left as it was."""

from __future__ import annotations

import pytest
import torch
from test_representations import BLOCKS, CONFIGS, VOCABULARY
from torch import nn
from transformers import AutoModelForCausalLM

from tamis.operators.generation.passing import passed_through, recorded
from tamis.operators.model.architecture import find_blocks

pytestmark = pytest.mark.usefixtures("one_thread")


def model_and_blocks(name: str) -> tuple[nn.Module, nn.ModuleList]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    return model, model.get_submodule(find_blocks(model, BLOCKS))


def fingerprint(model: nn.Module) -> list[object]:
    return [(len(module._forward_pre_hooks), "forward" in vars(module)) for module in model.modules()]


@pytest.mark.parametrize("name", CONFIGS)
def test_from_any_block_on(name: str) -> None:
    model, blocks = model_and_blocks(name)
    ids = torch.randint(VOCABULARY, (3, 11), generator=torch.Generator().manual_seed(1))
    untouched = fingerprint(model)
    with torch.inference_mode():
        with recorded(blocks) as inputs:
            expected = model(ids, use_cache=False).logits
        assert [tuple(states.shape) for states in inputs] == [(3, 11, 32)] * BLOCKS
        for first in range(BLOCKS):
            with passed_through(blocks, first, inputs[first]):
                # any other tokens: what lies below `first` is not looked at
                assert torch.equal(model(torch.zeros_like(ids), use_cache=False).logits, expected)
            assert fingerprint(model) == untouched
        assert torch.equal(model(ids, use_cache=False).logits, expected)


def test_what_lies_below_is_not_run() -> None:
    model, blocks = model_and_blocks("llama")
    ids = torch.zeros((1, 3), dtype=torch.long)
    ran: list[int] = []
    for number, block in enumerate(blocks):
        block.mlp.register_forward_hook(lambda *_, number=number: ran.append(number))
    with torch.inference_mode(), passed_through(blocks, 2, torch.zeros(1, 3, 32)):
        model(ids, use_cache=False)
    assert ran == [2, 3]


def test_the_model_is_left_alone_after_a_failure() -> None:
    model, blocks = model_and_blocks("llama")
    untouched = fingerprint(model)
    own = blocks[0].forward
    blocks[0].forward = own  # as libraries do that move weights between devices
    with pytest.raises(KeyError), passed_through(blocks, 2, torch.zeros(1)):
        raise KeyError
    assert vars(blocks[0])["forward"] is own
    del blocks[0].forward
    with pytest.raises(KeyError), recorded(blocks):
        raise KeyError
    assert fingerprint(model) == untouched
