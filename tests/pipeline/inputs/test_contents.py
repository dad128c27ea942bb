"""Files without an ending, told apart by their first bytes; and what lies in a folder and is not read."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.pipeline.errors import InputError
from tamis.pipeline.inputs.files import find, resolve
from tamis.pipeline.inputs.shards import scan

LINES = b'{"a": 1}\n{"a": 2}\n'


def table(kind: str) -> bytes:
    made = pa.table({"a": [1, 2]})
    out = io.BytesIO()
    if kind == "parquet":
        pq.write_table(made, out)
        return out.getvalue()
    with (pa.ipc.new_file if kind == "file" else pa.ipc.new_stream)(out, made.schema) as writer:
        writer.write_table(made)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "format", "compression"),
    [
        (LINES, "jsonl", None),
        (b"\xef\xbb\xbf" + LINES, "jsonl", None),
        (b'[\n{"a": 1}, {"a": 2}]', "json", None),
        (table("parquet"), "parquet", None),
        (table("file"), "arrow", None),
        (table("stream"), "arrow", None),
        (gzip.compress(LINES, mtime=0), "jsonl", "gzip"),  # the time of day would be in its name
        (bz2.compress(LINES), "jsonl", "bz2"),
        (lzma.compress(LINES), "jsonl", "xz"),
        (pa.compress(LINES, "zstd", asbytes=True), "jsonl", "zstd"),
        (pa.compress(LINES, "lz4", asbytes=True), "jsonl", "lz4"),
    ],
)
def test_a_part_without_an_ending_is_what_its_content_is(
    tmp_path: Path, data: bytes, format: str, compression: str | None
) -> None:
    names = ["part-00000", "part-00001-1b2c-3d4e.c000"] + ["part-00002.gz"] * (compression == "gzip")
    for name in names:
        (tmp_path / name).write_bytes(data)
    found = find([str(tmp_path)], "auto", {})
    assert [(file.format, file.compression) for file in found.files] == [(format, compression)] * len(names)
    assert [scan(file, 10, {}).rows for file in found.files] == [2] * len(names)
    assert [file.name for file in resolve([str(tmp_path / "part-00000")], "auto", {})] == ["part-00000"]


@pytest.mark.parametrize(
    "data", [b"Copyright", b"a,b\n1,2\n", b"[section]\nx=1\n", b"{% if %}", b"\x1f\x8bno", b"all: x\n"]
)
def test_what_the_content_does_not_tell_is_not_read_and_listed(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "LICENSE").write_bytes(data)
    with pytest.raises(InputError, match=r"without data files .* such as LICENSE: the ending does not say what it is"):
        resolve([str(tmp_path)], "auto", {})
    with pytest.raises(InputError, match=r"LICENSE: the ending does not say what it is; set input\.format"):
        resolve([str(tmp_path / "LICENSE")], "auto", {})
    (tmp_path / "a.jsonl").write_bytes(LINES)
    assert find([str(tmp_path)], "auto", {}).unread.files == ("LICENSE",)


def test_what_is_not_read_is_listed_and_what_is_hidden_is_counted(tmp_path: Path) -> None:
    unread = ("README.md", "b.jsonl.snappy", "dataset_infos.json", "deep/notes.txt")
    hidden = ("_SUCCESS", ".a.jsonl.crc", ".git/x", ".git/y.jsonl", "deep/_temporary/z.jsonl")
    for name in ("a.jsonl", *unread, *hidden):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(LINES)
    (tmp_path / "in/empty.jsonl").touch()
    found = find([str(tmp_path / "in")], "auto", {})
    assert [file.name for file in found.files] == ["a.jsonl"]
    assert sorted(found.unread.files) == [*unread, "empty.jsonl (empty)"]
    assert found.unread.hidden == 4  # a folder with such a name counts once
    # What is named beside the folder is read.
    both = find([str(tmp_path / "in"), str(tmp_path / "in/deep/notes.txt")], "jsonl", {})
    assert {file.name for file in both.files} >= {"a.jsonl", "deep/notes.txt"}
    assert "deep/notes.txt" not in both.unread.files


def test_the_names_of_files_do_not_depend_on_what_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.jsonl").write_bytes(LINES)
    (tmp_path / "LICENSE").write_text("words")
    (tmp_path / "empty.jsonl").touch()
    found = find([str(tmp_path)], "auto", {})
    assert [file.name for file in found.files] == ["a.jsonl"]
    assert found.unread.files == ("LICENSE", "empty.jsonl (empty)")


def test_folders_that_a_glob_finds_are_listed_unless_it_finds_what_is_in_them(tmp_path: Path) -> None:
    for name in ("a.jsonl", "deep/b.jsonl", "deep/er/c.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(LINES)
    assert find([f"{tmp_path}/*"], "auto", {}).unread.files == ("deep/ (a folder)",)
    assert find([f"{tmp_path}/**"], "auto", {}).unread.files == ()
    assert len(find([f"{tmp_path}/*", f"{tmp_path}/deep"], "auto", {}).files) == 3


def test_the_same_on_another_file_system(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("a.jsonl", "README.md", "part-0", "_SUCCESS", "_tmp/x/b.jsonl", "_tmp/c.jsonl"):
        memory.pipe_file(f"/contents-test/{name}", LINES)
    try:
        found = find(["memory://contents-test"], "auto", {})
        assert [file.name for file in found.files] == ["a.jsonl", "part-0"]
        assert (found.unread.files, found.unread.hidden) == (("README.md",), 2)
    finally:
        memory.rm("/contents-test", recursive=True)


def test_an_empty_part_is_passed_over_unless_it_is_named_or_the_only_one(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    for path in (tmp_path, tmp_path / "*.jsonl", tmp_path / "a.jsonl"):
        with pytest.raises(InputError, match="empty"):
            resolve([str(path)], "auto", {})
    (tmp_path / "b.jsonl").write_bytes(LINES)
    for path in (tmp_path, tmp_path / "*.jsonl"):
        found = find([str(path)], "auto", {})
        assert [file.name for file in found.files] == ["b.jsonl"]
        assert found.unread.files == ("a.jsonl (empty)",)
    with pytest.raises(InputError, match=r"a\.jsonl: the file is empty"):
        resolve([str(tmp_path / "b.jsonl"), str(tmp_path / "a.jsonl")], "auto", {})
