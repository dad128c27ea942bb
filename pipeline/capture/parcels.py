"""A shard on its way through Ray Data: one row, which nothing can split or join with another shard.

For workers that take GPUs, Ray Data makes batches of a fixed number of rows, and slices and joins blocks to fill
them. A shard must stay one block, one task and one receipt, so all of its rows travel as one row that holds them as
an Arrow stream. A batch of one row is then a whole shard, and blocks of one row (see `ONE_ROW`) are never joined.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa

from tamis.pipeline.inputs.shards import Shard

BATCH_SIZE = 1
"""Rows in a batch of portions or of parcels."""

ONE_ROW = 1
"""Ray Data's largest block, in bytes. No row is smaller, so each row is a block of its own."""

_PORTIONS = 1000
"""The most blocks that a graph starts with: Ray Data spends about 1 ms on each before the first one runs."""


def portions(shards: Sequence[Shard]) -> list[dict[str, str]]:
    """The first rows of a graph: one per shard or, where there are very many shards, one per few shards. Their sizes
    differ by at most one."""
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
    """Pack a shard into one row. notes: JSON values. rows: the shard's rows; None where there is nothing to compute."""
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
    """The packed notes and rows. AssertionError if the batch is not exactly one parcel."""
    parcel = _only(batch, "parcel")
    data = parcel.column("rows")[0].as_buffer()
    notes: dict[str, Any] = json.loads(parcel.column("notes")[0].as_py())
    return notes, None if data is None else pa.ipc.open_stream(data).read_all().combine_chunks()


def _only(batch: pa.Table, what: str) -> pa.Table:
    if batch.num_rows != 1:
        raise AssertionError(f"a batch holds {batch.num_rows} {what}s; each must travel by itself")
    return batch
