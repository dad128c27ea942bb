"""One Arrow schema for JSON rows whose keys and types differ.

Types form a lattice, so inferring a schema per shard and unifying gives the same result as inferring it at once:

    null < int64 < double    null < bool    null < string    null < list<item>    null < struct<fields>
    conflicting types < text: a value that is not a string becomes its JSON text

Fields keep the order in which they were first seen. Until `settle`, three placeholder types, which are never written
to a file, record what must not be lost:

    string_view        types conflicted, or an integer exceeded 64 bits; becomes text
    decimal256(19, 0)  an integer that a double cannot hold exactly; becomes int64, or text if there are also doubles
    empty struct       only {} seen so far; becomes string if that does not change

Nothing is rounded, cut or dropped: a value that does not fit becomes text or an error.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from tamis.operators.problems import RowProblem

MAX_FIELDS = 1000
"""A nested object with more keys than this, over all rows, is treated as data, not as a record: it becomes text."""
MAX_COLUMNS = 1000
"""Top-level keys of one shard's rows. A row with keys other than the most common ones is refused (`too_wide`)."""
MAX_DEPTH = 32
"""Lists and objects nested deeper than this become text."""

_CONFLICT = pa.string_view()
_WIDE = pa.decimal256(19, 0)

# The kinds a node has seen, as bits; null sets none.
_BOOL, _INT, _WIDE_INT, _FLOAT, _STRING, _LIST, _STRUCT, _MIXED = (1 << i for i in range(8))
_SCALARS = {
    0: pa.null(),
    _BOOL: pa.bool_(),
    _INT: pa.int64(),
    _WIDE_INT: _WIDE,
    _INT | _WIDE_INT: _WIDE,
    _FLOAT: pa.float64(),
    _INT | _FLOAT: pa.float64(),
    _STRING: pa.string(),
}
_KIND_OF = {
    pa.null(): 0,
    pa.bool_(): _BOOL,
    pa.int64(): _INT,
    _WIDE: _WIDE_INT,
    pa.float64(): _FLOAT,
    pa.string(): _STRING,
    _CONFLICT: _MIXED,
}
_INT64 = 1 << 63
_EXACT = 1 << 53


class _Node:
    """The kinds of values seen so far at one place in the rows."""

    __slots__ = ("depth", "fields", "item", "kinds")

    def __init__(self, depth: int = 0) -> None:
        self.kinds = 0
        self.depth = depth
        self.item: _Node | None = None
        self.fields: dict[str, _Node] | None = None

    def see(self, value: Any) -> None:
        if value is None:
            return
        kind = type(value)
        if kind is str:
            self.kinds |= _STRING
        elif kind is bool:
            self.kinds |= _BOOL
        elif kind is int:
            self.kinds |= _kind_of_int(value)
        elif kind is float:
            self.kinds |= _FLOAT
        elif isinstance(value, Mapping):
            self._see_fields(value)
        elif isinstance(value, list | tuple):
            if self._open(_LIST):
                item = self._item()
                for element in value:
                    item.see(element)
        else:
            raise TypeError(f"{kind.__name__} is not a JSON value")

    def _see_fields(self, value: Mapping[str, Any]) -> None:
        if not self._open(_STRUCT):
            return
        for key, element in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{type(key).__name__} is not a JSON key")
            self._field(key).see(element)
        self._bound()

    def add_type(self, kind: pa.DataType) -> None:
        if kind in _KIND_OF:
            self.kinds |= _KIND_OF[kind]
        elif pa.types.is_list(kind):
            if self._open(_LIST):
                self._item().add_type(kind.value_type)
        elif pa.types.is_struct(kind):
            if self._open(_STRUCT):
                for field in kind:
                    self._field(field.name).add_type(field.type)
                self._bound()
        else:
            raise TypeError(f"{kind} is not the type of a JSON value")

    def type(self) -> pa.DataType:
        if self.kinds in _SCALARS:
            return _SCALARS[self.kinds]
        if self.kinds == _LIST:
            return pa.list_(self._item().type())
        if self.kinds == _STRUCT:
            return pa.struct([(name, node.type()) for name, node in (self.fields or {}).items()])
        return _CONFLICT

    def _open(self, kind: int) -> bool:
        """Records a container; True if its content still affects the type."""
        self.kinds |= kind if self.depth < MAX_DEPTH else _MIXED
        if self.kinds == kind:
            return True
        self.item = self.fields = None
        return False

    def _item(self) -> _Node:
        if self.item is None:
            self.item = _Node(self.depth + 1)
        return self.item

    def _field(self, name: str) -> _Node:
        if self.fields is None:
            self.fields = {}
        node = self.fields.get(name)
        if node is None:
            node = self.fields[name] = _Node(self.depth + 1)
        return node

    def _bound(self) -> None:
        if self.fields is not None and len(self.fields) > MAX_FIELDS:
            self.kinds |= _MIXED
            self.fields = None


def infer(value: Any) -> pa.DataType:
    """The unsettled type of one JSON value (as `json.loads` returns it). Raises TypeError for anything else."""
    node = _Node()
    node.see(value)
    return node.type()


def unify(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """The narrowest type that holds the values of both; a's fields come first. Raises TypeError for a type that
    no JSON value has.
    """
    node = _Node()
    node.add_type(a)
    node.add_type(b)
    return node.type()


def infer_rows(rows: Iterable[Mapping[str, Any]]) -> pa.Schema:
    """The unsettled schema of these rows: every key, in first-seen order. Raises TypeError for a value that is not
    a JSON value.
    """
    columns: dict[str, _Node] = {}
    for row in rows:
        for name, value in row.items():
            node = columns.get(name)
            if node is None:
                node = columns[name] = _Node()
            node.see(value)
    return pa.schema([(name, node.type()) for name, node in columns.items()])


def too_wide(rows: Sequence[Mapping[str, Any]]) -> dict[int, RowProblem]:
    """Row index -> problem, for the rows to remove so that the others have at most MAX_COLUMNS top-level keys.

    The most common keys are kept, ties broken by which was seen first. So one row full of keys of its own is removed,
    not all the rows after it. A row is kept whole or removed.
    """
    counts = Counter(key for row in rows for key in row)
    if len(counts) <= MAX_COLUMNS:
        return {}
    kept = {key for key, _ in counts.most_common(MAX_COLUMNS)}
    problem = RowProblem(
        "too_many_columns",
        f"the rows of its shard have {len(counts):,} top-level keys, and this one has some that are not among the "
        f"{MAX_COLUMNS:,} most common; put keys that differ from row to row into one object",
    )
    return {place: problem for place, row in enumerate(rows) if not row.keys() <= kept}


def unify_schemas(a: pa.Schema, b: pa.Schema) -> pa.Schema:
    """The unsettled schema of the rows of both, a's columns first."""
    types = {field.name: field.type for field in a}
    for field in b:
        known = types.get(field.name)
        types[field.name] = field.type if known is None else unify(known, field.type)
    return pa.schema(list(types.items()))


def conflicts(schema: pa.Schema) -> tuple[str, ...]:
    """The places that become text because of conflicting types, as dotted paths ("meta.tags[]").

    Call this before `settle`, which discards the information.
    """
    return tuple(path for field in schema for path in _conflicts(field.name, field.type))


def settle(schema: pa.Schema) -> pa.Schema:
    """The schema to write: placeholder types become int64 and string; the rest, metadata included, is unchanged."""
    return pa.schema([field.with_type(_settle(field.type)) for field in schema], metadata=schema.metadata)


def to_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """The rows as a table of the settled schema: null if a key is missing, JSON text if the column is text and the
    value is not.

    Columns may have types that JSON lacks, from files of another format. Such columns take null and, where nothing
    can be lost, strings (large_string) and whole numbers (the other integer types). Raises ValueError, naming
    the columns, if a value fits neither its column nor text (rows that `schema` does not cover), and
    UnicodeEncodeError for a string that is not valid Unicode (a lone surrogate).
    """
    settled = settle(schema)
    if rows and not len(settled):
        raise ValueError(f"{len(rows)} rows and no column to put them in")
    types = {field.name: field.type for field in settled}
    # Arrow would silently drop unknown keys, split a string into a list and read 1.0 as 1, so check first.
    wrong = [
        f"{field.name}: {_settle(field.type)}"
        for field in infer_rows(rows)
        if field.name not in types or not _holds(types[field.name], field.type)
    ]
    if wrong:
        raise ValueError(f"rows do not fit the schema; they hold {', '.join(wrong)}")
    return pa.Table.from_arrays([_column(rows, field) for field in settled], schema=settled)


def _holds(kind: pa.DataType, found: pa.DataType) -> bool:
    """Whether a column of this settled type takes values of the found type without loss, or as text."""
    if kind == found or pa.types.is_null(found):
        return True
    if pa.types.is_large_string(kind):
        return bool(pa.types.is_string(found))
    if pa.types.is_integer(kind) and found in (pa.int64(), _WIDE):
        return True  # Arrow itself refuses a number that is out of range
    try:
        return bool(_settle(unify(kind, found)) == _settle(unify(kind, kind)))
    except TypeError:
        return False


def _kind_of_int(value: int) -> int:
    if -_EXACT <= value <= _EXACT:
        return _INT
    if not -_INT64 <= value < _INT64:
        return _MIXED
    return _INT if int(float(value)) == value else _WIDE_INT


def _conflicts(path: str, kind: pa.DataType) -> list[str]:
    if kind == _CONFLICT:
        return [path]
    if pa.types.is_list(kind):
        return _conflicts(f"{path}[]", kind.value_type)
    if pa.types.is_struct(kind):
        return [found for field in kind for found in _conflicts(f"{path}.{field.name}", field.type)]
    return []


def _settle(kind: pa.DataType) -> pa.DataType:
    if kind == _CONFLICT:
        return pa.string()
    if kind == _WIDE:
        return pa.int64()
    if pa.types.is_list(kind):
        item = _settle(kind.value_type)
        return kind if item == kind.value_type else pa.list_(item)
    if pa.types.is_struct(kind):
        fields = [field.with_type(_settle(field.type)) for field in kind]
        return pa.struct(fields) if fields else pa.string()
    return kind


def _column(rows: Sequence[Mapping[str, Any]], field: pa.Field) -> pa.Array:
    values = [row.get(field.name) for row in rows]
    try:
        return pa.array(values, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        fitted = [_fit(value, field.type) for value in values]
    try:
        return pa.array(fitted, field.type)
    except (pa.ArrowInvalid, OverflowError):
        # Arrow's own message would quote the value.
        raise ValueError(f"rows do not fit the schema: a value of {field.name} exceeds {field.type}") from None


def _fit(value: Any, kind: pa.DataType) -> Any:
    """The value in the form that Arrow takes for this type. The type was already checked to hold the value."""
    if value is None:
        return None
    if pa.types.is_string(kind):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if pa.types.is_floating(kind):
        return float(value)
    if pa.types.is_list(kind):
        return [_fit(element, kind.value_type) for element in value]
    if pa.types.is_struct(kind):
        return {field.name: _fit(value.get(field.name), field.type) for field in kind}
    return value
