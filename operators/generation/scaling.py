"""Multiplies one block's weight matrices by a factor, in place, and restores the same bits afterwards.

The matrices of a block are its parameters of two or more dimensions: linear layers however they are named or fused,
GPT-2's Conv1D, the stacked experts of a mixture and its router. Excluded, whatever their shape: biases (the biases of
stacked experts have two dimensions), norms (some have a weight per head), embeddings, and in state-space layers the
short convolutions and the decay rates A_log, which are exponents.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_NO_MATRICES = (nn.Embedding, nn.Conv1d)


def matrices(block: nn.Module) -> list[nn.Parameter]:
    """The weight matrices of `block`, each once. ValueError if it has none."""
    found: dict[int, nn.Parameter] = {}
    for module in block.modules():
        if isinstance(module, _NO_MATRICES) or "norm" in type(module).__name__.lower():
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim >= 2 and not name.endswith(("bias", "_log")):
                found[id(parameter)] = parameter
    if not found:
        raise ValueError(f"{type(block).__name__} has no weight matrices to scale")
    return list(found.values())


@contextmanager
def scaled(block: nn.Module, factor: float) -> Iterator[None]:
    """Multiplies the matrices of `block` by `factor`, in their own dtype; copies the originals back at the end.

    Inside this context, the matrices take twice their memory.
    """
    parameters = matrices(block)
    originals = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter in parameters:
                parameter.mul_(factor)
        yield
    finally:
        with torch.no_grad():
            for parameter, original in zip(parameters, originals, strict=True):
                parameter.copy_(original)
