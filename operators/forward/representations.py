"""The forward pass: token ids -> one float32 vector per sample and request.

A model is loaded only up to the highest requested block. A hook on each requested block pools its output (the
residual stream, before the final norm) on the device while the pass runs. No hidden state outlives its block,
and one copy per batch brings the pooled vectors back. Rows are padded on the right: a causal model's real
tokens cannot see what follows them. So there is no attention mask, and a row's numbers depend on the other rows of
its batch only through rounding, and with `exact` not at all. Rounding accumulates over the blocks: relative to its
norm, a vector of the tests' four-block models changes by at most 1e-5 in float32, 4e-2 in bfloat16 and 8e-3 in
float16.

On CUDA nothing waits: while a batch runs, the next one is collated in pinned memory and copied, and results are
copied back asynchronously.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tamis.operators.forward.halving import run_halving
from tamis.operators.forward.packing import on_device, packed_inputs, use_packing
from tamis.operators.forward.pooling import Pooling, Spots
from tamis.operators.forward.right_place import States, require_right_place, states_of_whole, trial_row
from tamis.operators.forward.rows import (
    COMPILED_TOKEN_BUDGETS,
    TOKEN_BUDGETS,
    RowNumbers,
    TokenIds,
    batch_overhead,
    model_batches,
    padded,
    row_lengths,
    unusable_rows,
)
from tamis.operators.model.architecture import (
    describe,
    describe_model,
    plan_cut,
    read_config,
    rope_boundaries,
)
from tamis.operators.model.info import ModelInfo
from tamis.operators.model.loading import check_cut, find_weights, load_cut
from tamis.operators.model.placement import choose_device, choose_dtype
from tamis.operators.model.revisions import resolve_revision
from tamis.operators.problems import RowProblem
from tamis.operators.requests import POSITIONS, Request

__all__ = ["POSITIONS", "ModelInfo", "Representer", "Request", "check_model", "describe_model"]

Vectors = npt.NDArray[np.float32]

ATTENTION = ("padded", "packed")

# Batches in flight at once: enough that the device never waits for the host.
_IN_FLIGHT = 2


def check_model(
    path: str | os.PathLike[str],
    requests: Iterable[Request],
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle_weights: bool = False,
) -> tuple[ModelInfo, int]:
    """Checks that Representer.load would find everything it needs, and raises as it would; no weight is read. Returns
    the model's description and the number of parameters that would be loaded.

    Files are opened and their headers checked: names and shapes of all weights; files on the hub are downloaded. What
    only the content shows (attention that silently looks ahead) is found when the model is loaded.
    """
    wanted = _wanted(requests)
    revision = resolve_revision(path, revision)
    config = read_config(path, revision=revision, trust_remote_code=trust_remote_code)
    info = describe(config)
    cut = plan_cut(config, _blocks_needed(wanted, info), trust_remote_code=trust_remote_code)
    files = find_weights(path, cut, revision=revision, allow_pickle_weights=allow_pickle_weights)
    return info, check_cut(cut, files)


class Representer:
    """A truncated model that turns token ids into the requested vectors. Not thread-safe."""

    def __init__(
        self,
        model: nn.Module,
        blocks: nn.ModuleList,
        info: ModelInfo,
        requests: Iterable[Request],
        config: Any,
        *,
        asides: Iterable[Request] = (),
        attention: str = "padded",
        compile: bool = False,
    ) -> None:
        self.info = info
        required = _wanted(requests)
        self.requests = _wanted([*required, *asides])
        self._required = [place for place, request in enumerate(self.requests) if request in required]
        parameter = next(model.parameters())
        self.device: torch.device = parameter.device
        self.dtype: torch.dtype = parameter.dtype
        self._model = model
        self._boundaries = rope_boundaries(config)
        if attention not in ATTENTION:
            raise ValueError(f"attention={attention!r}: choose {' or '.join(ATTENTION)}")
        self._packed = attention == "packed"
        if self._packed:
            use_packing(model, config)
        self._pool = Pooling(blocks, self.requests)
        self._compiled = compile
        if compile:
            compile_blocks(blocks)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        requests: Iterable[Request],
        *,
        asides: Iterable[Request] = (),
        dtype: str = "auto",
        device: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        allow_pickle_weights: bool = False,
        attention: str = "padded",
        compile: bool = False,
    ) -> Representer:
        """Loads the model in folder `path` (or of that name on the hub) up to the highest requested block.

        asides: further requests, which give no row a problem: where a row has no such vector, theirs means nothing.

        dtype: float32, bfloat16, float16, or auto = bfloat16 on CUDA and float32 elsewhere.
        device: auto = cuda if there is one, else cpu; or any torch device.
        attention: padded, or packed (packing.py): no padding at all, for CUDA in half precision.
        compile: see compile_blocks.
        Raises ValueError for a request whose block the model does not have; for a model that is not a causal decoder,
        is incomplete, or requires something that is not allowed (code, pickles); for attention="packed" with a model
        that cannot run packed; and where a short row shows that the vectors are not the whole model's states
        (right_place.py).
        """
        requests, asides = tuple(requests), tuple(asides)
        wanted = _wanted([*requests, *asides])
        place = choose_device(device)
        number = choose_dtype(dtype, place)
        revision = resolve_revision(path, revision)  # a branch may move between the config and the weights
        config = read_config(path, revision=revision, trust_remote_code=trust_remote_code)
        info = describe(config)
        cut = plan_cut(config, _blocks_needed(wanted, info), trust_remote_code=trust_remote_code)
        files = find_weights(path, cut, revision=revision, allow_pickle_weights=allow_pickle_weights)
        model = load_cut(cut, files, dtype=number, device=place)
        blocks = model.get_submodule(cut.blocks)
        assert isinstance(blocks, nn.ModuleList)
        ids, answer = trial_row(info.vocabulary, info.max_positions)
        states = states_of_whole(cut, model, ids, [request.block for request in wanted])
        loaded = cls(model, blocks, info, requests, config, asides=asides, attention=attention, compile=compile)
        loaded._require_right_place(config, ids, answer, states)
        return loaded

    def _require_right_place(self, config: Any, ids: TokenIds, answer: tuple[int, int], states: States) -> None:
        """states: of the whole model for the row `ids`. ValueError if this one's vectors of that row are others."""
        vectors, problems = self.represent([ids], [answer], exact=True)
        if not problems:
            require_right_place(config, vectors, states, answer, self.dtype)
        elif problems[0].code != "non_finite":
            raise ValueError(f"a short row cannot be run through {config.model_type}: {problems[0].message}")

    def close(self) -> None:
        """Removes the hooks from the model and releases the model."""
        self._pool.remove()
        self._model = nn.Identity()

    def represent(
        self,
        input_ids: Sequence[TokenIds],
        finals: npt.ArrayLike,
        *,
        token_budget: int | None = None,
        exact: bool = False,
        on_batch: Callable[[int], None] | None = None,
    ) -> tuple[dict[Request, Vectors], dict[int, RowProblem]]:
        """Runs all rows and pools each request.

        input_ids: N arrays of token ids, (T_i,).
        finals: (N, 2) integers, the half-open token range of each final answer.
        token_budget: rows x longest row of a batch; default: rows.TOKEN_BUDGETS or, if compiled,
        rows.COMPILED_TOKEN_BUDGETS.
        exact: runs one row at a time, so that a row's vectors are identical to the bit whatever else is in the call,
        on the same machine, device and number of threads.
        on_batch: called after each batch with its number of tokens.

        Returns, per request, float32 (N, d) whose row i belongs to input i; and the rows that have a problem, whose
        vectors are all NaN: empty, too_long_for_model, bad_token_id, no_prompt_token, no_response_token,
        forward_failed, non_finite. A batch that fails is halved, down to one row. Raises ValueError for ranges outside
        a row. If every row fails and an error is not an out-of-memory error, raises that error: the rows are not the
        cause.
        """
        lengths, spans = _checked_shapes(input_ids, finals)
        problems = self._refuse(input_ids, lengths, spans)
        vectors = {
            request: np.full((len(lengths), self.info.width), np.nan, dtype=np.float32) for request in self.requests
        }
        usable = np.array([row for row in range(len(lengths)) if row not in problems], dtype=np.int64)

        flying: deque[_PendingBatch] = deque()

        def land(flight: _PendingBatch) -> None:
            rows, outcome = flight.rows, flight.wait()
            finite = np.isfinite(outcome[self._required]).all(axis=(0, 2))
            for row in rows[~finite]:
                problems[int(row)] = RowProblem("non_finite", "the model's output for this sample is not finite")
            for request, pooled in zip(self.requests, outcome, strict=True):
                vectors[request][rows[finite]] = pooled[finite]

        def run(rows: RowNumbers) -> None:
            flying.append(self._launch(rows, [input_ids[row] for row in rows], lengths[rows], spans[rows]))
            if len(flying) > _IN_FLIGHT:
                land(flying.popleft())
            if on_batch is not None:
                on_batch(int(lengths[rows].sum()))

        if exact:
            batches = [usable[place : place + 1] for place in range(len(usable))]
        else:
            budgets = COMPILED_TOKEN_BUDGETS if self._compiled else TOKEN_BUDGETS
            usual = budgets.get(self.device.type, budgets["cuda"])
            budget = usual if token_budget is None else token_budget
            # packed rows have no padding to save: as few batches as the budget allows
            overhead = budget if self._packed else batch_overhead(self.device.type)
            batches = model_batches(usable, lengths, budget, overhead, self._boundaries)
        problems.update(run_halving(batches, run, recover=self._pool.clear))
        while flying:
            land(flying.popleft())
        return vectors, dict(sorted(problems.items()))

    def _refuse(self, input_ids: Sequence[TokenIds], lengths: RowNumbers, spans: RowNumbers) -> dict[int, RowProblem]:
        """The rows that must not be run at all."""
        problems = unusable_rows(input_ids, lengths, self.info)
        starts, stops = spans[:, 0], spans[:, 1]
        checks = (
            ("last_prompt_token", starts == 0, "no_prompt_token", "no token stands before the final answer"),
            ("response_mean", starts == stops, "no_response_token", "the final answer has no tokens"),
        )
        positions = {self.requests[place].position for place in self._required}
        for position, refused, code, message in checks:
            if position in positions:
                for row in np.flatnonzero(refused):
                    problems.setdefault(int(row), RowProblem(code, message))
        return problems

    def _launch(self, rows: RowNumbers, ids: list[TokenIds], lengths: RowNumbers, finals: RowNumbers) -> _PendingBatch:
        """Starts one batch; on a CPU the batch is finished when this returns."""
        if self._packed:
            inputs = packed_inputs(ids, lengths)
            firsts = np.cumsum(lengths) - lengths
        else:
            inputs = {"input_ids": torch.from_numpy(padded(ids, lengths))}
            firsts = np.arange(len(ids)) * int(lengths.max())
        spots = vars(Spots.of(firsts, lengths, finals))
        with torch.inference_mode():
            self._pool.begin(Spots(**on_device(spots, self.device)))
            self._model(**on_device(inputs, self.device), use_cache=False)
            pooled = self._pool.take()
            if self.device.type != "cuda":
                return _PendingBatch(rows, pooled.cpu(), None)
            landed = torch.empty(pooled.shape, dtype=pooled.dtype, pin_memory=True)
            landed.copy_(pooled, non_blocking=True)
            arrival = torch.cuda.Event()
            arrival.record(torch.cuda.current_stream(self.device))
            return _PendingBatch(rows, landed, arrival)


@dataclass(frozen=True)
class _PendingBatch:
    """A batch whose results, (requests, rows, d), are being copied to the host. arrival: None if the copy is done."""

    rows: RowNumbers
    pooled: torch.Tensor
    arrival: Any

    def wait(self) -> Vectors:
        """float32 (requests, rows, d), once the copy is done."""
        if self.arrival is not None:
            self.arrival.synchronize()
        landed: Vectors = self.pooled.numpy()
        return landed


def compile_blocks(blocks: nn.ModuleList) -> None:
    """Lets torch.compile fuse the element-wise operations of each block; blocks of the same kind share one graph.

    Shapes are symbolic, so the number of graphs is bounded: batches of one row and of one token get their own. The
    first batches take seconds to minutes longer, and a CPU needs a C++ compiler. The numbers change within the
    tolerance of the dtype.
    """
    for block in blocks:
        # only the forward: the hooks around it stay outside of the graph
        block.forward = torch.compile(block.forward, dynamic=True)


def _checked_shapes(input_ids: Sequence[TokenIds], finals: npt.ArrayLike) -> tuple[RowNumbers, RowNumbers]:
    """Lengths (N,) and answer ranges (N, 2) as int64; ValueError for arguments that break the contract of represent."""
    lengths = row_lengths(input_ids)
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
