"""A machine that Ray considers out of memory: Ray ends the command's workers, whatever they do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import tamis
from outputs import alpaca_rows, check_whole, write_jsonl

pytestmark = pytest.mark.long

PRESSED = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}


def test_it_ends_in_few_lines_and_goes_on_where_there_is_memory(tmp_path: Path, tiny_model: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", alpaca_rows(12, 1))
    words = ["curate", "--input", "rows.jsonl", "--output", "out", "--model", str(tiny_model), "--method", "larf"]
    words += ["--set", "larf.layer=1", "--drop-count", "2"]
    ran = tamis(*words, "--set", "cluster_patience=5", cwd=tmp_path, env=PRESSED)
    assert ran.rc == 5, ran.output
    [line] = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert "run the same command again" in ran.stderr
    assert "memory" in line
    again = tamis(*words, cwd=tmp_path)
    assert again.rc == 0, again.output
    check_whole(tmp_path / "out", ["larf"])
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["complete"]
