"""A causal language model in two parts: its body (token ids -> hidden states) and its head (hidden states -> logits).

Architectures do more to their logits than a matrix product: soft caps (Gemma 2), scales (Cohere, Granite), biases
(Phi). None of this is reimplemented here: the head is the model's own forward, with the body replaced by a stub that
returns the hidden states of the wanted positions.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class SplitModel:
    """The body and the head of `model`; both are the model's own modules, nothing is copied or changed.

    model: a transformers ...ForCausalLM. blocks: the path of its list of blocks, e.g. "model.layers". Adapters must
    already be attached. Raises ValueError if the two parts together do not give the logits of the whole model.
    """

    def __init__(self, model: nn.Module, blocks: str) -> None:
        ids = torch.arange(6, device=next(model.parameters()).device).repeat(2, 1)
        ids[1] += 1
        ids %= model.config.vocab_size
        with torch.inference_mode():
            path, output, whole = _trace(model, blocks, ids)
            self.body: nn.Module = model.get_submodule(path)
            self._stub = _Stub(output)
            self._head_model = _with_stub(model, path, self._stub)
            self._forward = type(model).forward  # of the class: an instance's forward may be bound to the full model
            states = self.states(ids)
            parts = self.logits(states[:, 2:5].reshape(-1, states.shape[-1])).view(2, 3, -1)
        if not _alike(parts, whole[:, 2:5]):
            raise ValueError(
                f"the logits of {model.config.model_type} do not follow from its last hidden states alone; "
                "its losses cannot be computed"
            )

    def states(self, ids: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, T, d) after the final norm, for token ids (B, T) padded on the right."""
        states: torch.Tensor = self.body(input_ids=ids, use_cache=False)[0]
        return states

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits (n, V) of hidden states (n, d), as the model itself computes them, in its dtype."""
        self._stub.states = states[None]
        try:
            ids = torch.zeros((1, len(states)), dtype=torch.long, device=states.device)
            logits: torch.Tensor = _logits(self._forward(self._head_model, input_ids=ids, use_cache=False))[0]
            return logits
        finally:
            self._stub.states = None


class _Stub:
    """Returns `states` as if it had computed them, in the body's output type."""

    def __init__(self, output: Any) -> None:
        self.states: torch.Tensor | None = None
        self._kind = type(output)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self.states,) if self._kind is tuple else self._kind(last_hidden_state=self.states)


def _trace(model: nn.Module, blocks: str, ids: torch.Tensor) -> tuple[str, Any, torch.Tensor]:
    """Runs the model. Returns the path of the outermost module around its blocks that it calls, that module's output,
    and the logits.
    """
    names = blocks.split(".")
    outer = [".".join(names[:depth]) for depth in range(1, len(names))]
    outputs: dict[str, Any] = {}

    def note(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            outputs[path] = output

        return hook

    hooks = [model.get_submodule(path).register_forward_hook(note(path)) for path in outer]
    try:
        logits = _logits(model(input_ids=ids, use_cache=False))
    finally:
        for hook in hooks:
            hook.remove()
    called = [path for path in outer if path in outputs]
    if not called:
        raise ValueError(f"{type(model).__name__} calls no module that holds its blocks {blocks}")
    return called[0], outputs[called[0]], logits


def _with_stub(module: nn.Module, path: str, stub: _Stub) -> nn.Module:
    """A shallow copy of `module` that shares everything with it, except that the module at `path` is the stub."""
    name, _, rest = path.partition(".")
    twin = copy.copy(module)
    inner = module._modules[name]
    assert inner is not None
    twin._modules = {**module._modules, name: _with_stub(inner, rest, stub) if rest else stub}
    return twin


def _logits(output: Any) -> torch.Tensor:
    logits: torch.Tensor = output[0] if isinstance(output, tuple) else output.logits
    return logits


def _alike(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two sets of logits (B, T, V) are equal to rounding; logits that are not finite are ignored."""
    if left.shape != right.shape:
        return False
    finite = left.isfinite() & right.isfinite()
    left, right = left[finite].float(), right[finite].float()
    return bool((left - right).norm() <= right.norm() * torch.finfo(torch.bfloat16).eps)
