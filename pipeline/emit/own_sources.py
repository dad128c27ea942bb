"""What the corpus itself calls its sources: the column `source` of its rows, where it is one of categories."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

OWN = "own_source"
"""The key of a sample in the report."""

COLUMN = "source"
MOST = 256
"""A column with more values than that, in one shard or in all, tells rows apart and not sources."""
LONGEST = 200
"""A longer value is a text, and texts of samples do not go into the manifest."""


def own_values(rows: pa.Table) -> list[str | None] | None:
    """The value of each row; None where the rows have no such column of strings."""
    if COLUMN not in rows.schema.names or rows.schema.names.count(COLUMN) > 1:
        return None
    column = rows.column(COLUMN)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return None
    try:
        values: list[str | None] = column.to_pylist()
    except UnicodeDecodeError:  # bytes that are no text name no source
        return None
    return values


def own_sources(rows: pa.Table, dropped: np.ndarray[Any, Any]) -> list[list[Any]] | None:
    """[value, rows, dropped rows] for each value of the column, sorted; None where it is no column of categories.

    rows: of one shard, as they were read, those with a score. dropped: bool (rows,).
    """
    values = own_values(rows)
    if values is None or any(value is not None and len(value) > LONGEST for value in values):
        return None
    total = Counter("" if value is None else value for value in values)
    if len(total) > MOST:
        return None
    gone = Counter(
        "" if value is None else value for value, falls in zip(values, dropped.tolist(), strict=True) if falls
    )
    return [[value, total[value], gone[value]] for value in sorted(total)]
