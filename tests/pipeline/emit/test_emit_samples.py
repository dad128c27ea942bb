"""Emit, its pure parts: the output's schema, tables fitted to it, histograms and extremes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.conversation.schema import JSON, infer_rows, to_table, unify_schemas
from tamis.pipeline.emit.samples import _extreme, _histogram
from tamis.pipeline.emit.shard import empty_dropped
from tamis.pipeline.errors import InputError
from tamis.pipeline.inputs.added_columns import beside
from tamis.pipeline.inputs.files import encode_schema
from tamis.pipeline.inputs.originals import conform, decode_schema, output_schema
from tamis.pipeline.storage.store import Store

# --- conform ------------------------------------------------------------------------------------------------------


def test_a_table_of_the_schema_is_left_as_it_is() -> None:
    schema = pa.schema(
        [pa.field("n", pa.int16(), nullable=False), ("kind", pa.dictionary(pa.int32(), pa.string()))],
        metadata={"huggingface": "{}"},
    )
    table = pa.Table.from_arrays(
        [pa.array([1, 2], pa.int16()), pa.array(["a", "a"]).dictionary_encode()], schema=schema
    )
    assert conform(table, schema).equals(table, check_metadata=True)


def test_missing_columns_are_null_others_are_put_in_order() -> None:
    schema = pa.schema(
        [("new", pa.list_(pa.struct([("role", pa.string())]))), ("b", pa.int64()), ("a", pa.string())],
        metadata={"x": "y"},
    )
    table = pa.table({"a": ["x", "y"], "b": [1, 2]})
    found = conform(table, schema)
    assert found.schema.equals(schema, check_metadata=True)
    assert found.to_pydict() == {"new": [None, None], "b": [1, 2], "a": ["x", "y"]}
    assert conform(table.slice(0, 0), schema).num_rows == 0


def test_a_column_of_nulls_takes_the_type() -> None:
    schema = pa.schema([("a", pa.string()), ("b", pa.list_(pa.int64()))])
    table = pa.table({"a": pa.nulls(2), "b": pa.nulls(2)})
    assert conform(table, schema).to_pydict() == {"a": [None, None], "b": [None, None]}


def test_types_that_do_not_fit_are_named_and_nothing_is_rounded() -> None:
    for column, kind in ((["x"], pa.int64()), ([1.5], pa.int64()), ([300], pa.int8())):
        with pytest.raises(InputError, match=r"column a is .* in one file and .* in another"):
            conform(pa.table({"a": column}), pa.schema([("a", kind)]))


# --- the schema of kept/ ------------------------------------------------------------------------------------------


def test_the_schema_of_typed_files_is_untouched() -> None:
    typed = pa.schema([pa.field("a", pa.int8(), nullable=False), ("b", pa.large_string())], metadata={"who": "me"})
    assert output_schema(typed, None).equals(typed, check_metadata=True)


def test_the_schema_of_json_rows_is_settled() -> None:
    seen = unify_schemas(infer_rows([{"a": 1, "b": "x", "c": {}}]), infer_rows([{"a": 2.5, "b": 3, "d": [None]}]))
    found = output_schema(None, seen)
    assert found.names == ["a", "b", "c", "d"]
    assert found.types[:3] == [pa.float64(), JSON, JSON]
    assert output_schema(None, None) == pa.schema([])


def test_typed_files_and_json_side_by_side() -> None:
    typed = pa.schema([pa.field("a", pa.string(), nullable=False), ("n", pa.int64())], metadata={"who": "me"})
    found = output_schema(typed, infer_rows([{"n": 1, "more": True}]))
    assert found.names == ["a", "n", "more"]
    assert found.metadata == {b"who": b"me"}
    assert all(field.nullable for field in found)  # no JSON row has an `a`
    with pytest.raises(InputError, match=r"share one schema: column n is .*; write it in one type, or curate"):
        output_schema(typed, infer_rows([{"n": "text"}]))


def test_typed_files_beside_json_rows_that_have_no_type() -> None:
    typed = pa.schema([("tools", pa.list_(pa.struct([("name", pa.string())]))), ("n", pa.int64())])
    found = output_schema(typed, infer_rows([{"tools": [{"name": "a"}, {"name": "a", "more": 1}]}]))
    assert found.types == [JSON, pa.int64()]
    table = conform(pa.table({"tools": [[{"name": "a"}], None], "n": [1, 2]}, schema=typed), found)
    assert table.to_pydict() == {"tools": ['[{"name": "a"}]', None], "n": [1, 2]}
    with pytest.raises(InputError, match="column tools is binary in one file and"):
        conform(pa.table({"tools": [b"x"]}), found)


def test_text_and_numbers_of_typed_files_and_json_differ_in_width_only() -> None:
    typed = pa.schema([("a", pa.large_string()), ("n", pa.int32()), ("x", pa.float32()), ("y", pa.int64())])
    rows = [{"a": "text", "n": 2**40, "x": 0.1, "y": 1.5}]
    found = output_schema(typed, infer_rows(rows))
    assert found.types == [pa.large_string(), pa.int64(), pa.float64(), pa.float64()]
    assert to_table(rows, found).to_pylist() == rows
    table = pa.Table.from_pylist([{"a": "b", "n": 7, "x": 0.5, "y": 3}], typed)
    assert conform(table, found).to_pylist() == table.to_pylist()


STRUCT = pa.struct([("n", pa.int64()), ("s", pa.large_string())])


@pytest.mark.parametrize(
    ("typed", "values", "kept"),
    [
        (pa.list_(pa.large_string()), [["a"], []], pa.list_(pa.large_string())),
        (pa.large_list(pa.large_string()), [["a"], None], pa.large_list(pa.large_string())),
        (pa.large_list(pa.int32()), [[2**40]], pa.large_list(pa.int64())),
        (pa.list_(pa.float64()), [[1, 2]], pa.list_(pa.float64())),
        (pa.list_(pa.null()), [["a"]], pa.list_(pa.string())),
        (pa.null(), [{"a": 1}], pa.struct([("a", pa.int64())])),
        (STRUCT, [{"n": 1, "s": "x"}, None], STRUCT),
        (pa.large_list(STRUCT), [[{"n": 1, "s": None}]], pa.large_list(STRUCT)),
        # An object has the keys that it has, in its order, and its numbers are not converted.
        (STRUCT, [{"n": 1}], JSON),
        (STRUCT, [{"n": 1, "s": "x", "more": 1}], JSON),
        (STRUCT, [{"s": "x", "n": 1}], JSON),
        (STRUCT, [{"n": 1.5, "s": "x"}], JSON),
        (pa.struct([("x", pa.float64())]), [{"x": 1}], JSON),
        (pa.list_(pa.int64()), [["a"]], JSON),
        (pa.list_(pa.int64()), [{"a": 1}], JSON),
    ],
)
def test_nested_types_of_typed_files_and_json(typed: pa.DataType, values: list[Any], kept: pa.DataType) -> None:
    rows = [{"c": value} for value in values]
    schema = pa.schema([("c", typed)])
    found = output_schema(schema, infer_rows(rows))
    plain = [json.loads(v) if kept == JSON and v is not None else v for v in to_table(rows, found)["c"].to_pylist()]
    assert plain == values
    assert kept != JSON or json.dumps(plain) == json.dumps(values)
    assert found.field("c").type.equals(kept) or str(found.field("c").type).replace("element", "item") == str(kept)
    table = pa.Table.from_arrays([pa.nulls(2, typed)], schema=schema)
    assert conform(table, found)["c"].to_pylist() == [None, None]


@pytest.mark.parametrize("typed", [pa.date32(), pa.binary(), pa.map_(pa.string(), pa.string()), pa.bool_()])
def test_types_that_json_rows_do_not_have_are_refused(typed: pa.DataType) -> None:
    with pytest.raises(InputError, match=r"column c is string in JSON and .* in the others; write it in one type"):
        output_schema(pa.schema([("c", typed)]), infer_rows([{"c": "x"}]))


def test_a_schema_survives_a_receipt() -> None:
    schema = infer_rows([{"a": 2**60 + 1, "b": {}, "é": ["x", 1]}]).with_metadata({"k": "v"})
    assert decode_schema(encode_schema(schema)).equals(schema, check_metadata=True)


def test_an_empty_dropped_has_its_columns_beside_those_of_the_input() -> None:
    table = empty_dropped(
        pa.schema([("text", pa.string()), ("score", pa.int64()), ("reason", pa.string()), ("tools", pa.list_(JSON))]),
        with_quantile=True,
    )
    assert table.num_rows == 0
    assert table.schema.field("tools").type == pa.list_(JSON)
    assert table.column_names == [
        "text",
        "score",
        "reason",
        "tools",
        "sample_id",
        "method",
        "tamis_score",
        "quantile",
        "tamis_reason",
    ]
    assert table.schema.field("score").type == pa.int64()
    assert table.schema.field("tamis_score").type == pa.float32()


def test_names_that_the_input_has_in_every_form_are_avoided(tmp_path: Path) -> None:
    names = ["score", "tamis_score", "tamis_score_2", "tamis_method", "method", "reason"]
    empty = empty_dropped(pa.schema([(name, pa.string()) for name in names]), with_quantile=True)
    assert empty.column_names == [*names, "sample_id", "tamis_method_2", "tamis_score_3", "quantile", "tamis_reason"]
    added = {"sample_id": ["00ff"], "method": ["saft"], "score": [0.5], "quantile": [0.9], "reason": ["r"]}
    table = beside(pa.table({name: ["x"] for name in names}), {name: pa.array(cells) for name, cells in added.items()})
    Store(str(tmp_path)).write_table("dropped.parquet", table)
    folder = {"data_files": str(tmp_path / "dropped.parquet"), "cache_dir": str(tmp_path / "cache")}
    loaded = datasets.load_dataset("parquet", split="train", **folder)
    assert loaded.column_names == empty.column_names
    assert loaded[0] == table.to_pylist()[0]


# --- histogram ----------------------------------------------------------------------------------------------------


@given(
    scores=st.lists(st.floats(-2, 2, width=32), max_size=50),
    low=st.floats(-1, 0, width=32),
    high=st.floats(0.5, 1, width=32),
)
def test_every_score_is_in_a_bin(scores: list[float], low: float, high: float) -> None:
    edges = np.linspace(low, high, 9)
    counts = _histogram(np.array(scores, dtype=np.float32), edges)
    assert sum(counts) == len(scores)
    inside = np.clip(np.array(scores, dtype=np.float32).astype(np.float64), low, high)
    naive = [
        sum(bool(edges[i] <= x and (x < edges[i + 1] or (i == 7 and x <= edges[8]))) for x in inside) for i in range(8)
    ]
    assert counts == naive


def test_one_value_only() -> None:
    score = np.float32(0.1)
    edges = np.linspace(float(score), float(np.nextafter(score, np.float32(np.inf))), 81)
    assert sum(_histogram(np.full(7, score), edges)) == 7
    assert _histogram(np.empty(0, np.float32), edges) == [0] * 80


# --- extremes -----------------------------------------------------------------------------------------------------


@given(
    rows=st.lists(st.tuples(st.sampled_from([-1.0, -0.0, 0.0, 0.25, 3.0]), st.booleans()), max_size=30),
    count=st.integers(1, 35),
)
def test_extremes_are_the_ends_of_the_ranking(rows: list[tuple[float, bool]], count: int) -> None:
    scores = np.array([score for score, _ in rows], dtype=np.float32)
    among = np.array([chosen for _, chosen in rows], dtype=bool)
    lengths = np.arange(len(rows)) * 3
    ranked = sorted(np.flatnonzero(among).tolist(), key=lambda place: (-scores[place], place))
    expected = [(float(scores[place]), place, 3 * place) for place in ranked]
    assert _extreme(scores, among, lengths, count, highest=True) == expected[:count]
    assert _extreme(scores, among, lengths, count, highest=False) == expected[::-1][:count]
