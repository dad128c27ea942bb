"""Fine-tune the lab model on what an arm keeps of a corpus, so that arms differ in the dropped rows and in little else.

Every arm starts from the same weights and goes through the same batches of the whole corpus in the same order; the rows
that it drops are skipped, so its batches are smaller, never others. What is measured is the mean of the weights after
each step of the second half: the weights after the last step alone differ more between seeds than between arms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tamis.operators.training.recipe import BETAS, Recipe
from tamis.operators.training.trainer import SelectiveCollator, response_mean_loss


def paired_batches(recipe: Recipe, dropped: NDArray[np.bool_]) -> Iterator[NDArray[np.int64]]:
    """The rows of every step, of all epochs: the batch of the whole corpus without the dropped rows. May be empty.

    recipe: its seed, epochs and batch size decide the order. dropped: bool (N,), by row of the whole corpus.
    """
    for step in range(recipe.steps(len(dropped))):
        batch = recipe.batch(step, len(dropped))
        yield batch[~dropped[batch]]


class MeanOfWeights:
    """The mean, in float64, of what a model's weights were each time that `add` was called."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def add(self, model: torch.nn.Module) -> None:
        self.count += 1
        for name, weight in model.named_parameters():
            if name not in self._sums:
                self._sums[name] = torch.zeros_like(weight, dtype=torch.float64)
            self._sums[name] += weight

    @torch.no_grad()
    def load_into(self, model: torch.nn.Module) -> None:
        """ValueError before anything was added."""
        if not self.count:
            raise ValueError("there are no weights to average")
        for name, weight in model.named_parameters():
            weight.copy_(self._sums[name] / self.count)


def fine_tune(model: Any, rows: Sequence[Any], dropped: NDArray[np.bool_], recipe: Recipe) -> int:
    """Train all weights in place, then set them to the mean over the second half. Returns the number of updates.

    rows: with the columns of kept/ (input_ids, labels, token_risk); the loss is the mean over the response tokens of
    what is left of a batch. A step whose rows are all dropped makes no update.
    """
    torch.manual_seed(recipe.seed)
    collator, mean = SelectiveCollator(model.config.pad_token_id), MeanOfWeights()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=BETAS, weight_decay=recipe.weight_decay
    )
    steps, updates = recipe.steps(len(rows)), 0
    model.train()
    for step, batch in enumerate(paired_batches(recipe, dropped)):
        if len(batch):
            tensors = collator([rows[row] for row in batch])
            labels = tensors.pop("labels")
            response_mean_loss(model(**tensors, use_cache=False), labels).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            updates += 1
        if step >= steps // 2:
            mean.add(model)
    mean.load_into(model)
    model.eval()
    return updates
