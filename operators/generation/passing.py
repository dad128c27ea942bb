"""Runs a model from a given block on: the blocks below it are not computed, and it gets its known input.

Only the list of blocks is changed, for the duration of one call: the model's own forward still makes the masks and
position embeddings and calls each block. Blocks that pass more than hidden states to each other (keys shared between
blocks, values of the first block) cannot be skipped this way, so the caller must compare the results.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_MISSING = object()


@contextmanager
def recorded(blocks: nn.ModuleList) -> Iterator[list[torch.Tensor]]:
    """In this context, a run of the model appends the hidden states (B, T, d) that enter each block, from 0 up."""
    inputs: list[torch.Tensor] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.append(_hidden(args, kwargs))

    hooks = [block.register_forward_pre_hook(note, with_kwargs=True) for block in blocks]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def passed_through(blocks: nn.ModuleList, first: int, states: torch.Tensor) -> Iterator[None]:
    """In this context, blocks below `first` compute nothing and `first` gets `states` as its input.

    A skipped block returns its input. This is correct for blocks that return only hidden states; for others the error
    is large enough to be detected.
    """
    own = [vars(block).get("forward", _MISSING) for block in blocks[:first]]

    def give(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (states, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": states}

    hook = blocks[first].register_forward_pre_hook(give, with_kwargs=True)
    try:
        for block in blocks[:first]:
            block.forward = lambda *args, **kwargs: _hidden(args, kwargs)
        yield
    finally:
        hook.remove()
        for block, forward in zip(blocks[:first], own, strict=True):
            if forward is _MISSING:
                vars(block).pop("forward", None)
            else:
                block.forward = forward


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    states: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return states
