"""What a method asks the forward pass for: the residual stream after one block, pooled to one vector per sample.

Blocks are 0-based and a block number always means the OUTPUT of that block, before the final norm.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

Position = Literal["last_token", "last_prompt_token", "response_mean"]
POSITIONS: tuple[str, ...] = get_args(Position)
"""last_token: the last token of the rendered conversation. last_prompt_token: the token before the first token of
the final answer. response_mean: the mean over the tokens of the final answer."""

_COLUMN = re.compile(r"block_(\d+)\.(\w+)")


@dataclass(frozen=True, order=True)
class Request:
    """One vector per sample: the output of `block` (0-based), pooled at `position` (one of POSITIONS)."""

    block: int
    position: str

    def __post_init__(self) -> None:
        if self.block < 0:
            raise ValueError(f"block={self.block}: blocks are counted from 0")
        if self.position not in POSITIONS:
            raise ValueError(f"position={self.position!r}: choose one of {', '.join(POSITIONS)}")

    @property
    def column(self) -> str:
        """The name of this vector's column in a captured shard, e.g. block_05.last_token."""
        return f"block_{self.block:02d}.{self.position}"

    @classmethod
    def parse(cls, column: str) -> Request:
        """The request that `column` names; ValueError if it names none."""
        match = _COLUMN.fullmatch(column)
        if match is None:
            raise ValueError(f"{column!r} is not the name of a captured vector")
        return cls(int(match[1]), match[2])
