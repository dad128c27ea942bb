"""One vector per row and request, taken from the blocks' outputs while the model runs.

The positions are those of docs/methods.md, "Representations". Tokens are addressed in the flattened batch, so padded
and packed batches are pooled alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tamis.operators.model.dry_run import state_of
from tamis.operators.requests import Request

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Spots:
    """Indices of a batch's rows and their final answers in its flattened tokens; all int64.

    last: (B,) the last token of each row. before: (B,) the token before the answer. answers: the answers' tokens, row
    after row. counts: (B,) the number of answer tokens of each row.
    """

    last: torch.Tensor
    before: torch.Tensor
    answers: torch.Tensor
    counts: torch.Tensor

    @classmethod
    def of(cls, firsts: Places, lengths: Places, finals: Places) -> Spots:
        """firsts: (B,) start of each row. lengths: (B,). finals: (B, 2), the range of the answer within its row."""
        starts, stops = finals[:, 0], finals[:, 1]
        ranges = [np.arange(first + start, first + stop) for first, (start, stop) in zip(firsts, finals, strict=True)]
        return cls(
            last=torch.from_numpy(firsts + lengths - 1),
            before=torch.from_numpy(firsts + np.maximum(starts - 1, 0)),
            answers=torch.from_numpy(np.concatenate(ranges).astype(np.int64)),
            counts=torch.from_numpy(stops - starts),
        )

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.last, self.before, self.answers, self.counts


def pool(states: torch.Tensor, position: str, spots: Spots) -> torch.Tensor:
    """Reduces states (tokens, d) to float32 (B, d) at `position`, one of requests.POSITIONS. The mean over an empty
    answer is 0.
    """
    if position == "response_mean":
        answers = states.index_select(0, spots.answers).float()
        total = torch.segment_reduce(answers, "sum", lengths=spots.counts, axis=0)
        return total / spots.counts.clamp(min=1)[:, None]
    return states.index_select(0, spots.last if position == "last_token" else spots.before).float()


class Pooling:
    """Forward hooks that reduce the output of each requested block on the device."""

    def __init__(self, blocks: nn.ModuleList, requests: Sequence[Request]) -> None:
        self._requests = tuple(requests)
        self._pooled: dict[Request, torch.Tensor] = {}
        self._spots: dict[torch.device, Spots] = {}
        self._home: torch.device | None = None
        self._hooks = [
            blocks[block].register_forward_hook(self._hook(block))
            for block in sorted({request.block for request in requests})
        ]

    def begin(self, spots: Spots) -> None:
        """Starts the next batch. spots: on the device that the results should be on."""
        self._pooled = {}
        self._home = spots.last.device
        self._spots = {self._home: spots}

    def take(self) -> torch.Tensor:
        """float32 (requests, B, d), in the order of the requests."""
        pooled = [self._pooled[request].to(self._home) for request in self._requests]
        self.clear()
        return torch.stack(pooled)

    def clear(self) -> None:
        self._pooled, self._spots = {}, {}

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self.clear()

    def _hook(self, block: int) -> Any:
        requests = [request for request in self._requests if request.block == block]

        def pool_output(module: nn.Module, args: Any, output: Any) -> None:
            states = state_of(output)
            if states.ndim != 3:
                raise ValueError(
                    f"block {block} gives {tuple(states.shape)}, not one state a token (rows, tokens, width)"
                )
            flat = states.reshape(-1, states.shape[-1])
            for request in requests:
                self._pooled[request] = pool(flat, request.position, self._spots_on(flat.device))

        return pool_output

    def _spots_on(self, device: torch.device) -> Spots:
        """The spots on `device`: if a model is spread over several devices, each block needs them on its own device."""
        if device not in self._spots:
            home = next(iter(self._spots.values()))
            self._spots[device] = Spots(*(tensor.to(device) for tensor in home.tensors()))
        return self._spots[device]
