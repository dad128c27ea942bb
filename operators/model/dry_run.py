"""What a model does with its blocks, seen before any weight is read: its first block runs on zeros.

Sizes do not matter here, only shapes and the order of things: is a norm that stands after the blocks used before them,
can what follows do without it, and is what a block passes on one state for each token. Zeros that nobody has written
take no memory, however large the model is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

TOKENS = 7
_MOST_PARAMETERS = 6 << 30
"""Of the first block and all that is no block. More are not tried: their address space may be refused."""


class Reached(Exception):
    """The pass has come as far as it needed to."""


@dataclass(frozen=True)
class Observed:
    """norms: the names of the norms after the blocks that must stay. shape: of what the first block passes on to the
    next, for one row of TOKENS tokens; None if that could not be seen."""

    norms: tuple[str, ...]
    shape: tuple[int, ...] | None


def observe(model: nn.Module, blocks: str, norms: Sequence[str]) -> Observed:
    """model: on the meta device, with all its blocks. norms: siblings of the list of blocks that come after it.

    Where a model cannot run on zeros, nothing is claimed; the worker that has its weights will see (right_place.py).
    """
    parent = blocks.rpartition(".")[0]
    try:
        trial = _on_zeros(model, blocks)
    except (MemoryError, RuntimeError, ValueError, NotImplementedError):
        return Observed((), None)
    holder = trial.get_submodule(parent)
    early: set[str] = set()
    shapes: list[tuple[int, ...]] = []
    with _hooks() as hooks:
        for name in norms:
            note = _noting(early, name)
            hooks.append(holder.get_submodule(name).register_forward_pre_hook(note))
        first, *others = trial.get_submodule(blocks)
        if others:
            hooks.append(others[0].register_forward_pre_hook(_stopping(shapes), with_kwargs=True))
        else:
            stop = _stopping(shapes)
            hooks.append(
                first.register_forward_hook(lambda module, args, output: stop(module, (state_of(output),), {}))
            )
        _tried(trial)
    if not shapes:
        return Observed((), None)
    del trial.get_submodule(blocks)[1:]
    late = [name for name in norms if name not in early]
    kept = {name: holder.get_submodule(name) for name in late}
    for name in late:
        setattr(holder, name, nn.Identity())
    if not _tried(trial):
        for name, norm in kept.items():
            setattr(holder, name, norm)
        if _tried(trial):
            early |= set(late)
    return Observed(tuple(name for name in norms if name in early), shapes[0])


def passed_on(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """The state that a block, or a norm, is called with."""
    given = [kwargs.get("hidden_states"), *args, *kwargs.values()]
    return next((value for value in given if isinstance(value, torch.Tensor)), None)


def state_of(output: Any) -> Any:
    """The state in what a block returns: the output itself, or the first of several."""
    return output[0] if isinstance(output, tuple | list) and output else output


def _stopping(shapes: list[tuple[int, ...]]) -> Any:
    def stop(module: nn.Module, args: Any, kwargs: Any) -> None:
        state = passed_on(args, kwargs)
        if state is not None:
            shapes.append(tuple(state.shape))
        raise Reached

    return stop


def _noting(names: set[str], name: str) -> Any:
    def note(module: nn.Module, args: Any) -> None:
        names.add(name)

    return note


@contextmanager
def _hooks() -> Iterator[list[Any]]:
    hooks: list[Any] = []
    try:
        yield hooks
    finally:
        for hook in hooks:
            hook.remove()


def _tried(model: nn.Module) -> bool:
    """Runs one row; False if the model fails for a reason of its own."""
    try:
        with torch.inference_mode():
            model(input_ids=torch.zeros((1, TOKENS), dtype=torch.long), use_cache=False)
    except Reached:
        return True
    except Exception:  # whatever a model that was cut, or that runs on zeros, may raise
        return False
    return True


def _on_zeros(model: nn.Module, blocks: str) -> nn.Module:
    """A copy of `model` on the CPU whose parameters are zeros, but for the blocks after the first: they stay as they
    are, on the meta device."""
    trial = copy.deepcopy(model).eval()
    above = {id(module) for block in trial.get_submodule(blocks)[1:] for module in block.modules()}
    modules = [module for module in trial.modules() if id(module) not in above]
    wanted = {id(p): p for module in modules for p in module.parameters(recurse=False)}
    if sum(parameter.numel() for parameter in wanted.values()) > _MOST_PARAMETERS:
        raise ValueError("too large to be tried")
    zeros = {key: nn.Parameter(_zeros(parameter), requires_grad=False) for key, parameter in wanted.items()}
    for module in modules:
        for name, parameter in module.named_parameters(recurse=False):
            module._parameters[name] = zeros[id(parameter)]
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = _zeros(buffer)
    return trial


def _zeros(like: torch.Tensor) -> torch.Tensor:
    """Zeros of its shape and dtype. numpy leaves it to the system to make them when they are read, and no page of them
    is written."""
    if like.dtype.is_floating_point:
        return torch.from_numpy(np.zeros(tuple(like.shape), dtype=np.float32))
    return torch.zeros(tuple(like.shape), dtype=like.dtype)
