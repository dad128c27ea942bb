"""Vectors of some rows of a shard, beside what is captured of all: columns of lists, null in the other rows.

Of the requests (the text before the final answer), two such columns are kept where a job has unsafe references: of the
rows whose answer refuses, and of a sample. Of reference sets, the first has all rows. They are read when safety
demonstrations are counted (fit/demonstrations.py), and by nothing else: they decide no row's fate.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.operators.requests import Request

Numbers = np.ndarray[Any, Any]

_REFUSED = "refused."

DRAWN_SHARDS = 64
"""The sample that is used comes from at most so many shards of the corpus: a captured shard is read whole."""


def refused_column(request: str) -> str:
    """The column with the requests of rows whose answer refuses. request: the column of the vector."""
    return f"{_REFUSED}{request}"


def among_column(request: str) -> str:
    """The column with the requests of a sample of the rows."""
    return f"among.{request}"


def aside_in(columns: Iterable[str]) -> Request | None:
    """What was captured so of a shard whose table has these columns; None if nothing was."""
    found = [name.removeprefix(_REFUSED) for name in columns if name.startswith(_REFUSED)]
    return Request.parse(found[0]) if found else None


def spread(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, evenly."""
    return sorted({place * count // most for place in range(most)}) if count > most else list(range(count))


def evenly(places: Numbers, most: int) -> Numbers:
    """At most so many of these numbers, from the middles of equal parts."""
    count = min(most, len(places))
    chosen: Numbers = places[((np.arange(count) + 0.5) * len(places) / max(count, 1)).astype(np.int64)]
    return chosen


def only(vectors: Numbers, chosen: Numbers) -> pa.Array:
    """The vectors of the chosen rows, null in the others. As lists of any length: pyarrow before 26 cannot read nulls
    among those of a fixed one."""
    taken = np.zeros(len(vectors), dtype=bool)
    taken[chosen] = True
    offsets = np.concatenate([[0], np.cumsum(taken * vectors.shape[1])]).astype(np.int32)
    values = pa.array(vectors[taken].reshape(-1))
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~taken))


def chosen_in(column: pa.ChunkedArray) -> tuple[Numbers, Numbers]:
    """The rows that have a vector, int64 (n,), and their vectors, float32 (n, d); (0, 0) without any."""
    rows = np.flatnonzero(column.is_valid().to_numpy())
    values = column.combine_chunks().drop_null().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return rows, values.reshape(len(rows), -1) if len(rows) else np.zeros((0, 0), np.float32)
