"""Puts a model on its device, or on all the GPUs that this process may use if it is too large for one.

A model of P parameters takes 2 P bytes in bfloat16 and 4 P in float32. Truncation comes first: the output of block 25
of an 80-block 70B model needs 26 of the 80 blocks and the embeddings, (26 / 80) x 68.5e9 + 1.05e9 = 23.3e9 parameters
or 47 GB, which fit on one GPU of 80 GB. The whole model, needed for per-token losses, takes 141 GB: two such GPUs are
not enough, because a batch needs room too; three are enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

# The share of a GPU's free memory that weights may take; the rest is for the batches.
_FOR_WEIGHTS = 0.85


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Moves `model` to `device`; "cuda" without a number may become several GPUs, filled block by block.

    A model that fits on one GPU stays on one. Raises ValueError if all GPUs together are too small.
    """
    if device.type != "cuda" or device.index is not None or torch.cuda.device_count() < 2:
        return model.to(device)
    room = {gpu: int(_FOR_WEIGHTS * torch.cuda.mem_get_info(gpu)[0]) for gpu in range(torch.cuda.device_count())}
    if bytes_of(model) <= room[0]:
        return model.to(device)
    from accelerate import dispatch_model

    spread: nn.Module = dispatch_model(model, device_map=plan_spread(model, room))
    return spread


def plan_spread(model: nn.Module, room: Mapping[int, int]) -> dict[str, Any]:
    """Which module goes to which GPU. GPUs are filled in order and no block is split. room: bytes for weights per GPU.

    Raises ValueError, with the numbers, if the room is not enough.
    """
    from accelerate import infer_auto_device_map

    whole: set[str] = set(getattr(model, "_no_split_modules", None) or ())
    plan: dict[str, Any] = infer_auto_device_map(model, max_memory=dict(room), no_split_module_classes=sorted(whole))
    if not set(plan.values()) <= set(room):
        raise ValueError(
            f"the model's weights take {bytes_of(model) / 1e9:.1f} GB, and its {len(room)} GPUs have room for "
            f"{sum(room.values()) / 1e9:.1f} GB; give each worker more GPUs (model.gpus_per_worker)"
        )
    return plan


def bytes_of(model: nn.Module) -> int:
    """Bytes of all parameters and buffers; tied tensors are counted once."""
    tensors = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
