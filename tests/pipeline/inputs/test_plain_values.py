"""Arrow rows as plain Python values: maps, JSON text and binary text at any depth."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tamis.operators.problems import RowProblem
from tamis.pipeline.inputs.shards import rows_of

S = pa.string()
JSON = pa.json_()
TURN = {"role": "user", "content": "hello"}
PAIRS = list(TURN.items())
TEXT = '{"role": "user", "content": "hello"}'


def values(kind: pa.DataType, cells: list[Any], *, strict: bool = True) -> list[Any]:
    column = pa.array(cells, kind)
    rows = [row.value for row in rows_of(pa.table({"x": column}), 5, strict=strict)]
    return [row["x"] if not isinstance(row, RowProblem) else row.code for row in rows]


@pytest.mark.parametrize(
    ("kind", "cell", "plain"),
    [
        (pa.map_(S, S), PAIRS, TURN),
        (pa.list_(pa.map_(S, S)), [PAIRS, None], [TURN, None]),
        (pa.map_(S, pa.list_(pa.binary())), [("a", [b"b"])], {"a": ["b"]}),
        (pa.map_(pa.int32(), S), [(1, "a")], [[1, "a"]]),
        (pa.binary(), "grüße".encode(), "grüße"),
        (pa.large_binary(), b"a", "a"),
        (pa.list_(pa.struct([("role", S), ("content", pa.binary())])), [{**TURN, "content": b"hello"}], [TURN]),
        (pa.list_(pa.binary(), 1), [b"a"], ["a"]),
        (pa.struct([("a", pa.struct([("b", pa.map_(S, S))]))]), {"a": {"b": PAIRS}}, {"a": {"b": TURN}}),
        (pa.struct([("role", pa.list_(S)), ("content", pa.list_(S))]), {"role": ["a"], "content": ["b"]}, None),
    ],
)
def test_cells_become_plain(kind: pa.DataType, cell: Any, plain: Any) -> None:
    assert values(kind, [cell, None]) == [cell if plain is None else plain, None]


def test_json_text_becomes_what_it_says() -> None:
    texts = pa.array([TEXT, None, "[1, 2.5]", '"word"'], S)
    [*found] = rows_of(pa.table({"x": pa.ExtensionArray.from_storage(JSON, texts)}), 0, strict=True)
    assert [row.value for row in found] == [{"x": TURN}, {"x": None}, {"x": [1, 2.5]}, {"x": "word"}]
    lists = pa.ListArray.from_arrays([0, 2], pa.ExtensionArray.from_storage(JSON, pa.array([TEXT, TEXT])))
    [row] = rows_of(pa.table({"x": lists}), 0)
    assert row.value == {"x": [TURN, TURN]}


def test_a_null_in_a_struct_is_no_key_and_in_json_text_it_is_a_value() -> None:
    """Else a template would show every tool the keys of all others, or a default of null would be gone."""
    kind = pa.list_(pa.struct([("name", S), ("a", pa.struct([("b", S), ("c", S)]))]))
    assert values(kind, [[{"name": "f", "a": {"b": "x", "c": None}}, {"name": "g", "a": None}, None]]) == [
        [{"name": "f", "a": {"b": "x"}}, {"name": "g"}, None]
    ]
    [row] = rows_of(pa.table({"x": pa.ExtensionArray.from_storage(JSON, pa.array(['{"default": null}']))}), 0)
    assert row.value == {"x": {"default": None}}


def test_what_cannot_be_plain_is_the_rows_problem_where_it_is_read_for_the_conversation() -> None:
    twice = [("a", "1"), ("a", "2")]
    assert values(pa.map_(S, S), [twice, PAIRS]) == ["duplicate_keys", TURN]
    assert values(pa.map_(S, S), [twice, PAIRS], strict=False) == [twice, TURN]
    assert values(pa.binary(), [b"\xff", b"a"]) == ["invalid_utf8", "a"]
    assert values(pa.binary(), [b"\xff", b"a"], strict=False) == [b"\xff", "a"]
    assert values(pa.list_(pa.binary()), [[b"\xff"]]) == [[b"\xff"]]  # a part of it, such as an image
    broken = pa.ExtensionArray.from_storage(JSON, pa.array(['{"a": 1', '{"a": 1, "a": 2}']))
    codes = [row.value.code for row in rows_of(pa.table({"x": broken}), 0, strict=True)
             if isinstance(row.value, RowProblem)]  # fmt: skip
    assert codes == ["malformed_json", "duplicate_keys"]
    assert [row.value for row in rows_of(pa.table({"x": broken}), 0)] == [{"x": '{"a": 1'}, {"x": '{"a": 1, "a": 2}'}]


def test_the_digest_of_rows_takes_bytes_and_maps() -> None:
    import hashlib

    rows = rows_of(
        pa.table({"x": pa.array([b"\xff"], pa.binary()), "y": pa.array([[(1, "a")]], pa.map_(pa.int8(), S))}), 0
    )
    digest = hashlib.sha256()
    rows[0].feed(digest)
    assert rows[0].raw_text().startswith("{")
