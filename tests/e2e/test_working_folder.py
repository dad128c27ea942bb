"""Nothing from the folder where tamis is started is imported, whatever it contains: neither here nor in the workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command import DEADLINE, tamis
from outputs import alpaca_rows, check_whole, write_jsonl

NAMES = ("torch", "statistics", "json", "ray", "pyarrow", "datasets", "data")
"""Modules of Python and of libraries, and possible names of a data set's own folder."""

TRAP = "import os\nopen({folder!r} + '/trapped', 'a').write(__name__ + '\\n')\nraise SystemExit('trapped')\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set, as downloaded."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(TRAP.format(folder=str(tmp_path)))
    for name in ("transformers", "numpy", "tamis"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(TRAP.format(folder=str(tmp_path)))
    write_jsonl(tmp_path / "data" / "rows.jsonl", alpaca_rows(12, 1))
    return tmp_path


def arguments(model: Path) -> list[str]:
    words = ["curate", "--input", "data/rows.jsonl", "--output", "out", "--model", str(model), "--method", "larf"]
    return [*words, "--set", "larf.layer=1", "--drop-count", "2"]


def check(folder: Path) -> None:
    trapped = folder / "trapped"
    assert not trapped.exists(), trapped.read_text()
    check_whole(folder / "out", ["larf"])


def test_with_a_ray_of_its_own(folder: Path, tiny_model: Path) -> None:
    ran = tamis(*arguments(tiny_model), cwd=folder)
    assert ran.rc == 0, ran.output
    check(folder)


def test_on_a_cluster(folder: Path, tiny_model: Path, ray_address: str) -> None:
    ran = tamis(*arguments(tiny_model), "--address", ray_address, cwd=folder)
    assert ran.rc == 0, ran.output
    check(folder)


def test_as_a_module(folder: Path, tiny_model: Path, ray_address: str) -> None:
    """In this case Python puts the working folder first, before any code of tamis runs."""
    (folder / "tamis" / "__init__.py").unlink()  # would be found before ours, whatever we do
    (folder / "json.py").unlink()  # Python itself imports json before our code runs
    words = [sys.executable, "-m", "tamis.pipeline.cli", *arguments(tiny_model), "--address", ray_address]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    check(folder)
