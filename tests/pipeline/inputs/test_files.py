"""From paths to files: what is taken, what is passed over, and every problem at once."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.inputs.files import SourceFile, find, identity_of, resolve

LINE = b'{"a": 1}\n'


def plant(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(LINE)


def names(*paths: object, format: str = "auto") -> list[str]:
    return [file.name for file in resolve([str(path) for path in paths], format, {})]


def problems(*paths: object, format: str = "auto") -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        resolve([str(path) for path in paths], format, {})
    assert caught.value.exit_code == 3
    for problem in caught.value.problems:
        assert problem in str(caught.value)
    return caught.value.problems


def test_one_file(tmp_path: Path) -> None:
    plant(tmp_path, "a.jsonl")
    [file] = resolve([str(tmp_path / "a.jsonl")], "auto", {})
    status = (tmp_path / "a.jsonl").stat()
    times = (str(status.st_mtime_ns), str(status.st_ctime_ns))
    assert file == SourceFile(str(tmp_path / "a.jsonl"), "a.jsonl", "jsonl", None, len(LINE), *times)


def test_a_folder_gives_its_data_files_by_name_and_nothing_hidden(tmp_path: Path) -> None:
    plant(tmp_path, "b.jsonl", "a.parquet", "deep/er/c.csv.gz", "README.md", "x.txt", "x.gz")
    (tmp_path / "noending").write_text("plain words\n")
    plant(
        tmp_path,
        ".hidden.jsonl",
        "_temporary.jsonl",
        ".git/d.jsonl",
        "_work/e.jsonl",
        "deep/.f.jsonl",
        "deep/_g/h.json",
    )
    plant(tmp_path, "dataset_info.json", "state.json", "dataset_dict.json")
    assert names(tmp_path) == names(f"{tmp_path}/") == ["a.parquet", "b.jsonl", "deep/er/c.csv.gz"]


def test_a_folder_is_read_through_links_to_folders(tmp_path: Path) -> None:
    plant(tmp_path, "in/a.jsonl", "elsewhere/b.jsonl", "elsewhere/deep/c.jsonl", "in/z/d.jsonl")
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/again").symlink_to(tmp_path / "in/z")  # its file counts once, by its path without links
    (tmp_path / "in/_off").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "in") == ["a.jsonl", "link/b.jsonl", "link/deep/c.jsonl", "z/d.jsonl"]


def test_links_that_lead_back_end(tmp_path: Path) -> None:
    plant(tmp_path, "in/a.jsonl", "out/b.jsonl")
    (tmp_path / "in/self").symlink_to(tmp_path / "in")
    (tmp_path / "in/out").symlink_to(tmp_path / "out")
    (tmp_path / "out/in").symlink_to(tmp_path / "in")
    assert names(tmp_path / "in") == ["a.jsonl", "out/b.jsonl"]


def test_a_subfolder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "a.jsonl", "shut/b.jsonl", "_shut/c.jsonl")
    listed = os.scandir

    def scandir(path: str) -> Any:  # root may list every folder, whatever its permissions
        if os.path.basename(path).endswith("shut"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert problems(tmp_path) == (f"{tmp_path}/shut: Permission denied",)


def test_an_underscored_folder_may_be_named_itself(tmp_path: Path) -> None:
    plant(tmp_path, "_raw/.cache/a.jsonl", "_raw/b.jsonl")
    assert names(tmp_path / "_raw") == ["b.jsonl"]


def test_with_a_format_set_every_file_of_a_folder_counts(tmp_path: Path) -> None:
    plant(tmp_path, "one", "two.txt", "_SUCCESS")
    assert names(tmp_path, format="jsonl") == ["one", "two.txt"]


def test_a_glob_finds_what_a_shell_would(tmp_path: Path) -> None:
    plant(tmp_path, "b.jsonl", "a.jsonl", ".h.jsonl", "_u.jsonl", "sub/c.jsonl", "sub/.h/d.jsonl")
    assert names(tmp_path / "*.jsonl") == ["_u.jsonl", "a.jsonl", "b.jsonl"]
    assert names(tmp_path / "**" / "*.jsonl") == ["_u.jsonl", "a.jsonl", "b.jsonl", "sub/c.jsonl"]
    assert names(tmp_path / "[ab].jsonl") == ["a.jsonl", "b.jsonl"]
    assert names(tmp_path / ".h*") == [".h.jsonl"]
    assert names(tmp_path / "s?b" / "*") == ["c.jsonl"]


@pytest.mark.parametrize("pattern", ["**.jsonl", "***", "a**/*.jsonl"])
def test_a_glob_that_cannot_be_is_named(tmp_path: Path, pattern: str) -> None:
    plant(tmp_path, "a.jsonl")
    [problem] = problems(tmp_path / pattern)
    assert problem == f"{tmp_path / pattern}: Invalid pattern: '**' can only be an entire path component"


def test_a_file_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    plant(tmp_path, "a[1].jsonl", "what?.jsonl")
    assert names(tmp_path / "a[1].jsonl", tmp_path / "what?.jsonl") == ["a[1].jsonl", "what?.jsonl"]


def test_names_are_relative_to_the_deepest_common_folder(tmp_path: Path) -> None:
    plant(tmp_path, "x/train/a.jsonl", "x/train/b.jsonl", "x/test/a.jsonl")
    assert names(tmp_path / "x/train/b.jsonl", tmp_path / "x/test") == ["train/b.jsonl", "test/a.jsonl"]
    assert names(tmp_path / "x/train") == ["a.jsonl", "b.jsonl"]


def test_no_file_is_taken_twice_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "x/a.jsonl", "x/b.jsonl")
    folder = tmp_path / "x"
    ways = [
        folder / "a.jsonl",
        f"{folder}/../x/a.jsonl",
        f"{folder}//a.jsonl",
        f"file://{folder}/a.jsonl",
        folder / "*",
    ]
    assert sorted(names(*ways)) == ["a.jsonl", "b.jsonl"]
    monkeypatch.chdir(tmp_path)
    assert names("x/a.jsonl", "./x/a.jsonl", folder / "a.jsonl") == ["a.jsonl"]
    (tmp_path / "link").symlink_to(folder)
    assert len(names(folder, tmp_path / "link")) == 2


@pytest.mark.parametrize(
    ("name", "format", "compression"),
    [
        ("a.jsonl", "jsonl", None),
        ("a.ndjson", "jsonl", None),
        ("a.json", "json", None),
        ("a.JSONL.GZ", "jsonl", "gzip"),
        ("a.json.zst", "json", "zstd"),
        ("a.csv.gz", "csv", "gzip"),
        ("a.tsv", "tsv", None),
        ("a.parquet", "parquet", None),
        ("a.pq", "parquet", None),
        ("a.arrow", "arrow", None),
        ("a.feather", "arrow", None),
        ("a.b.c.jsonl", "jsonl", None),
    ],
)
def test_format_and_compression_from_the_ending(
    tmp_path: Path, name: str, format: str, compression: str | None
) -> None:
    plant(tmp_path, name)
    [file] = resolve([str(tmp_path / name)], "auto", {})
    assert (file.format, file.compression) == (format, compression)


def test_a_format_set_by_hand_wins_over_the_ending(tmp_path: Path) -> None:
    plant(tmp_path, "a.json", "b.json.gz")
    found = resolve([str(tmp_path / "a.json"), str(tmp_path / "b.json.gz")], "jsonl", {})
    assert [(file.format, file.compression) for file in found] == [("jsonl", None), ("jsonl", "gzip")]


def test_every_problem_is_listed(tmp_path: Path) -> None:
    plant(tmp_path, "good.jsonl", "odd.xyz", "packed.parquet.gz")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "bare").mkdir()
    (tmp_path / "dangling.jsonl").symlink_to(tmp_path / "nowhere")
    paths = [
        "good.jsonl",
        "odd.xyz",
        "packed.parquet.gz",
        "empty.jsonl",
        "bare",
        "missing.jsonl",
        "no*.jsonl",
        "dangling.jsonl",
    ]
    found = problems(*(tmp_path / path for path in paths))
    assert len(found) == 7
    text = "\n".join(found)
    assert "good.jsonl" not in text
    for part in (
        "odd.xyz: the ending does not say",
        "packed.parquet.gz: parquet is already compressed",
        "empty.jsonl: the file is empty",
        "bare: a folder without data files",
        "missing.jsonl: no such file or folder",
        "no*.jsonl: no file matches",
        "dangling.jsonl: ",
    ):
        assert part in text


@pytest.mark.parametrize("path", ["", " ", "/", "memory://"])
def test_an_empty_name_or_the_root_of_everything_is_no_input(path: str) -> None:
    [problem] = problems(path)
    assert "names no file or folder" in problem


def test_a_file_without_read_permission(tmp_path: Path) -> None:
    plant(tmp_path, "secret.jsonl")
    (tmp_path / "secret.jsonl").chmod(0)
    if os.access(tmp_path / "secret.jsonl", os.R_OK):
        pytest.skip("this user may read every file, whatever its permissions")
    [problem] = problems(tmp_path / "secret.jsonl")
    assert "no permission to read it" in problem


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, "good.jsonl")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jsonl")).write_bytes(LINE)
    [problem] = problems(tmp_path)
    assert "not UTF-8" in problem
    problem.encode()  # can be printed


def test_an_unknown_scheme_and_credentials_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="no storage driver"):
        resolve(["nosuch://bucket/a.jsonl"], "auto", {})
    with pytest.raises(ConfigError) as caught:
        resolve(["s3://me:hunter2@bucket/a.jsonl"], "auto", {})
    assert "hunter2" not in str(caught.value)


def test_files_of_another_file_system() -> None:
    memory = fsspec.filesystem("memory")
    for name in ("a.jsonl", "sub/b.jsonl.gz", "_c.jsonl"):
        memory.pipe_file(f"/files-test/{name}", LINE)
    try:
        found = resolve(["memory://files-test"], "auto", {})
        assert [file.name for file in found] == ["a.jsonl", "sub/b.jsonl.gz"]
        assert [file.url for file in found] == ["memory:///files-test/a.jsonl", "memory:///files-test/sub/b.jsonl.gz"]
        assert all(file.identity for file in found)
        before = found[0].identity
        memory.pipe_file("/files-test/a.jsonl", LINE)
        assert resolve(["memory://files-test/a.jsonl"], "auto", {})[0].identity != before
        assert names("memory://files-test/*.jsonl") == ["_c.jsonl", "a.jsonl"]
    finally:
        memory.rm("/files-test", recursive=True)


def test_identity_prefers_the_etag() -> None:
    assert identity_of({"ETag": '"abc"', "LastModified": "today"}) == "abc"
    assert identity_of({"LastModified": "today", "size": 3}) == "today"
    assert identity_of({"size": 3}) == ""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.zip", "an archive; unpack it and name the folder"),
        ("a.tar.gz", "an archive; unpack it and name the folder"),
        ("a.jsonl.tgz", "an archive; unpack it and name the folder"),
        ("a.orc", "a .orc file, which is not read; convert it to Parquet or JSON lines"),
        ("A.XLSX", "a .xlsx file, which is not read; convert it to Parquet or JSON lines"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=re.escape(f"{name}: {says}")):
        resolve([str(tmp_path / name)], "auto", {})
    (tmp_path / "b.jsonl").write_text("{}\n")
    assert find([str(tmp_path)], "auto", {}).unread.files == (name,)
