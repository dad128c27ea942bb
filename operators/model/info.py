"""A short description of a decoder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelInfo:
    """width: the size of the residual stream. max_positions: None if there is no limit."""

    architecture: str
    blocks: int
    width: int
    vocabulary: int
    max_positions: int | None
