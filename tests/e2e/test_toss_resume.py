"""TOSS killed while a reference model is trained, and again while tokens are scored: the result is identical to the
byte to that of an undisturbed run, and nothing is done twice.

Here the command starts Ray itself, as on a laptop, so that the kill also ends Ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from command import Ran, kill_all, poll, start, tamis
from outputs import alpaca_rows, snapshot, write_jsonl
from token_outputs import check_tokens_whole, reference_rows, sets

pytestmark = pytest.mark.long

ROWS, SHARDS, STEPS = 48, 16, 60
TRAINING, SCORED = "_work/references/utility", "_work/receipts/losses"
States = dict[str, tuple[int, int]]


@dataclass
class Killed:
    """One output folder of a run that is killed twice and then finishes, and one of an undisturbed run."""

    folder: Path
    flags: list[object]
    after_training_kill: States
    status: Ran
    after_scoring_kill: States
    status_scoring: Ran
    last: Ran
    calm: Ran

    @property
    def out(self) -> Path:
        return self.folder / "out"


@pytest.fixture(scope="module")
def killed(slow_model: Path, ray_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed_toss")
    write_jsonl(folder / "data.jsonl", [{**row, "output": row["output"] * 3} for row in alpaca_rows(ROWS, seed=11)])
    write_jsonl(folder / "utility.jsonl", reference_rows(STEPS, seed=12))
    write_jsonl(folder / "harmful.jsonl", reference_rows(3, seed=13))
    flags: list[object] = ["--input", folder / "data.jsonl", "--model", slow_model, "--method", "toss"]
    flags += sets(*(f"toss.{role}_references={folder}/{role}.jsonl" for role in ("utility", "harmful")))
    flags += sets("toss.training.batch_size=1", "toss.training.epochs=1", "toss.training.checkpoint_steps=3")
    flags += sets(
        "toss.training.learning_rate=0.001", f"shard_rows={ROWS // SHARDS}", "model.device=cpu", "file_size=0"
    )
    out, env = folder / "out", {"RAY_TMPDIR": str(ray_folder), "TMPDIR": str(ray_folder)}
    arguments = ["curate", *flags, "--output", out]

    def killed_when(stage: str, count: int, what: str) -> tuple[States, Ran]:
        running = start(*arguments, cwd=folder, env=env)
        try:
            poll(lambda: sum(path.suffix == ".json" for path in (out / stage).glob("*")) >= count, running, what)
        finally:
            kill_all(running)
        return snapshot(out), tamis("status", out, cwd=folder)

    after_training, status = killed_when(TRAINING, 1, "the first checkpoint")
    after_scoring, status_scoring = killed_when(SCORED, 3, "three scored shards")
    last = tamis(*arguments, "--set", "keep_captures=true", cwd=folder, env=env)
    calm = tamis("curate", *flags, "--output", folder / "calm", cwd=folder, env=env)
    return Killed(folder, flags, after_training, status, after_scoring, status_scoring, last, calm)


def test_the_kills_came_half_way(killed: Killed) -> None:
    steps = {name for name in killed.after_training_kill if name.startswith(f"{TRAINING}/step-")}
    assert steps
    assert not [name for name in steps if name.endswith(f"/step-{STEPS}.json")]
    assert not [name for name in killed.after_training_kill if name.startswith("artifact/")]
    assert 3 <= len(receipts(killed.after_scoring_kill, SCORED)) < SHARDS
    assert "manifest.json" not in killed.after_scoring_kill


def test_status_of_a_killed_run(killed: Killed) -> None:
    for status in (killed.status, killed.status_scoring):
        assert status.rc == 0, status.output
        references = STEPS // (ROWS // SHARDS) + 1
        begins = f"unfinished: {ROWS} rows in {SHARDS} shards (and {references} of references)"
        assert status.stdout.startswith(begins)
        assert f"emitted  0 of {SHARDS}" in status.stdout
        assert "run the same `tamis curate` command again to go on" in status.stdout
    done = len(receipts(killed.after_scoring_kill, SCORED))
    assert f"scored   {done} of {SHARDS}" in killed.status_scoring.stdout


def test_nothing_is_done_twice(killed: Killed) -> None:
    assert killed.last.rc == 0, killed.last.output
    check_tokens_whole(killed.out, "toss", "0.1")
    now = snapshot(killed.out)
    adapters = {name: at for name, at in killed.after_scoring_kill.items() if name.startswith("artifact/references/")}
    assert len(adapters) == 6
    done = receipts(killed.after_scoring_kill, SCORED)
    losses = {name.replace("/receipts", "").replace(".json", ".parquet") for name in done}
    kept = adapters | done | {name: killed.after_scoring_kill[name] for name in losses}
    assert {name: now[name] for name in kept} == kept
    assert "train" not in killed.last.stderr
    assert f"{3 * len(done)} were done before" in killed.last.stderr


def test_the_output_is_that_of_an_undisturbed_run_to_the_byte(killed: Killed) -> None:
    assert killed.calm.rc == 0, killed.calm.output
    calm = killed.folder / "calm"
    check_tokens_whole(calm, "toss", "0.1")
    ours, theirs = ({name for name in snapshot(out) if part_of(name)} for out in (killed.out, calm))
    assert ours == theirs
    assert len(ours) > 2 * SHARDS + 6
    different = [name for name in sorted(ours) if (killed.out / name).read_bytes() != (calm / name).read_bytes()]
    assert different == []


def receipts(states: States, stage: str) -> States:
    return {name: at for name, at in states.items() if name.startswith(f"{stage}/") and name.endswith(".json")}


def part_of(name: str) -> bool:
    return name.split("/")[0] in ("kept", "dropped", "scores", "artifact") and not name.endswith(".tmp")
