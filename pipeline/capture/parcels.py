"""A shard on its way through Ray Data: one row, which nothing can split, and which meets no other one.

Ray Data makes batches of a number of rows for workers that take GPUs, and slices and joins blocks to fill them. A
shard is one block, one task and one receipt, so all of its rows travel as one row that holds them as an Arrow stream.
Batches of one row are then whole shards, and blocks of one row (see `ONE_ROW`) leave nothing to be joined.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa

from tamis.pipeline.inputs.shards import Shard

BATCH_SIZE = 1
"""Rows of a batch: of a portion, and of a parcel."""

ONE_ROW = 1
"""Bytes of Ray Data's largest block. No row is smaller, so each is a block of its own."""

_PORTIONS = 1000
"""Blocks that a graph begins with, at most: Ray Data spends about a millisecond on each before the first one runs."""


def portions(shards: Sequence[Shard]) -> list[dict[str, str]]:
    """Rows for a graph to begin with: one a shard, or, of very many shards, one for a few of them. Their sizes differ
    by one at most."""
    count = min(len(shards), _PORTIONS)
    edges = [number * len(shards) // count for number in range(count + 1)] if count else [0]
    return [
        {"shards": json.dumps([shard.to_json() for shard in shards[start:stop]])} for start, stop in pairwise(edges)
    ]


def shards_of(batch: pa.Table) -> list[str]:
    """The shards of one portion, each as JSON."""
    found: list[str] = json.loads(_only(batch, "portion").column("shards")[0].as_py())
    return found


def pack(notes: Mapping[str, Any], rows: pa.Table | None) -> pa.Table:
    """One row. notes: JSON values. rows: of the shard; None where there is nothing to compute."""
    data = pa.nulls(1, pa.large_binary())
    if rows is not None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as stream:
            stream.write_table(rows)
        written = sink.getvalue()
        ends = pa.array([0, written.size], pa.int64()).buffers()[1]
        data = pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, written])
    return pa.table({"notes": [json.dumps(notes)], "rows": data})


def unpack(batch: pa.Table) -> tuple[dict[str, Any], pa.Table | None]:
    """What was packed. AssertionError if the batch is not one parcel."""
    parcel = _only(batch, "parcel")
    data = parcel.column("rows")[0].as_buffer()
    notes: dict[str, Any] = json.loads(parcel.column("notes")[0].as_py())
    return notes, None if data is None else pa.ipc.open_stream(data).read_all().combine_chunks()


def _only(batch: pa.Table, what: str) -> pa.Table:
    if batch.num_rows != 1:
        raise AssertionError(f"a batch holds {batch.num_rows} {what}s; each must travel by itself")
    return batch
