"""Types that kept/ cannot hold become others without loss, or are refused; parts of a corpus get one type."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.pipeline.errors import InputError
from tamis.pipeline.inputs.arrow_types import fitted, fitting_schema, one_schema, one_type
from tamis.pipeline.inputs.files import resolve
from tamis.pipeline.inputs.originals import conform
from tamis.pipeline.inputs.shards import CORPUS, make_shards, read, read_table, scan

S = pa.string()
MADE_FIT: list[tuple[pa.DataType, list[Any], pa.DataType]] = [
    (pa.string_view(), ["a", None, "a longer text than twelve bytes"], S),
    (pa.binary_view(), [b"a", None], pa.binary()),
    (pa.list_view(S), [["a"], None, []], pa.list_(S)),
    (pa.large_list_view(pa.int8()), [[1], None], pa.large_list(pa.int8())),
    (pa.list_(pa.string_view()), [["a", None], []], pa.list_(S)),
    (pa.struct([("a", pa.string_view())]), [{"a": "b"}, None], pa.struct([("a", S)])),
    (pa.list_(pa.struct([("a", pa.list_view(pa.string_view()))])), [[{"a": ["b"]}]],
     pa.list_(pa.struct([("a", pa.list_(S))]))),
    (pa.map_(S, pa.string_view()), [[("k", "v")], None], pa.map_(S, S)),
    (pa.list_(pa.string_view(), 2), [["a", "b"]], pa.list_(S, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "values", "kept"), MADE_FIT, ids=[str(kind) for kind, *_ in MADE_FIT])
def test_what_fits_otherwise_is_cast_without_loss(kind: pa.DataType, values: list[Any], kept: pa.DataType) -> None:
    table = pa.table({"x": pa.array(values, kind), "y": pa.array(range(len(values)))})
    schema, notes = fitting_schema(table.schema)
    assert schema.field("x").type == kept
    assert notes == (f"column x is {kind}, and {kept} in kept/",)
    assert fitted(table.slice(1)).to_pylist() == table.slice(1).to_pylist()
    made = fitted(table)
    made.validate(full=True)
    assert made.schema == schema
    assert made.to_pylist() == table.to_pylist()
    file = io.BytesIO()
    pq.write_table(made.filter(pa.array([True] * len(values))), file)
    assert pq.read_table(pa.BufferReader(file.getvalue())).to_pylist() == table.to_pylist()


def test_runs_and_dictionaries_are_unpacked() -> None:
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(["a", None]))
    words = pa.DictionaryArray.from_arrays(pa.array([0, None, 1], pa.int8()), pa.array(["a", "b"], pa.string_view()))
    both = pa.StructArray.from_arrays([runs, words], ["runs", "words"])
    table = pa.table({"runs": runs, "words": words, "both": both}).slice(1)
    kinds = [S, pa.dictionary(pa.int8(), S)]
    assert fitted(table).schema.types == [*kinds, pa.struct(list(zip(["runs", "words"], kinds, strict=True)))]
    assert fitted(table).to_pylist() == table.to_pylist()


@pytest.mark.parametrize(
    "kind",
    [
        pa.month_day_nano_interval(),
        pa.dense_union([pa.field("a", S)]),
        pa.struct([]),
        pa.list_(pa.struct([])),
        pa.struct([("a", S), ("a", S)]),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_with_its_column(kind: pa.DataType) -> None:
    with pytest.raises(ValueError, match=r"column x is .*, which kept/ cannot hold") as caught:
        fitting_schema(pa.schema([("y", S), ("x", kind)]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.json_(), pa.list_(pa.json_()), pa.uuid(), pa.bool8(), pa.float16(), pa.null(), pa.decimal128(5, 2)),
        *(pa.duration("s"), pa.dictionary(pa.int8(), S)),
    ],
    ids=str,
)
def test_what_fits_is_left_alone(kind: pa.DataType) -> None:
    schema = pa.schema([pa.field("x", kind, metadata={"k": "v"})], metadata={"who": "me"})
    made, notes = fitting_schema(schema)
    assert made.equals(schema, check_metadata=True)
    assert notes == ()


def test_a_file_is_read_with_the_types_that_fit(tmp_path: Path) -> None:
    table = pa.table({"prompt": pa.array(["p", "q"], pa.string_view()), "n": [1, 2]})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    pq.write_table(table, tmp_path / "b.parquet")
    for file in resolve([str(tmp_path)], "auto", {}):
        found = scan(file, 1, {})
        assert found.schema.field("prompt").type == S
        shards = make_shards(found, CORPUS, {}, 0)
        assert pa.concat_tables([read_table(shard, {}) for shard in shards]).schema.types == [S, pa.int64()]
        assert [row.value for shard in shards for row in read(shard, {}, ["prompt"])] == [
            {"prompt": "p"},
            {"prompt": "q"},
        ]


def test_two_columns_of_one_name_are_refused_in_their_own_words(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array([1])] * 2, names=["a", "a"]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"^a\.parquet: two columns are named 'a'; rename one of them$"):
        scan(resolve([str(tmp_path)], "auto", {})[0], 1, {})


# --- parts whose types differ -------------------------------------------------------------------------------------

ONE_TYPE = [
    (S, pa.large_string(), pa.large_string()),
    (pa.binary(), pa.large_binary(), pa.large_binary()),
    (pa.null(), pa.list_(S), pa.list_(S)),
    (pa.int32(), pa.int64(), pa.int64()),
    (pa.uint8(), pa.int8(), pa.int16()),
    (pa.uint32(), pa.int8(), pa.int64()),
    (pa.uint8(), pa.uint16(), pa.uint16()),
    (pa.float32(), pa.float64(), pa.float64()),
    (pa.int16(), pa.float32(), pa.float32()),
    (pa.int32(), pa.float32(), pa.float64()),
    (pa.int64(), pa.float64(), pa.float64()),
    (pa.list_(S), pa.large_list(pa.large_string()), pa.large_list(pa.large_string())),
    (pa.list_(pa.int8(), 2), pa.list_(pa.int8()), pa.list_(pa.int8())),
    (pa.dictionary(pa.int8(), S), S, S),
    (pa.dictionary(pa.int8(), S), pa.dictionary(pa.int16(), S), S),
    (pa.timestamp("s", "UTC"), pa.timestamp("ns", "UTC"), pa.timestamp("ns", "UTC")),
    (
        pa.struct([("a", pa.int8()), ("b", pa.null())]),
        pa.struct([("c", S), ("a", pa.int16())]),
        pa.struct([("a", pa.int16()), ("b", pa.null()), ("c", S)]),
    ),
]
SAMPLES: dict[Any, list[Any]] = {
    **{kind: [0, 7, None] for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16())},
    **{kind: [0.5, None] for kind in (pa.float32(), pa.float64())},
    **{kind: ["x", None] for kind in (S, pa.large_string())},
}


@pytest.mark.parametrize(("a", "b", "both"), ONE_TYPE, ids=[f"{a} and {b}" for a, b, _ in ONE_TYPE])
def test_the_narrowest_type_of_both(a: pa.DataType, b: pa.DataType, both: pa.DataType) -> None:
    assert one_type(a, b) == both
    assert one_type(b, a).equals(both) or pa.types.is_struct(both)  # fields in the order in which they were seen
    schema = pa.schema([("x", both)])
    for kind in (a, b):
        table = pa.table({"x": pa.array(SAMPLES.get(kind, [None]), kind)})
        assert conform(table, schema).to_pylist() == table.to_pylist()


@pytest.mark.parametrize(
    ("a", "b"),
    [(S, pa.int64()), (pa.bool_(), pa.int8()), (pa.uint64(), pa.int64()), (pa.list_(S), S), (pa.json_(), S),
     (pa.timestamp("s"), pa.timestamp("s", "UTC")), (pa.map_(S, S), pa.struct([("a", S)]))],
)  # fmt: skip
def test_no_type_of_both(a: pa.DataType, b: pa.DataType) -> None:
    for pair in ((a, b), (b, a)):
        with pytest.raises(TypeError):
            one_type(*pair)


_kinds = st.recursive(
    st.sampled_from([S, pa.large_string(), pa.null(), pa.int8(), pa.uint32(), pa.int64(), pa.float32(), pa.bool_()]),
    lambda inner: st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1).map(lambda fields: pa.struct(list(fields.items()))),
    ),
    max_leaves=5,
)


@given(_kinds, _kinds)
def test_the_common_type_holds_both_and_does_not_depend_on_the_order(a: pa.DataType, b: pa.DataType) -> None:
    try:
        both = one_type(a, b)
    except TypeError:
        with pytest.raises(TypeError):
            one_type(b, a)
        return
    assert one_type(both, a) == one_type(both, b) == both
    for kind in (a, b):
        assert pa.chunked_array([pa.nulls(1, kind)]).cast(both).type == both


def test_one_schema_for_the_parts_of_a_corpus() -> None:
    first = pa.schema([pa.field("a", S, nullable=False), ("n", pa.int64())], metadata={"who": "me"})
    parts = {
        "0": first,
        "1": pa.schema([("n", pa.float64()), pa.field("a", S, nullable=False)]),
        "2": first,
        "3": pa.schema([pa.field("a", S, nullable=False), ("more", pa.bool_())]),
    }
    made, notes = one_schema(parts)
    assert made.names == ["a", "n", "more"]
    assert made.types == [S, pa.float64(), pa.bool_()]
    assert [field.nullable for field in made] == [False, True, True]
    assert made.metadata == first.metadata
    [note] = notes
    assert note.startswith("column n is int64 in 0 and double in 1; it is double in kept/; a whole number above 2**53")
    with pytest.raises(ValueError, match="column n is int64 in 0 and string in 9; cast one of them"):
        one_schema({**parts, "9": pa.schema([("n", S)])})


def test_a_number_that_would_be_rounded_ends_the_run() -> None:
    table = pa.table({"n": [2**53 + 1]})
    with pytest.raises(
        InputError, match="column n is int64 in one file and double in another, which does not hold all"
    ):
        conform(table, pa.schema([("n", pa.float64())]))
