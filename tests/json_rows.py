"""Tables with JSON text, as a reader of kept/ has them."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from tamis.operators.conversation.schema import JSON, is_json


def to_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table as Python values, with what JSON text says in the place of the text."""
    kinds = {field.name: field.type for field in table.schema}
    return [{name: _parsed(value, kinds[name]) for name, value in row.items()} for row in table.to_pylist()]


def _parsed(value: Any, kind: pa.DataType) -> Any:
    if value is None or not is_json(kind):
        return value
    if kind == JSON:
        return json.loads(value)
    if pa.types.is_struct(kind):
        return {field.name: _parsed(value[field.name], field.type) for field in kind}
    return [_parsed(element, kind.value_type) for element in value]
