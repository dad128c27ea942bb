"""The Arrow types of Parquet and Arrow files: which become which in kept/, and one type for the parts of a corpus.

kept/ is Parquet, and its rows are chosen with pyarrow's filter; some types suit one of them only. Where nothing is lost
such a column gets another type when it is read, which the plan says; else the plan refuses the file.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def fitting_schema(schema: pa.Schema) -> tuple[pa.Schema, tuple[str, ...]]:
    """The schema with types that kept/ can have, and a line on each column whose type is another one.

    ValueError names a column that cannot be kept, or two columns of one name.
    """
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise ValueError(f"two columns are named {twice[0]!r}; rename one of them")
    fields, notes = [], []
    for field in schema:
        try:
            kind = _tried_out(field.type)
        except (ValueError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0][:160]
            raise ValueError(
                f"column {field.name} is {field.type}, which kept/ cannot hold ({reason}); leave it out, or cast it "
                "before"
            ) from None
        if kind != field.type:
            notes.append(f"column {field.name} is {field.type}, and {kind} in kept/")
        fields.append(field.with_type(kind))
    return pa.schema(fields, metadata=schema.metadata), tuple(notes)


def fitted(table: pa.Table) -> pa.Table:
    """`table` with the types of `fitting_schema`. Raises as it does."""
    kinds = [_fitting(field.type) for field in table.schema]
    if all(kind == field.type for kind, field in zip(kinds, table.schema, strict=True)):
        return table
    columns = [_cast(column, kind) for column, kind in zip(table.columns, kinds, strict=True)]
    fields = [field.with_type(kind) for field, kind in zip(table.schema, kinds, strict=True)]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields, metadata=table.schema.metadata))


def one_schema(schemas: Mapping[str, pa.Schema]) -> tuple[pa.Schema, tuple[str, ...]]:
    """One schema for the files of a corpus, by the files' names: columns in first-seen order, metadata of the first;
    and a line on each column whose type differs between files. ValueError names a column without a common type.

    A column gets the narrowest type that holds the values of all files, as `datasets` would cast them: strings and
    lists with large offsets, wider numbers, floats for integers beside floats, any type for null. A column that is
    missing in a file is null there.
    """
    [first_name, first], *others = schemas.items()
    fields = {field.name: field for field in first}
    seen = {field.name: f"{field.type} in {first_name}" for field in first}
    notes: dict[str, str] = {}
    distinct = [[first, 1]]
    for name, schema in others:
        alike = next((entry for entry in distinct if schema.equals(entry[0])), None)
        if alike is not None:
            alike[1] += 1
            continue
        distinct.append([schema, 1])
        for field in schema:
            before = fields.get(field.name)
            if before is None:
                fields[field.name], seen[field.name] = field, f"{field.type} in {name}"
                continue
            try:
                kind = one_type(before.type, field.type)
            except TypeError:
                raise ValueError(
                    f"column {field.name} is {seen[field.name]} and {field.type} in {name}; cast one of them, or "
                    "curate them apart"
                ) from None
            if kind != before.type or kind != field.type:
                notes[field.name] = (
                    f"column {field.name} is {seen[field.name]} and {field.type} in {name}; it is {kind} in kept/"
                )
                if pa.types.is_floating(kind) and any(
                    pa.types.is_integer(each) and each.bit_width == 64 for each in (before.type, field.type)
                ):
                    notes[field.name] += "; a whole number above 2**53 does not fit there, and would end the run"
            fields[field.name] = before.with_type(kind).with_nullable(before.nullable or field.nullable)
    counts: Counter[str] = Counter()
    for schema, count in distinct:
        counts.update(dict.fromkeys(schema.names, count))
    unified = [field if counts[name] == len(schemas) else field.with_nullable(True) for name, field in fields.items()]
    # The first file's features of `datasets` may fit a column no more; `datasets` then goes by the column.
    return pa.schema(unified, metadata=first.metadata), tuple(notes.values())


def one_type(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """The narrowest type that holds the values of both. TypeError if there is none that `datasets` would cast to."""
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    for kind in (a, b):
        if pa.types.is_dictionary(kind):
            return one_type(*(each.value_type if pa.types.is_dictionary(each) else each for each in (a, b)))
    if pa.types.is_integer(a) and pa.types.is_integer(b):
        return _one_integer(a, b)
    if _is_number(a) and _is_number(b):
        return _one_float(a, b)
    for small, large in ((pa.string(), pa.large_string()), (pa.binary(), pa.large_binary())):
        if {a, b} == {small, large}:
            return large
    if _is_list(a) and _is_list(b):
        item = a.value_field.with_type(one_type(a.value_type, b.value_type)).with_nullable(True)
        large = pa.types.is_large_list(a) or pa.types.is_large_list(b)
        return pa.large_list(item) if large else pa.list_(item)
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        return _one_struct(a, b)
    if pa.types.is_timestamp(a) and pa.types.is_timestamp(b) and a.tz == b.tz:
        return max(a, b, key=lambda kind: ("s", "ms", "us", "ns").index(kind.unit))
    raise TypeError(f"{a} and {b} have no common type")


def one_type_with_json(typed: pa.DataType, seen: pa.DataType, inside: bool = False) -> pa.DataType:
    """The type that holds the values of a column of both unchanged, seen being that of its JSON rows. An object has the
    keys that it has, and a number inside it is not converted. TypeError if there is none.

    inside: the types are those of a field of an object."""
    if typed == seen or pa.types.is_null(seen):
        return typed
    if pa.types.is_null(typed):
        return seen
    lists = pa.types.is_list(typed) or pa.types.is_large_list(typed)
    if lists and pa.types.is_list(seen):
        item = typed.value_field.with_type(one_type_with_json(typed.value_type, seen.value_type, inside))
        make = pa.large_list if pa.types.is_large_list(typed) else pa.list_
        return make(item.with_nullable(True))
    if pa.types.is_struct(typed) and [field.name for field in typed] == [
        *(field.name for field in (seen if pa.types.is_struct(seen) else ()))
    ]:
        pairs = zip(typed, seen, strict=True)
        return pa.struct([a.with_type(one_type_with_json(a.type, b.type, True)).with_nullable(True) for a, b in pairs])
    if pa.types.is_nested(typed) or pa.types.is_nested(seen):
        raise TypeError(f"{typed} and {seen} differ")
    kind = one_type(typed, seen)
    if inside and pa.types.is_floating(kind) and not (pa.types.is_floating(typed) and pa.types.is_floating(seen)):
        raise TypeError(f"{typed} and {seen} differ")
    return kind


def _fitting(kind: pa.DataType) -> pa.DataType:
    """The type that kept/ has for this one. ValueError if there is none."""
    if kind in _VIEWS:
        return _VIEWS[kind]
    if pa.types.is_run_end_encoded(kind):
        return _fitting(kind.value_type)
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _fitting(kind.value_type), kind.ordered)
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        if len(set(names)) != len(names):
            raise ValueError("it has two fields of one name")
        fields = [field.with_type(_fitting(field.type)) for field in kind]
        return kind if fields == list(kind) else pa.struct(fields)
    if pa.types.is_map(kind):
        key, item = (field.with_type(_fitting(field.type)) for field in (kind.key_field, kind.item_field))
        return kind if (key, item) == (kind.key_field, kind.item_field) else pa.map_(key, item, kind.keys_sorted)
    if _is_list(kind) or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        item = kind.value_field.with_type(_fitting(kind.value_type))
        if pa.types.is_list_view(kind):
            return pa.list_(item)
        if pa.types.is_large_list_view(kind):
            return pa.large_list(item)
        if item.type == kind.value_type:
            return kind
        if pa.types.is_fixed_size_list(kind):
            return pa.list_(item, kind.list_size)
        return pa.large_list(item) if pa.types.is_large_list(kind) else pa.list_(item)
    return kind


@lru_cache(maxsize=1024)
def _tried_out(kind: pa.DataType) -> pa.DataType:
    """The type of `_fitting`, for which one row was cast and chosen, and a table written and read, as a run will do.
    Raises what fails. The table is empty: pyarrow below 22 cannot read a null in a list of fixed size."""
    kept = _fitting(kind)
    column = _cast(pa.chunked_array([pa.nulls(1, kind)]), kept)
    column.validate(full=True)
    table = pa.table({"column": column}).filter(pa.array([True]))
    file = io.BytesIO()
    pq.write_table(table.slice(1), file)
    pq.read_table(pa.BufferReader(file.getvalue()))
    return kept


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type == kind:
        return column
    return pa.chunked_array([_rebuilt(chunk, kind) for chunk in column.chunks], kind)


def _rebuilt(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The array with the type that `_fitting` gives for its own. pyarrow casts neither runs nor dictionaries of views,
    and makes invalid arrays of list views."""
    if array.type == kind:
        return array
    if pa.types.is_run_end_encoded(array.type):
        return _rebuilt(pc.run_end_decode(array), kind)
    if pa.types.is_dictionary(array.type):
        words = _rebuilt(array.dictionary, kind.value_type)
        return pa.DictionaryArray.from_arrays(array.indices, words, ordered=kind.ordered)
    if pa.types.is_struct(kind):
        children = [_rebuilt(array.field(place), field.type) for place, field in enumerate(kind)]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=array.is_null())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        large = pa.types.is_large_list(kind)
        make, width = (pa.LargeListArray, pa.int64()) if large else (pa.ListArray, pa.int32())
        inner = _rebuilt(array.flatten(), kind.value_type)
        return make.from_arrays(pa.array(offsets, width), inner, type=kind, mask=array.is_null())
    return array.cast(kind)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _one_integer(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    signed, unsigned = (max((kind.bit_width for kind in (a, b) if test(kind)), default=0)
                        for test in (pa.types.is_signed_integer, pa.types.is_unsigned_integer))  # fmt: skip
    if not signed:
        return max(a, b, key=lambda kind: kind.bit_width)
    width = max(signed, 2 * unsigned)
    if width > 64:
        raise TypeError(f"{a} and {b} have no common type")
    return {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[width]


def _one_float(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """A float that holds the values of both; of 64-bit integers only those that it holds exactly, or reading fails."""
    widths = [kind.bit_width if pa.types.is_floating(kind) else 2 * kind.bit_width for kind in (a, b)]
    return {16: pa.float16(), 32: pa.float32()}.get(max(widths), pa.float64())


def _one_struct(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    fields = {field.name: field for field in a}
    for field in b:
        before = fields.get(field.name)
        kind = field.type if before is None else one_type(before.type, field.type)
        fields[field.name] = (before or field).with_type(kind).with_nullable(True)
    theirs = {field.name for field in b}
    return pa.struct([field if name in theirs else field.with_nullable(True) for name, field in fields.items()])
