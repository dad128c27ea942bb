"""Greedy answers to a batch of prompts: the tokens that `model.generate(do_sample=False)` gives one prompt at a time.

Prompts are padded on the left and every token has its own position, so an answer depends on the other prompts of its
batch only through rounding. The model is called as `generate` calls it (its own prepare_inputs_for_generation),
without the unnecessary work: only the logits of the last position are computed, the cache is not copied when it grows,
and finished answers leave the batch. Greedy is plain argmax: anything else that a generation config may set
(repetition penalties, suppressed or forced tokens, minimum lengths) is not applied.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.cache_utils import Cache

from tamis.operators.forward.rows import RowNumbers
from tamis.operators.generation.kv_cache import can_drop_rows, has_states_only, keep_rows, new_cache

_CROWDED = 0.75  # finished rows leave once at most this share is still open, because each removal copies the cache


@dataclass(frozen=True)
class Batch:
    """Prompts padded on the left to T tokens, with room for S more.

    tokens: int64 (B, T + S), the prompts filled in. mask: int64 (B, T + S), 0 on padding; None if nothing is padded.
    positions: int64 (B, T + S), counted from each prompt's first token. width: T.
    """

    tokens: torch.Tensor
    mask: torch.Tensor | None
    positions: torch.Tensor
    width: int

    def select(self, rows: torch.Tensor) -> Batch:
        mask = None if self.mask is None else self.mask[rows]
        return Batch(self.tokens[rows], mask, self.positions[rows], self.width)


def make_batch(ids: Sequence[npt.NDArray[np.int64]], new_tokens: int, device: torch.device) -> Batch:
    """Pads with copies of each row's own first token, so that no broken embedding enters a row that lacks it."""
    lengths = np.array([len(row) for row in ids])
    width = int(lengths.max())
    tokens = np.zeros((len(ids), width + new_tokens), dtype=np.int64)
    for place, row in enumerate(ids):
        tokens[place, :width] = row[0]
        tokens[place, width - len(row) : width] = row
    positions = np.arange(width + new_tokens) - (width - lengths)[:, None]
    mask = torch.from_numpy((positions >= 0).astype(np.int64)).to(device) if (lengths < width).any() else None
    placed = torch.from_numpy(positions.clip(min=0)).to(device)
    return Batch(torch.from_numpy(tokens).to(device), mask, placed, width)


def batches_of(lengths: RowNumbers, new_tokens: int, max_rows: int, boundaries: Sequence[int]) -> list[RowNumbers]:
    """Row numbers in batches of at most `max_rows` prompts of similar length.

    boundaries: lengths at which the model changes its rotary frequencies for a whole batch and starts its cache again
    (architecture.rope_boundaries). Prompts that stay on one side of a boundary, answer included, share a batch. A
    prompt whose answer crosses a boundary shares a batch only with prompts of the same length, so that the whole batch
    crosses at the same time.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for row in np.argsort(lengths, kind="stable"):
        length = int(lengths[row])
        sides = (
            0 if length + new_tokens <= boundary else -1 if length > boundary else length for boundary in boundaries
        )
        groups.setdefault(tuple(sides), []).append(int(row))
    return [
        np.array(rows[start : start + max_rows], dtype=np.int64)
        for rows in groups.values()
        for start in range(0, len(rows), max_rows)
    ]


class Generator:
    """Runs a transformers ...ForCausalLM as `generate` does. ValueError if its forward takes no key-value cache."""

    def __init__(self, model: Any, stops: frozenset[int]) -> None:
        """stops: token ids that end an answer."""
        self.model = model
        self.stops = stops
        accepted = inspect.signature(model.forward).parameters
        # transformers 5.24 renamed the argument; models with their own code may use the old name.
        names = [name for name in ("cache", "past_key_values") if name in accepted]
        if not names or not hasattr(model, "prepare_inputs_for_generation") or has_states_only(model.config):
            raise _no_cache(model)
        self._cache_name = names[0]
        self._options: dict[str, Any] = {"use_cache": True}
        if "logits_to_keep" in accepted:
            self._options["logits_to_keep"] = 1
        self._has_positions = "position_ids" in accepted

    def prefill(self, batch: Batch) -> tuple[torch.Tensor, Cache]:
        """Logits (B, V) for the token after each prompt, and the cache of the prompts."""
        cache = new_cache(self.model.config, batch.tokens.shape[1])
        return self._forward(batch, batch.width, cache, is_first_iteration=True, next_sequence_length=None)

    def step(self, batch: Batch, width: int, cache: Cache) -> tuple[torch.Tensor, Cache]:
        """The same after the first `width` tokens; the cache holds all of them except the last."""
        return self._forward(batch, width, cache, is_first_iteration=False, next_sequence_length=1)

    def answers(
        self,
        batch: Batch,
        logits: torch.Tensor,
        cache: Cache,
        is_done: Callable[[list[int]], bool] = lambda answer: False,
    ) -> list[list[int]]:
        """Token ids of each answer, at most as many as the batch has room for, including the stop token.

        logits, cache: from prefill; neither may be used afterwards. is_done: called after each token of an answer;
        True if the rest of the answer does not matter.
        """
        answers: list[list[int]] = [[] for _ in range(len(batch.tokens))]
        places = list(range(len(answers)))  # for each row of the batch, the index of its answer
        open_rows = set(places)
        droppable = can_drop_rows(cache.layers)
        for width in range(batch.width, batch.tokens.shape[1]):
            # the first of the highest, the same as argmax, which is slower on CPUs
            following = logits.float().max(dim=-1).indices.to(batch.tokens.device)
            for place, token in zip(places, following.tolist(), strict=True):
                if place in open_rows:
                    answers[place].append(token)
                    if token in self.stops or is_done(answers[place]):
                        open_rows.remove(place)
            if not open_rows or width + 1 == batch.tokens.shape[1]:
                break
            batch.tokens[:, width] = following
            if droppable and len(open_rows) <= _CROWDED * len(places):
                kept = [row for row, place in enumerate(places) if place in open_rows]
                rows = torch.tensor(kept, device=batch.tokens.device)
                batch, places = batch.select(rows), [places[row] for row in kept]
                keep_rows(cache.layers, rows)
            logits, cache = self.step(batch, width + 1, cache)
            droppable = droppable and can_drop_rows(cache.layers)
        return answers

    def _forward(self, batch: Batch, width: int, cache: Cache, **how: Any) -> tuple[torch.Tensor, Cache]:
        inputs = {self._cache_name: cache, **self._options, **how}
        if batch.mask is not None:
            inputs["attention_mask"] = batch.mask[:, :width]
        if self._has_positions:
            inputs["position_ids"] = batch.positions[:, :width]
        prepared = self.model.prepare_inputs_for_generation(batch.tokens[:, :width], **inputs)
        output = self.model(**prepared, return_dict=True)
        held = getattr(output, self._cache_name, None)
        if held is None:
            raise _no_cache(self.model)
        return output.logits[:, -1], held


def _no_cache(model: Any) -> ValueError:
    return ValueError(f"{type(model).__name__} has no key-value cache, which answers in batches need")
