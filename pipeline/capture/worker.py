"""A model in one actor: takes tokenised shards, writes its results, and returns the receipts."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis.operators.problems import RowProblem
from tamis.pipeline.capture.parcels import unpack
from tamis.pipeline.capture.spec import CaptureSpec, known_as
from tamis.pipeline.cluster.metrics import Meter
from tamis.pipeline.cluster.watchdog import Beats, Guard, Part
from tamis.pipeline.errors import TamisError, as_facts, error_text
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.run import receipts
from tamis.pipeline.run.paths import stage_folder, table_of
from tamis.pipeline.run.receipts import Receipt
from tamis.pipeline.run.set_aside import set_aside

SHOWN_EXAMPLES = 3


@dataclass(frozen=True)
class TokenRows:
    """The usable rows of one shard. input_ids: int32 (T_i,) each; finals: int32 (n, 2), the token range of the final
    answer; responses: the token ranges of all answers. readable, wanted: bool (n,), whether the token before the final
    answer is its prompt's last, and whether that token's vector is to be kept; None where no such vector is."""

    input_ids: list[np.ndarray[Any, Any]]
    finals: np.ndarray[Any, Any]
    responses: list[np.ndarray[Any, Any]]
    readable: np.ndarray[Any, Any] | None = None
    wanted: np.ndarray[Any, Any] | None = None


class ModelWorker:
    """Base class of the actors. Loading and every forward pass run in one thread of our own: Ray creates the actor in
    one thread and calls it from another, and each of the two would keep a team of OpenMP threads that compete for the
    worker's cores.
    """

    precision: str
    fallback: str | None = None
    readings: int = 1
    """How many times `run` computes each token."""

    def __init__(self, spec: CaptureSpec, guard: Guard | None = None) -> None:
        self.spec, self.guard = spec, guard
        self.token_budget = None if spec.token_budget == "auto" else int(spec.token_budget)
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self.failure: Exception | None = None
        if guard is not None:
            guard.attend()
        try:
            self.thread.submit(self._start).result()
        except Exception as error:
            # Ray passes on only the text of an error raised here; what the user must do about it would be lost.
            self.failure = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One shard -> its outcome as JSON: its receipt, or why the shard failed."""
        if self.failure is not None:
            return _said({"error": as_facts(self.failure)})
        notes, rows = unpack(batch)
        shard = Shard.from_json(notes["shard"])
        if "error" in notes:
            return _said({"error": notes["error"]})
        if "set_aside" in notes:
            return _said({"set_aside": set_aside(shard, notes["set_aside"]).to_dict()})
        if self.guard is None:
            return _said(self.thread.submit(self._capture, rows, notes, None).result())
        work = f"{self.spec.stage} {shard.name}"
        refused = self.guard.begin(work)
        if refused is not None:
            return _said({"set_aside": set_aside(shard, refused).to_dict()})
        try:
            return _said(self.thread.submit(self._capture, rows, notes, self._beats(work, rows)).result())
        except (TamisError, OSError) as error:
            return _said({"error": as_facts(error)})
        except Exception as error:
            # The model saw only token ids, so the error contains no text of a sample.
            refused = f"{type(error).__name__}: {error_text(error)}"
            if _ends_the_process(error):
                self.guard.blame(work, refused)
                os._exit(1)
        finally:
            self.guard.end(work)
        return _said({"set_aside": set_aside(shard, refused).to_dict()})

    def engine(self) -> Any:
        """The class of operators/ that runs the model. It is imported here, because it imports torch and transformers,
        which takes seconds, and the driver needs neither."""
        return None

    def load(self, path: str) -> None:
        """Load the model in folder `path`, and set `precision`."""
        raise NotImplementedError

    def run(
        self, rows: TokenRows, on_batch: Callable[[int], None] | None
    ) -> tuple[dict[str, pa.Array], dict[int, RowProblem]]:
        """The columns to write, with one entry per row, and the problems by row; the entries of those rows are void.
        on_batch: called after each batch, with its number of tokens.
        """
        raise NotImplementedError

    def _beats(self, work: str, rows: pa.Table) -> Beats:
        assert self.guard is not None
        tokens = pc.sum(pc.list_value_length(rows.column("input_ids"))).as_py() or 0
        return self.guard.beats(work, whole=Part(rows.num_rows, tokens), tokens=tokens * self.readings)

    def _start(self) -> None:
        self.fallback = self.spec.model.take_place()
        self.engine()  # before the clock starts: its import is no part of loading a model
        began = time.perf_counter()
        self.load(self.spec.model.fetch())
        self.load_seconds = time.perf_counter() - began
        self.meter = Meter(self.spec.run, known_as(self.spec.stage))

    def _capture(self, batch: pa.Table, notes: dict[str, Any], on_batch: Callable[[int], None] | None) -> Receipt:
        started = time.time()
        began = time.perf_counter()
        codes, messages = batch.column("code").to_pylist(), batch.column("message").to_pylist()
        places = np.flatnonzero([code is None for code in codes])
        columns, problems = self.run(_rows(batch, places), self.meter.batches(on_batch))
        for number, problem in problems.items():
            codes[places[number]], messages[places[number]] = problem.code, problem.message
        valid = np.array([code is None for code in codes], dtype=bool)
        forward_seconds = time.perf_counter() - began
        timing = {
            "precision": self.precision,
            "fallback": self.fallback,
            "load_seconds": self.load_seconds,
            "started": started,
            "forward_seconds": forward_seconds,
        }
        lengths = pc.list_value_length(batch.column("input_ids")).to_numpy()
        answers = batch.column("n_response_tokens").to_numpy()
        # From the usable rows to all rows: rows with a problem are null.
        spread = np.full(len(valid), -1, dtype=np.int64)
        spread[places] = np.arange(len(places))
        taken = pa.array(spread, mask=~valid)
        table = pa.table(
            {
                "code": pa.array(codes, pa.string()),
                "message": pa.array(messages, pa.string()),
                "n_tokens": pa.array(np.where(valid, lengths, 0), pa.int32()),
                "n_response_tokens": pa.array(np.where(valid, answers, 0), pa.int32()),
                "truncated": pc.and_(batch.column("truncated"), pa.array(valid)),
                **{name: _spread(column, taken) for name, column in columns.items()},
            }
        )
        receipt = write_shard(table, notes | timing, self.spec)
        self.meter.shard(forward_seconds)
        return receipt


def _spread(column: pa.Array, taken: pa.Array) -> pa.Array:
    """column[taken], null where `taken` is null. Vectors are NaN there: pyarrow before 26 cannot read null vectors
    from Parquet."""
    if not pa.types.is_fixed_size_list(column.type):
        return column.take(taken)
    values, width = column.flatten().to_numpy(zero_copy_only=False), column.type.list_size
    spread = np.full((len(taken), width), np.nan, dtype=values.dtype)
    valid = taken.is_valid().to_numpy(zero_copy_only=False)
    spread[valid] = values.reshape(-1, width)[taken.drop_null().to_numpy()]
    return pa.FixedSizeListArray.from_arrays(pa.array(spread.reshape(-1)), width)


def _rows(batch: pa.Table, places: np.ndarray[Any, Any]) -> TokenRows:
    def lists(name: str) -> list[np.ndarray[Any, Any]]:
        column = batch.column(name).chunk(0) if batch.num_rows else pa.array([], pa.large_list(pa.int32()))
        offsets, values = column.offsets.to_numpy(), column.values.to_numpy()
        return [values[offsets[place] : offsets[place + 1]] for place in places]

    responses = [np.stack(pair, axis=1) for pair in zip(lists("starts"), lists("stops"), strict=True)]
    finals = np.array([ranges[-1] for ranges in responses], dtype=np.int32).reshape(-1, 2)
    marks = [batch.column(name).to_numpy()[places] for name in ("readable", "wanted") if name in batch.schema.names]
    return TokenRows(lists("input_ids"), finals, responses, *marks)


def _said(outcome: dict[str, Any]) -> pa.Table:
    return pa.table({"receipt": [json.dumps(outcome)]})


def _ends_the_process(error: Exception) -> bool:
    """Whether this process can compute nothing any more: errors of an accelerator are permanent for a process."""
    import torch

    return isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError)


def write_shard(batch: pa.Table, notes: dict[str, Any], spec: CaptureSpec) -> Receipt:
    """Write one captured shard, then its receipt."""
    shard = Shard.from_json(notes["shard"])
    if batch.num_rows != shard.rows:
        raise AssertionError(f"shard {shard.name}: {batch.num_rows} rows arrived of {shard.rows}")
    written = spec.store.write_table(table_of(stage_folder(spec.stage), shard.name), batch)
    codes = Counter(code for code in batch.column("code").to_pylist() if code is not None)
    firsts = dict(zip(batch.column("code").to_pylist(), batch.column("message").to_pylist(), strict=True))
    examples: dict[str, list[str]] = {}
    for place, code in enumerate(batch.column("code").to_pylist()):
        if code is not None and len(examples.setdefault(code, [])) < SHOWN_EXAMPLES:
            examples[code].append(f"{shard.file.name} row {shard.row_at(place)}")
    facts = {
        "role": shard.role,
        "quarantined": dict(codes),
        "messages": {code: firsts[code] for code in codes},
        "tokens": pc.sum(batch.column("n_tokens")).as_py() or 0,
        "truncated": pc.sum(batch.column("truncated")).as_py() or 0,
        "examples": examples,
        "precision": notes["precision"],
        "fallback": notes["fallback"],
        "schema": notes["schema"],
        "file": written.to_receipt(),
        "input": notes["input"],
        "seconds": {name: notes[name] for name in ("read_seconds", "forward_seconds", "load_seconds")},
        "started": notes["started"],
        "finished": notes["started"] + notes["forward_seconds"],
    }
    return receipts.write(spec.store, spec.stage, shard, spec.key, facts)
