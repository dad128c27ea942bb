"""Compressed text files, read from the middle: any order, any thread, never another file's bytes."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_samples import COMPRESSIONS, anywhere, pack, read_all, store

from tamis.pipeline.inputs.text_files import Span, TextFile, find_spans, read_records

Damage = Callable[[bytes], bytes]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "bz2", "xz", "lz4"])
def test_an_archive_of_many_members_is_one_file(tmp_path: Path, compression: str) -> None:
    pieces = [b"".join(b'{"a": %d}\n' % (100 * i + j) for j in range(100)) for i in range(20)]
    path = tmp_path / "members"
    path.write_bytes(b"".join(pack(piece, compression) for piece in pieces))
    file = TextFile(str(path), "jsonl", compression, {})
    assert [r.value for r in read_all(file, rows=77)] == [{"a": i} for i in range(2000)]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@anywhere
@given(order=st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_spans_may_be_read_in_any_order_and_again(tmp_path: Path, compression: str | None, order: list[int]) -> None:
    data = b"".join(b'{"a": "%s"}\n' % (b"%d" % i * (i % 7)) for i in range(100))
    file = store(tmp_path, data, "jsonl", compression)
    spans = find_spans(file, 10, 10_000)
    for number in order:
        found = read_records(file, spans[number])
        assert [r.value for r in found] == [{"a": str(i) * (i % 7)} for i in range(10 * number, 10 * number + 10)]


def test_a_cursor_of_one_file_is_not_used_for_another(tmp_path: Path) -> None:
    one, two = (
        store(tmp_path, b"".join(b'{"%s": %d}\n' % (name, i) for i in range(100)), "jsonl", "gzip")
        for name in (b"a", b"b")
    )
    spans = find_spans(one, 10, 10_000)
    for span in spans:
        assert [r.value for r in read_records(one, span)] == [{"a": i} for i in range(span.start_row, span.stop_row)]
        assert [r.value for r in read_records(two, span)] == [{"b": i} for i in range(span.start_row, span.stop_row)]


def test_a_cursor_of_an_older_content_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n{"a": 2}\n'))
    old = TextFile(str(path), "jsonl", "gzip", {}, identity="old")
    first, second = find_spans(old, 1, 1000)
    assert [r.value for r in read_records(old, first)] == [{"a": 1}]
    path.write_bytes(gzip.compress(b'{"b": 3}\n{"b": 4}\n'))
    new = TextFile(str(path), "jsonl", "gzip", {}, identity="new")
    assert [r.value for r in read_records(new, second)] == [{"b": 4}]


def test_a_failed_read_leaves_no_cursor_behind(tmp_path: Path) -> None:
    data = b"".join(b'{"a": %d}\n' % i for i in range(100))
    file = store(tmp_path, data, "jsonl", "gzip")
    spans = find_spans(file, 10, 10_000)
    read_records(file, spans[0])
    with pytest.raises(OSError, match="ends before"):
        read_records(file, Span(200, 210, 5000, 5100))
    assert [r.value for r in read_records(file, spans[1])] == [{"a": i} for i in range(10, 20)]


def test_threads_read_compressed_files_side_by_side(tmp_path: Path) -> None:
    files = [
        store(tmp_path, b"".join(b'{"file": %d, "row": %d}\n' % (n, i) for i in range(2000)), "jsonl", "gzip")
        for n in range(2)
    ]
    wrong: list[object] = []
    gate = threading.Barrier(6)

    def read_one(number: int) -> None:
        spans = find_spans(files[number], 100, 1 << 30)
        gate.wait()
        try:
            rows = [record.value for span in spans for record in read_records(files[number], span)]
            if rows != [{"file": number, "row": i} for i in range(2000)]:
                wrong.append(number)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=read_one, args=(n % 2,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_compressed_file_on_another_file_system() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/texts/a.jsonl.gz", gzip.compress(b'{"a": 1}\n{"a": 2}\n'))
    file = TextFile("memory://texts/a.jsonl.gz", "jsonl", "gzip", {})
    assert [r.value for r in read_all(file, rows=1)] == [{"a": 1}, {"a": 2}]
    memory.rm("/texts", recursive=True)


def cut_off(data: bytes) -> bytes:
    return data[:-9]


def damaged(data: bytes) -> bytes:
    return data[:40] + b"\x55" * 20 + data[60:]


@pytest.mark.parametrize(
    ("compression", "damage"),
    [*((name, cut_off) for name in ("gzip", "zstd", "bz2", "xz", "lz4")), ("bz2", damaged), ("xz", damaged)],
)
def test_an_archive_that_is_cut_off_or_damaged_is_an_error(tmp_path: Path, compression: str, damage: Damage) -> None:
    packed = pack(b"".join(b'{"a": %d}\n' % (number * 7919 % 1000) for number in range(500)), compression)
    path = tmp_path / "broken"
    path.write_bytes(damage(packed))
    with pytest.raises((OSError, ValueError, EOFError)):
        find_spans(TextFile(str(path), "jsonl", compression, {}), 100, 10_000)


def test_xz_may_be_padded_between_its_members(tmp_path: Path) -> None:
    path = tmp_path / "padded"
    path.write_bytes(pack(b'{"a": 1}\n', "xz") + b"\0" * 8 + pack(b'{"a": 2}\n', "xz") + b"\0" * 4)
    assert [r.value for r in read_all(TextFile(str(path), "jsonl", "xz", {}), rows=1)] == [{"a": 1}, {"a": 2}]
