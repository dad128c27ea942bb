from __future__ import annotations

import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_rows import to_rows

from tamis.operators.conversation.schema import (
    JSON,
    MAX_COLUMNS,
    MAX_DEPTH,
    MAX_FIELDS,
    as_json,
    digit_notes,
    infer,
    infer_rows,
    json_places,
    misread_columns,
    settle,
    to_table,
    too_wide,
    unify,
    unify_schemas,
)

INEXACT = 2**53 + 1
integers = st.sampled_from([0, -1, 2**53, INEXACT, 2**60, 2**63 - 1, -(2**63), 2**63, 2**70]) | st.integers()
scalars = st.none() | st.booleans() | integers | st.floats(allow_nan=False) | st.text(max_size=3)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
json_rows = st.lists(st.dictionaries(st.sampled_from("wxyz"), json_values, max_size=4), max_size=6)


def settled(value: Any) -> pa.DataType:
    return settle(pa.schema([("x", infer(value))])).field("x").type


def column(values: list[Any]) -> list[Any]:
    rows = [{"x": value} for value in values]
    return to_table(rows, infer_rows(rows)).column("x").to_pylist()


def same(a: Any, b: Any, *, inside: bool = False) -> bool:
    """Equal, with the same keys in the same order. Outside of objects, an integer may have become the very same double,
    or its digits where it has more than 64 bits."""
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key], inside=True) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y, inside=inside) for x, y in zip(a, b, strict=True))
    if not inside and isinstance(a, str) and type(b) is int:
        return a == str(b)
    return a == b and (type(a) is type(b) or (not inside and {type(a), type(b)} == {int, float}))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, pa.null()),
        (True, pa.bool_()),
        (7, pa.int64()),
        (2**63 - 1, pa.int64()),
        (-(2**63), pa.int64()),
        (2**63, pa.string()),
        (0.5, pa.float64()),
        ("text", pa.string()),
        ([], pa.list_(pa.null())),
        ([1, 2.5, None], pa.list_(pa.float64())),
        ([1, "a"], JSON),
        ([[1, "a"]], JSON),
        ({}, JSON),
        ({"a": {}}, JSON),
        ({"b": 1, "a": None}, pa.struct([("b", pa.int64()), ("a", pa.null())])),
        ([{"a": 1, "b": "x"}, {"a": 2, "b": None}], pa.list_(pa.struct([("a", pa.int64()), ("b", pa.string())]))),
        ([{"a": 1}, {"a": 1, "b": None}], JSON),
        ([{"a": 1, "b": 2}, {"b": 2, "a": 1}], JSON),
        ([{"a": [1]}, {"a": "x"}], JSON),
        ([{"a": 1}, {"a": 0.5}], JSON),
        ({"a": [1, 0.5]}, JSON),
        ({"a": 2**70}, JSON),
    ],
)
def test_types_of_values(value: Any, kind: pa.DataType) -> None:
    assert settled(value) == kind


@pytest.mark.parametrize(
    ("a", "b", "kind"),
    [
        (None, {"a": 1}, pa.struct([("a", pa.int64())])),
        ({}, {"a": 1}, JSON),
        (1, 2.5, pa.float64()),
        (INEXACT, 1, pa.int64()),
        (INEXACT, 2.5, JSON),
        (2**70, 1, pa.string()),
        (2**70, 2.5, JSON),
        (2**60, 2.5, pa.float64()),
        (1, True, JSON),
        (1, "a", JSON),
        ([1], 1, JSON),
        ([1], {"a": 1}, JSON),
        ([1], ["a"], JSON),
        ([[1]], [["a"]], JSON),
        ({"a": 1}, {"b": 1, "a": 1}, JSON),
        ({"a": {"b": 1}}, {"a": {"c": 1}}, JSON),
    ],
)
def test_unify(a: Any, b: Any, kind: pa.DataType) -> None:
    assert settle(pa.schema([("x", unify(infer(a), infer(b)))])).field("x").type == kind


@given(rows=json_rows, cuts=st.lists(st.integers(0, 6), max_size=4), data=st.data())
@settings(max_examples=200, deadline=None)
def test_sharding_never_changes_the_schema(rows: list[dict[str, Any]], cuts: list[int], data: st.DataObject) -> None:
    bounds = [0, *sorted(cuts), len(rows)]
    parts = [infer_rows(rows[a:b]) for a, b in pairwise(bounds)]
    while len(parts) > 1:
        at = data.draw(st.integers(0, len(parts) - 2))
        parts[at : at + 2] = [unify_schemas(parts[at], parts[at + 1])]
    whole = infer_rows(rows)
    assert parts[0] == whole
    assert str(parts[0]) == str(whole)  # the order of columns and fields too
    assert json_places(settle(parts[0])) == json_places(settle(whole))


@given(a=json_values, b=json_values, c=json_values)
@settings(max_examples=200, deadline=None)
def test_unify_is_associative_and_keeps_what_it_has(a: Any, b: Any, c: Any) -> None:
    a, b, c = infer(a), infer(b), infer(c)
    both = unify(a, b)
    assert unify(both, c) == unify(a, unify(b, c))
    assert unify(both, a) == unify(both, b) == unify(both, both) == both
    assert unify(pa.null(), a) == unify(a, pa.null()) == a


@given(rows=json_rows)
@settings(max_examples=200, deadline=None)
def test_every_value_comes_back(rows: list[dict[str, Any]]) -> None:
    rows = [{"id": row_number, **row} for row_number, row in enumerate(rows)]
    schema = infer_rows(rows)
    table = to_table(rows, schema)
    assert table.schema == settle(schema)
    assert table.num_rows == len(rows)
    table.validate(full=True)
    for row, found in zip(rows, to_rows(table), strict=True):
        assert all(same(value, row.get(name)) for name, value in found.items()), (found, row)
    # As it is written: without some rows, and by way of a file.
    sink = pa.BufferOutputStream()
    pq.write_table(table.filter(pa.array([number % 2 == 0 for number in range(len(rows))], pa.bool_())), sink)
    read = pq.read_table(pa.BufferReader(sink.getvalue()))
    assert read.schema == table.schema
    assert repr(to_rows(read)) == repr(to_rows(table)[::2])


@given(rows=json_rows)
@settings(max_examples=100, deadline=None)
def test_datasets_reads_every_value_back(rows: list[dict[str, Any]]) -> None:
    rows = [{"id": row_number, **row} for row_number, row in enumerate(rows)] or [{"id": 0}]
    table = to_table(rows, infer_rows(rows))
    dataset = datasets.Dataset(table)
    for place, row in enumerate(rows):
        if not misread_columns(table.slice(place, 1)):
            assert all(same(value, row.get(name)) for name, value in dataset[place].items()), (dataset[place], row)


def test_numbers_that_datasets_misreads_are_counted() -> None:
    rows = [{"a": [{"x": x}, {"y": 1}], "b": {"c": [x, "s"]}, "x": x} for x in (0.7, 2**70, None, 1e23, 5e-324)]
    table = to_table(rows, infer_rows(rows))
    assert json_places(table.schema) == ("a", "b", "x")
    assert misread_columns(table) == {"a": 2, "b": 2, "x": 2}
    assert misread_columns(table.slice(2)) == {"a": 1, "b": 1, "x": 1}
    assert to_rows(table) == rows


def test_types_of_other_formats_beside_json() -> None:
    kinds = {
        "a": pa.string_view(),
        "b": pa.binary_view(),
        "c": pa.map_(pa.string(), pa.int8()),
        "d": pa.large_list(JSON),
    }
    values = {"a": ["x"], "b": [b"y"], "c": [[("k", 1)]]}
    columns = {name: pa.array(values[name], kinds[name]) for name in values}
    columns["d"] = pa.array([["[1e400]", None]], pa.large_list(pa.string())).cast(kinds["d"])
    table = pa.table(columns)
    assert misread_columns(table) == {"d": 1}
    assert to_rows(table) == [{"a": "x", "b": b"y", "c": [("k", 1)], "d": [[float("inf")], None]}]


def test_one_schema_for_rows_with_differing_keys() -> None:
    rows = [{"b": 1}, {"a": "x", "b": None}, {"c": [1]}]
    table = to_table(rows, infer_rows(rows))
    assert table.column_names == ["b", "a", "c"]
    assert table.to_pylist() == [
        {"b": 1, "a": None, "c": None},
        {"b": None, "a": "x", "c": None},
        {"b": None, "a": None, "c": [1]},
    ]


def test_conflicting_values_become_their_json_text() -> None:
    values = ["1", 1, 1.5, True, None, ["é", 2], {"k": None}]
    assert column(values) == ['"1"', "1", "1.5", "true", None, '["é", 2]', '{"k": null}']


def test_json_is_named_where_it_is() -> None:
    rows = [
        {"id": 1, "meta": {"tags": ["a"], "n": 1}, "big": 2**70, "text": "a", "mixed": [INEXACT, 0.5]},
        {"id": "x", "meta": {"tags": [{"t": 1}], "n": 2}, "text": None, "tools": [{"a": {"b": 1}}, {"a": {"c": 2}}]},
    ]
    schema = infer_rows(rows)
    assert json_places(settle(schema)) == ("id", "meta", "mixed", "tools")
    assert digit_notes(schema) == [
        "column big has whole numbers of more than 64 bits; in kept/ all its numbers are text"
    ]
    assert json_places(settle(infer_rows([{"a": "text", "b": [], "c": None}]))) == ()


def test_integers_are_never_rounded() -> None:
    assert column([INEXACT, 1]) == [INEXACT, 1]
    assert column([INEXACT, 0.5]) == [str(INEXACT), "0.5"]
    assert column([2**60, 0.5]) == [float(2**60), 0.5]
    assert column([2**63, 1]) == [str(2**63), "1"]
    assert column([[2**70], [None]]) == [[str(2**70)], [None]]
    assert column([{"a": 2**70}, {"a": 1}]) == [f'{{"a": {2**70}}}', '{"a": 1}']


def test_floats_keep_nan_and_infinity() -> None:
    nan, infinite = column([math.nan, math.inf])
    assert math.isnan(nan)
    assert infinite == math.inf


def test_empty_object_and_missing_object_differ() -> None:
    assert column([{"a": 1}, {}, None]) == ['{"a": 1}', "{}", None]
    assert column([{"a": 1}, {"a": None}, None]) == [{"a": 1}, {"a": None}, None]
    assert column([{}, None]) == ["{}", None]


def test_settling_twice_changes_nothing() -> None:
    once = settle(infer_rows([{"a": {"b": [{}], "c": INEXACT}, "d": 1}, {"d": "x"}]))
    assert settle(once) == once
    assert once == pa.schema([("a", JSON), ("d", JSON)])


def test_parquet_holds_what_comes_out(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"nothing": None, "empty": [], "object": {}, "deep": [{"a": [[1], []]}], "big": 2**70},
        {"nothing": None, "empty": [], "object": None, "deep": [], "big": 0},
    ]
    table = to_table(rows, infer_rows(rows))
    pq.write_table(table, tmp_path / "rows.parquet")
    assert pq.read_table(tmp_path / "rows.parquet").to_pylist() == table.to_pylist()


@pytest.mark.parametrize(
    ("schema", "row", "named"),
    [
        (pa.schema([("a", pa.int64())]), {"a": 1.0}, "a: double"),
        (pa.schema([("a", pa.float64())]), {"a": True}, "a: bool"),
        (pa.schema([("a", pa.float64())]), {"a": INEXACT}, "a: int64"),
        (pa.schema([("a", pa.list_(pa.string()))]), {"a": "abc"}, "a: string"),
        (pa.schema([("a", pa.null())]), {"a": "abc"}, "a: string"),
        (pa.schema([("a", pa.int64())]), {"a": 1, "b": 2}, "b: int64"),
        (
            pa.schema([("a", pa.struct([("x", pa.int64())]))]),
            {"a": {"y": 1}},
            "a: struct<y: int64>",
        ),
        (pa.schema([("a", pa.struct([("x", pa.float64())]))]), {"a": {"x": 1}}, "a: struct<x: int64>"),
        (pa.schema([("a", pa.string())]), {"a": [1]}, "a: list<item: int64>"),
    ],
)
def test_rows_outside_the_schema_are_refused_not_bent(schema: pa.Schema, row: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"they hold {named}"):
        to_table([row], schema)


def test_columns_of_other_formats_take_what_they_can_hold() -> None:
    metadata = {b"huggingface": b"{}"}
    schema = pa.schema(
        [
            pa.field("when", pa.timestamp("ms"), metadata={b"unit": b"ms"}),
            ("small", pa.int8()),
            ("positive", pa.uint64()),
            ("large", pa.large_string()),
            ("tags", pa.list_(pa.field("element", pa.string()))),
            ("amount", pa.decimal128(19, 0)),
        ],
        metadata=metadata,
    )
    table = to_table([{"small": 7, "positive": 2**60, "large": "x", "tags": ["a"]}, {"large": None}], schema)
    assert table.schema.equals(schema, check_metadata=True)
    assert table.to_pylist() == [
        {"when": None, "small": 7, "positive": 2**60, "large": "x", "tags": ["a"], "amount": None},
        {"when": None, "small": None, "positive": None, "large": None, "tags": None, "amount": None},
    ]
    for row, named in (
        ({"when": "2024-01-01"}, "when: string"),
        ({"small": True}, "small: bool"),
        ({"small": 300}, "small exceeds int8"),
        ({"positive": -1}, "positive exceeds uint64"),
        ({"large": 1}, "large: int64"),
        ({"amount": 1}, "amount: int64"),
    ):
        with pytest.raises(ValueError, match=named):
            to_table([row], schema)


def test_typed_columns_as_json() -> None:
    struct = pa.struct([("b", pa.large_list(pa.int32())), ("a", pa.float64())])
    found = as_json(pa.chunked_array([[{"b": [1, None], "a": 0.5}], [None, {"b": None, "a": None}]], struct))
    assert found.type == JSON
    assert found.to_pylist() == ['{"b": [1, null], "a": 0.5}', None, '{"b": null, "a": null}']
    for other in (pa.binary(), pa.map_(pa.string(), pa.int64()), pa.date32(), pa.list_(pa.binary())):
        with pytest.raises(TypeError, match="not the type of a JSON value"):
            as_json(pa.chunked_array([], other))


def test_no_rows_and_no_columns() -> None:
    assert to_table([], pa.schema([("a", pa.int64())])).num_rows == 0
    assert infer_rows([]) == pa.schema([])
    with pytest.raises(ValueError, match="2 rows and no column"):
        to_table([{}, {}], infer_rows([{}, {}]))


def test_a_dictionary_of_data_becomes_json() -> None:
    rows = [{"votes": {f"user{i}": i}} for i in range(5)]
    schema = infer_rows(rows)
    assert json_places(settle(schema)) == ("votes",)
    assert unify_schemas(infer_rows(rows[:2]), infer_rows(rows[2:])) == schema
    assert json_places(settle(infer_rows(rows[:1]))) == ()
    assert to_table(rows, schema).column("votes")[4].as_py() == '{"user4": 4}'
    wide = [{"votes": {f"user{i}": i for i in range(MAX_FIELDS + 1)}}]
    assert json_places(settle(infer_rows(wide))) == ("votes",)


def test_deep_nesting_becomes_json() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH + 50):
        value = [value]
    assert column([value]) == ["[" * (MAX_DEPTH + 50) + "1" + "]" * (MAX_DEPTH + 50)]
    assert column([[[1]]]) == [[[1]]]


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object(), {1: "a"}])
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="JSON"):
        infer(value)


def test_types_that_json_cannot_have_are_refused() -> None:
    with pytest.raises(TypeError, match="timestamp"):
        unify(pa.timestamp("ms"), pa.int64())


def test_lone_surrogates_are_refused() -> None:
    rows = [{"a": "\ud800"}]
    with pytest.raises(UnicodeEncodeError):
        to_table(rows, infer_rows(rows))


def test_rows_with_keys_of_their_own_go_and_others_stay() -> None:
    def own(number: int) -> dict[str, Any]:
        return {"prompt": "", **{f"{number}-{place}": 1 for place in range(5)}}

    assert too_wide([own(number) for number in range(100)]) == {}
    gone = too_wide([own(number) for number in range(500)])
    assert sorted(gone) == list(range((MAX_COLUMNS - 1) // 5, 500))
    assert {problem.code for problem in gone.values()} == {"too_many_columns"}
    # One row full of keys, and first of all, does not push out those that all others share.
    wide = {str(number): 1 for number in range(MAX_COLUMNS)}
    rows = [wide, *({"prompt": "", "source": "", "id": number} for number in range(100))]
    assert list(too_wide(rows)) == [0]
    assert len(infer_rows(rows[1:])) == 3


def test_a_table_of_many_columns_takes_no_time_that_grows_with_their_square() -> None:
    rows = [{f"{number}-{place}": 1 for place in range(5)} for number in range(800)]
    began = time.process_time()
    table = to_table(rows, infer_rows(rows))
    assert table.num_columns == 4000
    assert time.process_time() - began < 10
