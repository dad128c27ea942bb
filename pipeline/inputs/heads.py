"""How much the first rows of a Parquet or Arrow file can take in memory, told before they are read.

A text that repeats in every row is stored once, so the size of a row is known only when it is there, and a head must
be read row by row. With ten thousand columns that is slow and takes gigabytes. What is small for sure is read at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

_FIXED = 32
"""No number, date or list offset takes more bytes."""

_EDGES = 24
"""The most bytes by which an array of one row is larger than its part of an array of many: its offsets and bitmap."""


def most_decoded(metadata: Any, schema: pa.Schema, group: int, rows: int) -> list[float] | None:
    """Column -> the most bytes of its first `rows` rows in a row group, when decoded. None if it is not clear which
    column chunks belong to which column."""
    chunks, stored = metadata.row_group(group), metadata.schema
    leaves = [_leaves(kind) for kind in schema.types]
    if sum(leaves) != chunks.num_columns:
        return None
    found, first = [], 0
    for kind, count in zip(schema.types, leaves, strict=True):
        parts = (_of_chunk(chunks.column(i), stored.column(i), rows) for i in range(first, first + count))
        found.append(math.inf if _has(kind, pa.types.is_fixed_size_list) else float(sum(parts)))
        first += count
    return found


def _of_chunk(chunk: Any, column: Any, rows: int) -> int:
    # Each value is stored at least once in its chunk; a row of a list may have all of the values.
    values = chunk.num_values if column.max_repetition_level else rows
    text = chunk.total_uncompressed_size if "BYTE_ARRAY" in column.physical_type else 0
    return int(values * max(text, column.length or 0, _FIXED))


def bundled(sizes: Sequence[float], most: int) -> tuple[list[list[int]], list[int]]:
    """The places of the columns that can be read at once, in bundles of at most so many bytes, and of the others."""
    bundles: list[list[int]] = []
    others: list[int] = []
    filled = math.inf
    for place, size in enumerate(sizes):
        if size > most:
            others.append(place)
            continue
        if filled + size > most:
            bundles.append([])
            filled = 0
        bundles[-1].append(place)
        filled += size
    return bundles, others


def most_row_by_row(part: pa.RecordBatch) -> float:
    """The most bytes that the rows of `part` take if each is a batch of its own. Infinite if pyarrow cannot tell."""
    try:
        sizes = [column.nbytes for column in part.columns]
    except pa.ArrowException:
        return math.inf
    again = [part.num_rows if _has(kind, pa.types.is_dictionary) else 1 for kind in part.schema.types]
    edges = part.num_rows * _EDGES * sum(map(_nodes, part.schema.types))
    return float(edges + sum(size * times for size, times in zip(sizes, again, strict=True)))


def _inner(kind: pa.DataType) -> list[pa.DataType]:
    """The types directly inside a type."""
    if isinstance(kind, pa.BaseExtensionType):
        return [kind.storage_type]
    return [kind.field(place).type for place in range(kind.num_fields)]


def _leaves(kind: pa.DataType) -> int:
    return sum(map(_leaves, _inner(kind))) or 1


def _nodes(kind: pa.DataType) -> int:
    return 1 + sum(map(_nodes, _inner(kind)))


def _has(kind: pa.DataType, test: Any) -> bool:
    return bool(test(kind)) or any(_has(inner, test) for inner in _inner(kind))
