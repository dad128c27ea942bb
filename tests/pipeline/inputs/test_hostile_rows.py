"""Rows made to do harm: each is read as a row or is a problem of its own, in bounded memory and bounded time."""

from __future__ import annotations

import gzip
import json
import random
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import LINES, TEXTS, chat, dumped, pair
from text_samples import COMPRESSIONS, pack, read_all, store

from tamis.operators.problems import RowProblem
from tamis.pipeline.errors import InputError
from tamis.pipeline.inputs import csv_rows, json_arrays, row_limits, spans, text_files
from tamis.pipeline.inputs import decompression as unpacking
from tamis.pipeline.inputs.files import resolve
from tamis.pipeline.inputs.row_limits import MAX_ROW_BYTES, RAW_TEXT_BYTES, cut_text
from tamis.pipeline.inputs.shards import make_shards, read, scan
from tamis.pipeline.inputs.text_files import Record, TextFile, find_spans, read_records

ROOT = Path(__file__).parents[3]


def code(record: Record) -> str | None:
    return record.value.code if isinstance(record.value, RowProblem) else None


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of more than 1,000 bytes is too large."""
    for module in (text_files, spans, csv_rows, json_arrays, row_limits):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", 1000)
    monkeypatch.setattr(text_files, "HEAD_BYTES", 50)


# --- every kind of row, among good ones ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*LINES])
@pytest.mark.parametrize("make", [pair, chat])
def test_a_hostile_line_is_one_row_and_harms_no_other(tmp_path: Path, kind: str, make: Any) -> None:
    chance = random.Random(5)
    lines = [LINES[kind](chance, make(chance, TEXTS["plain"])) for _ in range(20)]
    data = b"".join(line + b'\n{"good": 1}\n' for line in lines)
    records = read_all(store(tmp_path, data), rows=7, chunk=300)
    assert [record.raw for record in records[::2]] == lines
    assert all(record.value == {"good": 1} for record in records[1::2])


@pytest.mark.parametrize("kind", [*TEXTS])
def test_hostile_texts_are_read_to_the_letter(tmp_path: Path, kind: str) -> None:
    chance = random.Random(6)
    rows = [pair(chance, TEXTS[kind]) for _ in range(20)]
    for escape in (True, False):
        data = b"\n".join(dumped(row, ensure_ascii=escape) for row in rows)
        assert [r.value for r in read_all(store(tmp_path, data))] == rows
        data = b"[" + data.replace(b"\n", b",") + b"]"
        assert [r.value for r in read_all(store(tmp_path, data, "json"), chunk=17)] == rows


def test_elements_of_an_array_that_python_cannot_read_harm_no_other(tmp_path: Path) -> None:
    bad = {
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}": "malformed_json",
        b'{"a": "]}\\"", "b": ' + b"9" * 5000 + b"}": "malformed_json",
        b'{"a": 1, "a": 2}': "duplicate_keys",
        b'{"a": -1e999}': "number_too_large",
    }
    data = b"[" + b", 7,".join(bad) + b"]"
    for chunk in (1000, 1 << 20):
        records = read_all(store(tmp_path, data, "json"), rows=3, chunk=chunk)
        assert [code(record) for record in records[::2]] == [*bad.values()]
        assert [record.raw for record in records[::2]] == [*bad]


# --- rows that are too large --------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("chunk", [64, 999, 100_000])
@pytest.mark.usefixtures("small_limits")
def test_long_lines_are_set_aside_and_not_held(tmp_path: Path, compression: str | None, chunk: int) -> None:
    good, exact = b'{"a": 1}', b'{"a": "' + b"x" * 991 + b'"}'
    long = [b'{"a": "' + b"x" * 992 + b'"}', b"y" * 5000, b" " * 3000 + b"z"]
    lines = [good, long[0], good, exact, b" " * 5000, long[1], long[2], b"", good]
    data = b"\n".join(lines)
    rows = [line for line in lines if line.strip()]
    records = read_all(store(tmp_path, data, "jsonl", compression), rows=3, chunk=chunk)
    assert [code(r) for r in records] == ["too_large" if line in long else None for line in rows]
    assert [r.size for r in records] == [len(line) for line in rows]
    assert [r.raw for r in records] == [line[:50] if line in long else line for line in rows]
    assert all(data[r.offset :].startswith(r.raw) for r in records)


@pytest.mark.parametrize("end", [b"\n", b""])
@pytest.mark.parametrize("chunk", [64, 999, 100_000])
@pytest.mark.usefixtures("small_limits")
def test_a_csv_file_with_a_long_row_is_refused_with_its_place(tmp_path: Path, end: bytes, chunk: int) -> None:
    for long in (b"x" * 3000 + b",1", b'"' + b'"",\n' * 400 + b'",2', b'1,"' + b"line\n" * 300 + b'"', b"1,a" * 500):
        file = store(tmp_path, b'a,b\n"good, ""1""",2\n' + long + end, "csv")
        with pytest.raises(ValueError, match=r"row that begins in line 3 \(byte 20\) is longer than 1,000 bytes"):
            find_spans(file, 3, 1000, chunk)


@pytest.mark.usefixtures("small_limits")
def test_what_is_too_large_where_rows_cannot_be_told_apart_is_an_error(tmp_path: Path) -> None:
    for data in (b'[{"a": "' + b"x" * 5000 + b'"}]', b"[" + b"[" * 5000, b'[{"a": ' + b" " * 5000 + b"1}]"):
        with pytest.raises(ValueError, match=r"near line 1 is longer than .*convert the file to \.jsonl"):
            find_spans(store(tmp_path, data, "json"), 10, 1000, 64)
    with pytest.raises(ValueError, match=r"line 2 .* or a quote in it is not closed"):
        find_spans(store(tmp_path, b'a\n"' + b"x\n" * 5000, "csv"), 10, 1000, 64)
    with pytest.raises(ValueError, match=r"line 1 .* is longer than 1,000 bytes"):
        store(tmp_path, b"x" * 5000, "csv")


def test_texts_in_quarantine_are_cut_with_a_note() -> None:
    assert cut_text(b"\xff\x00a") == "\\xff\0a"
    assert cut_text(b"x" * RAW_TEXT_BYTES) == "x" * RAW_TEXT_BYTES
    text = cut_text(b"x" * (RAW_TEXT_BYTES + 1))
    assert text.endswith("\n[cut here: the row has 1,048,577 bytes, 1,048,576 of them are shown]")
    assert cut_text(b"abc", 10_000_000_000).startswith("abc\n[cut here: the row has 10,000,000,000 bytes, 3 ")


# --- archives that are bombs --------------------------------------------------------------------------------------


def gzipped(piece: bytes, times: int) -> Iterator[bytes]:
    """Members of a gzip file, each of the same piece."""
    member = gzip.compress(piece, 9)
    yield from (member for _ in range(times))


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("piece", [b" ", b"a", b"\n"])
def test_a_bomb_is_refused_in_bounded_memory(
    tmp_path: Path, compression: str, piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "FREE_BYTES", 96 << 20)
    suffix = {"gzip": "gz", "zstd": "zst"}[compression]
    path = tmp_path / f"bomb.jsonl.{suffix}"
    member = pack(piece * (16 << 20), compression)
    path.write_bytes(member * 12)
    [file] = resolve([str(path)], "auto", {})
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=rf"bomb\.jsonl\.{suffix}: .* times as many.*unpack it yourself"):
            scan(file, 2048, {})
        assert tracemalloc.get_traced_memory()[1] < 6 * MAX_ROW_BYTES
    finally:
        tracemalloc.stop()


def test_an_archive_that_packs_well_is_read(tmp_path: Path) -> None:
    data = b'{"a": "%s"}\n' % (b"x" * 10_000) * 2000
    packed = gzip.compress(data, 9)
    assert len(data) / len(packed) > unpacking.MAX_RATIO
    path = tmp_path / "small.jsonl.gz"
    path.write_bytes(packed)
    assert find_spans(TextFile(str(path), "jsonl", "gzip", {}), 10_000, 1 << 30)[-1].stop_row == 2000


def test_a_line_without_end_is_one_row_whose_beginning_is_read(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl.gz"
    good = json.dumps({"prompt": "a", "response": "b"}).encode()
    path.write_bytes(
        b"".join([gzip.compress(good + b"\n"), *gzipped(b"a" * (8 << 20), 9), gzip.compress(b"\n" + good)])
    )
    [file] = resolve([str(path)], "auto", {})
    shards = make_shards(scan(file, 2048, {}), "corpus", {}, 0)
    rows = [row for shard in shards for row in read(shard, {})]
    assert [isinstance(row.value, RowProblem) for row in rows] == [False, True, False]
    assert len(rows[1].raw_text()) < 100_000
    assert rows[1].raw_text().endswith("[cut here: the row has 75,497,472 bytes, 65,536 of them are shown]")


def test_a_long_array_is_never_held(tmp_path: Path) -> None:
    element = dumped({"prompt": "p" * 500, "response": "r" * 500})
    file = store(tmp_path, b"[" + b",\n".join([element] * 40_000) + b"]", "json", "gzip")
    tracemalloc.start()
    try:
        spans = find_spans(file, 2048, 1 << 20, 1 << 20)
        assert len(read_records(file, spans[-1])) == spans[-1].stop_row - spans[-1].start_row
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert spans[-1].stop_row == 40_000


# --- nothing that is read can run ---------------------------------------------------------------------------------

RUNS_CODE = re.compile(
    r"\bpickle\.(load|loads|Unpickler)\b|from pickle\b|\bdill\b|\bmarshal\b|\bshelve\b|joblib|(?<![\w.])(eval|exec)\("
    r"|allow_pickle\s*=\s*True|weights_only\s*=\s*False|torch\.load\((?!.*weights_only=True)"
    r"|\byaml\.(unsafe_load|full_load|load|Loader|UnsafeLoader|FullLoader)\b"
)


def test_nothing_in_the_packages_reads_what_can_run() -> None:
    found = []
    for file in [*(ROOT / "operators").rglob("*.py"), *(ROOT / "pipeline").rglob("*.py")]:
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if RUNS_CODE.search(line.partition("#")[0]):
                found.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []


def test_bytes_in_a_column_are_only_ever_bytes(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a"], "response": ["b"], "blob": [b"\x80\x04\x95cos\nsystem\n"]})
    pq.write_table(table, tmp_path / "a.parquet")
    scanned = scan(resolve([str(tmp_path / "a.parquet")], "auto", {})[0], 10, {})
    assert scanned.head[0]["blob"] == b"\x80\x04\x95cos\nsystem\n"
