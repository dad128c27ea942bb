"""A cache with room in it gives what transformers' growing one gives."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_representations import CONFIGS, GROUPED
from transformers import Qwen3NextConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer

from tamis.operators.generation.kv_cache import RoomyLayer, can_drop_rows, copy_layer, keep_rows, new_cache

HEADS, SIZE = 2, 3


def states(rows: int, tokens: int, size: int = SIZE) -> torch.Tensor:
    return torch.randn(rows, HEADS, tokens, size)


def assert_same(layer: Any, other: Any) -> None:
    assert torch.equal(layer.keys, other.keys)
    assert torch.equal(layer.values, other.values)
    assert layer.get_seq_length() == other.get_seq_length()
    assert layer.get_mask_sizes(1) == other.get_mask_sizes(1)


steps = st.lists(st.one_of(st.integers(1, 3), st.sampled_from(["select", "copy"])), max_size=8)


@settings(deadline=None, max_examples=40)
@given(steps)
def test_does_what_the_growing_layer_does(steps: list[Any]) -> None:
    roomy, growing, rows = RoomyLayer(30), DynamicLayer(), 5
    assert roomy.get_seq_length() == 0
    for step in [2, *steps]:
        if step == "copy":
            earlier, roomy = roomy, copy_layer(roomy, 30)
            earlier.update(states(rows, 1), states(rows, 1, size=5))  # leaves the copy alone
        elif step == "select":
            kept = torch.arange(rows)[::2]
            keep_rows([roomy, growing], kept)
            rows = len(kept)
        else:
            keys, values = states(rows, step), states(rows, step, size=5)  # of unlike sizes, as with latent attention
            seen, expected = roomy.update(keys, values), growing.update(keys, values)
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(seen, expected, strict=True))
        assert_same(roomy, growing)


def test_a_step_writes_into_the_buffer_it_has() -> None:
    layer = RoomyLayer(10)
    layer.update(states(2, 4), states(2, 4))
    place = layer.keys.data_ptr()
    layer.update(states(2, 1), states(2, 1))
    assert layer.keys.data_ptr() == place
    assert layer.keys.shape == (2, HEADS, 5, SIZE)


def test_an_answer_cannot_be_longer_than_the_room() -> None:
    layer = RoomyLayer(3)
    layer.update(states(2, 3), states(2, 3))
    with pytest.raises(ValueError, match="4 tokens do not fit into a cache of 3"):
        layer.update(states(2, 1), states(2, 1))


def test_a_copy_of_an_empty_layer() -> None:
    layer = copy_layer(RoomyLayer(3, is_sliding=True), 5)
    assert (layer.capacity, layer.is_sliding, layer.get_seq_length()) == (5, True, 0)
    keep_rows([layer], torch.tensor([0]))


def test_windows_that_nothing_can_leave_get_a_buffer() -> None:
    """Mistral's window is 16 tokens here; Gemma 3's blocks have one or none, by turns."""
    for capacity, kind in ((15, RoomyLayer), (16, DynamicSlidingWindowLayer)):
        cache = new_cache(CONFIGS["mistral"], capacity)
        assert {type(layer) for layer in cache.layers} == {kind}
        assert cache.is_sliding == [True] * 4
    kinds = [type(layer) for layer in new_cache(CONFIGS["gemma3"], 40).layers]
    assert kinds == [DynamicSlidingWindowLayer, RoomyLayer] * 2
    assert new_cache(CONFIGS["gemma3"], 8).is_sliding == [True, False] * 2


def test_a_copy_of_a_window_is_one_of_its_own() -> None:
    window = DynamicSlidingWindowLayer(4)
    window.update(states(2, 6), states(2, 6))
    twin = copy_layer(window, 99)
    assert_same(twin, copy.deepcopy(window))
    twin.update(states(2, 1), states(2, 1))
    assert (window.get_seq_length(), twin.get_seq_length()) == (6, 7)


def test_states_of_linear_attention_keep_all_rows() -> None:
    config = Qwen3NextConfig(**GROUPED, layer_types=["linear_attention", "full_attention"] * 2)
    cache = new_cache(config, 10)
    assert isinstance(cache.layers[0], LinearAttentionLayer)
    assert not can_drop_rows(cache.layers)
    assert can_drop_rows(cache.layers[1::2])
