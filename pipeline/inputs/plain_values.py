"""Arrow rows as the Python values that a conversation is read from: dicts, lists, strings and numbers.

A map becomes a dict, JSON text of Arrow's json type what it says, and binary text a string. A field of a struct that
is null is left out: a table gives every object the keys of all others, as nulls. In JSON text a null is a value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from tamis.operators.conversation.strict_json import parse
from tamis.operators.problems import RowProblem

_Convert = Callable[[Any], Any]


def converters(schema: pa.Schema) -> dict[str, _Convert]:
    """Column -> how to make what pyarrow gives plain, for the columns that are not plain already.

    A converter raises RowProblem: malformed_json, duplicate_keys, number_too_large.
    """
    found = {field.name: _converter(field.type) for field in schema}
    return {name: convert for name, convert in found.items() if convert is not None}


def made_plain(row: dict[str, Any], how: Mapping[str, _Convert], strict: bool) -> Mapping[str, Any] | RowProblem:
    """A row of pyarrow, made plain. strict: a value that cannot be is the row's problem; else it stays as it is."""
    for name, convert in how.items():
        try:
            row[name] = convert(row[name])
        except RowProblem as problem:
            if strict:
                return problem
        if strict and isinstance(row[name], bytes):
            return RowProblem("invalid_utf8", "binary data in the place of text is not UTF-8")
    return row


def _converter(kind: pa.DataType) -> _Convert | None:
    if isinstance(kind, pa.BaseExtensionType):
        return _parsed if kind.extension_name == "arrow.json" else None
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _text
    if pa.types.is_dictionary(kind):
        return _converter(kind.value_type)
    if pa.types.is_map(kind):
        return _map(_converter(kind.key_type), _converter(kind.item_type))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        convert = _converter(kind.value_type)
        return None if convert is None else _list(convert)
    if pa.types.is_struct(kind):
        return _struct({field.name: _converter(field.type) for field in kind})
    return None


def _parsed(value: Any) -> Any:
    return parse(value) if isinstance(value, str) else value


def _text(value: Any) -> Any:
    """Bytes that are not UTF-8 stay bytes: they may be an image."""
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


def _list(convert: _Convert) -> _Convert:
    return lambda value: None if value is None else [convert(item) for item in value]


def _struct(fields: Mapping[str, _Convert | None]) -> _Convert:
    def convert(value: Any) -> Any:
        if value is None:
            return None
        given = ((name, fields[name], item) for name, item in value.items() if item is not None)
        return {name: item if each is None else each(item) for name, each, item in given}

    return convert


def _map(key: _Convert | None, item: _Convert | None) -> _Convert:
    def convert(value: Any) -> Any:
        if value is None:
            return None
        pairs = [(name if key is None else key(name), inner if item is None else item(inner)) for name, inner in value]
        if not all(isinstance(name, str) for name, _ in pairs):
            return [list(pair) for pair in pairs]
        found = dict(pairs)
        if len(found) != len(pairs):
            raise RowProblem("duplicate_keys", "a map has the same key twice, and readers differ in which one counts")
        return found

    return convert
