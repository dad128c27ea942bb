"""The rows of a shard as they were read, for the output: usable rows typed as in kept/, the others as raw text."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.operators.conversation.messages import Dialect
from tamis.operators.conversation.schema import JSON, as_json, is_json, settle, to_table
from tamis.operators.problems import RowProblem
from tamis.pipeline.errors import InputError
from tamis.pipeline.inputs.arrow_types import one_type_with_json
from tamis.pipeline.inputs.files import TEXT_FORMATS
from tamis.pipeline.inputs.shards import Row, Shard, read, read_table, rows_digest, rows_of


def originals(
    shard: Shard, options: Mapping[str, Any], schema: pa.Schema, valid: np.ndarray[Any, Any], digest: str
) -> tuple[pa.Table, np.ndarray[Any, Any], dict[int, tuple[int | None, str]]]:
    """The valid rows as a table of the output schema, their places in the shard, and for every other row the byte
    offset and raw text by place. digest: of the rows that were captured; InputError if the rows have changed."""
    places, others = np.flatnonzero(valid), np.flatnonzero(~valid)
    if shard.file.format not in TEXT_FORMATS:
        table = read_table(shard, options)
        columns = list(Dialect.from_dict(dict(shard.dialect)).reads)
        _check(shard, rows_of(table.select(columns), shard.span.start_row, strict=True), digest)
        bad = rows_of(table.filter(pa.array(~valid)), 0)
        raw = {int(place): (row.offset, row.raw_text()) for place, row in zip(others, bad, strict=True)}
        return conform(table.filter(pa.array(valid)), schema), places, raw
    rows = read(shard, options)
    _check(shard, rows, digest)
    raw = {int(place): (rows[place].offset, rows[place].raw_text()) for place in others}
    values = []
    for place in places:
        value = rows[place].value
        if isinstance(value, RowProblem):
            raise InputError(f"{shard.file.name}: row {rows[place].number} was readable before and is not any more")
        values.append(value)
    return to_table(values, schema), places, raw


def _check(shard: Shard, rows: Sequence[Row], digest: str) -> None:
    """InputError if the rows are not the captured ones: a file may be replaced by one of the same size and time."""
    if rows_digest(rows) != digest:
        raise changed(shard)


def changed(shard: Shard) -> InputError:
    """The error for a shard whose rows differ from the captured ones."""
    return InputError(
        f"{shard.file.name}: rows {shard.span.start_row:,} to {shard.span.stop_row - 1:,} are not those that were "
        "captured, though the file's size and time are the same; put the old file back, or run with a new output folder"
    )


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with exactly the columns of `schema`; missing columns are null. InputError if a type differs, and the
    column cannot be written as JSON where `schema` says so."""
    columns = []
    own = set(table.schema.names)
    for field in schema:
        if field.name not in own:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table.column(field.name)
        try:
            columns.append(_as(column, field.type))
        except (pa.ArrowException, TypeError):
            raise InputError(
                f"column {field.name} is {column.type} in one file and {field.type} in another, which does not hold "
                "all of its values; cast one of them"
            ) from None
    return pa.Table.from_arrays(columns, schema=schema)


def _as(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type == kind:
        return column
    return as_json(column) if kind == JSON else column.cast(kind)


def output_schema(typed: pa.Schema | None, seen: pa.Schema | None) -> pa.Schema:
    """The schema of kept/: of the typed files (Parquet, Arrow, CSV), of all JSON rows together, or of both.

    Where JSON rows have no type for a column, typed files beside them are written as JSON, too; and so are both where
    lists or objects have types of their own in either."""
    if typed is None:
        return settle(seen if seen is not None else pa.schema([]))
    if seen is None:
        return typed
    seen = settle(seen)
    fields = {field.name: field for field in typed}
    for field in seen:
        there = fields.get(field.name)
        if there is not None:
            field = there.with_type(_beside_json(field.name, there.type, field.type))
        fields[field.name] = field
    # JSON rows may lack any of the columns.
    return pa.schema([field.with_nullable(True) for field in fields.values()], metadata=typed.metadata)


def _beside_json(name: str, typed: pa.DataType, seen: pa.DataType) -> pa.DataType:
    """The type of a column that is in typed files and in JSON rows. InputError if there is none."""
    if is_json(seen):
        return JSON
    try:
        return one_type_with_json(typed, seen)
    except TypeError:
        if pa.types.is_nested(typed) and pa.types.is_nested(seen):
            return JSON
    raise InputError(
        f"the JSON files and the other files do not share one schema: column {name} is {seen} in JSON and {typed} in "
        "the others; write it in one type, or curate them apart"
    )


def decode_schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def quarantine_table(shard: Shard, captured: pa.Table, raw: Mapping[int, tuple[int | None, str]]) -> pa.Table:
    places = sorted(raw)
    taken = captured.take(pa.array(places, pa.int64()))
    return pa.table(
        {
            "source": pa.array([shard.file.name] * len(places), pa.string()),
            "row": pa.array([shard.span.start_row + place for place in places], pa.int64()),
            "byte_offset": pa.array([raw[place][0] for place in places], pa.int64()),
            "code": taken.column("code"),
            "message": taken.column("message"),
            "raw_text": pa.array([raw[place][1] for place in places], pa.large_string()),
        }
    )
