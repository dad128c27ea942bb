"""What was scanned once is not scanned again, unless it has changed; and it is never wrong."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tamis.operators.problems import RowProblem
from tamis.pipeline.inputs.files import resolve
from tamis.pipeline.inputs.shards import Scanned, make_shards
from tamis.pipeline.job.job_file import Job, load_job
from tamis.pipeline.planning import plan_cache, scanning
from tamis.pipeline.planning.scanning import scan_files
from tamis.pipeline.run import paths
from tamis.pipeline.run.paths import RUN
from tamis.pipeline.storage.store import Store

ROWS = [{"prompt": f"secret question {i}", "response": f"secret answer {i}"} for i in range(150)]


class Corpus:
    """One file of each format, and how often files were scanned from end to end."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.data = folder / "data"
        self.data.mkdir()
        lines = "".join(json.dumps(row) + "\n" for row in ROWS)
        (self.data / "a.jsonl").write_text(lines[:40] + "\n\n" + lines)  # a broken row, and a blank line
        (self.data / "b.json").write_text(json.dumps(ROWS))
        (self.data / "c.csv").write_text("prompt,response\n" + '"a\nb",c\n' * 150)
        (self.data / "d.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
        self.folder = folder
        self.store = Store(str(folder / "out"))
        self.store.write_facts(RUN, {})
        self.scanned: list[str] = []
        whole = scanning.scan

        def counted(file: Any, *rest: Any) -> Scanned:
            self.scanned.append(file.name)
            return whole(file, *rest)

        monkeypatch.setattr(scanning, "scan", counted)

    def job(self, **changes: Any) -> Job:
        flags = {"input": str(self.data), "output": str(self.folder / "out"), "model": "m", "method": "saft"}
        return load_job(None, {**flags, "shard_rows": 20, **changes}, [])

    def scan(self, **changes: Any) -> list[Scanned]:
        self.scanned.clear()
        job = self.job(**changes)
        return scan_files(resolve(job.input.path, "auto", {}), job, plan_cache.load(job))

    def keep(self, found: list[Scanned]) -> None:
        shards = [shard for scanned in found for shard in make_shards(scanned, "corpus", {}, 0)]
        plan_cache.keep(self.store, self.job(), shards)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    return Corpus(tmp_path, monkeypatch)


def plain(found: list[Scanned]) -> list[Any]:
    """Problems are compared by what they say."""
    return [(s.file, s.header, s.spans, s.schema, s.head, [(p.code, str(p)) for p in s.head_problems]) for s in found]


def test_the_second_time_nothing_is_scanned_and_the_result_is_the_same(corpus: Corpus) -> None:
    first = corpus.scan()
    assert len(corpus.scanned) == 4
    corpus.keep(first)
    second = corpus.scan()
    assert corpus.scanned == []
    assert plain(second) == plain(first)
    assert isinstance(second[0].head_problems[0], RowProblem)


def test_no_text_is_kept(corpus: Corpus) -> None:
    corpus.keep(corpus.scan())
    assert b"secret" not in corpus.store.read(paths.PLANNED_ROWS)


def test_a_changed_file_is_scanned_again_and_the_others_are_not(corpus: Corpus) -> None:
    corpus.keep(corpus.scan())
    path = corpus.data / "b.json"
    path.write_text(json.dumps(ROWS[:70]))
    found = corpus.scan()
    assert corpus.scanned == ["b.json"]
    assert found[1].rows == 70
    # Of the same size and the same content: what tells is the time.
    corpus.keep(found)
    os.utime(path, ns=(1, 1))
    corpus.scan()
    assert corpus.scanned == ["b.json"]


def test_another_cut_is_another_plan(corpus: Corpus) -> None:
    corpus.keep(corpus.scan())
    corpus.scan(shard_rows=30)
    assert len(corpus.scanned) == 4


def test_only_in_a_folder_with_a_run(corpus: Corpus) -> None:
    corpus.keep(corpus.scan())
    corpus.store.remove(RUN)
    corpus.scan()
    assert len(corpus.scanned) == 4


@pytest.mark.parametrize("change", ["cut", "rows", "junk", "list", "binary"])
def test_damage_is_ignored(corpus: Corpus, change: str) -> None:
    first = corpus.scan()
    corpus.keep(first)
    data = corpus.store.read(paths.PLANNED_ROWS)
    damaged = {
        "cut": data[:-9],
        "rows": data.replace(b"[0, 20, ", b"[0, 21, "),
        "junk": b"{}",
        "list": b"[]",
        "binary": b"\xff\xfe",
    }[change]
    assert damaged != data
    corpus.store.write(paths.PLANNED_ROWS, damaged)
    assert plain(corpus.scan()) == plain(first)
    assert len(corpus.scanned) == 4
    corpus.keep(first)
    assert corpus.store.read(paths.PLANNED_ROWS) == data


def test_rows_that_are_not_where_they_were_found(corpus: Corpus) -> None:
    # The same size and time, other content: the storage lies, and the head tells.
    first = corpus.scan()
    corpus.keep(first)
    path = corpus.data / "a.jsonl"
    size, time = path.stat().st_size, path.stat().st_mtime_ns
    path.write_text(json.dumps(ROWS[0]).ljust(size))
    os.utime(path, ns=(time, time))
    assert corpus.scan()[0].rows == 1
    assert corpus.scanned == ["a.jsonl"]


def test_it_is_written_once(corpus: Corpus) -> None:
    found = corpus.scan()
    corpus.keep(found)
    path = corpus.folder / "out" / paths.PLANNED_ROWS
    before = path.stat().st_ino
    corpus.keep(found)
    assert path.stat().st_ino == before
