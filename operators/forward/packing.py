"""Attention over packed rows: a batch is one sequence of all its rows' tokens, and each token attends within its row.

Nothing is padded. transformers calls the function below for the model's attention and passes the rows' offsets
through to it. On CUDA in half precision it runs FlashAttention's variable-length kernel; otherwise one row after
another. Architectures whose attention needs more than a window (soft caps, sinks, position biases) are refused,
never approximated.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface

from tamis.operators.forward.rows import RowNumbers, TokenIds

NAME = "tamis_packed"
_NOT_SUPPORTED = ("softcap", "s_aux", "position_bias", "head_mask")


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """query (1, H, N, D), key and value (1, H_kv, N, D) -> (1, N, H, D). cu_seq_lens_q: int32 (B + 1,), the start of
    each row, then N. Raises ValueError for arguments that it does not support.
    """
    asked = [name for name in _NOT_SUPPORTED if others.get(name) is not None]
    if asked or attention_mask is not None or cu_seq_lens_q is None or max_length_q is None:
        raise ValueError(f"{type(module).__name__} needs {', '.join(asked) or 'a mask'}, which packed attention lacks")
    left = -1 if sliding_window is None else sliding_window - 1
    if query.is_cuda and query.dtype != torch.float32:
        from torch.nn.attention.varlen import varlen_attn

        packed = [states[0].transpose(0, 1) for states in (query, key, value)]
        offsets, longest = cu_seq_lens_q, max_length_q
        attended = varlen_attn(
            *packed,
            offsets,
            offsets,
            longest,
            longest,
            scale=scaling,
            window_size=(left, 0),
            enable_gqa=query.shape[1] != key.shape[1],
        )
        assert isinstance(attended, torch.Tensor)
        return attended[None], None
    rows = []
    edges = cu_seq_lens_q.tolist()
    for start, stop in pairwise(edges):
        seen = _window(stop - start, left, query.device)
        rows.append(
            functional.scaled_dot_product_attention(
                query[:, :, start:stop],
                key[:, :, start:stop],
                value[:, :, start:stop],
                attn_mask=seen,
                is_causal=seen is None,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(rows, dim=2).transpose(1, 2), None


def _window(length: int, left: int, device: torch.device) -> torch.Tensor | None:
    """Which keys each query attends to, bool (T, T), or None if it attends to itself and all earlier keys."""
    if left < 0 or length <= left + 1:
        return None
    place = torch.arange(length, device=device)
    distance = place[:, None] - place[None, :]
    return (distance >= 0) & (distance <= left)


AttentionInterface.register(NAME, packed_attention)


def packed_inputs(ids: list[TokenIds], lengths: RowNumbers) -> dict[str, Any]:
    """The arguments of a model's forward for these rows; the tensors are on the host."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return {
        "input_ids": torch.from_numpy(np.concatenate(ids).astype(np.int64))[None],
        "position_ids": torch.from_numpy(positions)[None],
        "cu_seq_lens_q": torch.from_numpy(offsets.astype(np.int32)),
        "max_length_q": int(lengths.max()),
    }


def use_packing(model: Any, config: Any) -> None:
    """Switches `model` to packed attention. Raises ValueError if its architecture does not support it: rows packed
    together must give the same result as each row alone.
    """
    parameter = next(model.parameters())
    rows = [np.arange(length) % config.vocab_size for length in (5, 1, 9)]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    with torch.inference_mode():
        alone = [model(input_ids=torch.from_numpy(row)[None].to(parameter.device), use_cache=False)[0] for row in rows]
        model.set_attn_implementation(NAME)
        try:
            inputs = on_device(packed_inputs(list(rows), lengths), parameter.device)
            together = model(**inputs, use_cache=False)[0]
        except (ValueError, TypeError, NotImplementedError) as error:
            raise _refusal(config, str(error)) from error
    expected = torch.cat(alone, dim=1).float()
    difference = (together.float() - expected).norm(dim=-1)
    if (difference > expected.norm(dim=-1) * torch.finfo(parameter.dtype).eps ** 0.5).any():
        raise _refusal(config, "its packed rows do not come out as they do alone")


def on_device(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The same arguments with the tensors on `device`; copies from the CPU to CUDA are asynchronous."""

    def sent(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if device.type != "cuda":
            return value.to(device)
        # torch keeps pinned memory until the copy has finished
        return value.pin_memory().to(device, non_blocking=True)

    return {name: sent(value) for name, value in inputs.items()}


def _refusal(config: Any, why: str) -> ValueError:
    return ValueError(f"{config.model_type} cannot run packed ({why}); set attention to padded")
