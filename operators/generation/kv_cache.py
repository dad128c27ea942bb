"""Key-value caches for answers of a known length: memory for all tokens is allocated once, so no step copies the cache.

transformers' own layers are kept if they are more than a growing list of keys and values: windows that are
shorter than the answers, states of linear attention, keys shared between blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import (
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
)


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A DynamicLayer whose keys and values (B, heads, T, head size) are the filled part of a larger buffer.

    capacity: the most tokens it can hold. is_sliding: replaces a sliding window that is longer than the capacity, so
    no token ever leaves it; the model still asks its cache which blocks have a window.
    """

    def __init__(self, capacity: int, is_sliding: bool = False) -> None:
        super().__init__()
        self.capacity = capacity
        self.is_sliding = is_sliding

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = (self._room(key_states), self._room(value_states))
        stop = (held := self.get_seq_length()) + key_states.shape[-2]
        if stop > self.capacity:  # a slice past the buffer's end is empty and silently accepts any values
            raise ValueError(f"{stop} tokens do not fit into a cache of {self.capacity}")
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, held:stop] = states
        self._show(stop)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self.is_initialized:
            held = self.get_seq_length()
            keys, values = self._buffers
            self._buffers = (keys.index_select(0, indices), values.index_select(0, indices))
            self._show(held)

    def copied(self, capacity: int, device: torch.device | None = None) -> RoomyLayer:
        """A copy with room for `capacity` tokens, on `device`."""
        layer = RoomyLayer(capacity, self.is_sliding)
        if self.is_initialized:
            layer.update(self.keys.to(device or self.keys.device), self.values.to(device or self.keys.device))
        return layer

    def _room(self, states: torch.Tensor) -> torch.Tensor:
        rows, heads, _, size = states.shape
        return states.new_empty((rows, heads, self.capacity, size))

    def _show(self, length: int) -> None:
        keys, values = self._buffers
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]


def new_cache(config: Any, capacity: int) -> DynamicCache:
    """The cache that transformers would make for a model of `config`, with room for `capacity` tokens."""
    cache = DynamicCache(config=config)
    cache.layers = [_roomy(layer, capacity) for layer in cache.layers]
    return cache


def has_states_only(config: Any) -> bool:
    """Whether no block of a model of `config` stores keys and values. Since transformers 5.24 such a model accepts a
    cache, too.
    """
    layers = DynamicCache(config=config).layers
    states = [isinstance(layer, LinearAttentionCacheLayerMixin) and not hasattr(layer, "keys") for layer in layers]
    return bool(states) and all(states)


def _roomy(layer: Any, capacity: int) -> Any:
    if type(layer) is DynamicLayer:
        return RoomyLayer(capacity)
    if type(layer) is DynamicSlidingWindowLayer and capacity < layer.sliding_window:
        return RoomyLayer(capacity, is_sliding=True)
    return layer


def copy_layer(layer: Any, capacity: int, device: torch.device | None = None) -> Any:
    """An independent copy of the layer; a RoomyLayer gets room for `capacity` tokens, on `device`."""
    return layer.copied(capacity, device) if isinstance(layer, RoomyLayer) else copy.deepcopy(layer)


def can_drop_rows(layers: Sequence[Any]) -> bool:
    """Whether rows can leave the batch: states of linear attention do not support it."""
    return not any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


def keep_rows(layers: Sequence[Any], rows: torch.Tensor) -> None:
    """Keeps only `rows` (k,) in these layers."""
    for layer in layers:
        held = getattr(layer, "keys", None)
        layer.batch_select_indices(rows if held is None else rows.to(held.device))
