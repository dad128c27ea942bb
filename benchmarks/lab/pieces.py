"""Shared small parts of the generator: which fillers a split may use, and answers of a wanted length."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Literal, TypeVar

Split = Literal["training", "unseen", "all"]
T = TypeVar("T")


def share(items: Sequence[T], split: Split) -> list[T]:
    """The part of a list of fillers or wordings that a split uses: training two thirds, "unseen" the rest."""
    return [x for i, x in enumerate(items) if split == "all" or (i % 3 == 2) == (split == "unseen")]


def fit_length(rng: Random, start: list[str], pool: Sequence[str], end: list[str], words: int) -> str:
    """`start`, sentences of the pool in random order, `end`; stops where whole sentences come nearest to `words`.

    `start` and `end` are never cut.
    """
    have = sum(len(s.split()) for s in start + end)
    middle: list[str] = []
    for sentence in rng.sample(list(pool), len(pool)):
        more = len(sentence.split())
        if have + more / 2 > words:
            break
        middle.append(sentence)
        have += more
    return " ".join(start + middle + end)
