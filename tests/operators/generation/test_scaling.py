"""Which parameters are scaled, and that they come back to the bit."""

from __future__ import annotations

import pytest
import torch
from answering import published_matrices
from test_representations import BLOCKS, CONFIGS, GROUPED
from torch import nn
from transformers import AutoModelForCausalLM, CohereConfig, GptOssConfig, PreTrainedConfig, Qwen3MoeConfig

from tamis.operators.generation.scaling import matrices, scaled
from tamis.operators.model.architecture import find_blocks

pytestmark = pytest.mark.usefixtures("one_thread")

MORE: dict[str, PreTrainedConfig] = {
    "cohere": CohereConfig(**GROUPED, use_qk_norm=True),  # norms with a weight per head
    "gpt_oss": GptOssConfig(**GROUPED, head_dim=8, num_local_experts=4),  # biases per expert
    "qwen3_moe": Qwen3MoeConfig(**GROUPED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24),
}


def blocks_of(config: PreTrainedConfig) -> tuple[nn.Module, nn.ModuleList]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    return model, model.get_submodule(find_blocks(model, BLOCKS))


@pytest.mark.parametrize("name", [*CONFIGS, *MORE])
def test_the_matrices_are_the_weights_of_linear_layers_and_experts(name: str) -> None:
    _, blocks = blocks_of({**CONFIGS, **MORE}[name])
    for block in blocks:
        expected = {id(parameter) for parameter in published_matrices(block)}
        assert {id(parameter) for parameter in matrices(block)} == expected


def test_a_llama_block_has_the_papers_seven() -> None:
    _, blocks = blocks_of(CONFIGS["llama"])
    names = {id(parameter): name for name, parameter in blocks[1].named_parameters()}
    assert sorted(names[id(parameter)] for parameter in matrices(blocks[1])) == [
        *(f"mlp.{name}_proj.weight" for name in ("down", "gate", "up")),
        *(f"self_attn.{name}_proj.weight" for name in ("k", "o", "q", "v")),
    ]


def test_embeddings_convolutions_and_decay_rates_are_no_matrices() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.bias_of_places = nn.Embedding(4, 2)
            self.short = nn.Conv1d(2, 2, 3)
            self.A_log = nn.Parameter(torch.ones(2, 2))
            self.twin = self.linear

    block = Block()
    assert [id(parameter) for parameter in matrices(block)] == [id(block.linear.weight)]
    with pytest.raises(ValueError, match="ReLU has no weight matrices"):
        matrices(nn.ReLU())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "mixtral"])
def test_one_block_is_scaled_and_restored_to_the_bit(name: str, dtype: torch.dtype) -> None:
    model, blocks = blocks_of(CONFIGS[name])
    model.to(dtype)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    changed = {id(parameter) for parameter in published_matrices(blocks[2])}
    with scaled(blocks[2], 0.7):
        for key, parameter in model.named_parameters():
            expected = before[key] * 0.7 if id(parameter) in changed else before[key]
            assert torch.equal(parameter, expected)
    assert_same(model, before)
    with pytest.raises(KeyboardInterrupt), scaled(blocks[2], 0.7):
        raise KeyboardInterrupt
    assert_same(model, before)


def assert_same(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_what_was_scaled_before_another_matrix_failed_comes_back_too() -> None:
    block = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    # whole numbers cannot take a factor of 0.7
    block[1].weight = nn.Parameter(torch.ones(3, 3, dtype=torch.int64), requires_grad=False)
    before = block[0].weight.clone()
    with pytest.raises(RuntimeError, match="can't be cast"), scaled(block, 0.7):
        pass
    assert torch.equal(block[0].weight, before)
