"""One Arrow schema for JSON rows: typed where one type holds every row as it is, JSON text where none does.

Types form a lattice, so inferring a schema per shard and unifying gives the same result as inferring it at once:

    null < int64 < double    null < bool    null < string    null < list<item>    null < struct<fields>

A struct is the type of objects that have the same keys in the same order. Objects whose keys differ have no type: one
struct would give each of them the keys of all others, as nulls, and a chat template would show them to the model. Nor
have values of different types. A column without a type for all that is in it is JSON text as a whole, of Arrow's json
type, which `datasets` reads as objects; JSON text in the midst of a struct could be taken for a string. Numbers in an
object are not converted, since 1 and 1.0 are rendered differently: there int64 and double are different types.

Columns keep the order in which they were first seen. Until `settle`, four placeholder types, which are never written
to a file, record what must not be lost:

    string_view        types conflicted; makes the column JSON
    empty struct       objects with different keys, with conflicts among their values, or only {}; the same
    binary_view        whole numbers, some of more than 64 bits, not in an object; becomes text, the digits of each
    decimal256(19, 0)  an integer that a double cannot hold exactly; becomes int64, or JSON beside doubles

Nothing is rounded, cut, added or dropped: a value that does not fit becomes JSON or an error. A column that a row lacks
is null there; nothing tells it from a column that is null in that row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from tamis.operators.conversation.json_text import misread, text_of
from tamis.operators.problems import RowProblem

MAX_FIELDS = 1000
"""A column with an object of more keys than this is JSON."""
MAX_COLUMNS = 1000
"""Top-level keys of one shard's rows. A row with keys other than the most common ones is refused (`too_wide`)."""
MAX_DEPTH = 32
"""A column with lists and objects nested deeper than this is JSON."""

JSON = pa.json_()

_CONFLICT = pa.string_view()
_OBJECTS = pa.struct([])
_DIGITS = pa.binary_view()
_WIDE = pa.decimal256(19, 0)

# The kinds a node has seen, as bits; null sets none.
_BOOL, _INT, _WIDE_INT, _HUGE_INT, _FLOAT, _STRING, _LIST, _STRUCT, _MIXED = (1 << i for i in range(9))
_SCALARS = {
    0: pa.null(),
    _BOOL: pa.bool_(),
    _INT: pa.int64(),
    _WIDE_INT: _WIDE,
    _INT | _WIDE_INT: _WIDE,
    _FLOAT: pa.float64(),
    _STRING: pa.string(),
}
_CHANGING = {
    _INT | _FLOAT: pa.float64(),
    _HUGE_INT: _DIGITS,
    _INT | _HUGE_INT: _DIGITS,
    _WIDE_INT | _HUGE_INT: _DIGITS,
    _INT | _WIDE_INT | _HUGE_INT: _DIGITS,
}
"""Types that hold the same numbers in another form, which no template renders: not for places inside an object."""
_KIND_OF = {
    pa.null(): 0,
    pa.bool_(): _BOOL,
    pa.int64(): _INT,
    _WIDE: _WIDE_INT,
    _DIGITS: _HUGE_INT,
    pa.float64(): _FLOAT,
    pa.string(): _STRING,
    _CONFLICT: _MIXED,
}
_INT64 = 1 << 63
_EXACT = 1 << 53


class _Node:
    """The kinds of values seen so far at one place in the rows. inside: whether the place is in an object. names: the
    keys of all objects here, in order; None before the first one. opaque: whether the objects here have no type."""

    __slots__ = ("depth", "fields", "inside", "item", "kinds", "names", "opaque")

    def __init__(self, depth: int = 0, *, inside: bool = False) -> None:
        self.kinds = 0
        self.depth = depth
        self.inside = inside
        self.item: _Node | None = None
        self.names: list[str] | None = None
        self.fields: list[_Node] = []
        self.opaque = False

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
        elif kind is dict or isinstance(value, Mapping):
            names = list(value)
            if (self.kinds == _STRUCT and self.names == names) or (self._open(_STRUCT) and self._same_keys(names)):
                for node, element in zip(self.fields, value.values(), strict=False):
                    node.see(element)
        elif kind is list or isinstance(value, tuple):
            if self._open(_LIST):
                item = self._item()
                for element in value:
                    item.see(element)
        else:
            raise TypeError(f"{kind.__name__} is not a JSON value")

    def add_type(self, kind: pa.DataType) -> None:
        if kind in _KIND_OF:
            self.kinds |= _KIND_OF[kind]
        elif pa.types.is_list(kind):
            if self._open(_LIST):
                self._item().add_type(kind.value_type)
        elif pa.types.is_struct(kind):
            if self._open(_STRUCT) and self._same_keys([field.name for field in kind]):
                for node, field in zip(self.fields, kind, strict=True):
                    node.add_type(field.type)
        else:
            raise TypeError(f"{kind} is not the type of a JSON value")

    def type(self) -> pa.DataType:
        if self.kinds in _SCALARS:
            return _SCALARS[self.kinds]
        if not self.inside and self.kinds in _CHANGING:
            return _CHANGING[self.kinds]
        if self.kinds == _LIST:
            return pa.list_(self._item().type())
        if self.kinds == _STRUCT:
            types = [] if self.opaque else [node.type() for node in self.fields]
            return _OBJECTS if _CONFLICT in types else pa.struct(list(zip(self.names or (), types, strict=False)))
        return _CONFLICT

    def _open(self, kind: int) -> bool:
        """Records a container; True if its content still affects the type."""
        self.kinds |= kind if self.depth < MAX_DEPTH else _MIXED
        if self.kinds == kind:
            return not self.opaque
        self.item, self.names, self.fields = None, None, []
        return False

    def _item(self) -> _Node:
        if self.item is None:
            self.item = _Node(self.depth + 1, inside=self.inside)
        return self.item

    def _same_keys(self, names: list[str]) -> bool:
        """Whether the objects here have the same keys so far, these among them."""
        if self.names is None and 0 < len(names) <= MAX_FIELDS:
            if not all(isinstance(name, str) for name in names):
                raise TypeError("a JSON key is a string")
            self.names = names
            self.fields = [_Node(self.depth + 1, inside=True) for _ in names]
        self.opaque = self.names != names
        if self.opaque:
            self.names, self.fields = None, []
        return not self.opaque


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


def json_places(schema: pa.Schema) -> tuple[str, ...]:
    """The places that a settled schema holds as JSON text: columns, and in files of another format also places in
    them, as dotted paths ("tools[].function.parameters")."""
    return _places(schema, JSON)


def digit_notes(schema: pa.Schema) -> list[str]:
    """A sentence for each place where whole numbers become text. Call this before `settle`, which discards that."""
    return [
        f"column {path} has whole numbers of more than 64 bits; in kept/ all its numbers are text"
        for path in _places(schema, _DIGITS)
    ]


def settle(schema: pa.Schema) -> pa.Schema:
    """The schema to write: placeholder types become int64, string and json; the rest, metadata included, is
    unchanged."""
    return pa.schema([field.with_type(_settled(field.type)) for field in schema], metadata=schema.metadata)


def to_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """The rows as a table of the settled schema: null if a key is missing, JSON text if the column is JSON.

    Columns may have types that JSON lacks, from files of another format. Such columns take null and, where nothing
    can be lost, strings (large_string) and whole numbers (the other integer types). Raises ValueError, naming
    the columns, if a value does not fit its column (rows that `schema` does not cover), and
    UnicodeEncodeError for a string that is not valid Unicode (a lone surrogate).
    """
    settled = settle(schema)
    if rows and not len(settled):
        raise ValueError(f"{len(rows)} rows and no column to put them in")
    types = {field.name: field.type for field in schema}
    # Arrow would silently drop unknown keys, split a string into a list and read 1.0 as 1, so check first.
    wrong = [
        f"{field.name}: {_settled(field.type)}"
        for field in infer_rows(rows)
        if field.name not in types or not _holds(types[field.name], field.type)
    ]
    if wrong:
        raise ValueError(f"rows do not fit the schema; they hold {', '.join(wrong)}")
    return pa.Table.from_arrays([_column(rows, field) for field in settled], schema=settled)


def misread_columns(table: pa.Table) -> dict[str, int]:
    """Column -> how many of its JSON texts hold a number that `datasets` reads as another one, or not at all."""
    found = {}
    for name, kind in zip(table.column_names, table.schema.types, strict=True):
        if is_json(kind):
            # As Python values: Arrow aborts the process when it flattens some slices of nested types.
            values = table.column(name).cast(_stored(kind)).to_pylist()
            found[name] = sum(misread(text) for value in values for text in _texts(value, kind))
    return {name: count for name, count in found.items() if count}


def as_json(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A typed column as JSON text. TypeError for a type whose values JSON does not have."""
    if not _is_plain(column.type):
        raise TypeError(f"{column.type} is not the type of a JSON value")
    chunks = [pa.array([None if v is None else text_of(v) for v in part.to_pylist()], JSON) for part in column.chunks]
    return pa.chunked_array(chunks, JSON)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_plain(kind: pa.DataType) -> bool:
    if _is_list(kind):
        return _is_plain(kind.value_type)
    if pa.types.is_struct(kind):
        return all(_is_plain(field.type) for field in kind)
    checks = (pa.types.is_null, pa.types.is_boolean, pa.types.is_integer, pa.types.is_float64, pa.types.is_string,
              pa.types.is_large_string)  # fmt: skip
    return any(check(kind) for check in checks)


def is_json(kind: pa.DataType) -> bool:
    """Whether a settled type is JSON text, or holds such inside."""
    return bool(_inside("", kind, JSON))


def _holds(kind: pa.DataType, found: pa.DataType, *, inside: bool = False) -> bool:
    """Whether a column of this type, settled or not, takes values of the found type without loss."""
    if kind in (found, JSON) or pa.types.is_null(found) or _is_untyped(kind):
        return True
    if _is_list(kind) and pa.types.is_list(found):
        return _holds(kind.value_type, found.value_type, inside=inside)
    if pa.types.is_struct(kind) and pa.types.is_struct(found):
        return [field.name for field in kind] == [field.name for field in found] and all(
            _holds(ours.type, theirs.type, inside=True) for ours, theirs in zip(kind, found, strict=True)
        )
    if pa.types.is_large_string(kind):
        return bool(pa.types.is_string(found))
    if pa.types.is_integer(kind) or kind == _WIDE:
        return found in (pa.int64(), _WIDE)  # Arrow itself refuses a number that is out of range
    if kind == _DIGITS or pa.types.is_string(kind):  # a settled column of digits is one of text
        return found in (pa.int64(), _WIDE, _DIGITS)
    return bool(pa.types.is_float64(kind) and found == pa.int64() and not inside)


def _kind_of_int(value: int) -> int:
    if -_EXACT <= value <= _EXACT:
        return _INT
    if not -_INT64 <= value < _INT64:
        return _HUGE_INT
    return _INT if int(float(value)) == value else _WIDE_INT


def _places(schema: pa.Schema, wanted: pa.DataType) -> tuple[str, ...]:
    return tuple(path for field in schema for path in _inside(field.name, field.type, wanted))


def _inside(path: str, kind: pa.DataType, wanted: pa.DataType) -> list[str]:
    if kind == wanted:
        return [path]
    if _is_list(kind):
        return _inside(f"{path}[]", kind.value_type, wanted)
    if pa.types.is_struct(kind):
        return [found for field in kind for found in _inside(f"{path}.{field.name}", field.type, wanted)]
    return []


def _is_untyped(kind: pa.DataType) -> bool:
    """Whether the type says, here or inside, that there is none."""
    if pa.types.is_list(kind):
        return _is_untyped(kind.value_type)
    return kind in (_CONFLICT, _OBJECTS) or (
        pa.types.is_struct(kind) and any(_is_untyped(field.type) for field in kind)
    )


def _settled(kind: pa.DataType) -> pa.DataType:
    """The type of a column."""
    return JSON if _is_untyped(kind) else _settle(kind)


def _settle(kind: pa.DataType) -> pa.DataType:
    if kind == _DIGITS:
        return pa.string()
    if kind == _WIDE:
        return pa.int64()
    if pa.types.is_list(kind):
        item = _settle(kind.value_type)
        return kind if item == kind.value_type else pa.list_(item)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_settle(field.type)) for field in kind])
    return kind


def _texts(value: Any, kind: pa.DataType) -> Iterator[str]:
    """All JSON texts in a value of this type, with plain text in place of JSON."""
    if value is None:
        return
    if kind == JSON:
        yield value
    elif _is_list(kind):
        for item in value:
            yield from _texts(item, kind.value_type)
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _texts(value[field.name], field.type)


def _column(rows: Sequence[Mapping[str, Any]], field: pa.Field) -> pa.Array:
    values = [row.get(field.name) for row in rows]
    if field.type == JSON:
        return pa.array([None if value is None else text_of(value) for value in values], JSON)
    try:
        return pa.array(values, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        fitted = [_fit(value, field.type) for value in values]
    try:
        return pa.array(fitted, field.type)
    except (pa.ArrowInvalid, OverflowError):
        # Arrow's own message would quote the value.
        raise ValueError(f"rows do not fit the schema: a value of {field.name} exceeds {field.type}") from None


def _stored(kind: pa.DataType) -> pa.DataType:
    """The type with plain text in place of JSON."""
    if kind == JSON:
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_stored(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_stored(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_stored(field.type)) for field in kind])
    return kind


def _fit(value: Any, kind: pa.DataType) -> Any:
    """The value in the form that Arrow takes for this type. The type was already checked to hold the value."""
    if value is None:
        return None
    if pa.types.is_string(kind):
        return value if isinstance(value, str) else str(value)
    if pa.types.is_floating(kind):
        return float(value)
    if _is_list(kind):
        return [_fit(element, kind.value_type) for element in value]
    if pa.types.is_struct(kind):
        return {field.name: _fit(value.get(field.name), field.type) for field in kind}
    return value
