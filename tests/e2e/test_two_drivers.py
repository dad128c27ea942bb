"""Two real drivers on one output: the second gets an error; after `tamis unlock` it succeeds, and the first one stops.

Each command starts Ray itself, as on a laptop.
"""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import DEADLINE, Ran, kill_all, poll, start, tamis
from outputs import alpaca_rows, manifest_of, pair, sentence, snapshot, write_jsonl

from tamis.pipeline.emit.rivals import agree
from tamis.pipeline.run.lease import held, read
from tamis.pipeline.storage.store import Store

pytestmark = pytest.mark.long

ROWS, SHARDS = 120, 40


@dataclass
class Job:
    """A job that runs for some seconds. calm: the output of an undisturbed run."""

    folder: Path
    flags: list[object]
    env: dict[str, str]
    calm: Path

    def curate(self, out: Path, *more: object) -> list[object]:
        return ["curate", *self.flags, "--output", out, *more]


@pytest.fixture(scope="module")
def job(slow_model: Path, ray_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("drivers")
    write_jsonl(folder / "data.jsonl", [{**row, "output": row["output"] * 8} for row in alpaca_rows(ROWS, seed=21)])
    chance = random.Random(22)
    for role in ("unsafe", "safe"):
        turns = [{"messages": pair(sentence(chance), sentence(chance))} for _ in range(4)]
        write_jsonl(folder / f"{role}.jsonl", turns)
    flags: list[object] = ["--input", folder / "data.jsonl", "--model", slow_model, "--method", "larf"]
    flags += ["--set", "larf.layer=5", "--drop", "0.2", "--set", f"shard_rows={ROWS // SHARDS}"]
    flags += [f"--set=larf.{role}_references={folder}/{role}.jsonl" for role in ("unsafe", "safe")]
    env = {"RAY_TMPDIR": str(ray_folder), "TMPDIR": str(ray_folder)}
    made = Job(folder, flags, env, folder / "calm")
    ran = tamis(*made.curate(made.calm), cwd=folder, env=env)
    assert ran.rc == 0, ran.output
    return made


def captured(out: Path) -> int:
    return len(list((out / "_work/receipts/capture").glob("*.json")))


def check_like_calm(job: Job, out: Path) -> None:
    """Like `check_whole`, except for times: a driver that ends later writes the same bytes once more."""
    assert not (out / "_work").exists()
    verified = tamis("verify", out, cwd=job.folder)
    assert verified.rc == 0, verified.output
    parts = ("kept", "dropped", "scores", "quarantine", "artifact")
    names = [sorted(p.relative_to(o) for part in parts for p in (o / part).glob("**/*.*")) for o in (job.calm, out)]
    assert names[0] == names[1]
    different = [str(name) for name in names[0] if (job.calm / name).read_bytes() != (out / name).read_bytes()]
    assert different == []


@pytest.fixture(scope="module")
def told(job: Job) -> Iterator[tuple[Path, Ran, Ran, Ran]]:
    """The output, and the results of the second command, `status` and `unlock` while the first hung, and of the first.

    It is suspended until another one has the output, because its own running time is not reliable.
    """
    out = job.folder / "out"
    first = start(*job.curate(out), cwd=job.folder, env=job.env)
    heir = None
    try:
        poll(lambda: captured(out) >= 2, first, "the second receipt")
        first.send_signal(signal.SIGSTOP)
        lease = read(Store(str(out)))
        assert lease is not None, "the first ended too early to be met"
        second = tamis(*job.curate(out), cwd=job.folder, env=job.env)
        status = tamis("status", out, cwd=job.folder)
        unlocked = tamis("unlock", out, cwd=job.folder)
        heir = start(*job.curate(out), cwd=job.folder, env=job.env)
        poll(lambda: (now := read(Store(str(out)))) is not None and now.id != lease.id, heir, "the heir's lease")
        first.send_signal(signal.SIGCONT)
        assert first.wait(timeout=DEADLINE) == 2
        assert heir.wait(timeout=DEADLINE) == 0
        yield out, second, status, unlocked
    finally:
        for driver in (first, heir):
            if driver is not None and driver.poll() is None:
                kill_all(driver)


def test_the_second_is_told(told: tuple[Path, Ran, Ran, Ran]) -> None:
    out, second, *_ = told
    assert second.rc == 2, second.output
    for words in (
        f"another tamis is at work in {out}",
        "process ",
        " since ",
        "wait for it or stop it. If it hangs",
        f"`tamis unlock {out}`",
    ):
        assert words in second.stderr


def test_status_names_the_driver(told: tuple[Path, Ran, Ran, Ran]) -> None:
    assert "a tamis is at work on it now: process " in told[2].stdout


def test_unlock_says_whose_it_was_and_the_output_is_that_of_a_calm_run(
    job: Job, told: tuple[Path, Ran, Ran, Ran]
) -> None:
    """The first driver woke up, found the output in other hands, and stopped."""
    out, *_, unlocked = told
    assert unlocked.rc == 0
    assert f"{out} was taken from process " in unlocked.stdout
    check_like_calm(job, out)
    assert f"no tamis is at work in {out}" in tamis("unlock", out, cwd=job.folder).stdout


def test_a_killed_driver_is_not_waited_for(job: Job) -> None:
    out = job.folder / "killed"
    first = start(*job.curate(out), cwd=job.folder, env=job.env)
    try:
        poll(lambda: captured(out) >= 2, first, "the second receipt")
    finally:
        kill_all(first)
    assert (out / "_work/driver.json").exists()
    assert "nobody is at work on it" in tamis("status", out, cwd=job.folder).stdout
    ran = tamis(*job.curate(out), cwd=job.folder, env=job.env)
    assert ran.rc == 0, ran.output
    assert "looking whether it still is" not in ran.stderr
    check_like_calm(job, out)


def test_reports_of_two_drivers_become_one(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(job.calm, out)
    (out / "report.html").write_text("of the driver whose manifest was overwritten")
    assert tamis("verify", out, cwd=tmp_path).rc == 3
    manifest = agree(Store(str(out)))
    assert manifest == manifest_of(out)
    assert tamis("verify", out, cwd=tmp_path).rc == 0
    before = snapshot(out)
    assert agree(Store(str(out))) == manifest
    assert snapshot(out) == before


@pytest.mark.parametrize("command", ["curate", "references", "layers"])
def test_every_command_that_works_on_an_output_respects_its_driver(job: Job, tmp_path: Path, command: str) -> None:
    out = tmp_path / "out"
    if command == "layers":
        flags = [*job.flags[2:4], "--output", out]
    else:
        flags = [*job.flags[:4], "--method", "toss" if command == "references" else "saft", "--output", out]
        flags += [f"--set=toss.utility_references={job.folder}/safe.jsonl"]
    with held(Store(str(out))):
        ran = tamis(command, *flags, cwd=tmp_path)
    assert ran.rc == 2, ran.output
    assert "another tamis is at work" in ran.stderr
    assert not (out / "_work/receipts").exists()
