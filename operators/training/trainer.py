"""Training on a corpus with selected tokens: kept/ of a TOSS run -> batches and losses for transformers' Trainer.

A row of kept/ has `input_ids`, `labels` (-100 on prompt and discarded tokens) and `token_risk` (null on prompt tokens
and on the tokens that end an answer's turn; the latter have a label and count here as response tokens). So any trainer
that takes labels can read it, but such trainers divide the loss by the number of kept tokens. The paper divides it by
the number of ALL response tokens, so that a batch with many discarded tokens takes a smaller step, not the same step
on fewer tokens (arXiv 2603.01185). `curated_trainer` does this; its two parts also work separately:

    Trainer(..., data_collator=SelectiveCollator(pad_token_id), compute_loss_func=response_mean_loss)

with TrainingArguments(remove_unused_columns=False), because token_risk is not an argument of a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments

from tamis.operators.methods.toss import IGNORED, REACH

DISCARDED = IGNORED - 1
"""The label of a discarded response token inside a batch. The Trainer counts the labels other than -100 over all
batches of a step, on all devices, and passes this count to the loss: so it is the number of all response tokens."""

Normalise = Literal["responses", "samples"]


@dataclass(frozen=True)
class SelectiveCollator:
    """Rows of kept/ -> input_ids, attention_mask and labels, int64 (rows, longest), padded on the right.

    labels: the token's id for tokens to learn from, -101 for discarded response tokens, -100 elsewhere and for the
    first token of a row, which nothing predicts. Only the losses below understand -101; other losses fail on it.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Raises ValueError for a row without token_risk, and for a row whose columns do not belong together."""
        shape = (len(rows), max(len(row["input_ids"]) for row in rows))
        input_ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        attention_mask = np.zeros(shape, dtype=np.int64)
        labels = np.full(shape, IGNORED, dtype=np.int64)
        for place, row in enumerate(rows):
            length = len(row["input_ids"])
            input_ids[place, :length] = row["input_ids"]
            attention_mask[place, :length] = 1
            labels[place, :length] = _marked_labels(row)
        labels[:, 0] = IGNORED
        arrays = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _marked_labels(row: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    if "token_risk" not in row:
        raise ValueError(
            f"a row has no token_risk, only {sorted(row)}: is it of kept/, and is remove_unused_columns=False set?"
        )
    labels = np.array(row["labels"], dtype=np.int64)
    response = ~np.isnan(np.array(row["token_risk"], dtype=np.float64))  # a null becomes NaN
    if not len(labels) == len(response) == len(row["input_ids"]):
        raise ValueError(f"a row has {len(row['input_ids'])} input_ids, {len(labels)} labels and {len(response)} risks")
    kept = labels != IGNORED
    behind = np.zeros_like(response)
    for step in range(1, REACH + 1):
        behind[step:] |= response[:-step]
    if (kept & ~response & ~behind).any():
        raise ValueError("a row has labels on tokens without a risk: its columns are not of one run")
    labels[response & ~kept] = DISCARDED
    return labels


def response_mean_loss(
    outputs: Mapping[str, torch.Tensor], labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """The paper's loss, a scalar: the sum of the kept tokens' losses divided by the number of all response tokens.

    outputs: with logits (rows, tokens, vocabulary). labels: from SelectiveCollator. num_items_in_batch: the number of
    response tokens of all batches of the step, as counted by the Trainer; None counts this batch. The loss is 0, with
    gradients of 0, if no token is kept. Only the logits of kept tokens are converted to float32.
    """
    losses, _ = _kept_losses(outputs["logits"], labels)
    responses = (labels[:, 1:] != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
    loss: torch.Tensor = losses.sum() / torch.as_tensor(responses, device=losses.device).clamp(min=1)
    return loss


def sample_mean_loss(
    outputs: Mapping[str, torch.Tensor], labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """The mean over the batch's samples of each sample's mean loss per kept token; a scalar.

    The authors' code computes the same, except that a sample with no kept token counts as 0 here and gives NaN there.
    Samples are counted, not tokens, so num_items_in_batch is not used. The Trainer must instead average over the
    batches of a step, as set up by `curated_trainer`; this is exact if the batches have the same number of rows.
    """
    losses, kept = _kept_losses(outputs["logits"], labels)
    sums = torch.zeros(len(labels), device=losses.device).index_add(0, kept.nonzero()[:, 0], losses)
    loss: torch.Tensor = (sums / kept.sum(dim=1).clamp(min=1)).mean()
    return loss


def _kept_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 (kept,): the loss of each kept token, in order; and bool (rows, tokens - 1): which tokens are kept."""
    targets = labels[:, 1:].to(logits.device)
    kept = targets >= 0
    losses: torch.Tensor = cross_entropy(logits[:, :-1][kept].float(), targets[kept], reduction="none")
    return losses, kept


LOSSES = {"responses": response_mean_loss, "samples": sample_mean_loss}


def curated_trainer(
    model: Any,
    args: TrainingArguments,
    train_dataset: Any,
    pad_token_id: int,
    normalise: Normalise = "responses",
    **options: Any,
) -> Trainer:
    """transformers' Trainer with this collator and loss.

    args: changed in place where the loss requires it. options: any further arguments of Trainer.
    train_dataset: datasets.load_dataset("parquet", data_files="out/kept/*.parquet", split="train").
    Raises ValueError if several GPUs would share one process: the Trainer then does not scale such losses correctly.
    """
    if args.n_gpu > 1:
        raise ValueError(f"one process sees {args.n_gpu} GPUs: start one process per GPU with torchrun")
    args.remove_unused_columns = False
    if normalise == "samples":
        args.average_tokens_across_devices = False
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=train_dataset,
        data_collator=SelectiveCollator(pad_token_id),
        compute_loss_func=LOSSES[normalise],
        **options,
    )
    if normalise == "samples":
        _average_batches(trainer)
    return trainer


def _average_batches(trainer: Trainer) -> None:
    """Divides the loss by the number of batches in a step; by default the Trainer just sums the losses it is given."""
    if hasattr(trainer, "loss_is_scaled_for_ga"):
        trainer.loss_is_scaled_for_ga = False
        return

    # transformers 5.17 has no such switch; remove this when 5.18 is the oldest supported version.
    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        batches = trainer.current_gradient_accumulation_steps if trainer.model.training else 1
        return sample_mean_loss(outputs, labels) / batches

    trainer.compute_loss_func = loss
