"""Parquet and Arrow files: any range of rows, types untouched, and cut files refused."""

from __future__ import annotations

import datetime
import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import with_one_text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tamis.pipeline.inputs import columnar as columnar_files
from tamis.pipeline.inputs.columnar import ColumnarFile, TooManyBytes, footer_of, read_head, read_rows

FORMATS = ("parquet", "file", "stream")


def table_of(rows: int) -> pa.Table:
    schema = pa.schema(
        [
            pa.field("n", pa.int16(), nullable=False),
            ("text", pa.large_string()),
            ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
            ("when", pa.timestamp("us", tz="Europe/Paris")),
            ("meta.text", pa.string()),
            ("kind", pa.dictionary(pa.int32(), pa.string())),
        ],
        metadata={"who": "me"},
    )
    columns = [
        list(range(rows)),
        [None if i % 7 == 0 else f"é{i}" for i in range(rows)],
        [[{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": None}] for i in range(rows)],
        [datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(hours=i) for i in range(rows)],
        [f"m{i}" for i in range(rows)],
        ["even" if i % 2 == 0 else "odd" for i in range(rows)],
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def store(folder: Path, table: pa.Table, kind: str, group: int = 10) -> ColumnarFile:
    path = folder / f"{kind}-{table.num_rows}-{group}"
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=group)
        return ColumnarFile(str(path), "parquet", {})
    make = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with make(path, table.schema) as writer:
        writer.write_table(table.unify_dictionaries(), max_chunksize=group)
    return ColumnarFile(str(path), "arrow", {})


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 34), length=st.integers(1, 35), group=st.sampled_from([1, 10, 35, 100]))
def test_any_range_of_rows_is_read_as_it_is(tmp_path: Path, kind: str, start: int, length: int, group: int) -> None:
    table = table_of(35)
    file = store(tmp_path, table, kind, group)
    stop = min(start + length, 35)
    found = read_rows(file, start, stop)
    assert found.to_pylist() == table.slice(start, stop - start).to_pylist()
    assert found.schema.equals(table.schema)
    assert found.schema.metadata[b"who"] == b"me"


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("columns", [["messages"], ["text", "n"], ["meta.text"], ["messages", "meta.text", "when"]])
def test_only_the_named_columns_are_read_in_that_order(tmp_path: Path, kind: str, columns: list[str]) -> None:
    table = table_of(35)
    found = read_rows(store(tmp_path, table, kind), 8, 23, columns)
    assert found.column_names == columns
    assert found.to_pylist() == table.slice(8, 15).select(columns).to_pylist()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("rows", [0, 1, 35])
def test_shape(tmp_path: Path, kind: str, rows: int) -> None:
    table = table_of(rows)
    shape = footer_of(store(tmp_path, table, kind))
    assert shape.rows == rows
    assert shape.schema.equals(table.schema, check_metadata=kind != "parquet")
    assert shape.schema.metadata[b"who"] == b"me"
    assert shape.bytes > 0 or rows == 0


def test_empty_row_groups_are_passed_over(tmp_path: Path) -> None:
    table = table_of(20)
    path = tmp_path / "groups.parquet"
    with pq.ParquetWriter(path, table.schema) as writer:
        for piece in (table.slice(0, 0), table.slice(0, 7), table.slice(0, 0), table.slice(7), table.slice(0, 0)):
            writer.write_table(piece)
    file = ColumnarFile(str(path), "parquet", {})
    assert footer_of(file).rows == 20
    for start, stop in ((0, 20), (6, 8), (7, 8), (0, 7), (19, 20)):
        assert read_rows(file, start, stop).to_pylist() == table.slice(start, stop - start).to_pylist()


@pytest.mark.parametrize("kind", ["parquet", "stream"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    reads=st.lists(
        st.tuples(st.integers(0, 1999), st.integers(1, 700), st.sampled_from([None, ["text"]]), st.booleans()),
        min_size=1,
        max_size=8,
    ),
    group=st.sampled_from([100, 900, 2000]),
)
def test_shards_in_any_order_are_read_as_they_are(
    tmp_path: Path, kind: str, reads: list[tuple[int, int, list[str] | None, bool]], group: int
) -> None:
    table = pa.table({"n": range(2000), "text": [f"t{i % 3}" for i in range(2000)]})
    local, remote = both(tmp_path, table, kind, group)
    columnar_files._local.forget()
    for start, length, columns, elsewhere in reads:
        found = read_rows(remote if elsewhere else local, start, min(start + length, 2000), columns)
        assert found.to_pylist() == table.slice(start, length).select(columns or ["n", "text"]).to_pylist()


def both(folder: Path, table: pa.Table, kind: str, group: int) -> tuple[ColumnarFile, ColumnarFile]:
    """A local file and the same as an object, of which a thread keeps what it has open."""
    name = f"{kind}-{group}"
    local = replace(store(folder, table, kind, group), identity=name)
    fsspec.filesystem("memory").pipe_file(f"/both/{name}", Path(local.url).read_bytes())
    return local, replace(local, url=f"memory://both/{name}")


def test_shards_of_a_row_group_one_after_the_other_decode_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"n": range(5000)})
    file = replace(store(tmp_path, table, "parquet", 5000), identity="once")
    begun = []
    decode = pq.ParquetFile.iter_batches

    def counted(self: Any, *arguments: Any) -> Iterator[pa.RecordBatch]:
        begun.append(arguments)
        yield from decode(self, *arguments)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    for start in range(0, 5000, 700):
        assert read_rows(file, start, start + 700).column("n").to_pylist() == list(range(5000))[start : start + 700]
    assert len(begun) == 1
    read_rows(file, 300, 400)
    assert len(begun) == 2


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("kind", ["parquet", "stream"])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_after_a_read_that_failed_the_next_one_is_whole(
    tmp_path: Path, kind: str, elsewhere: bool, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails, at whatever moment; and the rows that are read next come after those of the failure."""
    file = both(tmp_path, pa.table({"n": range(2000)}), kind, 2000 if kind == "parquet" else 100)[elsewhere]
    assert read_rows(file, 0, 300).num_rows == 300
    reads = itertools.count()

    class Failing(columnar_files._Passing):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if next(reads) == place:
                raise MemoryError

    held = (
        columnar_files._local.parquet._passing if kind == "parquet" else (columnar_files._local.arrow or (0, None))[1]
    )
    if held is not None:  # a local Arrow file is mapped, and nothing of it kept
        held.__class__ = Failing
        with pytest.raises(MemoryError):
            read_rows(file, 300, 900)
    for start in range(600, 2000, 400):
        assert read_rows(file, start, start + 400).column("n").to_pylist() == list(range(2000))[start : start + 400]


def test_a_row_group_may_hold_more_text_than_arrow_decodes_in_one_piece(tmp_path: Path) -> None:
    prompts = [[{"role": "user", "content": f"question {number}"}] for number in range(2200)]
    path = with_one_text(tmp_path / "repeated.parquet", "x" * 1_000_000, prompts, range(2200))
    assert pq.ParquetFile(path).num_row_groups == 1
    assert path.stat().st_size < 100_000
    found = read_rows(ColumnarFile(str(path), "parquet", {}), 590, 600)
    system = {"role": "system", "content": "x" * 1_000_000}
    assert found.column("messages").to_pylist() == [[system, *prompt] for prompt in prompts[590:600]]


def test_of_large_rows_few_are_decoded_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar_files, "_BATCH_BYTES", 1 << 20)
    texts = [random.Random(number).randbytes(100_000).hex() for number in range(60)]
    table = pa.table({"messages": [[{"content": text}] for text in texts]})
    found = read_rows(store(tmp_path, table, "parquet", 60), 3, 60)
    assert max(len(chunk) for chunk in found.column("messages").chunks) == (1 << 20) // 200_000
    assert found.to_pylist() == table.slice(3).to_pylist()


def test_rows_that_are_far_more_than_the_file_says_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar_files, "READ_BYTES", 10_000_000)
    prompts = [[{"role": "user", "content": "?"}]] * 1000
    path = with_one_text(tmp_path / "bomb.parquet", "x" * 100_000, prompts, range(200, 400))
    file = ColumnarFile(str(path), "parquet", {}, "bomb")
    assert read_rows(file, 0, 290).num_rows == 290
    with pytest.raises(TooManyBytes):
        read_rows(file, 290, 395)
    assert read_rows(file, 395, 1000).column("messages").to_pylist()[5:] == prompts[400:]


@pytest.mark.parametrize("kind", FORMATS)
def test_the_head_has_as_many_rows_as_asked_for_unless_they_are_large(tmp_path: Path, kind: str) -> None:
    table = table_of(35)
    file = store(tmp_path, table, kind)
    for rows in (1, 10, 11, 35, 64):
        assert read_head(file, rows).to_pylist() == table.slice(0, rows).to_pylist()
    assert read_head(store(tmp_path, table_of(0), kind), 64).to_pylist() == []


def test_of_a_head_of_large_rows_few_are_read(tmp_path: Path) -> None:
    path = with_one_text(tmp_path / "a.parquet", "x" * 30_000_000, [[{"role": "user", "content": "?"}]] * 64, range(64))
    assert read_head(ColumnarFile(str(path), "parquet", {}), 64).num_rows == 3


@pytest.mark.parametrize("kind", FORMATS)
def test_a_range_past_the_end_gives_what_there_is(tmp_path: Path, kind: str) -> None:
    file = store(tmp_path, table_of(35), kind)
    assert read_rows(file, 30, 50).num_rows == 5
    assert read_rows(file, 40, 50).num_rows == 0


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_a_cut_off_file_is_an_error(tmp_path: Path, kind: str, share: float) -> None:
    file = store(tmp_path, table_of(3000), kind, 100)
    path = Path(file.url)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises((pa.ArrowInvalid, OSError)):
        footer_of(file)


@pytest.mark.parametrize("format", ["parquet", "arrow"])
@pytest.mark.parametrize("data", [b"PAR1", b"{}", b"\0" * 100, b'{"a": 1}\n' * 100])
def test_something_else_is_an_error(tmp_path: Path, format: str, data: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(data)
    with pytest.raises((pa.ArrowInvalid, OSError)):
        footer_of(ColumnarFile(str(path), format, {}))


@pytest.mark.parametrize("kind", FORMATS)
def test_files_of_another_file_system(tmp_path: Path, kind: str) -> None:
    table = table_of(35)
    local = store(tmp_path, table, kind)
    fsspec.filesystem("memory").pipe_file(f"/columnar/{kind}", Path(local.url).read_bytes())
    file = ColumnarFile(f"memory://columnar/{kind}", local.format, {})
    assert footer_of(file).rows == 35
    assert read_rows(file, 9, 21).to_pylist() == table.slice(9, 12).to_pylist()
