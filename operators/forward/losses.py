"""The loss of every response token: token ids -> cross-entropy per token (docs/methods.md, "TOSS").

The body of the model runs on batches padded on the right, without an attention mask, as in the Representer. The LM
head gets only the hidden states that predict a response token, one chunk of positions at a time: logits of the whole
batch (rows x tokens x vocabulary) never exist. The head computes in the model's dtype. Its logits are converted to
float32 before the log-sum-exp, which is then as exact as the logits. With LoRA adapters the base is loaded once, and
each batch runs under every adapter in turn.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tamis.operators.forward.halving import run_halving
from tamis.operators.forward.lm_head import SplitModel
from tamis.operators.forward.rows import (
    TOKEN_BUDGETS,
    RowNumbers,
    TokenIds,
    batch_overhead,
    model_batches,
    padded,
    row_lengths,
    unusable_rows,
)
from tamis.operators.model.architecture import describe, plan_full, read_config, rope_boundaries
from tamis.operators.model.info import ModelInfo
from tamis.operators.model.loading import find_weights, load_cut
from tamis.operators.model.placement import choose_device, choose_dtype
from tamis.operators.model.revisions import resolve_revision
from tamis.operators.problems import RowProblem

if TYPE_CHECKING:
    from tamis.operators.forward.adapters import Adapters

BASE = "base"

CHUNK_BYTES = 256 * 2**20
"""Bytes of one chunk's logits and a float32 copy, which some kernels and models that scale or cap logits make."""

_BLOCK_BYTES = 2 * 2**20
"""Bytes per thread of float32 logits that a CPU processes at a time: they stay in its cache for all passes."""

Losses = npt.NDArray[np.float32]
Ranges = Sequence[Sequence[tuple[int, int]] | npt.NDArray[np.integer]]


class TokenLosses:
    """A causal language model, or several LoRA adapters on one, that scores tokens. Not thread-safe."""

    def __init__(
        self,
        model: nn.Module,
        blocks: str,
        info: ModelInfo,
        config: Any,
        adapters: Adapters | None = None,
        *,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        """blocks: the path of the model's list of blocks. adapters: already attached to this same model. chunk_bytes:
        limits the memory of the LM head's results; besides these, only the batch's hidden states are held.
        """
        self.info = info
        self.names: tuple[str, ...] = adapters.names if adapters is not None else (BASE,)
        parameter = next(model.parameters())
        self.device: torch.device = parameter.device
        self.dtype: torch.dtype = parameter.dtype
        self._adapters = adapters
        self._boundaries = rope_boundaries(config)
        self._chunk = max(1, chunk_bytes // (info.vocabulary * (parameter.element_size() + 4)))
        self._parts = SplitModel(model, blocks)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        adapters: Mapping[str, str | os.PathLike[str]] | None = None,
        dtype: str = "auto",
        device: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        allow_pickle_weights: bool = False,
    ) -> TokenLosses:
        """Loads the model in folder `path` (or of that name on the hub), and the LoRA adapters in the given folders.

        adapters: name -> folder; without adapters there is one model, named "base".
        dtype: float32, bfloat16, float16, or auto = bfloat16 on CUDA and float32 elsewhere; for base and adapters.
        device: auto = cuda if there is one, else cpu; or any torch device.
        Raises ValueError for a model that is not a causal decoder, is incomplete, or requires something that is not
        allowed (code, pickles), and for an adapter that does not belong to the model.
        """
        place = choose_device(device)
        number = choose_dtype(dtype, place)
        revision = resolve_revision(path, revision)  # a branch may move between the config and the weights
        config = read_config(path, revision=revision, trust_remote_code=trust_remote_code)
        info = describe(config)
        plan = plan_full(config, trust_remote_code=trust_remote_code)
        files = find_weights(path, plan, revision=revision, allow_pickle_weights=allow_pickle_weights)
        model = load_cut(plan, files, dtype=number, device=place)
        if not adapters:
            return cls(model, plan.blocks, info, config)
        from tamis.operators.forward.adapters import Adapters  # imports peft, which only adapters need

        return cls(model, plan.blocks, info, config, Adapters(model, adapters))

    def losses(
        self,
        input_ids: Sequence[TokenIds],
        responses: Ranges,
        *,
        token_budget: int | None = None,
        names: Sequence[str] | None = None,
        exact: bool = False,
        on_batch: Callable[[int], None] | None = None,
    ) -> tuple[dict[str, list[Losses]], dict[int, RowProblem]]:
        """The cross-entropy, in nats, of each response token given all tokens before it.

        input_ids: N arrays of token ids, (T_i,).
        responses: for each row, its half-open token ranges, in order and not overlapping.
        token_budget: rows x longest row of a batch; default: rows.TOKEN_BUDGETS.
        names: a subset of `self.names`; default: all.
        exact: runs one row at a time, so that a row's losses are identical to the bit whatever else is in the call, on
        the same machine, device and number of threads.
        on_batch: called after each batch with its number of tokens.

        Returns, per name, one float32 array per row, (tokens in its ranges,), in token order; and the rows that have
        a problem, whose arrays are all NaN: empty, too_long_for_model, bad_token_id, no_response_token,
        no_prompt_token (nothing predicts the first token), forward_failed, non_finite. A batch that fails is halved,
        down to one row. Raises ValueError for ranges outside a row and for unknown names. If every row fails and an
        error is not an out-of-memory error, raises that error: the rows are not the cause.
        """
        chosen = self._chosen(names)
        lengths = row_lengths(input_ids)
        positions = response_positions(responses, lengths)
        problems = unusable_rows(input_ids, lengths, self.info)
        for row, tokens in enumerate(positions):
            if not len(tokens):
                problems.setdefault(row, RowProblem("no_response_token", "the sample has no response tokens"))
            elif tokens[0] == 0:
                message = "the sample begins with a response token, which no token before it predicts"
                problems.setdefault(row, RowProblem("no_prompt_token", message))
        needed = self._needed(positions, lengths)
        losses = {name: [np.full(len(tokens), np.nan, dtype=np.float32) for tokens in positions] for name in chosen}
        usable = np.array([row for row in range(len(lengths)) if row not in problems], dtype=np.int64)

        def run(rows: RowNumbers) -> None:
            wanted = [positions[row] for row in rows]
            scored = self._run([input_ids[row] for row in rows], needed[rows], wanted, chosen)
            for place, row in enumerate(rows):
                strange = [name for name in chosen if not np.isfinite(scored[name][place]).all()]
                if strange:
                    message = f"the loss of this sample under {strange[0]!r} is not finite"
                    problems[int(row)] = RowProblem("non_finite", message)
                    continue
                for name in chosen:
                    losses[name][row][:] = scored[name][place]
            if on_batch is not None:
                on_batch(int(lengths[rows].sum()))

        if exact:
            batches = [usable[place : place + 1] for place in range(len(usable))]
        else:
            usual = TOKEN_BUDGETS.get(self.device.type, TOKEN_BUDGETS["cuda"])
            budget = usual if token_budget is None else token_budget
            batches = model_batches(usable, needed, budget, batch_overhead(self.device.type), self._boundaries)
        problems.update(run_halving(batches, run, recover=lambda: None))
        return losses, dict(sorted(problems.items()))

    def _chosen(self, names: Sequence[str] | None) -> tuple[str, ...]:
        chosen = self.names if names is None else tuple(dict.fromkeys(names))
        unknown = [name for name in chosen if name not in self.names]
        if unknown:
            raise ValueError(f"there is no model named {unknown[0]!r}; loaded: {', '.join(self.names)}")
        return chosen

    def _needed(self, positions: Sequence[RowNumbers], lengths: RowNumbers) -> RowNumbers:
        """The number of tokens of each row that its losses depend on: all tokens before the last scored token.

        If the number of tokens changes the rotary frequencies, the losses depend on all tokens.
        """
        if self._boundaries:
            return lengths
        return np.array([tokens[-1] if len(tokens) else 0 for tokens in positions], dtype=np.int64)

    def _run(
        self, ids: list[TokenIds], needed: RowNumbers, positions: list[RowNumbers], names: Sequence[str]
    ) -> dict[str, list[Losses]]:
        """Runs one batch under each model: per name and row, the losses of the tokens at `positions`."""
        counts = [len(tokens) for tokens in positions]
        tokens = padded([row[:length] for row, length in zip(ids, needed, strict=True)], needed)
        rows = np.repeat(np.arange(len(ids)), counts)
        predictors = rows * tokens.shape[1] + np.concatenate(positions) - 1
        targets = np.concatenate([row[places] for row, places in zip(ids, positions, strict=True)]).astype(np.int64)
        with torch.inference_mode():
            batch, places, wanted = (torch.from_numpy(array).to(self.device) for array in (tokens, predictors, targets))
            scored = {name: self._score(name, batch, places, wanted) for name in names}
        stops = np.cumsum(counts)[:-1]
        return {name: np.split(losses.cpu().numpy(), stops) for name, losses in scored.items()}

    def _score(self, name: str, tokens: torch.Tensor, places: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """float32 (n,): the losses under one model of targets (n,). Target i is predicted at index places[i], (n,), of
        the flattened tokens (B, T).
        """
        if self._adapters is not None:
            self._adapters.use(name)
        states = self._parts.states(tokens).flatten(0, 1)
        places = places.to(states.device)  # a model spread over GPUs ends on another device than it starts on
        chunks = zip(places.split(self._chunk), targets.split(self._chunk), strict=True)
        return torch.cat([cross_entropy(self._parts.logits(states[part]), wanted) for part, wanted in chunks])


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log softmax(logits)[target] in float32: logits (n, V), targets (n,) -> (n,). Overwrites float32 logits."""
    rows = len(targets)
    if logits.device.type == "cpu":
        rows = max(1, torch.get_num_threads() * _BLOCK_BYTES // (4 * logits.shape[1]))
    losses = []
    for part, wanted in zip(logits.split(rows), targets.split(rows), strict=True):
        block = part.float()
        target = block.gather(1, wanted[:, None].to(block.device))
        highest = block.amax(dim=1, keepdim=True)
        total = block.sub_(highest).exp_().sum(dim=1, keepdim=True)
        losses.append(total.log_() + (highest - target))
    return torch.cat(losses)[:, 0]


def response_positions(responses: Ranges, lengths: RowNumbers) -> list[RowNumbers]:
    """Per row, the indices of its response tokens; ValueError for ranges that break the contract of `losses`."""
    if len(responses) != len(lengths):
        raise ValueError(f"{len(lengths)} rows have {len(responses)} sets of response ranges")
    positions = []
    for row, (ranges, length) in enumerate(zip(responses, lengths, strict=True)):
        spans = np.asarray(ranges if len(ranges) else np.zeros((0, 2), dtype=np.int64))
        if spans.ndim != 2 or spans.shape[1] != 2 or not np.issubdtype(spans.dtype, np.integer):
            raise ValueError(f"row {row}: response ranges must be pairs of whole numbers, not {spans.dtype}")
        edges = spans.ravel()
        if (np.diff(edges) < 0).any() or (edges < 0).any() or (edges > length).any():
            raise ValueError(
                f"row {row}: the response ranges {spans.tolist()} are not in order and apart within its {length} tokens"
            )
        inside = [np.arange(start, stop, dtype=np.int64) for start, stop in spans]
        positions.append(np.concatenate(inside) if inside else np.zeros(0, dtype=np.int64))
    return positions
