"""The recipe of a supervised LoRA fine-tune, and the random numbers derived from its seed.

Every random choice has its own stream, named by its purpose. The initial weights, the order of an epoch and the
dropout of a step depend on the seed and on nothing that happened before, so a resumed training makes the same choices.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

BETAS = (0.9, 0.95)
"""AdamW's betas, as set by TOSS's authors."""


@dataclass(frozen=True)
class Recipe:
    """LoRA with AdamW at a constant learning rate. The defaults are TOSS's (docs/methods.md, "TOSS").

    target_modules: names of linear layers, or "auto" (lora_targets.py). batch_size: samples in one step, over all
    workers. clip: the maximum norm of the gradient of the mean loss. Raises ValueError for a value out of range.
    """

    rank: int = 16
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] | Literal["auto"] = "auto"
    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    batch_size: int = 64
    epochs: int = 2
    clip: float = 1.0
    seed: int = 42

    def __post_init__(self) -> None:
        for name in ("rank", "batch_size", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("alpha", "learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be a number above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must lie in 0 <= dropout < 1")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay={self.weight_decay} must be at least 0")
        if not self.target_modules or (isinstance(self.target_modules, str) and self.target_modules != "auto"):
            raise ValueError(f"target_modules={self.target_modules!r} must be auto or a tuple of names")

    def steps(self, rows: int) -> int:
        """Optimizer steps for `rows` samples; the last batch of an epoch may be smaller."""
        return self.epochs * self.steps_per_epoch(rows)

    def steps_per_epoch(self, rows: int) -> int:
        return -(-rows // self.batch_size)

    def batch(self, step: int, rows: int) -> npt.NDArray[np.int64]:
        """int64: the sample indices of one step (counted from 0), a slice of its epoch's order."""
        epoch, place = divmod(step, self.steps_per_epoch(rows))
        order = epoch_order(self.seed, epoch, rows)
        return order[place * self.batch_size : (place + 1) * self.batch_size]


def epoch_order(seed: int, epoch: int, rows: int) -> npt.NDArray[np.int64]:
    """int64 (rows,): a permutation that depends on these three numbers only."""
    return np.random.default_rng(stream(seed, "order", epoch)).permutation(rows)


def stream(seed: int, *purpose: object) -> int:
    """A 63-bit seed for the random numbers of one purpose."""
    text = ":".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
