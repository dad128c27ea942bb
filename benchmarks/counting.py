"""How many tokens a way really computes, padding included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")


class _Lookups(TorchDispatchMode):
    """Counts the ids that are looked up in a table of `vocabulary` rows, or of any number at first use."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.tokens = vocabulary, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.embedding.default and args[0].shape[0] == self.vocabulary:
            self.tokens += args[1].numel()
        return func(*args, **(kwargs or {}))


def count_tokens(run: Callable[[], T], vocabulary: int) -> tuple[T, int | None]:
    """Run it; its result, and how many ids went into the token embedding.

    What torch.compile has fused cannot be watched: then None.
    """
    with _Lookups(vocabulary) as lookups:
        result = run()
    return result, lookups.tokens or None
