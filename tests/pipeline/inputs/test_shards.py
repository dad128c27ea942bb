"""Shards: every row of every format once and in order, whatever the sharding; broken files named; changes noticed."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tamis.operators.problems import RowProblem
from tamis.pipeline.errors import InputError
from tamis.pipeline.inputs import shards as sources
from tamis.pipeline.inputs.files import SourceFile, resolve
from tamis.pipeline.inputs.shards import (
    CORPUS,
    Row,
    Scanned,
    Shard,
    check_unchanged,
    make_shards,
    read,
    read_table,
    scan,
)

ROWS = [{"prompt": f"q{i} é", "response": "a" * (i % 5) + "\n中"} for i in range(53)]
KINDS = [
    f"{format}{packed}" for format in ("jsonl", "json", "csv", "tsv") for packed in ("", ".gz", ".zst")
] + ["parquet", "arrow", "stream.arrow"]  # fmt: skip


def write(folder: Path, kind: str, rows: Sequence[dict[str, Any]] = ROWS, name: str = "data") -> Path:
    path = folder / f"{name}.{kind}"
    format = kind.split(".")[0]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=10)
    elif "arrow" in kind:
        table = pa.Table.from_pylist(list(rows))
        make = pa.ipc.new_stream if format == "stream" else pa.ipc.new_file
        with make(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=10)
    else:
        data = text_of(format, rows)
        if kind.endswith(".gz"):
            half = len(data) // 2  # two members
            data = gzip.compress(data[:half]) + gzip.compress(data[half:])
        elif kind.endswith(".zst"):
            data = pa.compress(data, "zstd", asbytes=True)
        path.write_bytes(data)
    return path


def text_of(format: str, rows: Sequence[dict[str, Any]]) -> bytes:
    if format == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if format == "json":
        return json.dumps(rows, indent=1).encode()
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter="\t" if format == "tsv" else ",")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def source(path: Path) -> SourceFile:
    [file] = resolve([str(path)], "auto", {})
    return file


def shards_of(path: Path, rows: int = 10) -> list[Shard]:
    return make_shards(scan(source(path), rows, {}), "corpus", {"name": "pair"}, 0)


def refusal(path: Path, rows: int = 10) -> str:
    with pytest.raises(InputError) as caught:
        scan(source(path), rows, {})
    assert path.name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shard_rows=st.integers(1, 60))
def test_shards_give_every_row_once_in_order(tmp_path: Path, kind: str, shard_rows: int) -> None:
    path = tmp_path / f"data.{kind}"
    if not path.exists():
        write(tmp_path, kind)
    scanned = scan(source(path), shard_rows, {})
    assert scanned.rows == len(ROWS)
    shards = make_shards(scanned, "corpus", {}, 5)
    assert [shard.index for shard in shards] == list(range(5, 5 + len(shards)))
    assert len({shard.id for shard in shards}) == len(shards)
    assert [shard.name for shard in shards] == sorted(shard.name for shard in shards)
    rows: list[Row] = []
    for shard in shards:
        assert 0 < shard.rows <= shard_rows
        assert Shard.from_json(shard.to_json()) == shard
        rows.extend(read(Shard.from_json(shard.to_json()), {}))
    assert [row.number for row in rows] == list(range(len(ROWS)))
    assert [row.value for row in rows] == ROWS
    text = kind.split(".")[0]
    if text in {"jsonl", "json", "csv", "tsv"}:
        whole = text_of(text, ROWS)
        for row in rows:
            assert row.offset is not None
            assert row.raw is not None
            assert whole[row.offset :].startswith(row.raw)
    else:
        assert all(row.offset is None and row.raw is None for row in rows)


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_of_a_file(tmp_path: Path, kind: str) -> None:
    scanned = scan(source(write(tmp_path, kind)), 20, {}, head_rows=7)
    assert list(scanned.head) == ROWS[:7]
    assert scanned.head_problems == ()
    if kind.startswith("json"):
        assert scanned.schema is None
    else:
        assert scanned.schema is not None
        assert scanned.schema.names == ["prompt", "response"]
        assert set(scanned.schema.types) == {pa.string()}


def test_the_head_tells_good_rows_from_bad(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\nbroken\n{"a": 2}\n[]\n{"a": 3}\n')
    scanned = scan(source(path), 10, {}, head_rows=4)
    assert scanned.head == ({"a": 1}, {"a": 2})
    assert [problem.code for problem in scanned.head_problems] == ["malformed_json", "not_an_object"]


def test_columns_are_enough_for_the_caller(tmp_path: Path) -> None:
    [shard] = shards_of(write(tmp_path, "parquet"), 100)
    assert read(shard, {}, ["response"])[3].value == {"response": ROWS[3]["response"]}
    [shard] = shards_of(write(tmp_path, "jsonl"), 100)
    assert read(shard, {}, ["response"])[3].value == ROWS[3]


def test_a_table_is_read_with_its_types_and_metadata(tmp_path: Path) -> None:
    schema = pa.schema([("n", pa.int8()), ("when", pa.timestamp("ns", tz="UTC"))], metadata={"huggingface": "{}"})
    table = pa.Table.from_arrays([pa.array(range(9), pa.int8()), pa.array([1] * 9, schema.types[1])], schema=schema)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    shards = shards_of(tmp_path / "a.parquet", 5)
    assert scan(source(tmp_path / "a.parquet"), 5, {}).schema == schema
    assert pa.concat_tables([read_table(shard, {}) for shard in shards]).equals(table, check_metadata=True)


def test_ids_depend_on_name_content_role_and_range_alone(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    path = write(tmp_path / "here", "jsonl")
    scanned = scan(source(path), 10, {})
    first = make_shards(scanned, "corpus", {}, 0)
    ids = [shard.id for shard in first]
    assert [s.id for s in make_shards(scan(source(path), 10, {}), "corpus", {"other": 1}, 99)] == ids
    assert not set(ids) & {s.id for s in make_shards(scanned, "unsafe", {}, 0)}
    assert not set(ids) & {s.id for s in make_shards(scan(source(path), 9, {}), "corpus", {}, 0)}
    # The same folder at another place is the same corpus.
    moved = (tmp_path / "here").rename(tmp_path / "elsewhere") / path.name
    assert [s.id for s in make_shards(scan(source(moved), 10, {}), "corpus", {}, 0)] == ids
    os.utime(moved, ns=(1, 1))
    assert not set(ids) & {s.id for s in make_shards(scan(source(moved), 10, {}), "corpus", {}, 0)}


def test_a_file_of_the_same_size_and_time_is_another_one_all_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl")
    before, time = source(path), path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes().swapcase())
    os.utime(path, ns=(time, time))
    after = source(path)
    assert (after.bytes, after.identity) == (before.bytes, before.identity)
    assert after != before


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_shards_are_bounded_in_bytes(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SHARD_BYTES", 2000)
    rows = [{"prompt": os.urandom(250).hex()} for _ in range(40)]  # about 500 bytes each
    shards = shards_of(write(tmp_path, kind, rows), 1000)
    assert 10 <= len(shards) <= 20
    assert [row.value for shard in shards for row in read(shard, {})] == rows


# --- broken files -------------------------------------------------------------------------------------------------


# Plain lines that end early cannot be told from lines that end.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in {"jsonl", "csv", "tsv"}])
@pytest.mark.parametrize("share", [0.3, 0.97])
def test_a_cut_off_file_is_named(tmp_path: Path, kind: str, share: float) -> None:
    path = write(tmp_path, kind)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    message = refusal(path)
    if kind.endswith((".gz", ".zst")):
        assert "archive is cut off" in message
    elif kind == "json":
        assert "JSON" in message
    else:
        assert "cut off or damaged" in message


def test_a_json_line_cut_off_at_the_end_is_one_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl")
    path.write_bytes(path.read_bytes()[:-10])
    rows = [row for shard in shards_of(path) for row in read(shard, {})]
    assert len(rows) == len(ROWS)
    assert [type(row.value) for row in rows[-2:]] == [dict, RowProblem]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("blank.jsonl", b"\n \n"),
        ("blank.jsonl.gz", gzip.compress(b"", mtime=0)),
        ("header.csv", b"a,b\n"),
        ("empty.json", b"[]"),
    ],
    # Test processes must find the same names, whenever they look.
    ids=["blank lines", "gz of nothing", "only a header", "empty array"],
)
def test_a_file_may_have_no_rows(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    [file] = resolve([str(tmp_path / name)], "auto", {})
    assert scan(file, 10, {}).rows == 0


@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream.arrow"])
def test_a_table_may_have_no_rows(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, ROWS[:1])
    table = pa.table({"a": pa.array([], pa.string())})
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        make = pa.ipc.new_stream if kind.startswith("stream") else pa.ipc.new_file
        with make(path, table.schema) as writer:
            writer.write_table(table)
    [file] = resolve([str(path)], "auto", {})
    assert scan(file, 10, {}).rows == 0


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("open.csv", b'a,b\n1,"2\n', "not valid CSV near line"),
        ("twice.csv", b"a,a\n1,2\n", "names two columns 'a'"),
        ("latin.csv", b"pr\xe9,b\n1,2\n", "its first line is not UTF-8; set input.encoding"),
        ("object.json", b'{\n"a": 1}', "none of its keys (a) holds a list of objects"),
        ("text.json", b"words", "not JSON: a .json file holds an array of rows, or one object a line"),
        ("wide.jsonl", '{"a": 1}\n'.encode("utf-16"), "its text is UTF-16, and only UTF-8 is read; convert it: iconv"),
        ("wide.csv", "a,b\n1,2\n".encode("utf-16-be"), "its text is UTF-16BE"),
        ("wide.json", "[]".encode("utf-32"), "its text is UTF-32"),
        ("open.json", b'[{"a": 1}', "closing bracket"),
        ("odd.json", b'[{"a": "\xff"}, \xff]', "not valid JSON"),
        ("plain.jsonl.gz", b'{"a": 1}\n', ""),
        ("text.parquet", b'{"a": 1}\n', "not a whole parquet file"),
        ("text.arrow", b'{"a": 1}\n' * 10, "not a whole arrow file"),
    ],
)
def test_a_broken_file_is_named_with_its_reason(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    assert says in refusal(tmp_path / name)


# --- the file changes under us ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_a_file_that_changed_or_vanished_after_the_plan(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    shard = shards_of(path)[1]
    assert len(read(shard, {})) == 10
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(InputError, match="changed since the plan"):
        read(shard, {})
    write(tmp_path, kind, ROWS[:20])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InputError, match="changed since the plan"):
        check_unchanged(shard, {})
    path.unlink()
    with pytest.raises(InputError, match=f"data.{kind}: No such file") as caught:
        read(shard, {})
    assert "cannot be read any more" in str(caught.value)


def test_the_same_size_and_time_with_fewer_rows_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl")
    shard = shards_of(path)[2]
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"\n", b" "))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InputError, match="changed while it was read"):
        read(shard, {})


# --- values that Python or Arrow has trouble with -----------------------------------------------------------------


def test_dates_beyond_the_calendar_do_not_stop_anything(tmp_path: Path) -> None:
    far = {
        "day": pa.array([0, 3_000_000], pa.int32()).view(pa.date32()),
        "us": pa.array([0, 10**18], pa.int64()).view(pa.timestamp("us")),
        "ns": pa.array([0, 1], pa.int64()).view(pa.timestamp("ns")),
        "text": pa.array(["a", "b"]),
    }
    pq.write_table(pa.table(far), tmp_path / "a.parquet")
    scanned = scan(source(tmp_path / "a.parquet"), 10, {})
    assert [row["text"] for row in scanned.head] == ["a", "b"]
    assert scanned.head[0]["day"] == datetime.date(1970, 1, 1)
    [shard] = make_shards(scanned, "corpus", {}, 0)
    for row in read(shard, {}):
        assert json.loads(row.raw_text())["text"] in "ab"
    assert read_table(shard, {}).equals(pa.table(far))


def test_a_parquet_string_that_is_not_utf8_is_the_problem_of_its_row(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffc")]
    )
    pq.write_table(pa.table({"text": bad, "n": [1, 2, 3]}), tmp_path / "a.parquet")
    [shard] = shards_of(tmp_path / "a.parquet")
    first, second, third = read(shard, {})
    assert (first.value, third.value) == ({"text": "a", "n": 1}, {"text": "c", "n": 3})
    assert isinstance(second.value, RowProblem)
    assert second.value.code == "invalid_utf8"
    # A reader that does not look at the column does not mind.
    assert [row.value for row in read(shard, {}, ["n"])] == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_raw_text_can_always_be_shown(tmp_path: Path) -> None:
    assert Row(0, RowProblem("x", "y"), 0, b"a\xff\xed\xa0\x80").raw_text() == "a\\xff\\xed\\xa0\\x80"
    value = {"a": b"\xff", "b": datetime.date(2020, 1, 1), "c": float("nan"), "d": "\ud800"}
    Row(0, value, None, None).raw_text().encode()


def test_scanned_rows() -> None:
    file = SourceFile("u", "n", "jsonl", None, 1, "")
    assert Scanned(file, (), (), None, ()).rows == 0


def test_times_of_an_unknown_zone_do_no_harm(tmp_path: Path) -> None:
    kind = pa.timestamp("us", tz="Mars/Olympus")
    nested = pa.array([{"t": [1]}], pa.struct([("t", pa.list_(kind))]))
    table = pa.table({"prompt": ["a"], "response": ["b"], "when": pa.array([1], kind), "deep": nested})
    pq.write_table(table, tmp_path / "a.parquet")
    [file] = resolve([str(tmp_path / "a.parquet")], "auto", {})
    found = scan(file, 10, {})
    assert found.head[0]["prompt"] == "a"
    assert str(found.head[0]["when"]) == "1970-01-01 00:00:00.000001"
    [shard] = make_shards(found, CORPUS, {}, 0)
    assert read_table(shard, {}).schema.field("when").type == kind
    assert len(read(shard, {})) == 1
