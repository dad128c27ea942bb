"""Is what the truncated model gives the state of the whole model at that block and position? Tried once, at load.

The truncated model has lost its upper blocks and its final norm, and a hook reads each block's output. That this is the
residual stream which the whole model passes on is true of most architectures, and of none by law: a block may return a
tuple in another order or several streams, a norm may stand after the blocks and be used before them, blocks may run in
a loop. So one short row goes through both. The whole model is transformers' own, untouched: its class, all its blocks,
its final norm, with the very weights that the worker has loaded. Its upper blocks have none and are never run: the
state is taken at the door of the block that follows (or of the final norm, after the last block), where the pass ends.

The price, once a worker: three passes of at most seven tokens through the blocks that are needed anyway. That is
milliseconds for a small model; an 8B model's weights are read three times more, tens of milliseconds on a GPU and some
seconds on a CPU.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tamis.operators.model.architecture import ModelPart, first_line, several_states
from tamis.operators.model.dry_run import TOKENS, Reached, passed_on, state_of
from tamis.operators.model.loading import is_out_of_memory
from tamis.operators.requests import Request

States = dict[int, torch.Tensor]


def trial_row(vocabulary: int, longest: int | None) -> tuple[npt.NDArray[np.int64], tuple[int, int]]:
    """Token ids (T,), T at most TOKENS, and the range of an answer in them: every position that can be asked for is
    another token."""
    tokens = TOKENS if longest is None else min(TOKENS, longest)
    start = tokens // 2
    return np.arange(1, tokens + 1) % vocabulary, (start, max(start + 1, tokens - 1))


def states_of_whole(cut: ModelPart, model: nn.Module, ids: npt.NDArray[np.int64], blocks: Iterable[int]) -> States:
    """The state after each of `blocks` for a row of token ids (T,), float32 (T, d), as the whole model passes it on.

    model: filled from `cut`, without any hook of ours. Raises ValueError if the whole model cannot get as far without
    what comes after, or passes on something else than one state a token.
    """
    whole = _whole(cut, model)
    modules = whole.get_submodule(cut.blocks)
    assert isinstance(modules, nn.ModuleList)
    wanted = sorted(set(blocks))
    states: States = {}
    outputs: States = {}
    hooks: list[Any] = []
    try:
        for block in wanted:
            doors = [modules[block + 1]] if block + 1 < len(modules) else _final_norms(cut, model, whole)
            for door in doors:
                hook = _at_door(states, block, ends=block == wanted[-1])
                hooks.append(door.register_forward_pre_hook(hook, with_kwargs=True))
            hooks.append(modules[block].register_forward_hook(_after(outputs, block)))
        _pass(whole, ids)
    finally:
        for hook in hooks:
            hook.remove()
    # where nothing follows the last block under a name that is known, its own output has to do
    found = {block: states.get(block, outputs.get(block)) for block in wanted}
    for block, state in found.items():
        if state is None:
            raise ValueError(f"the state after block {block} of {cut.config.model_type} cannot be found")
        if tuple(state.shape) != (1, len(ids), cut.config.hidden_size):
            raise several_states(cut.config, tuple(state.shape), len(ids))
    return {block: state[0].float().cpu() for block, state in found.items() if state is not None}


def require_right_place(
    config: Any,
    vectors: Mapping[Request, npt.NDArray[np.float32]],
    states: States,
    answer: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    """ValueError if a vector (1, d) is not what `states` have at its block and position, to rounding in `dtype`."""
    start, stop = answer
    for request, pooled in vectors.items():
        state = states[request.block]
        of_position = {"last_token": state[-1], "last_prompt_token": state[start - 1]}
        expected = of_position.get(request.position, state[start:stop].mean(dim=0))
        if not expected.isfinite().all():
            continue  # weights that make NaN are reported row by row
        difference = (torch.from_numpy(pooled[0]) - expected).norm()
        # written so that NaN is refused
        if not difference <= expected.norm() * torch.finfo(dtype).eps ** 0.5:
            share = float(difference / expected.norm())
            raise ValueError(
                f"what can be read after block {request.block} of {config.model_type} is not the state that the whole "
                f"model has there (at {request.position} they differ by {share:.1g} of its length); its vectors would "
                "be wrong, take a model of another architecture"
            )


def _pass(whole: nn.Module, ids: npt.NDArray[np.int64]) -> None:
    row = torch.from_numpy(ids)[None].to(next(whole.parameters()).device)
    try:
        with torch.inference_mode():
            whole(input_ids=row, use_cache=False)
    except Reached:
        pass
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
            raise
        raise ValueError(
            f"a {type(whole).__name__} needs what comes after its blocks to run them: {first_line(error)}"
        ) from error


def _at_door(states: States, block: int, *, ends: bool) -> Any:
    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        state = passed_on(args, kwargs)
        if state is not None:
            states[block] = state.clone()
        if ends:
            raise Reached

    return note


def _after(states: States, block: int) -> Any:
    def note(module: nn.Module, args: Any, output: Any) -> None:
        state = state_of(output)
        if isinstance(state, torch.Tensor):
            states[block] = state.clone()

    return note


def _final_norms(cut: ModelPart, model: nn.Module, whole: nn.Module) -> list[nn.Module]:
    """The final norms that `model` has lost and `whole` has."""
    parent = cut.blocks.rpartition(".")[0]
    lost = model.get_submodule(parent)._modules
    return [
        module
        for name, module in whole.get_submodule(parent)._modules.items()
        if module is not None and module is not lost[name] and name != cut.blocks.rpartition(".")[2]
    ]


def _whole(cut: ModelPart, model: nn.Module) -> nn.Module:
    """The model as transformers made it, with what `model` has of it: everything but the upper blocks and the final
    norm, which have no weights. Nothing is copied or changed."""
    return _rejoined(model, cut.whole, cut.blocks.split("."))


def _rejoined(module: nn.Module, original: nn.Module, path: list[str]) -> nn.Module:
    twin = copy.copy(module)
    twin.__dict__.pop("forward", None)  # of a model on several GPUs: it is bound to the truncated one
    children = dict(module._modules)
    name, *rest = path
    ours, theirs = module._modules[name], original._modules[name]
    assert ours is not None
    assert theirs is not None
    if rest:
        children[name] = _rejoined(ours, theirs, rest)
    else:
        kept = list(ours.children())
        children[name] = nn.ModuleList([*kept, *list(theirs.children())[len(kept) :]])
        for other, child in original._modules.items():
            if isinstance(children[other], nn.Identity) and not isinstance(child, nn.Identity):
                children[other] = child
    twin._modules = children
    return twin
