"""A shard -> token ids and answer ranges, one row per input row: the first task of every stage that runs a model."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.operators.conversation.messages import Dialect, normalise
from tamis.operators.conversation.schema import infer_rows, too_wide
from tamis.operators.generation.refusals import opens_with_refusal
from tamis.operators.problems import UNSCORED, RowProblem
from tamis.operators.tokens.tokenised import Tokenised
from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.capture.parcels import pack, shards_of
from tamis.pipeline.capture.spec import CaptureSpec
from tamis.pipeline.cluster.watchdog import Guard
from tamis.pipeline.errors import TamisError, TooLargeError, as_facts
from tamis.pipeline.inputs.files import TEXT_FORMATS, encode_schema
from tamis.pipeline.inputs.shards import CORPUS, Row, Shard, is_drawn, read, rows_digest
from tamis.pipeline.models.render_process import BoundedRenderer


@dataclass(frozen=True)
class PackedTokenizer:
    """The tokenizer of the plan, serialised for the readers, which then need neither the model's folder nor
    transformers.

    text: its JSON as bytes, uint8 (n,): Ray lets all processes of a node read one copy of an array.
    """

    fingerprint: str
    text: np.ndarray[Any, Any]

    @classmethod
    def pack(cls, tokenizer: ChatTokenizer) -> PackedTokenizer:
        return cls(tokenizer.fingerprint, np.frombuffer(tokenizer.to_json().encode(), dtype=np.uint8))

    def unpacked(self) -> ChatTokenizer:
        """Kept for the life of the worker process: opening a tokenizer takes longer than a shard."""
        global _opened
        if _opened is None or _opened.fingerprint != self.fingerprint:
            _opened = ChatTokenizer.from_json(self.text.tobytes().decode(), BoundedRenderer)
        return _opened


_opened: ChatTokenizer | None = None


def tokenise_portion(
    batch: pa.Table, spec: CaptureSpec, tokenizer: PackedTokenizer, guard: Guard | None = None
) -> Iterator[pa.Table]:
    """The parcels of a portion's shards, each as soon as it is packed."""
    for shard in shards_of(batch):
        yield tokenise_shard(shard, spec, tokenizer, guard)


def tokenise_shard(text: str, spec: CaptureSpec, tokenizer: PackedTokenizer, guard: Guard | None = None) -> pa.Table:
    """The parcel of one shard, which is given as JSON: one row per input row, with its tokens and the ranges of its
    answers (starts, stops), or with the code and message of its problem. For a failed shard, the notes say why.
    """
    shard = Shard.from_json(text)
    if guard is None:
        return _tokenised(shard, text, spec, tokenizer)
    work = f"reading {shard.name}"
    refused = guard.begin(work)
    if refused is not None:
        return pack({"shard": text, "set_aside": refused}, None)
    try:
        return _tokenised(shard, text, spec, tokenizer)
    except TooLargeError as error:
        refused = error.reason
    except (TamisError, OSError) as error:
        return pack({"shard": text, "error": as_facts(error)}, None)
    except Exception as error:
        # An error message of a parser or tokenizer may quote the sample, so it is not passed on.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        refused = f"{type(error).__name__} in {os.path.basename(frame.filename)}, line {frame.lineno}"
    finally:
        guard.end(work)
    return pack({"shard": text, "set_aside": refused}, None)


def _tokenised(shard: Shard, text: str, spec: CaptureSpec, tokenizer: PackedTokenizer) -> pa.Table:
    began = time.perf_counter()
    dialect = Dialect.from_dict(dict(shard.dialect))
    columns = None if shard.file.format in TEXT_FORMATS else dialect.reads
    rows = read(shard, spec.options, columns)
    wide = _may_be_wide(shard, rows)
    if shard.chosen and not wide:
        rows = [rows[place] for place in _places(shard)]
    outcomes: list[Any] = [None] * len(rows)
    conversations, places, refuses = [], [], dict[int, bool]()
    for place, row in enumerate(rows):
        try:
            if isinstance(row.value, RowProblem):
                raise row.value
            conversations.append(normalise(row.value, dialect))
            places.append(place)
            if spec.aside and shard.role == CORPUS:
                refuses[place] = opens_with_refusal(conversations[-1].messages[-1].get("content", ""))
        except RowProblem as problem:
            outcomes[place] = problem
    encoded = tokenizer.unpacked().encode(
        conversations,
        max_tokens=spec.max_tokens,
        overlong=spec.overlong,  # type: ignore[arg-type]
    )
    needs_prompt = any(request.position == "last_prompt_token" for request in spec.requests)
    for place, outcome in zip(places, encoded, strict=True):
        if needs_prompt and isinstance(outcome, Tokenised) and outcome.prompt_cut:
            outcome = RowProblem(
                "prompt_cut", "the cut to max_tokens left no token of the prompt, which the method reads"
            )
        outcomes[place] = outcome
    if wide:
        _bound_columns(rows, outcomes)
        if shard.chosen:
            rows, outcomes = ([found[place] for place in _places(shard)] for found in (rows, outcomes))
    notes = {
        "shard": text,
        "input": rows_digest(rows),
        "schema": _schema_of(shard, rows, outcomes),
        "read_seconds": time.perf_counter() - began,
    }
    table = _tokens_table(outcomes)
    if spec.aside:
        # Of a set of references, all rows are wanted; of rows that are drawn for a fit, none.
        wanted = refuses if shard.role == CORPUS else dict.fromkeys(range(len(rows)), not is_drawn(shard.role))
        readable = [isinstance(outcome, Tokenised) and not outcome.prompt_cut for outcome in outcomes]
        table = table.append_column("readable", pa.array(readable, pa.bool_()))
        table = table.append_column("wanted", pa.array([bool(wanted.get(p)) for p in range(len(rows))], pa.bool_()))
    return pack(notes, table)


def _places(shard: Shard) -> list[int]:
    """Where the chosen rows stand among those of the shard's range."""
    return [row - shard.span.start_row for row in shard.chosen]


def _has_no_schema(shard: Shard) -> bool:
    return shard.role == CORPUS and shard.file.format in {"json", "jsonl"}


def _may_be_wide(shard: Shard, rows: Sequence[Row]) -> bool:
    """Whether rows may have too many columns for kept/. Of the chosen rows of a corpus, only all rows of their range
    tell which: then all of these are tokenised."""
    if not is_drawn(shard.role):
        return _has_no_schema(shard)
    values = [row.value for row in rows if not isinstance(row.value, RowProblem)]
    return shard.file.format in {"json", "jsonl"} and bool(too_wide(values))


def _bound_columns(rows: Sequence[Row], outcomes: list[Any]) -> None:
    """Quarantine the rows for kept/ that have top-level keys above the number that a shard may have."""
    usable = [
        (place, row.value)
        for place, row in enumerate(rows)
        if not _is_out(outcomes[place]) and not isinstance(row.value, RowProblem)
    ]
    for number, problem in too_wide([value for _, value in usable]).items():
        outcomes[usable[number][0]] = problem


def _schema_of(shard: Shard, rows: Sequence[Row], outcomes: Sequence[Any]) -> str | None:
    """JSON has no schema before its rows are read, so each shard reports the unsettled schema of its rows for kept/.
    Quarantined rows do not count: one string where all others have a list would turn the column into text."""
    if not _has_no_schema(shard):
        return None
    usable = [
        row.value
        for row, outcome in zip(rows, outcomes, strict=True)
        if not _is_out(outcome) and not isinstance(row.value, RowProblem)
    ]
    return encode_schema(infer_rows(usable))


def _is_out(outcome: Any) -> bool:
    """Whether the row is quarantined."""
    return isinstance(outcome, RowProblem) and outcome.code not in UNSCORED


def _tokens_table(outcomes: Sequence[Any]) -> pa.Table:
    good = [None if isinstance(outcome, RowProblem) else outcome for outcome in outcomes]
    bad = [outcome if isinstance(outcome, RowProblem) else None for outcome in outcomes]
    lengths = np.array([0 if row is None else len(row.input_ids) for row in good], dtype=np.int64)
    flat = [row.input_ids for row in good if row is not None]
    ranges = [() if row is None else row.responses for row in good]
    spans = np.array([span for row in ranges for span in row], dtype=np.int32).reshape(-1, 2)
    turns = _offsets([len(row) for row in ranges])
    return pa.table(
        {
            "code": pa.array([None if p is None else p.code for p in bad], pa.string()),
            "message": pa.array([None if p is None else p.message for p in bad], pa.string()),
            "input_ids": pa.LargeListArray.from_arrays(
                _offsets(lengths), pa.array(np.concatenate(flat) if flat else np.empty(0), pa.int32())
            ),
            "starts": pa.LargeListArray.from_arrays(turns, pa.array(spans[:, 0])),
            "stops": pa.LargeListArray.from_arrays(turns, pa.array(spans[:, 1])),
            "n_response_tokens": pa.array([sum(stop - start for start, stop in row) for row in ranges], pa.int32()),
            "truncated": pa.array([row is not None and row.truncated for row in good], pa.bool_()),
        }
    )


def _offsets(lengths: Sequence[int] | np.ndarray[Any, Any]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
