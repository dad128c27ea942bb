"""operators/model/spreading.py: which part of a model goes to which GPU."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tamis.operators.model.spreading import bytes_of, place, plan_spread


def model(tied: bool = False) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config)


def test_bytes_count_tied_weights_once() -> None:
    embedding = 100 * 32 * 4
    assert bytes_of(model()) - bytes_of(model(tied=True)) == embedding


def test_blocks_are_whole_and_in_order_and_every_gpu_keeps_within_its_room() -> None:
    llama = model()
    room = {0: bytes_of(llama) // 2, 1: bytes_of(llama), 2: bytes_of(llama)}
    plan = plan_spread(llama, room)
    of_block = [plan[f"model.layers.{block}"] for block in range(8)]  # KeyError if a block were split
    assert of_block == sorted(of_block)
    assert set(of_block) == {0, 1}
    taken = dict.fromkeys(room, 0)
    for name, gpu in plan.items():
        taken[gpu] += bytes_of(llama.get_submodule(name))
    assert all(taken[gpu] <= room[gpu] for gpu in room)


def test_too_little_room_is_an_error_that_says_what_to_do() -> None:
    llama = model()
    with pytest.raises(ValueError, match=r"2 GPUs have room .*model\.gpus_per_worker"):
        plan_spread(llama, {0: bytes_of(llama) // 4, 1: bytes_of(llama) // 4})


def test_on_a_cpu_nothing_is_spread() -> None:
    llama = model()
    assert place(llama, torch.device("cpu")) is llama


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_model_that_fits_one_gpu_stays_on_one() -> None:
    placed = place(model(), torch.device("cuda"))
    assert {parameter.device.index for parameter in placed.parameters()} == {0}
