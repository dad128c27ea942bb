"""Storage that fails during a run: the input is removed or changed, the disk is full, or writing is denied."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import DEADLINE, poll, start, tamis
from outputs import alpaca_rows, check_whole, write_jsonl

pytestmark = pytest.mark.long

ROWS, SHARD = 120, 4


@dataclass
class Job:
    folder: Path
    model: Path
    address: str

    @property
    def corpus(self) -> Path:
        return self.folder / "data.jsonl"

    def flags(self, output: Path | None = None) -> list[object]:
        flags: list[object] = ["--input", self.corpus, "--model", self.model, "--output", output or self.folder / "out"]
        return [*flags, "--method", "saft", "--set", f"shard_rows={SHARD}", "--address", self.address]

    def disturbed(self, *, meanwhile: str) -> tuple[int, str]:
        """Exit code and output of a run whose input vanishes or changes as soon as some shards are captured."""
        said = self.folder / "said"
        running = start("curate", *self.flags(), cwd=self.folder, said=said)
        try:
            captured = self.folder / "out/_work/receipts/capture"
            poll(lambda: captured.is_dir() and len(os.listdir(captured)) >= 2, running, "two receipts")
            if meanwhile == "vanishes":
                self.corpus.rename(self.folder / "elsewhere")
            else:
                write_jsonl(self.corpus, alpaca_rows(ROWS, seed=99))
            code = running.wait(timeout=DEADLINE)
        finally:
            running.kill()
        assert "Traceback" not in said.read_text()
        return code, said.read_text()


@pytest.fixture
def job(tmp_path: Path, slow_model: Path, ray_address: str) -> Job:
    rows = [{**row, "output": f"{row['output']} " * 6} for row in alpaca_rows(ROWS, seed=5)]
    write_jsonl(tmp_path / "data.jsonl", rows)
    return Job(tmp_path, slow_model, ray_address)


def test_an_input_that_vanishes_is_named_and_the_run_goes_on_when_it_is_back(job: Job) -> None:
    code, said = job.disturbed(meanwhile="vanishes")
    assert code == 3, said
    assert "error: the input cannot be read any more\n  - data.jsonl: No such file or directory\n" in said
    assert not (job.folder / "out/manifest.json").exists()
    (job.folder / "elsewhere").rename(job.corpus)
    ran = tamis("curate", *job.flags(), cwd=job.folder)
    assert ran.rc == 0, ran.output
    assert "were done before" in ran.stderr
    check_whole(job.folder / "out", ["saft"])


def test_an_input_that_changes_is_never_mixed_with_what_it_was(job: Job) -> None:
    code, said = job.disturbed(meanwhile="changes")
    assert code == 3, said
    assert "data.jsonl: changed since the plan was made" in said
    ran = tamis("curate", *job.flags(), cwd=job.folder)
    assert ran.rc == 2, ran.output
    assert "belongs to an unfinished run of other settings" in ran.stderr
    assert "input: the files, their content" in ran.stderr
    assert not (job.folder / "out/kept").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system with room for 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = _mount(folder, "size=256k")
    if not mounted:
        pytest.skip("needs the right to mount a small file system (root)")
    try:
        yield folder
    finally:
        ctypes.CDLL(None).umount2(str(folder).encode(), 2)


def _mount(folder: Path, options: str, flags: int = 0) -> bool:
    return ctypes.CDLL(None).mount(b"tmpfs", str(folder).encode(), b"tmpfs", flags, options.encode()) == 0  # type: ignore[no-any-return]


def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(job: Job, small_disk: Path) -> None:
    out = small_disk / "out"
    ran = tamis("curate", *job.flags(out), cwd=job.folder)
    assert ran.rc == 5, ran.output
    assert "No space left on device" in ran.stderr
    assert "run the same command again" in ran.stderr
    assert not (out / "manifest.json").exists()
    remount = 32
    assert _mount(small_disk, "size=64m", remount)
    ran = tamis("curate", *job.flags(out), cwd=job.folder)
    assert ran.rc == 0, ran.output
    check_whole(out, ["saft"])


def test_a_disk_that_nobody_may_write_is_refused_before_anything_is_done(job: Job, small_disk: Path) -> None:
    remount, read_only = 32, 1
    assert _mount(small_disk, "", remount | read_only)
    ran = tamis("curate", *job.flags(small_disk / "out"), cwd=job.folder)
    assert ran.rc == 2, ran.output
    assert ran.stderr == f"error: output: {small_disk}/out cannot be written (Read-only file system)\n"
