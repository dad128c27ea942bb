"""The head of a file, read at once where that is safe, is the head that is read row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tamis.pipeline.inputs import columnar
from tamis.pipeline.inputs.columnar import ColumnarFile, read_head
from tamis.pipeline.inputs.heads import bundled, most_decoded, most_row_by_row

KINDS: dict[str, tuple[pa.DataType, Any]] = {
    "number": (pa.int16(), lambda n: n),
    "maybe": (pa.float64(), lambda n: None if n % 3 else n / 2),
    "flag": (pa.bool_(), lambda n: n % 2 == 0),
    "text": (pa.string(), lambda n: f"text {n}" * (n % 5)),
    "large": (pa.large_string(), lambda n: None if n % 4 == 0 else "é" * n),
    "bytes": (pa.binary(), lambda n: bytes([n % 256]) * n),
    "word": (pa.dictionary(pa.int32(), pa.string()), lambda n: f"word {n % 3}"),
    "fixed": (pa.binary(4), lambda n: f"{n:04d}".encode()),
    "vector": (pa.list_(pa.float32(), 3), lambda n: [n, n, n]),
    "turns": (pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
              lambda n: [{"role": "user", "content": "c" * n}] * (n % 3)),
    "map": (pa.map_(pa.string(), pa.int64()), lambda n: [(f"k{n}", n)] if n % 2 else None),
    "nothing": (pa.null(), lambda n: None),
    "object": (pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))]), lambda n: {"a": n, "b": ["x"] * (n % 4)}),
    "dotted.name": (pa.decimal128(20, 2), lambda n: n),
}  # fmt: skip


def table_of(names: list[str], rows: int) -> pa.Table:
    arrays = [pa.array([KINDS[name][1](n) for n in range(rows)], KINDS[name][0]) for name in names]
    return pa.Table.from_arrays(arrays, names=names)


def stored(path: Path, table: pa.Table, format: str, group: int) -> ColumnarFile:
    if format == "parquet":
        pq.write_table(table, path, row_group_size=group)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=group)
    return ColumnarFile(str(path), format, {})


def row_by_row(file: ColumnarFile, rows: int, monkeypatch: pytest.MonkeyPatch) -> pa.Table:
    with monkeypatch.context() as patched:
        patched.setattr(columnar._OpenParquet, "at_once", lambda self, rows: None)
        patched.setattr(columnar, "_arrow_at_once", lambda file, rows: None)
        return read_head(file, rows)


@pytest.mark.parametrize("format", ["parquet", "arrow"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.sampled_from([*KINDS]), min_size=1, unique=True),
    rows=st.integers(0, 40),
    group=st.sampled_from([1, 7, 100]),
    wanted=st.sampled_from([1, 8, 64]),
    most=st.sampled_from([0, 300, 2000, 20_000, 1 << 26]),
)
def test_it_is_the_same_row_by_row(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    format: str,
    names: list[str],
    rows: int,
    group: int,
    wanted: int,
    most: int,
) -> None:
    file = stored(tmp_path / "file", table_of(names, rows), format, group)
    with monkeypatch.context() as patched:
        patched.setattr(columnar, "HEAD_BYTES", most)
        found, naive = read_head(file, wanted), row_by_row(file, wanted, patched)
    assert found.equals(naive, check_metadata=True)
    assert found.to_pylist() == naive.to_pylist()


def test_thousands_of_columns_are_few_batches(tmp_path: Path) -> None:
    names = [f"feature_{n}" for n in range(2000)]
    arrays = [[f"text {n} {row}" for row in range(70)] if n % 2 else list(range(n, n + 70)) for n in range(2000)]
    table = pa.Table.from_arrays([pa.array(values) for values in arrays], names=names)
    head = read_head(stored(tmp_path / "wide", table, "parquet", 70), 64)
    assert head.equals(table.slice(0, 64))
    assert {column.num_chunks for column in head.columns} == {1}


def test_a_column_named_as_a_field_of_another_is_read_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"a": [{"b": n} for n in range(9)], "a.b": [f"t{n}" for n in range(9)]})
    file = stored(tmp_path / "file", table, "parquet", 4)
    assert row_by_row(file, 9, monkeypatch).equals(table)
    assert read_head(file, 9).equals(table)


def test_what_rows_may_take_is_never_less_than_they_take(tmp_path: Path) -> None:
    """A text that repeats is stored once; a list may hold all values of its chunk."""
    table = pa.table({"text": ["x" * 10_000] * 50, "list": [["y" * 500] * 9] * 50, "number": range(50)})
    pq.write_table(table, tmp_path / "file")
    opened = pq.ParquetFile(tmp_path / "file")
    sizes = most_decoded(opened.metadata, opened.schema_arrow, 0, 20)
    assert sizes is not None
    head = table.slice(0, 20)
    assert all(size >= column.nbytes for size, column in zip(sizes, head.columns, strict=True))
    assert max(sizes) > opened.metadata.row_group(0).total_byte_size  # what is stored


def test_rows_apart_take_at_most_what_is_told() -> None:
    for name in KINDS:
        for batch in table_of([name], 33).to_batches():
            rows = [batch.slice(n, 1) for n in range(batch.num_rows)]
            assert most_row_by_row(batch) >= sum(row.nbytes for row in rows), name


@given(sizes=st.lists(st.integers(0, 12)), most=st.integers(1, 10))
def test_bundles_hold_every_small_column_once(sizes: list[int], most: int) -> None:
    bundles, others = bundled(sizes, most)
    assert others == [place for place, size in enumerate(sizes) if size > most]
    assert [place for bundle in bundles for place in bundle] == [n for n, size in enumerate(sizes) if size <= most]
    assert all(sum(sizes[place] for place in bundle) <= most for bundle in bundles)
