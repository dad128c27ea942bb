"""Rows in memory become Parquet files that hold the same rows, with the same names each time; or a clear error."""

from __future__ import annotations

import datetime
import enum
import errno
import json
import math
import os
from collections import UserDict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.corpora import addresses, check_kind, storage_errors, written
from tamis.errors import ConfigError, InputError, StorageError
from tamis.pipeline.inputs.files import resolve
from tamis.pipeline.inputs.shards import make_shards, scan
from tamis.pipeline.inputs.shards import read as read_rows
from tamis.pipeline.storage.store import Store

CHAT = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
ROWS: list[dict[str, Any]] = [
    {"prompt": "a", "response": "b", "n": 1},
    {"prompt": "c", "response": None, "n": 2},
    {"prompt": "é\u2028", "response": "", "n": 3},
]


def read(data: Any, folder: Path) -> pa.Table:
    files = written(data, Store(str(folder)))
    return pa.concat_tables([pq.read_table(path) for path in files.paths])


def values(table: pa.Table) -> list[dict[str, Any]]:
    """The rows, with JSON text as what it says."""
    texts = {field.name for field in table.schema if isinstance(field.type, pa.JsonType)}
    return [
        {key: json.loads(value) if key in texts and value is not None else value for key, value in row.items()}
        for row in table.to_pylist()
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ROWS,
        lambda: tuple(ROWS),
        lambda: [UserDict(row) for row in ROWS],
        lambda: [MappingProxyType(row) for row in ROWS],
        lambda: pa.Table.from_pylist(ROWS),
        lambda: pa.RecordBatch.from_pylist(ROWS),
        lambda: datasets.Dataset.from_list(ROWS),
        lambda: datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})["train"],
        lambda: pd.DataFrame(ROWS),
        lambda: pl.DataFrame(ROWS),
    ],
    ids=["list", "tuple", "UserDict", "proxies", "table", "batch", "Dataset", "split", "pandas", "polars"],
)
def test_every_kind_holds_the_same_rows(make: Any, tmp_path: Path) -> None:
    table = read(make(), tmp_path)
    assert table.to_pylist() == ROWS
    assert table.column_names == ["prompt", "response", "n"]


def test_the_same_rows_have_the_same_names_and_are_not_written_again(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    first = written(ROWS, store).paths
    times = [Path(path).stat().st_mtime_ns for path in first]
    assert written([dict(row) for row in ROWS], store).paths == first
    assert [Path(path).stat().st_mtime_ns for path in first] == times
    other = written([*ROWS[:2], {**ROWS[2], "n": 4}], store).paths
    assert set(other).isdisjoint(first)
    Path(first[0]).write_bytes(b"not what was written")
    assert written(ROWS, store).paths == first
    assert pq.read_table(first[0]).to_pylist() == ROWS


def test_rows_are_named_alike_however_they_lie_in_memory(tmp_path: Path) -> None:
    table = pa.table({"prompt": [f"question {i}" for i in range(5000)], "response": ["a", None] * 2500})
    pieces = pa.concat_tables([table.slice(0, 7), table.slice(7, 3000), table.slice(3007)])
    inside = pa.concat_tables([table.slice(0, 9), table]).slice(9)
    names = {tuple(written(each, Store(str(tmp_path))).paths) for each in (table, pieces, inside)}
    assert len(names) == 1
    [[path]] = names
    assert pq.read_table(path).equals(table)
    groups = pq.ParquetFile(path).metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [2048, 2048, 904]


def test_large_data_become_several_files_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tamis.corpora._FILE_BYTES", 1)
    table = pa.table({"prompt": [str(i) for i in range(5000)]})
    files = written(table, Store(str(tmp_path))).paths
    assert len(files) == 3
    assert files == sorted(files)
    assert pa.concat_tables([pq.read_table(path) for path in files]).equals(table)


def test_the_arguments_are_not_changed(tmp_path: Path) -> None:
    rows = [{"messages": [dict(turn) for turn in CHAT], "tags": ("a", "b")}]
    frame = pd.DataFrame(rows)
    before = frame.copy(deep=True)
    dataset = datasets.Dataset.from_list([{"a": "b", "c": "d"}])
    dataset.set_format("numpy", columns=["a"])
    read(rows, tmp_path)
    read(frame, tmp_path)
    assert read(dataset, tmp_path).to_pylist() == [{"a": "b", "c": "d"}]
    assert rows == [{"messages": CHAT, "tags": ("a", "b")}]
    pd.testing.assert_frame_equal(frame, before)
    assert (dataset.format["type"], dataset.format["columns"]) == ("numpy", ["a"])


def test_a_dataset_is_read_in_the_order_of_its_selection_with_its_features(tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    dataset = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 1]}, features=features)
    table = read(dataset.select([2, 0]), tmp_path)
    assert table.to_pylist() == [{"text": "c", "label": 1}, {"text": "a", "label": 0}]
    assert datasets.Features.from_arrow_schema(table.schema) == features


# --- Python objects ---------------------------------------------------------------------------------------------------


def test_rows_that_differ_are_kept_as_they_are(tmp_path: Path) -> None:
    """As JSON Lines: no turn gets the keys of another one, no number becomes a text."""
    rows = [
        {"messages": CHAT, "mixed": 1},
        {"messages": [{**CHAT[0], "name": "Ann"}, CHAT[1]], "mixed": "one", "only": True},
        {"messages": [], "mixed": [1.5, None]},
    ]
    found = values(read(rows, tmp_path))
    assert found == [{"messages": None, "mixed": None, "only": None, **row} for row in rows]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False, width=32)
    | st.text("aé\u2028'"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(rows=st.lists(st.fixed_dictionaries({"a": JSON}, optional={"b": JSON}), min_size=1, max_size=5))
def test_any_rows_come_back(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    names = {name for row in rows for name in row}
    found = values(read(rows, tmp_path_factory.mktemp("rows")))
    assert found == [{name: row.get(name) for name in names} for row in rows]
    assert [[type(value) for value in row.values() if not isinstance(value, int | float)] for row in found] == [
        [type(row.get(name)) for name in line if not isinstance(line[name], int | float)]
        for row, line in zip(rows, found, strict=True)
    ]


def rows_as_read(path: str) -> list[Any]:
    shards = [
        shard for file in resolve([path], "auto", {}) for shard in make_shards(scan(file, 99, {}), "corpus", {}, 0)
    ]
    return [row.value for shard in shards for row in read_rows(shard, {})]


@given(rows=st.lists(st.fixed_dictionaries({"a": JSON}, optional={"b": JSON}), min_size=1, max_size=5))
def test_a_run_reads_what_it_would_read_of_json_lines(
    rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    lines = folder / "lines.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    [path] = written(rows, Store(str(folder))).paths
    ours, theirs = rows_as_read(path), rows_as_read(str(lines))
    assert [{name: row.get(name) for name in ("a", "b")} for row in ours] == [
        {name: row.get(name) for name in ("a", "b")} for row in theirs
    ]


def test_json_of_a_dataset_stays_json(tmp_path: Path) -> None:
    table = pa.table({"x": pa.array(['{"a": 1}', '"text"', None], pa.json_())})
    found = read(datasets.Dataset(table), tmp_path)
    assert found.schema.field("x").type == pa.json_()
    assert found.column("x").to_pylist() == ['{"a": 1}', '"text"', None]


def test_numbers_of_numpy_and_enumerations_are_what_they_stand_for(tmp_path: Path) -> None:
    class Role(enum.StrEnum):
        USER = "user"

    rows = [{"n": np.int64(3), "x": np.float32(0.5), "b": np.bool_(True), "r": Role.USER, "a": np.array([1, 2])}]
    assert values(read(rows, tmp_path)) == [{"n": 3, "x": 0.5, "b": True, "r": "user", "a": [1, 2]}]


def test_whole_numbers_beyond_64_bits_are_said_to_become_text(tmp_path: Path) -> None:
    files = written([{"n": 2**70, "text": "a"}], Store(str(tmp_path)))
    assert [note for note in files.notes if "column n has whole numbers of more than 64 bits" in note]
    assert pq.read_table(files.paths[0]).to_pylist() == [{"n": str(2**70), "text": "a"}]


SECRET = "SECRET words of a sample"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "holds no rows"),
        ([{}], "cannot be written"),
        ([{"a": SECRET}, {1: "b"}], r"data\[1\]: a key is of type int"),
        ([{"a": {1: SECRET}}], r"data\[0\]: a holds a dict with keys that are no texts"),
        ([{"a": [{"b": {None: SECRET}}]}], "keys that are no texts"),
        ([{"a": datetime.date(2026, 1, 1)}], "a value of type date"),
        ([{"a": b"bytes"}], "a value of type bytes"),
        ([{"a": math.nan}], r"data\[0\]: a holds the number nan \(None means"),
        ([{"a": {"b": [np.float32("inf")]}}], "a holds the number inf"),
        ([{"a": {SECRET}}], "a value of type set"),
        ([{"a": np.complex128(1)}], "a value of type complex"),
        ([{"a": "\ud800" + SECRET}], "half a character"),
        ([{"\ud800": "a"}], "half a character|cannot be written"),
        ([{f"column {i}": SECRET for i in range(1001)}], "top-level keys"),
    ],
)
def test_rows_that_no_file_can_hold_are_refused_without_their_text(rows: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as raised:
        written(rows, Store(str(tmp_path)))
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None
    assert list(tmp_path.iterdir()) == []


def test_rows_that_hold_themselves_are_refused(tmp_path: Path) -> None:
    row: dict[str, Any] = {}
    row["a"] = row
    with pytest.raises(InputError, match="nested too deeply"):
        written([row], Store(str(tmp_path)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "not NoneType"),
        (3, "not int"),
        ({"prompt": ["a"]}, "not dict; of columns, pa.table"),
        ((row for row in ROWS), "not generator; make a list of it"),
        ([{"a": 1}, "b"], "it holds str"),
        ([1], "it holds int"),
        (datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}), r"several splits \(train\)"),
        (datasets.Dataset.from_list(ROWS).to_iterable_dataset(), "an IterableDataset"),
        (pl.DataFrame(ROWS).lazy(), r"collect\(\)"),
    ],
    ids=["None", "int", "columns", "generator", "mixed", "ints", "DatasetDict", "Iterable", "LazyFrame"],
)
def test_what_is_no_corpus_is_refused(data: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_kind(data)


def test_paths_stay_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert addresses("data/*.jsonl") == ["data/*.jsonl"]
    assert addresses(Path("a.csv")) == ["a.csv"]
    assert addresses([Path("a.csv"), "hf://datasets/a/b"]) == ["a.csv", "hf://datasets/a/b"]
    assert addresses("~/a.csv") == [f"{tmp_path}/a.csv"]
    assert addresses([]) is None
    assert addresses(ROWS) is None


# --- pandas -----------------------------------------------------------------------------------------------------------


def test_what_is_missing_in_a_frame_is_null(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "text": pd.Series(["a", np.nan, "b"], dtype=object),
            "number": [1.5, math.nan, 2.0],
            "whole": pd.array([1, pd.NA, 3], dtype="Int64"),
            "when": pd.to_datetime(["2026-01-01", None, "2026-01-03"]),
            "kind": pd.Categorical(["x", None, "x"]),
        }
    )
    table = read(frame, tmp_path)
    assert [table.column(name).null_count for name in table.column_names] == [1] * 5
    assert table.column("whole").to_pylist() == [1, None, 3]


def test_nested_columns_of_a_frame_are_as_in_json(tmp_path: Path) -> None:
    """Arrow would give each turn the keys of all others."""
    chats = [CHAT, [{**CHAT[0], "name": "Ann"}], np.array(CHAT, dtype=object), None]
    found = values(read(pd.DataFrame({"messages": pd.Series(chats, dtype=object)}), tmp_path))
    assert [row["messages"] for row in found] == [CHAT, [{**CHAT[0], "name": "Ann"}], CHAT, None]


def test_an_index_that_says_something_is_a_column(tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS)
    assert read(frame.iloc[1:], tmp_path).to_pylist() == [{**ROWS[i], "__index_level_0__": i} for i in (1, 2)]
    assert read(frame[frame["n"] != 2], tmp_path).column("__index_level_0__").to_pylist() == [0, 2]
    assert read(frame.set_index("n"), tmp_path).to_pylist() == ROWS
    assert read(frame.reset_index(drop=True), tmp_path).column_names == ["prompt", "response", "n"]
    with pytest.raises(InputError, match="a column and the index, are called n"):
        written(frame.set_index("n", drop=False), Store(str(tmp_path)))
    with pytest.raises(InputError, match="several levels"):
        written(frame.set_index(["n", "prompt"]), Store(str(tmp_path)))


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame([["a", "b"]]), "a column is called 0, of type int"),
        (pd.DataFrame([["a", "b"]], columns=["x", "x"]), "called x; rename one"),
        (
            pd.DataFrame({"a": pd.Series([datetime.date(2026, 1, 1), SECRET], dtype=object)}),
            r"column a .*\(date, str\)",
        ),
        (
            pd.DataFrame({"a": pd.Series([{1: SECRET}], dtype=object)}),
            "column a holds a dict with keys that are no texts",
        ),
        (pd.DataFrame({"a": pd.Series([[math.nan]], dtype=object)}), "column a holds the number nan"),
        (pd.DataFrame({"a": []}), "holds no rows"),
        (pd.DataFrame(index=range(3)), "holds no rows"),
    ],
)
def test_frames_that_no_table_can_hold_are_refused_without_their_text(frame: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as raised:
        written(frame, Store(str(tmp_path)))
    assert SECRET not in str(raised.value)


def test_dates_in_a_column_of_objects_stay_dates(tmp_path: Path) -> None:
    days = [datetime.date(2026, 1, 1), None]
    frame = pd.DataFrame({"day": pd.Series(days, dtype=object)})
    assert read(frame, tmp_path).column("day").to_pylist() == days


def test_mixed_scalars_in_a_column_of_objects_are_json(tmp_path: Path) -> None:
    mixed = ["a", 1, 1.5, True, None]
    frame = pd.DataFrame({"x": pd.Series(mixed, dtype=object)})
    found = [row["x"] for row in values(read(frame, tmp_path))]
    assert [(type(value), value) for value in found] == [(type(value), value) for value in mixed]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    with pytest.raises(InputError, match="called x; rename one"):
        written(table, Store(str(tmp_path)))


def test_a_frame_of_polars_with_python_objects_is_refused(tmp_path: Path) -> None:
    frame = pl.DataFrame({"x": pl.Series([object()], dtype=pl.Object)})
    with pytest.raises(InputError, match="column x is of type Object"):
        written(frame, Store(str(tmp_path)))


def test_a_storage_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigError, match="cannot be looked into"):
        written(ROWS, Store(str(tmp_path / "file" / "in")))
    with pytest.raises(StorageError, match=r"^a/b: No space left on device; .* check the storage"), storage_errors():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b")
