"""Ray's own processes are killed while a command that started them is running."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from command import kill_all, poll, start, tamis
from outputs import alpaca_rows, check_whole, write_jsonl

pytestmark = pytest.mark.long


def test_a_killed_raylet_is_named_and_the_run_goes_on(tmp_path: Path, slow_model: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", alpaca_rows(200, 1))
    words = ["curate", "--input", "rows.jsonl", "--output", "out", "--model", str(slow_model), "--method", "larf"]
    words += ["--set", "larf.layer=4", "--drop-count", "2", "--set", "shard_rows=10"]
    said = tmp_path / "said"
    command = start(*words, cwd=tmp_path, said=said)
    try:
        poll((tmp_path / "out" / "_work").exists, command, "work")
        [raylet] = [child for child in psutil.Process(command.pid).children(recursive=True) if child.name() == "raylet"]
        folder = next(word for word in raylet.cmdline() if word.startswith("--temp_dir=")).removeprefix("--temp_dir=")
        raylet.kill()
        assert command.wait(60) == 5, said.read_text()
    finally:
        if command.poll() is None:
            kill_all(command)
    lines = said.read_text().splitlines()
    assert [line for line in lines if line.startswith("error: ")] == [
        "error: Ray's raylet on this machine was killed; memory may have run out. What is done stays done; run the "
        "same command again to go on"
    ]
    assert "Traceback" not in said.read_text()
    assert not Path(folder).parent.exists()
    again = tamis(*words, cwd=tmp_path)
    assert again.rc == 0, again.output
    check_whole(tmp_path / "out", ["larf"])
