"""Columns that the names of folders hold: typed as pyarrow types them, in every row, and in the output."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tamis.pipeline.inputs.files import find
from tamis.pipeline.inputs.partitions import fields_of, partitions_of, values_of, without
from tamis.pipeline.inputs.shards import CORPUS, make_shards, read, read_table, scan

NULL = "__HIVE_DEFAULT_PARTITION__"


@pytest.mark.parametrize(
    "folders",
    [
        ["year=2023", "year=2024"],
        ["year=2023/lang=en", "year=2024/lang=a%20b"],
        ["n=01", "n=-7"],
        ["n=1", "n=99999999999"],
        ["day=2024-01-02", "day=2024-01-03"],
        [f"k={NULL}", "k=1"],
        ["k=a=b", "k=c"],
    ],
)
def test_they_are_what_pyarrow_makes_of_them(tmp_path: Path, folders: list[str]) -> None:
    for number, folder in enumerate(folders):
        (tmp_path / folder).mkdir(parents=True)
        pq.write_table(pa.table({"a": [number]}), tmp_path / folder / "0.parquet")
    theirs = ds.dataset(tmp_path, partitioning="hive").to_table().sort_by("a").to_pylist()
    found = partitions_of([f"{folder}/0.parquet" for folder in folders])
    assert [{"a": number, **values_of(partition)} for number, partition in enumerate(found)] == theirs


def test_a_column_that_only_some_folders_name_is_null_elsewhere() -> None:
    one, other = partitions_of(["x=1/a.parquet", "b.parquet"])
    assert (values_of(one), values_of(other)) == ({"x": 1}, {"x": None})
    assert fields_of(other) == [pa.field("x", pa.int32())]
    assert partitions_of(["a/b.parquet", "=1/c", "x="]) == ["", "", ""]
    assert without(one, ["x"]) == ""


def test_parquet_and_text_get_the_column(tmp_path: Path) -> None:
    rows = [{"a": "x"}, {"a": "y"}]
    for number in (1, 2):
        (tmp_path / f"n={number}").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "n=1/0.parquet")
    (tmp_path / "n=2/0.jsonl").write_text('{"a": "x"}\n{"a": "y", "n": 5}\n')
    (tmp_path / "n=2/1.csv").write_text("a\nx\ny\n")
    for pattern in ("", "/*/*", "/n=*/*"):
        table, lines, texts = (scan(file, 10, {}) for file in find([f"{tmp_path}{pattern}"], "auto", {}).files)
        assert table.schema == pa.schema([("a", pa.string()), ("n", pa.int32())])
        assert texts.schema == table.schema
        [shard] = make_shards(table, CORPUS, {}, 0)
        assert read_table(shard, {}).equals(pa.table({"a": ["x", "y"], "n": pa.array([1, 1], pa.int32())}))
        assert read_table(shard, {}, ["n", "a"]).column_names == ["n", "a"]
        assert read_table(shard, {}, ["a"]).column_names == ["a"]
        for found, wanted in ((lines, [2, 5]), (texts, [2, 2])):  # a row's own value counts more
            [shard] = make_shards(found, CORPUS, {}, 0)
            assert [row.value["n"] for row in read(shard, {}) if not isinstance(row.value, Exception)] == wanted
            assert [row["n"] for row in found.head] == wanted


def test_a_column_of_the_file_counts_more_and_is_said(tmp_path: Path) -> None:
    (tmp_path / "n=1").mkdir()
    pq.write_table(pa.table({"a": ["x"], "n": ["own"]}), tmp_path / "n=1/0.parquet")
    found = scan(find([str(tmp_path)], "auto", {}).files[0], 10, {})
    assert found.notes == ("the folders name n, which the file has as a column; the column counts",)
    [shard] = make_shards(found, CORPUS, {}, 0)
    assert [row.value for row in read(shard, {})] == [{"a": "x", "n": "own"}]


def test_the_folder_that_is_named_itself_gives_no_column(tmp_path: Path) -> None:
    (tmp_path / "n=1").mkdir()
    (tmp_path / "n=1/a.jsonl").write_text('{"a": 1}\n')
    assert find([str(tmp_path / "n=1")], "auto", {}).files[0].partition == ""
    assert find([str(tmp_path / "n=1/a.jsonl")], "auto", {}).files[0].partition == ""
