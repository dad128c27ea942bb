"""Plain LoRA layers without passes over memory: base(x) + scale * B A x, added in place by the product with B itself.

peft scales and adds in steps of their own, and each of them reads and writes a tensor of the layer's output. On a CPU
that takes as long as the base's product where a model is small (benchmarks/low_rank.py). Everything but plain LoRA on
a linear layer (DoRA, biases, embeddings, other layers) is left to peft, and so is training.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import nn
from torch.nn import functional


def fuse_low_rank(model: nn.Module) -> None:
    """Gives the LoRA layers of `model` a faster forward for passes without gradients in evaluation mode, with the same
    numbers to rounding. Adapters that are attached, switched or removed later need nothing more."""
    for module in model.modules():
        if type(module) is Linear and type(module.base_layer) is nn.Linear:
            # not a new attribute `forward`: that would refer to its own module, and the model outlive its last use
            module.__class__ = _Fused


class _Fused(Linear):
    """peft's layer, which also does all that is not plain LoRA."""

    def forward(self, x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        """x (..., inputs) -> (..., outputs)."""
        layer: Any = self
        active = layer.active_adapters
        usual = torch.is_grad_enabled() or self.training or layer.disable_adapters or layer.merged
        if usual or args or options or len(active) != 1:
            return super().forward(x, *args, **options)
        name = active[0]
        if name not in layer.lora_A or name in layer.lora_variant or layer.lora_bias[name]:
            return super().forward(x)
        down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
        if down.dtype != x.dtype:
            return super().forward(x)
        result: torch.Tensor = layer.base_layer(x)
        if result.dtype != up.dtype or not result.is_contiguous():
            return super().forward(x)
        narrow = functional.linear(x, down)
        result.view(-1, len(up)).addmm_(narrow.reshape(-1, len(down)), up.t(), alpha=layer.scaling[name])
        return result
