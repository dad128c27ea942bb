"""Text files: spans that cover every row once, offsets that point at it, and problems that stay in their row."""

from __future__ import annotations

import codecs
import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from text_samples import COMPRESSIONS, anywhere, pack, read_all, store

from tamis.operators.problems import RowProblem
from tamis.pipeline.inputs.text_files import Record, Span, TextFile, find_spans


def problem(record: Record) -> str:
    assert isinstance(record.value, RowProblem), record.value
    return record.value.code


# --- any file, any sharding ---------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
rows_of_text = st.dictionaries(
    texts, st.one_of(texts, st.integers(), st.none(), st.lists(texts, max_size=2)), max_size=3
)
shardings = st.tuples(st.integers(1, 7), st.integers(1, 200), st.integers(1, 40))


@anywhere
@given(
    rows=st.lists(rows_of_text, max_size=12),
    endings=st.lists(
        st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\n", "\n" + " " * 20 + "\n\v\n"]), min_size=12, max_size=12
    ),
    sharding=shardings,
    compression=st.sampled_from(COMPRESSIONS),
    bom=st.booleans(),
    last_newline=st.booleans(),
    escape=st.booleans(),
)
def test_every_json_line_is_read_once_in_order_at_its_offset(
    tmp_path: Path,
    rows: list[dict[str, Any]],
    endings: list[str],
    sharding: tuple[int, int, int],
    compression: str | None,
    bom: bool,
    last_newline: bool,
    escape: bool,
) -> None:
    lines = [json.dumps(row, ensure_ascii=escape) for row in rows]
    text = "".join(line + ending for line, ending in zip(lines, endings, strict=False))
    data = text.encode() if last_newline else text.rstrip("\r\n \t\v").encode()
    data = codecs.BOM_UTF8 * (bom and bool(rows)) + data
    records = read_all(store(tmp_path, data, "jsonl", compression), *sharding)
    assert [record.value for record in records] == rows
    assert all(data[record.offset :].startswith(record.raw) for record in records)
    assert [record.offset for record in records] == sorted({record.offset for record in records})


@anywhere
@given(
    rows=st.lists(rows_of_text, max_size=10),
    indent=st.sampled_from([None, 0, 2]),
    sharding=shardings,
    compression=st.sampled_from(COMPRESSIONS),
    bom=st.booleans(),
    escape=st.booleans(),
)
def test_every_element_of_a_json_array_is_read_once_at_its_offset(
    tmp_path: Path,
    rows: list[dict[str, Any]],
    indent: int | None,
    sharding: tuple[int, int, int],
    compression: str | None,
    bom: bool,
    escape: bool,
) -> None:
    data = codecs.BOM_UTF8 * bom + b" " + json.dumps(rows, indent=indent, ensure_ascii=escape).encode() + b"\n"
    records = read_all(store(tmp_path, data, "json", compression), *sharding)
    assert [record.value for record in records] == rows
    for record in records:
        assert data[record.offset :].startswith(record.raw)
        assert json.loads(record.raw) == record.value


fields_of_text = st.lists(
    st.sampled_from(["a", "é", "中", ",", "\t", '"', "\n", "\r\n", " ", "\ufeff", "'"]), max_size=6
).map("".join)


@anywhere
@given(
    rows=st.lists(st.tuples(fields_of_text, fields_of_text), max_size=12),
    sharding=shardings,
    compression=st.sampled_from(COMPRESSIONS),
    format=st.sampled_from(["csv", "tsv"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    terminator=st.sampled_from(["\n", "\r\n", "\n\n"]),
    bom=st.booleans(),
)
@example([("\ufeffa", "b")] * 3, (1, 200, 40), None, "csv", csv.QUOTE_ALL, "\n", True)
def test_every_csv_row_is_read_once_at_its_offset(
    tmp_path: Path,
    rows: list[tuple[str, str]],
    sharding: tuple[int, int, int],
    compression: str | None,
    format: str,
    quoting: Any,
    terminator: str,
    bom: bool,
) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter="\t" if format == "tsv" else ",", quoting=quoting, lineterminator=terminator)
    writer.writerows([("first", "second"), *rows])
    data = codecs.BOM_UTF8 * bom + out.getvalue().encode()
    records = read_all(store(tmp_path, data, format, compression), *sharding)
    assert [record.value for record in records] == [{"first": a, "second": b} for a, b in rows]
    assert all(data[record.offset :].startswith(record.raw) for record in records)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_lines_longer_than_a_chunk(tmp_path: Path, compression: str | None) -> None:
    rows = [{"text": "x" * 5000}, {"text": "short"}, {"text": "é" * 3000}]
    data = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    assert [r.value for r in read_all(store(tmp_path, data, "jsonl", compression), chunk=1000)] == rows
    table = b"text\n" + b"\n".join(row["text"].encode() for row in rows)
    assert [r.value for r in read_all(store(tmp_path, table, "csv", compression), chunk=1000)] == rows


def test_a_csv_row_reads_the_same_wherever_a_shard_begins(tmp_path: Path) -> None:
    # Two files pasted together: the second byte order mark stands before a quote, in the middle of the file.
    data = b"\xef\xbb\xbfa,b\n1,2\n\xef\xbb\xbf3,4\n\xef\xbb\xbf5,6\n"
    whole = read_all(store(tmp_path, data, "csv"))
    assert [r.value for r in read_all(store(tmp_path, data, "csv"), rows=1)] == [r.value for r in whole]
    assert whole[1].value == {"a": "\ufeff3", "b": "4"}


def test_spans_are_bounded_in_bytes_too(tmp_path: Path) -> None:
    data = b"".join(b'{"a":"%s"}\n' % (b"x" * 92) for _ in range(10))  # 101 bytes a line with its newline
    spans = find_spans(store(tmp_path, data), 1000, 310)
    assert [span.stop_row - span.start_row for span in spans] == [3, 3, 3, 1]
    assert spans[1] == Span(3, 6, 303, 605)
    # One row above the bound is a span by itself.
    assert len(find_spans(store(tmp_path, data), 1000, 5)) == 10


@pytest.mark.parametrize("data", [b"", b"\n", b"\r\n\r\n", b" \t\v\f\n\n  ", b" " * 50, b"\n" + b"\t" * 50 + b"\n"])
def test_white_space_is_no_row(tmp_path: Path, data: bytes) -> None:
    assert find_spans(store(tmp_path, data), 10, 100) == []


def test_an_empty_array_and_a_csv_of_a_header_hold_no_rows(tmp_path: Path) -> None:
    assert find_spans(store(tmp_path, b" [ ] ", "json"), 10, 100) == []
    assert find_spans(store(tmp_path, b"a,b\n\n", "csv"), 10, 100) == []


def test_blank_lines_before_the_header_of_a_csv(tmp_path: Path) -> None:
    file = store(tmp_path, b"\n\r\na,b\n\n1,2\n", "csv")
    assert file.header == ("a", "b")
    assert [r.value for r in read_all(file)] == [{"a": "1", "b": "2"}]


# --- rows that cannot be used -------------------------------------------------------------------------------------

BAD_LINES = {
    b'{"a": 1': "malformed_json",
    b'{"a": 1} trailing': "malformed_json",
    b"{'a': 1}": "malformed_json",
    b"nonsense": "malformed_json",
    b'{"a": ' + b"9" * 5000 + b"}": "malformed_json",
    b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}": "malformed_json",
    b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}": "malformed_json",
    b'{"a": "\xff"}': "invalid_utf8",
    b'{"a": "\xed\xa0\x80"}': "invalid_utf8",
    b'{"a": "\\ud800"}': "invalid_utf8",
    b'{"a": "\\uDFFF \\ud83d"}': "invalid_utf8",
    b'{"\\ud800": 1}': "invalid_utf8",
    b'{"a": {"b": ["\\ud800"]}}': "invalid_utf8",
    b"[1, 2]": "not_an_object",
    b'"text"': "not_an_object",
    b"null": "not_an_object",
    b"17": "not_an_object",
    b"NaN": "not_an_object",
    b'{"a": 1, "a": 2}': "duplicate_keys",
    b'{"a": {"b": [{"c": 1, "\\u0063": 1}]}}': "duplicate_keys",
    b'{"a": 1e999}': "number_too_large",
    b"{" + b",".join(b'"%d": 0' % i for i in range(1001)) + b"}": "too_many_columns",
}


def test_a_bad_json_line_is_a_row_with_its_problem_and_harms_no_other(tmp_path: Path) -> None:
    data = b"".join(line + b'\n{"good": 1}\n' for line in BAD_LINES)
    records = read_all(store(tmp_path, data), rows=5)
    assert [problem(record) for record in records[::2]] == list(BAD_LINES.values())
    assert [record.raw for record in records[::2]] == list(BAD_LINES)
    assert all(record.value == {"good": 1} for record in records[1::2])
    for record in records[::2]:
        assert isinstance(record.value, RowProblem)
        assert len(record.value.message) < 200  # the text itself is not quoted


GOOD_LINES = {
    b'{"a": "\\ud83d\\ude00"}': {"a": "😀"},
    b'{"a": "\\\\ud800"}': {"a": "\\ud800"},
    b'{"a": 123456789012345678901234567890}': {"a": 123456789012345678901234567890},
    b'{"a": "x\\u0000y"}': {"a": "x\0y"},
    b'{"a": "\xe2\x80\xa8"}': {"a": "\u2028"},  # a line separator to Unicode, no end of line here
    b'{"a": "[[[[' + b"[" * 300 + b'"}': {"a": "[" * 304},
    b'{"": {}}': {"": {}},
    b'{"a": ' + b"[" * 199 + b"]" * 199 + b"}": None,
}


def test_odd_json_that_is_good(tmp_path: Path) -> None:
    records = read_all(store(tmp_path, b"\n".join(GOOD_LINES)), rows=3)
    for record, expected in zip(records, GOOD_LINES.values(), strict=True):
        assert isinstance(record.value, dict)
        assert expected is None or record.value == expected


def test_nan_literals_stay_numbers(tmp_path: Path) -> None:
    [record] = read_all(store(tmp_path, b'{"a": NaN, "b": -Infinity}'))
    assert isinstance(record.value, dict)
    assert record.value["a"] != record.value["a"]
    assert record.value["b"] == float("-inf")


def test_bad_elements_of_a_json_array(tmp_path: Path) -> None:
    elements = [
        b'{"a": "\xff"}',
        b"5",
        b'{"a": "\\ud800"}',
        b'{"a": ' + b"[" * 250 + b"]" * 250 + b"}",
        b'{"a": "\xc3\xa9"}',
    ]
    records = read_all(store(tmp_path, b"[" + b",".join(elements) + b"]", "json"), rows=2)
    assert [problem(r) for r in records[:4]] == ["invalid_utf8", "not_an_object", "invalid_utf8", "malformed_json"]
    assert [record.raw for record in records] == elements
    assert records[4].value == {"a": "é"}


def test_bad_csv_rows(tmp_path: Path) -> None:
    records = read_all(store(tmp_path, b"a,b\n1,2\nonly one\n1,2,3\n\xff,2\n", "csv"), rows=1)
    assert records[0].value == {"a": "1", "b": "2"}
    assert [problem(r) for r in records[1:]] == ["malformed_csv", "malformed_csv", "invalid_utf8"]
    assert records[3].raw == b"\xff,2\n"


def test_a_large_csv_field_is_read(tmp_path: Path) -> None:
    [record] = read_all(store(tmp_path, b'a\n"' + b"x" * 200_000 + b'"\n', "csv"))
    assert record.value == {"a": "x" * 200_000}


# --- files that are broken as a whole -----------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("lost", [1, 5, 9, 200])
def test_a_cut_off_archive_is_an_error(tmp_path: Path, compression: str, lost: int) -> None:
    data = b"".join(b'{"a": %d}\n' % (i * 7919 % 1000) for i in range(2000))
    path = tmp_path / "cut"
    path.write_bytes(pack(data, compression)[:-lost])
    with pytest.raises(OSError, match=r"[Tt]runcated"):
        find_spans(TextFile(str(path), "jsonl", compression, {}), 10, 1000)


def test_an_archive_that_is_none_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "plain.gz"
    path.write_bytes(b'{"a": 1}\n')
    with pytest.raises(OSError):
        find_spans(TextFile(str(path), "jsonl", "gzip", {}), 10, 1000)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[{"a": 1}, {"a": 2}', "closing bracket is missing"),
        (b'[{"a": 1}, {"a": ', "not valid JSON near line 1"),
        (b'[\n{"a": 1},\n{"a" 2}\n]', "not valid JSON near line 3"),
        (b'[{"a": 1} {"a": 2}]', "not valid JSON near line 1"),
        (b'{"a": 1}\n{"a": 2}', "not a JSON array"),
        (b'[{"a": 1}]\n[{"a": 2}]', "more after the end"),
        (b"[", "closing bracket is missing"),
        (b"   ", "not a JSON array"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_a_broken_json_array_is_an_error(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_spans(store(tmp_path, data, "json"), 10, 1000)


@pytest.mark.parametrize("data", [b'a,b\n1,"2\n3,4\n', b'a,b\n1,"2"x\n', b"a,b\r1,2\r"])
def test_a_broken_csv_is_an_error_with_its_line(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ValueError, match="not valid CSV near line"):
        find_spans(store(tmp_path, data, "csv"), 10, 1000)


@pytest.mark.parametrize("data", [b"a,a\n1,2\n", b"Unnamed: 1,\n1,2\n,3\n", b",Unnamed: 0\n1,2\n"])
def test_a_csv_header_names_no_two_columns_alike(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"the first line names two columns '(a|Unnamed: [01])'; rename"):
        store(tmp_path, data, "csv")


LEFT_OPEN = """
import gzip, sys, fsspec
from tamis.pipeline.inputs.text_files import TextFile
fsspec.filesystem("memory").pipe_file("/data.jsonl.gz", gzip.compress(b'{"a": 1}'))
sys.left_open = TextFile("memory://data.jsonl.gz", "jsonl", "gzip", {}).open()
sys.stdout.write(sys.left_open.read(8).decode())
"""


def test_a_process_that_ends_with_an_archive_open_says_nothing_of_it() -> None:
    ended = subprocess.run([sys.executable, "-c", LEFT_OPEN], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, '{"a": 1}', "")


def test_quotes_escaped_by_a_backslash_are_named(tmp_path: Path) -> None:
    rows = [
        'prompt,response\n"say \\"a\\"",b\n',
        'prompt,response\n"a\\"",b\n"c",d\n',
        'prompt,response\n"\\"a, b\\"",c\n',
    ]
    for text in rows:
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(ValueError, match="escaped by a backslash, as Spark and MySQL write them"):
            find_spans(TextFile(str(tmp_path / "a.csv"), "csv", None, {}), 10, 1 << 20)
