"""Which linear layers get LoRA adapters.

TOSS's recipe puts them on q_proj and v_proj. Architectures that fuse the projections, or use other names, have
the queries and values in other layers: those layers get the adapters instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn
from transformers.pytorch_utils import Conv1D

_QUERY_AND_VALUE: tuple[tuple[str, ...], ...] = (
    ("q_proj", "v_proj"),
    ("q_proj", "kv_b_proj"),  # latent attention without, and with, a compressed query
    ("q_b_proj", "kv_b_proj"),
    ("qkv_proj",),
    ("query_key_value",),
    ("Wqkv",),
    ("c_attn",),
    ("in_proj_qkv",),
    ("query", "value"),
)
"""Names of the layers that compute queries and values, the most specific first."""


def lora_targets(model: Any, blocks: str, wanted: Literal["auto"] | Sequence[str]) -> tuple[str, ...]:
    """The names of the linear layers to adapt, sorted, as peft matches them (the end of a module's path).

    blocks: the path of the model's list of blocks. wanted: names, or auto = q_proj and v_proj of the blocks, or the
    layers that the blocks have instead. Raises ValueError, naming the existing linear layers, if one is not found.
    """
    paths = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    if wanted == "auto":
        inside = {path.rpartition(".")[2] for path in paths if path.startswith(f"{blocks}.")}
        for layers in _QUERY_AND_VALUE:
            if inside.issuperset(layers):
                return tuple(sorted(layers))
        raise ValueError(
            f"it has no q_proj and v_proj, nor a layer known to stand in their place; name some of its linear layers: "
            f"{_some(inside)}"
        )
    names = tuple(sorted(set(wanted)))
    for name in names:
        if not any(path == name or path.endswith(f".{name}") for path in paths):
            there = {path.rpartition(".")[2] for path in paths}
            raise ValueError(f"it has no linear layer {name!r}; it has {_some(there)}")
    return names


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:20]) or "none"
