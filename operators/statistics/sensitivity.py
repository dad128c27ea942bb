"""LARF's search for the safety-sensitive block (arXiv 2507.18631; docs/methods.md, "Layer search").

For one block at a time, its weight matrices are multiplied by a factor, the model answers every over-rejection prompt
greedily (scaled_answers.py), and the refusals R(block, factor) are counted. A block is sensitive if its refusals grow
with the factor:

    D1 + D2 + D3 = R(1.3) - R(0.7) + R(1.2) - R(0.8) + R(1.1) - R(0.9)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FACTORS = (0.7, 0.8, 0.9, 1.1, 1.2, 1.3)
NEW_TOKENS = 32
"""The most tokens of an answer."""

_PAIRS = ((1.3, 0.7), (1.2, 0.8), (1.1, 0.9))


def sensitivity(refusals: Mapping[tuple[int, float], int], blocks: int) -> tuple[int, ...]:
    """D1 + D2 + D3 of each block. refusals: (block, factor) -> count. ValueError if a pair is missing."""
    missing = [(block, factor) for block in range(blocks) for factor in FACTORS if (block, factor) not in refusals]
    if missing:
        block, factor = missing[0]
        raise ValueError(f"{len(missing)} of {blocks * len(FACTORS)} cells are missing: first block {block} x {factor}")
    return tuple(sum(refusals[block, high] - refusals[block, low] for high, low in _PAIRS) for block in range(blocks))


def most_sensitive(values: Sequence[int]) -> int:
    """The block with the highest sensitivity; ties go to the lower block. ValueError if there are no values."""
    return max(range(len(values)), key=lambda block: (values[block], -block))
