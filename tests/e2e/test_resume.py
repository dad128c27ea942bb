"""After a kill at any moment, the same command continues where it was; after a finished run, it does nothing.

Here the command starts Ray itself, as on a laptop, so that the kill also ends Ray.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import Ran, curate, kill_all, poll, start, tamis
from outputs import Row, alpaca_rows, check_whole, manifest_of, merged, pair, sentence, snapshot, write_jsonl

pytestmark = pytest.mark.long

METHODS = ["larf", "saft"]
ROWS, SHARDS = 84, 21
CAPTURED, EMITTED = "_work/receipts/capture", "_work/receipts/emit"


@dataclass
class Killed:
    """One output folder of a run that is killed twice and then finishes. after_*: name -> (inode, mtime) of its files
    at that moment.
    """

    folder: Path
    flags: list[object]
    after_capture_kill: dict[str, tuple[int, int]]
    after_emit_kill: dict[str, tuple[int, int]]
    status: Ran
    last: Ran

    @property
    def out(self) -> Path:
        return self.folder / "out"


def receipts(states: dict[str, tuple[int, int]], stage: str) -> dict[str, tuple[int, int]]:
    return {name: at for name, at in states.items() if name.startswith(f"{stage}/") and name.endswith(".json")}


def long_rows(count: int) -> list[Row]:
    """Rows with a few hundred tokens each."""
    return [{**row, "output": f"{row['output']} " * 12} for row in alpaca_rows(count, seed=11)]


@pytest.fixture(scope="module")
def killed(slow_model: Path, ray_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    write_jsonl(folder / "data.jsonl", long_rows(ROWS))
    chance = random.Random(12)
    for role in ("unsafe", "safe"):
        turns = [{"messages": pair(sentence(chance), sentence(chance))} for _ in range(4)]
        write_jsonl(folder / f"{role}.jsonl", turns)
    flags: list[object] = ["--input", folder / "data.jsonl", "--model", slow_model]
    flags += ["--method", "larf", "--method", "saft", "--set", "larf.layer=5", "--drop", "0.2"]
    flags += [f"--set=larf.{role}_references={folder}/{role}.jsonl" for role in ("unsafe", "safe")]
    # Files of their own, so that there is a half of the way.
    flags += ["--set", f"shard_rows={ROWS // SHARDS}", "--set", "file_size=0"]
    out, env = folder / "out", {"RAY_TMPDIR": str(ray_folder), "TMPDIR": str(ray_folder)}
    arguments = ["curate", *flags, "--output", out]

    def count(stage: str) -> int:
        return sum(name.endswith(".json") for name in (path.name for path in (out / stage).glob("*")))

    running = start(*arguments, cwd=folder, env=env)
    try:
        poll(lambda: count(CAPTURED) >= 5, running, "five capture receipts")
    finally:
        kill_all(running)
    after_capture = snapshot(out)
    status = tamis("status", out, cwd=folder)

    running = start(*arguments, cwd=folder, env=env)
    try:
        poll(lambda: count(EMITTED) >= 1, running, "the first emit receipt")
    finally:
        kill_all(running)
    after_emit = snapshot(out)

    last = tamis(*arguments, "--set", "keep_captures=true", cwd=folder, env=env)
    return Killed(folder, flags, after_capture, after_emit, status, last)


def test_the_kill_came_half_way(killed: Killed) -> None:
    assert 5 <= len(receipts(killed.after_capture_kill, CAPTURED)) < SHARDS
    assert not receipts(killed.after_capture_kill, EMITTED)
    assert "manifest.json" not in killed.after_capture_kill
    assert "manifest.json" not in killed.after_emit_kill
    assert 1 <= len(receipts(killed.after_emit_kill, EMITTED)) < SHARDS


def test_status_of_a_killed_run(killed: Killed) -> None:
    done = len(receipts(killed.after_capture_kill, CAPTURED))
    assert killed.status.rc == 0
    assert killed.status.stdout.startswith(f"unfinished: {ROWS} rows in {SHARDS} shards (and 2 of references)")
    assert f"captured {done} of {SHARDS + 2}" in killed.status.stdout
    assert f"emitted  0 of {SHARDS}" in killed.status.stdout


def test_the_same_command_finishes_without_capturing_a_done_shard_again(killed: Killed) -> None:
    assert killed.last.rc == 0, killed.last.output
    check_whole(killed.out, METHODS, work_kept=True)
    now = snapshot(killed.out)
    first = receipts(killed.after_capture_kill, CAPTURED)
    assert {name: killed.after_emit_kill[name] for name in first} == first
    second = receipts(killed.after_emit_kill, CAPTURED)
    assert len(second) == SHARDS + 2
    assert {name: now[name] for name in second} == second
    vectors = {name: at for name, at in killed.after_emit_kill.items() if name.startswith("_work/capture/")}
    assert {name: now[name] for name in vectors if not name.endswith(".tmp")} == {
        name: at for name, at in vectors.items() if not name.endswith(".tmp")
    }


def test_the_same_command_emits_no_done_shard_again(killed: Killed) -> None:
    now = snapshot(killed.out)
    done = receipts(killed.after_emit_kill, EMITTED)
    assert {name: now[name] for name in done} == done
    for name in done:
        for file in json.loads((killed.out / name).read_text())["files"]:
            assert now[file["name"]] == killed.after_emit_kill[file["name"]]


def test_the_output_is_that_of_an_undisturbed_run(killed: Killed, ray_address: str) -> None:
    calm = killed.folder / "calm"
    curate(*killed.flags, "--output", calm, cwd=killed.folder, address=ray_address)
    check_whole(calm, METHODS)
    scores = ("score", "quantile", "reason")  # their rounding depends on the threads of a forward pass, not on the kill
    ours, theirs = (
        [(decision, {key: row[key] for key in row if key not in scores}) for decision, row in merged(out)]
        for out in (killed.out, calm)
    )
    assert ours == theirs
    a, b = manifest_of(killed.out), manifest_of(calm)
    assert a["counts"] == b["counts"]
    assert a["fingerprint"] == b["fingerprint"]
    assert a["histogram"]["edges"] == pytest.approx(b["histogram"]["edges"], rel=1e-4)


def test_the_second_identical_command_does_nothing(killed: Killed) -> None:
    before = snapshot(killed.out)
    # This needs no Ray: the address does not exist.
    ran = tamis("curate", *killed.flags, "--output", killed.out, "--address", "127.0.0.1:1", cwd=killed.folder)
    assert ran.rc == 0, ran.output
    assert "complete already; nothing was done" in ran.stdout
    assert ran.stderr == ""
    assert snapshot(killed.out) == before
