"""benchmarks/startup.py reads what every process notes of its own start."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import startup  # noqa: E402
from startup import Note  # noqa: E402


def traced() -> Any:
    """The module by its file: Python may have imported another one of this name when it started."""
    spec = importlib.util.spec_from_file_location("traced", BENCHMARKS / "traced" / "sitecustomize.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_step_that_is_noted_is_where_the_notes_look_for_it(tmp_path: Path) -> None:
    calls = traced().CALLS
    path = os.pathsep.join([str(BENCHMARKS / "traced"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "STARTUP_TRACE": str(tmp_path)}
    # A function that has moved is an AttributeError.
    subprocess.run([sys.executable, "-P", "-c", f"import {', '.join(calls)}"], env=environment, check=True)
    [notes] = startup.read_notes(tmp_path, 0.0).values()
    assert notes[0].name == "python"
    assert {f"import {module}" for module in calls} <= {note.name for note in notes}
    assert all(note.began <= note.ended for note in notes)


def test_an_import_within_another_counts_once() -> None:
    notes = {
        "import torch": Note("import torch", 1.0, 3.0, 1.5),
        "import transformers": Note("import transformers", 4.0, 5.0, 0.5),
        startup.LOADED[2]: Note(startup.LOADED[2], 0.5, 6.0, 4.0),
    }
    assert startup.together(notes) == {"s": 5.5, "at": 6.0, "cpu": 4.0}
    assert startup.together({}) == {"s": 0, "at": 0.0, "cpu": 0}


def test_a_line_that_is_being_written_waits(tmp_path: Path) -> None:
    (tmp_path / "7.jsonl").write_text('["python", 10.0, 10.5, 0.25]\n["make_plan", 11.0, 1')
    assert startup.read_notes(tmp_path, 10.0) == {7: [Note("python", 0.0, 0.5, 0.25)]}


@pytest.mark.parametrize("name", [startup.FIRST, "make_plan"])
def test_the_first_shard_is_the_sign(name: str) -> None:
    assert startup.captured({1: [Note(name, 0.0, 1.0, 0.5)]}) == (name == startup.FIRST)
