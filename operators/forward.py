"""The forward pass: token ids -> one float32 vector per sample and request.

A model is loaded up to the highest requested block only. A hook on each requested block pools its output (the
residual stream, before the final norm) on the device while the pass runs; no hidden state outlives its block,
and one copy per batch brings the pooled vectors back. Rows are padded on the right: a causal model's real
tokens cannot see what follows them, so there is no attention mask and a row's numbers do not depend on the
rows beside it, to rounding (1e-5 relative in float32).
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers.utils import resolve_revision

from tamis.operators.architecture import (
    ModelInfo,
    describe,
    describe_model,
    plan_cut,
    read_config,
    rope_boundaries,
)
from tamis.operators.batching import token_budget_batches
from tamis.operators.loading import find_weights, is_out_of_memory, load_cut, open_weights
from tamis.operators.problems import RowProblem
from tamis.operators.requests import POSITIONS, Request

__all__ = ["POSITIONS", "ModelInfo", "Representer", "Request", "check_model", "describe_model"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


def check_model(
    path: str | os.PathLike[str],
    requests: Iterable[Request],
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle_weights: bool = False,
) -> ModelInfo:
    """Check that Representer.load would find all that it needs, and raise as it would; no weight is read.

    Files are opened and their headers checked; from the hub they are downloaded. What only their content shows (a
    weight missing inside a file, attention that looks ahead in secret) is found when they are loaded.
    """
    wanted = _wanted(requests)
    revision = resolve_revision(path, revision)
    config = read_config(path, revision=revision, trust_remote_code=trust_remote_code)
    info = describe(config)
    cut = plan_cut(config, _blocks_needed(wanted, info), trust_remote_code=trust_remote_code)
    files = find_weights(path, cut, revision=revision, allow_pickle_weights=allow_pickle_weights)
    with open_weights(files, cut):  # opening reads and checks the header of each file
        return info


@dataclass(frozen=True)
class _Failure:
    """Why a batch could not be run."""

    error: Exception
    out_of_memory: bool


class Representer:
    """A truncated model that turns token ids into the requested vectors. Not to be shared between threads."""

    def __init__(
        self,
        model: nn.Module,
        blocks: nn.ModuleList,
        info: ModelInfo,
        requests: Iterable[Request],
        config: Any,
    ) -> None:
        self.info = info
        self.requests = _wanted(requests)
        parameter = next(model.parameters())
        self.device: torch.device = parameter.device
        self.dtype: torch.dtype = parameter.dtype
        self._model = model
        self._boundaries = rope_boundaries(config)
        self._pool = _Pool(blocks, self.requests)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        requests: Iterable[Request],
        *,
        dtype: str = "auto",
        device: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        allow_pickle_weights: bool = False,
    ) -> Representer:
        """Load the model in folder `path` (or of that name on the hub) up to the highest requested block.

        dtype: float32, bfloat16, float16, or auto = bfloat16 on CUDA and float32 elsewhere. device: auto =
        cuda if there is one, else cpu; or any torch device. Raises ValueError for a request that the model
        has no block for, and for a model that is not a causal decoder, is incomplete, or asks for what is not
        allowed (code, pickles).
        """
        wanted = _wanted(requests)
        place = _device(device)
        number = _dtype(dtype, place)
        revision = resolve_revision(path, revision)  # a branch may move between the config and the weights
        config = read_config(path, revision=revision, trust_remote_code=trust_remote_code)
        info = describe(config)
        cut = plan_cut(config, _blocks_needed(wanted, info), trust_remote_code=trust_remote_code)
        files = find_weights(path, cut, revision=revision, allow_pickle_weights=allow_pickle_weights)
        model = load_cut(cut, files, dtype=number, device=place)
        blocks = model.get_submodule(cut.blocks)
        assert isinstance(blocks, nn.ModuleList)
        return cls(model, blocks, info, wanted, config)

    def close(self) -> None:
        """Remove the hooks from the model and let go of it."""
        self._pool.remove()
        self._model = nn.Identity()

    def represent(
        self,
        input_ids: Sequence[npt.NDArray[np.integer[Any]]],
        finals: npt.ArrayLike,
        *,
        token_budget: int = 4096,
    ) -> tuple[dict[Request, Vectors], dict[int, RowProblem]]:
        """Run all rows and pool each request.

        input_ids: N arrays of token ids, (T_i,). finals: (N, 2) whole numbers, the half-open token range of
        each final answer. token_budget: rows x longest row of a batch.
        Returns, per request, float32 (N, d) whose row i belongs to input i; and the rows that have a problem,
        which hold NaN in every array: empty, too_long_for_model, bad_token_id, no_prompt_token,
        no_response_token, forward_failed, non_finite. A batch that fails is halved, down to one row. Raises
        ValueError on ranges outside a row, and the error itself if every row fails with one that is not a
        lack of memory: then it is no row's fault.
        """
        lengths, spans = _checked_shapes(input_ids, finals)
        problems = self._refuse(input_ids, lengths, spans)
        vectors = {
            request: np.full((len(lengths), self.info.width), np.nan, dtype=np.float32) for request in self.requests
        }
        usable = np.array([row for row in range(len(lengths)) if row not in problems], dtype=np.int64)
        pending = self._batches(usable, lengths, token_budget)[::-1]
        failures: dict[int, _Failure] = {}
        while pending:
            rows = pending.pop()
            outcome = self._attempt([input_ids[row] for row in rows], lengths[rows], spans[rows])
            if isinstance(outcome, _Failure):
                if len(rows) > 1:
                    half = len(rows) // 2
                    pending += [rows[half:], rows[:half]]
                else:
                    failures[int(rows[0])] = outcome
                continue
            finite = np.isfinite(outcome).all(axis=(0, 2))
            for row in rows[~finite]:
                problems[int(row)] = RowProblem("non_finite", "the model's output for this sample is not finite")
            for request, pooled in zip(self.requests, outcome, strict=True):
                vectors[request][rows[finite]] = pooled[finite]

        at_fault = [failure.error for failure in failures.values() if not failure.out_of_memory]
        if len(failures) == len(usable) > 1 and at_fault:
            raise at_fault[0]
        for row, failure in failures.items():
            name = type(failure.error).__name__
            problems[row] = RowProblem("forward_failed", f"the model raised {name} on this sample alone")
        return vectors, dict(sorted(problems.items()))

    def _refuse(
        self, input_ids: Sequence[npt.NDArray[np.integer[Any]]], lengths: Rows, spans: Rows
    ) -> dict[int, RowProblem]:
        """The rows that must not be run at all."""
        info, starts, stops = self.info, spans[:, 0], spans[:, 1]
        positions = {request.position for request in self.requests}
        lowest = np.array([ids.min() if len(ids) else 0 for ids in input_ids], dtype=np.int64)
        highest = np.array([ids.max() if len(ids) else 0 for ids in input_ids], dtype=np.int64)
        no_row = np.zeros(len(lengths), dtype=bool)
        limit = info.max_positions
        checks = (
            ("empty", lengths == 0, "the sample has no tokens"),
            (
                "too_long_for_model",
                lengths > limit if limit is not None else no_row,
                f"the sample has more tokens than the {limit} that the model takes",
            ),
            (
                "bad_token_id",
                (lowest < 0) | (highest >= info.vocabulary),
                f"a token id lies outside the model's vocabulary of {info.vocabulary}",
            ),
            (
                "no_prompt_token",
                starts == 0 if "last_prompt_token" in positions else no_row,
                "no token stands before the final answer",
            ),
            (
                "no_response_token",
                starts == stops if "response_mean" in positions else no_row,
                "the final answer has no tokens",
            ),
        )
        problems: dict[int, RowProblem] = {}
        for code, refused, message in checks:
            for row in np.flatnonzero(refused):
                problems.setdefault(int(row), RowProblem(code, message))
        return problems

    def _batches(self, rows: Rows, lengths: Rows, token_budget: int) -> list[Rows]:
        """Batches of `rows`, none of which spans a length at which the model changes its rotary
        frequencies.
        """
        side = np.searchsorted(np.array(self._boundaries, dtype=np.int64), lengths[rows], side="left")
        groups = [rows[side == number] for number in range(len(self._boundaries), -1, -1)]
        return [group[batch] for group in groups for batch in token_budget_batches(lengths[group], token_budget)]

    def _attempt(self, ids: list[npt.NDArray[np.integer[Any]]], lengths: Rows, spans: Rows) -> Vectors | _Failure:
        """One batch: float32 (requests, rows, d), or why it failed."""
        try:
            return self._run(ids, lengths, spans)
        except Exception as error:
            failure = _Failure(error, is_out_of_memory(error))
            # after any other error of the accelerator nothing on it can be trusted, or run
            if isinstance(error, torch.AcceleratorError) and not failure.out_of_memory:
                raise
            # the frames hold the batch's tensors: halving would not free any memory
            traceback.clear_frames(error.__traceback__)
        self._pool.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return failure

    def _run(self, ids: list[npt.NDArray[np.integer[Any]]], lengths: Rows, spans: Rows) -> Vectors:
        with torch.inference_mode():
            tokens = torch.from_numpy(_padded(ids, lengths)).to(self.device)
            self._pool.begin(torch.from_numpy(np.stack([lengths - 1, spans[:, 0], spans[:, 1]])).to(self.device))
            self._model(input_ids=tokens, use_cache=False)
            pooled: Vectors = self._pool.take().cpu().numpy()
            return pooled


class _Pool:
    """Forward hooks that reduce the output of each requested block to one float32 vector per row, on the
    device.
    """

    def __init__(self, blocks: nn.ModuleList, requests: tuple[Request, ...]) -> None:
        self._requests = requests
        self._pooled: dict[Request, torch.Tensor] = {}
        self._spans = torch.empty(0)
        self._hooks = [
            blocks[block].register_forward_hook(self._hook(block))
            for block in sorted({request.block for request in requests})
        ]

    def begin(self, spans: torch.Tensor) -> None:
        """spans: int64 (3, B): the last token of each row, and the first token and the end of its final
        answer.
        """
        self._pooled = {}
        self._spans = spans

    def take(self) -> torch.Tensor:
        """float32 (requests, B, d), in the order of the requests."""
        pooled, self._pooled = self._pooled, {}
        return torch.stack([pooled[request] for request in self._requests])

    def clear(self) -> None:
        self.begin(torch.empty(0))

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self.clear()

    def _hook(self, block: int) -> Any:
        requests = [request for request in self._requests if request.block == block]

        def pool_output(module: nn.Module, args: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            for request in requests:
                self._pooled[request] = pool(states, request.position, self._spans)

        return pool_output


def pool(states: torch.Tensor, position: str, spans: torch.Tensor) -> torch.Tensor:
    """Reduce states (B, T, d) to float32 (B, d) at `position`; spans as in _Pool.begin (methods.md, section
    4).
    """
    last, start, stop = spans
    if position == "response_mean":
        steps = torch.arange(states.shape[1], device=states.device)
        outside = (steps < start[:, None]) | (steps >= stop[:, None])
        # set to zero and not multiplied by it: what stands outside may be infinite
        total = states.float().masked_fill(outside[:, :, None], 0.0).sum(dim=1)
        return total / (stop - start).clamp(min=1)[:, None]
    index = last if position == "last_token" else (start - 1).clamp(min=0)
    return states[torch.arange(states.shape[0], device=states.device), index].float()


def _padded(ids: list[npt.NDArray[np.integer[Any]]], lengths: Rows) -> npt.NDArray[np.int64]:
    """(B, T) int64, each row followed by copies of its own last token.

    Nothing real sees the copies, but zero weights times infinity is NaN: a token that is already in the row
    cannot bring in a broken embedding that the row did not have.
    """
    tokens = np.repeat(np.array([row[-1] for row in ids], dtype=np.int64)[:, None], int(lengths.max()), axis=1)
    tokens[np.arange(tokens.shape[1]) < lengths[:, None]] = np.concatenate(ids)
    return tokens


def _checked_shapes(input_ids: Sequence[npt.NDArray[np.integer[Any]]], finals: npt.ArrayLike) -> tuple[Rows, Rows]:
    """Lengths (N,) and answer ranges (N, 2) as int64; ValueError for what no caller may pass."""
    for row, ids in enumerate(input_ids):
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"row {row}: token ids must be whole numbers (T,), not {ids.dtype} {ids.shape}")
    lengths = np.array([len(ids) for ids in input_ids], dtype=np.int64)
    spans = np.asarray(finals)
    if not len(lengths) and not spans.size:
        return lengths, np.zeros((0, 2), dtype=np.int64)
    if spans.shape != (len(lengths), 2) or not np.issubdtype(spans.dtype, np.integer):
        raise ValueError(f"finals must be whole numbers ({len(lengths)}, 2), not {spans.dtype} {spans.shape}")
    spans = spans.astype(np.int64)
    wrong = (spans[:, 0] < 0) | (spans[:, 0] > spans[:, 1]) | (spans[:, 1] > lengths)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"row {row}: the answer's range {spans[row].tolist()} is not within its {lengths[row]} tokens")
    return lengths, spans


def _wanted(requests: Iterable[Request]) -> tuple[Request, ...]:
    wanted = tuple(sorted(set(requests)))
    if not wanted:
        raise ValueError("no vector is requested")
    return wanted


def _blocks_needed(wanted: tuple[Request, ...], info: ModelInfo) -> int:
    highest = max(request.block for request in wanted)
    if highest >= info.blocks:
        raise ValueError(f"block {highest} is requested, but {info.architecture} has blocks 0 to {info.blocks - 1}")
    return highest + 1


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r} is not auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name!r}, but there is no CUDA device here")
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise ValueError(f"dtype={name!r}: choose auto, {', '.join(DTYPES)}")
    return DTYPES[name]
