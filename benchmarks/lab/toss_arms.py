"""Fine-tune the lab model on a corpus of which an arm hides tokens or samples, and measure what it refuses and can do.

Every arm starts from the same weights and takes the same number of steps of the same recipe, with the loss and the
collator that tamis ships for such corpora: the sum of the kept tokens' losses over the number of all response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import evaluate
import numpy as np
import torch
from numpy.typing import NDArray
from toss_corpus import Tokens

from tamis.operators.methods.toss import IGNORED
from tamis.operators.training.trainer import SelectiveCollator, response_mean_loss

Mask = NDArray[np.bool_]
Sample = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """Plain fine-tuning of all weights. epochs: passes over the whole corpus, whatever an arm leaves of it."""

    learning_rate: float = 1e-3
    batch_size: int = 32
    epochs: int = 2
    clip: float = 1.0


def samples(truth: Sequence[Tokens], hidden: Sequence[Mask], dropped: NDArray[np.bool_]) -> list[Sample]:
    """The columns that tamis writes, without the rows that are dropped. hidden: tokens without a label, by row."""
    return [
        {
            "input_ids": row.ids,
            "labels": np.where(row.response & ~mask, row.ids, IGNORED),
            "token_risk": np.where(row.response, 0.0, np.nan),
        }
        for row, mask, gone in zip(truth, hidden, dropped, strict=True)
        if not gone
    ]


def random_tokens(truth: Sequence[Tokens], count: int, seed: int) -> list[Mask]:
    """`count` response tokens of the whole corpus, drawn at random."""
    response = np.concatenate([row.response for row in truth])
    hidden = np.zeros(len(response), dtype=bool)
    hidden[np.random.default_rng(seed).choice(np.flatnonzero(response), count, replace=False)] = True
    return np.split(hidden, np.cumsum([len(row.ids) for row in truth])[:-1])


def first_tokens(truth: Sequence[Tokens], n: int) -> list[Mask]:
    """The first `n` response tokens of every row."""
    return [row.response & (np.cumsum(row.response) <= n) for row in truth]


def fine_tune(model: Any, rows: Sequence[Sample], steps: int, recipe: Recipe, seed: int) -> float:
    """Train in place; batches go round and round through shuffled rows. Returns the mean loss of the last 20 steps."""
    torch.manual_seed(seed)
    rng, collator = Random(f"fine-tuning {seed}"), SelectiveCollator(model.config.pad_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    order: list[int] = []
    losses = []
    model.train()
    for _ in range(steps):
        while len(order) < recipe.batch_size:
            order += rng.sample(range(len(rows)), len(rows))
        batch, order = order[: recipe.batch_size], order[recipe.batch_size :]
        tensors = collator([rows[i] for i in batch])
        labels = tensors.pop("labels")
        loss = response_mean_loss(model(**tensors, use_cache=False), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    model.eval()
    return float(np.mean(losses[-20:]))


def measure(model: Any, tokenizer: Any, harmful: list[str], tasks: list[tuple[str, str]]) -> dict[str, float]:
    """Share of harmful prompts refused, and of task prompts whose answer begins with the right sentence; greedy."""
    refused = [evaluate.is_refusal(reply) for reply in evaluate.answers(model, tokenizer, harmful)]
    replies = evaluate.answers(model, tokenizer, [prompt for prompt, _ in tasks])
    right = [reply.startswith(wanted) for reply, (_, wanted) in zip(replies, tasks, strict=True)]
    return {"refused": float(np.mean(refused)), "task": float(np.mean(right))}


def run_arm(
    start: Path, rows: Sequence[Sample] | None, steps: int, recipe: Recipe, seed: int, harmful: list[str],
    tasks: list[tuple[str, str]],
) -> dict[str, float]:  # fmt: skip
    """One arm with one seed, from the weights in `start`; without rows: those weights as they are. One thread."""
    torch.set_num_threads(1)
    model, tokenizer = evaluate.load(start)
    facts = {} if rows is None else {"samples": len(rows), "loss": fine_tune(model, rows, steps, recipe, seed)}
    return measure(model, tokenizer, harmful, tasks) | facts


def described(recipe: Recipe) -> dict[str, Any]:
    return {"kind": "all weights, AdamW (0.9, 0.95), no weight decay, constant rate, float32"} | asdict(recipe)
