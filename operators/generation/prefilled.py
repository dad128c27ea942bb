"""The unscaled model's run over the prompts, stored: if block i is scaled, the blocks below it need not run again.

Stored per prompt token: the input of every block and its key and value, blocks x (d + 2 x key-value width) numbers.
For 120 prompts padded to 40 tokens in bf16 that is 0.24 GB for a model of 16 blocks and d 512 with as many key-value
heads, 1.9 GB for an 8B model (32 blocks, 4096 + 2 x 1024) and 7.9 GB for a 70B model (80, 8192 + 2 x 1024). It is
stored on the model's device if it needs less than a quarter of the free memory there, otherwise in host memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache

from tamis.operators.generation.answers import Batch, Generator
from tamis.operators.generation.kv_cache import can_drop_rows, copy_layer, keep_rows
from tamis.operators.generation.passing import passed_through, recorded
from tamis.operators.model.loading import is_out_of_memory

_ROUNDING = 4  # the most machine epsilons by which two runs of the same sums may differ


@dataclass(frozen=True)
class Prefilled:
    """Prompts and their stored run. inputs: the input of each block, (B, T, d). layers: the keys and values."""

    batch: Batch
    inputs: Sequence[torch.Tensor]
    layers: Sequence[Any]

    def prefill(self, generator: Generator, blocks: nn.ModuleList, first: int) -> tuple[torch.Tensor, Cache]:
        """As Generator.prefill, but only blocks `first` and above are run."""
        if first == 0 or not self.inputs:
            return generator.prefill(self.batch)
        states = self.inputs[first].to(self.batch.tokens.device)
        with passed_through(blocks, first, states):
            logits, cache = generator.prefill(self.batch)
        # only after the pass: transformers takes the length of the prompts from the lowest layer of the cache
        for block in range(first):
            cache.layers[block] = copy_layer(self.layers[block], self.batch.tokens.shape[1], self.batch.tokens.device)
        return logits, cache

    def halves(self) -> Sequence[Prefilled]:
        """The prompts in two halves; empty if there is only one prompt or the cache cannot be split."""
        rows = torch.arange(len(self.batch.tokens))
        if len(rows) < 2 or not can_drop_rows(self.layers):
            return ()
        return self._select(rows[: len(rows) // 2]), self._select(rows[len(rows) // 2 :])

    def _select(self, rows: torch.Tensor) -> Prefilled:
        inputs = [states[rows.to(states.device)] for states in self.inputs]
        layers = [copy_layer(layer, self.batch.width) for layer in self.layers]
        keep_rows(layers, rows)
        return Prefilled(self.batch.select(rows.to(self.batch.tokens.device)), inputs, layers)


def keep_prefill(
    generator: Generator, blocks: nn.ModuleList | None, batch: Batch
) -> tuple[Prefilled, torch.Tensor, Cache]:
    """Runs the prompts through the whole model, and stores what a prefill from any block on needs.

    blocks: None if blocks cannot be skipped; then nothing is stored, and every prefill runs the whole model.
    """
    with recorded(blocks or nn.ModuleList()) as inputs:
        logits, cache = generator.prefill(batch)
    if blocks is None:
        return Prefilled(batch, (), ()), logits, cache
    place = _place(inputs)
    layers = [copy_layer(layer, batch.width, place) for layer in cache.layers]
    return Prefilled(batch, [states.to(place) for states in inputs], layers), logits, cache


def can_pass_through(generator: Generator, blocks: nn.ModuleList, batch: Batch) -> bool:
    """Whether, for every block, the run from that block on gives the same as the whole model: the logits after the
    prompts of `batch`, and the logits after one more token. Blocks must not share weights either: scaling one block
    would change others below it.
    """
    owned = [id(parameter) for block in blocks for parameter in block.parameters()]
    if len(owned) > len(set(owned)):
        return False
    try:
        kept, logits, cache = keep_prefill(generator, blocks, batch)
        batch.tokens[:, batch.width] = logits.argmax(dim=-1)
        after, _ = generator.step(batch, batch.width + 1, cache)
        for first in range(1, len(blocks)):
            again, cache = kept.prefill(generator, blocks, first)
            after_again, _ = generator.step(batch, batch.width + 1, cache)
            if not (_alike(again, logits) and _alike(after_again, after)):
                return False
    except Exception as error:
        # any other error here only means that the blocks of this architecture cannot be skipped
        if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
            raise
        return False
    return True


def _alike(left: torch.Tensor, right: torch.Tensor) -> bool:
    allowed = _ROUNDING * torch.finfo(right.dtype).eps * right.float().norm()
    return bool((left.float() - right.float()).norm() <= allowed)


def _place(inputs: Sequence[torch.Tensor]) -> torch.device:
    """The device to store the run of these inputs on: keys and values take at most twice as much memory."""
    device = inputs[0].device
    if device.type != "cuda":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    wanted = 3 * sum(states.numel() * states.element_size() for states in inputs)
    return device if 4 * wanted < free else torch.device("cpu")
