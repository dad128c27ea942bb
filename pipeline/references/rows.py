"""The rows that a reference model is trained on, in the form that the workers read: one Parquet file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.operators.tokens.tokenised import Tokenised
from tamis.pipeline.run.paths import TRAINING_WORK
from tamis.pipeline.storage.store import Sealed, Store, Written

SCHEMA = pa.schema(
    [
        ("input_ids", pa.large_list(pa.int32())),
        ("starts", pa.list_(pa.int32())),
        ("stops", pa.list_(pa.int32())),
    ]
)


def work_folder(name: str) -> str:
    return f"{TRAINING_WORK}/{name}"


def write_rows(store: Store, name: str, rows: Sequence[Tokenised]) -> Written:
    """Write the rows of the reference `name` for its workers: token ids, and half-open ranges of the answers."""
    columns = [
        [row.input_ids for row in rows],
        [[start for start, _ in row.responses] for row in rows],
        [[stop for _, stop in row.responses] for row in rows],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return store.write_table(f"{work_folder(name)}/rows.parquet", pa.table(arrays, schema=SCHEMA))


def read_rows(store: Store, file: str | Sealed) -> tuple[list[np.ndarray[Any, Any]], list[list[tuple[int, int]]]]:
    """Token ids, int32 (T_i,) each, and the answer ranges of every row."""
    table = store.read_table(file).combine_chunks()
    if not table.num_rows:
        return [], []
    column = table.column("input_ids").chunk(0)
    offsets, values = column.offsets.to_numpy(), column.values.to_numpy()
    ids = [values[start:stop] for start, stop in pairwise(offsets)]
    starts, stops = table.column("starts").to_pylist(), table.column("stops").to_pylist()
    return ids, [list(zip(*pair, strict=True)) for pair in zip(starts, stops, strict=True)]


def rows_digest(rows: Sequence[Tokenised]) -> str:
    """sha256 over token ids and ranges, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{len(row.input_ids)}:{row.responses}:".encode())
        digest.update(np.ascontiguousarray(row.input_ids, dtype="<i4").tobytes())
    return digest.hexdigest()
