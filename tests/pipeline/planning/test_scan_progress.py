"""A long scan says how far it is, to the last byte; a short one nothing."""

from __future__ import annotations

import gzip
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from command import PROGRESS

from tamis.pipeline.inputs.files import SourceFile, resolve
from tamis.pipeline.job.job_file import load_job
from tamis.pipeline.planning import scan_progress
from tamis.pipeline.planning.scanning import scan_files


def some_files(count: int, size: int) -> list[SourceFile]:
    return [SourceFile(f"{i}.jsonl", f"{i}.jsonl", "jsonl", None, size, "") for i in range(count)]


def test_a_short_scan_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with scan_progress.scan_progress(some_files(3, 1000)) as tell:
        tell(3000)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("files", "size", "total"), [(1, 10**9, "1,000"), (1000, 1700, "2"), (7, 10**9 // 3, "2,334")])
def test_a_long_scan_says_all_of_it(files: int, size: int, total: str, capsys: pytest.CaptureFixture[str]) -> None:
    with scan_progress.scan_progress(some_files(files, size)) as tell, ThreadPoolExecutor(4) as pool:
        list(pool.map(tell, [size] * files))
    [line] = capsys.readouterr().err.splitlines()
    assert PROGRESS.match(line)
    assert line.startswith(f"scan     {total} / {total} MB 100%")


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "jsonl.gz"])
def test_a_scan_tells_every_byte_once(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scan_progress, "SHOWN_BYTES", 1)
    monkeypatch.setattr(scan_progress, "_MB", 1)
    path = tmp_path / f"a.{ending}"
    text = {"json": b'[{"a": 1}, {"a": 2}]', "csv": b"a\n1\n2\n"}.get(ending, b'{"a": 1}\n' * 100)
    if ending.endswith("gz"):
        text = gzip.compress(text)
    path.write_bytes(text)
    files = resolve([str(path)], "auto", {})
    job = load_job(None, {"input": str(tmp_path), "output": "out", "model": "m", "method": "saft"}, [])
    scan_files(files, job)
    size = f"{len(text):,}"
    assert capsys.readouterr().err.startswith(f"scan     {size} / {size} MB 100%")
