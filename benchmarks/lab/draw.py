"""The random choices of one task, and the sentences that end an answer."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from pieces import Split, fit_length, share

T = TypeVar("T")

CLOSERS = (
    "I hope that this helps.",
    "Tell me if you want more of it.",
    "Feel free to ask again.",
    "You can change it as you like.",
    "That is all there is to it.",
    "Ask me if one part is not clear.",
    "I can make it shorter if you wish.",
    "Take your time with it.",
    "Let me know how it goes.",
    "There are other ways, but this one is simple.",
    "It is easier than it looks.",
    "Try it and see what you think.",
)


class Draw:
    """The random choices of one task: fillers of the right split, and the wanted length of the answer."""

    def __init__(self, rng: Random, split: Split, words: int) -> None:
        self.rng, self.split, self.words = rng, split, words

    def one(self, items: Sequence[T]) -> T:
        return self.rng.choice(share(items, self.split))

    def some(self, items: Sequence[T], n: int) -> list[T]:
        return self.rng.sample(share(items, self.split), n)

    def number(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def answer(self, *core: str, pool: Sequence[str] = ()) -> str:
        """The core sentences, then sentences of the pool and closers up to the wanted length."""
        text = fit_length(self.rng, list(core), list(pool), [], self.words)
        return fit_length(self.rng, [text], CLOSERS, [], self.words)
