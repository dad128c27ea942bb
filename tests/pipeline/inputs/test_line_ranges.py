"""However a file of JSON lines is cut into ranges, and in whatever order they are read: the spans are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from line_samples import naive_spans, texts
from text_samples import anywhere, store

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.inputs import line_ranges
from tamis.pipeline.inputs.files import SourceFile, resolve
from tamis.pipeline.inputs.line_bounds import Joiner, lines_in
from tamis.pipeline.inputs.line_ranges import FileSpans, Range, is_large, lines_of, ranges_of
from tamis.pipeline.inputs.spans import Span
from tamis.pipeline.inputs.text_files import find_spans


def in_ranges(data: bytes, edges: list[int], order: list[int], rows: int, size: int) -> list[Span] | None:
    """The spans from ranges between these edges, added in this order."""
    file = SourceFile("a.jsonl", "a.jsonl", "jsonl", None, len(data), "")
    ends = list(zip([0, *edges], [*edges, len(data)], strict=True))
    adder = FileSpans(rows, size)
    told: list[list[Span] | None] = []
    for number in order:
        start, stop = ends[number]
        told.append(adder.add(Range(file, number, len(ends), start, stop), [lines_in(data[start:stop])]))
    assert all(spans is None for spans in told[:-1])
    return told[-1]


@anywhere
@given(data=texts, draw=st.data(), rows=st.integers(1, 6), size=st.integers(1, 60), chunk=st.integers(1, 40))
def test_the_spans_are_those_of_a_look_over_the_whole_file(
    tmp_path: Path, data: bytes, draw: st.DataObject, rows: int, size: int, chunk: int
) -> None:
    edges = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=8)))
    order = draw.draw(st.permutations(range(len(edges) + 1)))
    expected = naive_spans(data, rows, size)
    assert find_spans(store(tmp_path, data), rows, size, chunk) == expected
    assert in_ranges(data, edges, list(order), rows, size) == expected


def test_a_line_longer_than_many_ranges() -> None:
    data = b"a\n" + b" " * 50 + b"x" * 200 + b"\r\n\n" + b" " * 90 + b"\nb"
    expected = [Span(0, 1, 0, 1), Span(1, 2, 2, 253), Span(2, 3, len(data) - 1, len(data))]
    assert in_ranges(data, list(range(7, len(data), 7)), list(range((len(data) + 6) // 7)), 1, 1000) == expected


@pytest.mark.parametrize("piece", [5, 1 << 20])
@pytest.mark.parametrize("size", [7, 32, 100, 1000])
def test_ranges_hold_every_byte_once(tmp_path: Path, size: int, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_ranges, "_PIECE_BYTES", piece)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' * 30)
    [file] = resolve([str(path)], "auto", {})
    ranges = ranges_of(file, size)
    assert [(part.number, part.count) for part in ranges] == [(i, len(ranges)) for i in range(len(ranges))]
    assert [part.start for part in ranges] == [0, *(part.stop for part in ranges[:-1])]
    assert ranges[-1].stop == file.bytes
    assert all(part.stop - part.start >= min(size, file.bytes) for part in ranges)
    joiner, starts = Joiner(), []
    for part in ranges:
        lines = lines_of(part, {})
        assert lines is not None
        starts += [start for piece in lines for start in joiner.add(piece)[0].tolist()]
    assert starts == list(range(0, file.bytes, 9))


def test_only_plain_lines_are_cut() -> None:
    def large(format: str, compression: str | None, size: int) -> bool:
        return is_large(SourceFile("a", "a", format, compression, size, ""), 100)

    assert large("jsonl", None, 201)
    assert not large("jsonl", None, 200)
    assert not large("jsonl", "gzip", 1000)
    assert not any(large(format, None, 1000) for format in ("json", "csv", "tsv", "parquet", "arrow"))


def test_a_range_that_cannot_be_read_leaves_its_file_without_spans(tmp_path: Path) -> None:
    gone = SourceFile(str(tmp_path / "gone.jsonl"), "gone.jsonl", "jsonl", None, 30, "")
    first, second, third = ranges_of(gone, 10)
    assert lines_of(second, {}) is None
    adder = FileSpans(10, 1000)
    assert adder.add(third, [lines_in(b"{}\n{}\n{}\n\n")]) is None
    assert adder.add(second, None) is None
    assert adder.add(first, [lines_in(b"{}\n{}\n{}\n\n")]) == []


def test_a_range_on_a_storage_that_is_none_is_an_error() -> None:
    [part] = ranges_of(SourceFile("nonsense://a.jsonl", "a.jsonl", "jsonl", None, 30, ""))
    with pytest.raises(ConfigError, match="no storage driver"):
        lines_of(part, {})


def test_a_file_that_is_shorter_than_it_was_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\n" * 20)
    [file] = resolve([str(path)], "auto", {})
    path.write_bytes(b"{}\n" * 10)
    assert [lines_of(part, {}) is None for part in ranges_of(file, 30)] == [False, True]
