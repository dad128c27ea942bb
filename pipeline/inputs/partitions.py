"""Hive partitions: the columns that the names of folders hold (year=2024/part-0.parquet), typed as pyarrow types them.

The type of a column is that of all its values together: int32 if each is a whole number of that size, else text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

_NULL = "__HIVE_DEFAULT_PARTITION__"
_WHOLE = re.compile(r"-?\d{1,10}")
_TYPES = {"int32": pa.int32(), "string": pa.string()}


def partitions_of(files: Sequence[str]) -> list[str]:
    """For each path below the folder that was named, its columns for `SourceFile.partition`; "" where there are none.

    A column that other files have is null for a file whose folders do not name it.
    """
    found = [pairs_of(file) for file in files]
    types: dict[str, str] = {}
    for pairs in found:
        for name, value in pairs.items():
            whole = value is None or (_WHOLE.fullmatch(value) and -(2**31) <= int(value) < 2**31)
            types[name] = "string" if not whole or types.get(name) == "string" else "int32"
    for name in types:
        if all(pairs.get(name) is None for pairs in found):
            types[name] = "string"
    if not types:
        return [""] * len(files)
    return [
        json.dumps([[name, kind, _typed(pairs.get(name), kind)] for name, kind in types.items()]) for pairs in found
    ]


def values_of(partition: str) -> dict[str, Any]:
    """Column -> value, of one file's partition."""
    return {name: value for name, _, value in json.loads(partition)} if partition else {}


def fields_of(partition: str) -> list[pa.Field]:
    """The columns of one file's partition."""
    return [pa.field(name, _TYPES[kind]) for name, kind, _ in json.loads(partition)] if partition else []


def without(partition: str, names: Sequence[str]) -> str:
    """A file's partition without some of its columns."""
    left = [column for column in json.loads(partition) if column[0] not in names]
    return json.dumps(left) if left else ""


def pairs_of(file: str) -> dict[str, str | None]:
    """Column -> value as text, or None for null, as the folders of one path name them."""
    pairs: dict[str, str | None] = {}
    for part in file.split("/")[:-1]:
        name, equals, value = part.partition("=")
        if name and equals:
            pairs[unquote(name)] = None if value == _NULL else unquote(value)
    return pairs


def _typed(value: str | None, kind: str) -> int | str | None:
    return int(value) if value is not None and kind == "int32" else value
