"""What can be said of benchmarks/gpu.sh without a GPU: it runs, it finds its tests, and its wheels can be installed."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
sys.path.insert(0, str(ROOT / "benchmarks"))

import wheels  # noqa: E402


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


# --- the script ---------------------------------------------------------------------------------------------------


def test_it_is_valid_bash() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


def test_help_names_every_option_that_the_script_takes() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    for option in ("--wheels", "--python", "--limit-mb", "--out", "--from-wheels", "--seconds", "--cpu", "--only"):
        assert f"{option} " in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nonsense"], "what is --nonsense?"),
        (["--out"], "--out needs a value"),
        (["--seconds", "soon"], "--seconds soon is no whole number"),
        (["--from-wheels", "/nowhere"], "--from-wheels /nowhere is no folder"),
        (["--only", "forwards"], "--only forwards: there is no step forwards"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_run(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = run(*arguments, OUT=str(tmp_path / "out"))
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "out").exists()


def test_it_makes_an_environment_runs_a_step_and_says_what_came_of_it(tmp_path: Path) -> None:
    done = run("--cpu", "--only", "environment", "--out", str(tmp_path), PYTHON=sys.executable)
    assert done.returncode == 0, done.stdout + (tmp_path / "gpu.log").read_text()
    assert '"torch"' in (tmp_path / "environment.json").read_text()
    steps = (tmp_path / "steps.jsonl").read_text().splitlines()
    assert [(line.split('"')[3], '"outcome": "ok"' in line) for line in steps] == [
        ("install", True),
        ("environment", True),
    ]


def test_a_failed_step_is_told_with_its_last_line(tmp_path: Path) -> None:
    (tmp_path / "environment.json").mkdir()  # so that it cannot be written
    done = run("--cpu", "--only", "environment", "--out", str(tmp_path), PYTHON=sys.executable)
    assert done.returncode == 1
    assert re.search("environment +[0-9]+s +failed +exit 1: IsADirectoryError", done.stdout)


def test_a_step_for_which_no_time_is_left_is_skipped_and_said_to_be(tmp_path: Path) -> None:
    done = run("--cpu", "--only", "environment", "--seconds", "0", "--out", str(tmp_path), PYTHON=sys.executable)
    assert done.returncode == 0
    assert re.search("environment +0s +skipped +only .* s are left for it", done.stdout)


def test_the_marker_is_on_every_test_that_needs_a_gpu() -> None:
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text()
        skipped = len(re.findall('skipif.*reason="needs (?:a|two) CUDA devices?"', text))
        assert text.count("@pytest.mark.gpu\n@pytest.mark.skipif") == skipped * (path != Path(__file__)), path


def test_the_marker_selects_at_least_thirteen_tests() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    command += ["tests/operators/forward/test_representations.py", "tests/operators/forward/test_packing.py"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert sum("::" in line for line in listed.splitlines()) >= 13


# --- the wheels ---------------------------------------------------------------------------------------------------


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel with a program, a large file, and something that nobody needs."""
    files = {
        "sieve/__init__.py": b"MESH = 7\n",
        "sieve/program": b"#!/bin/sh\necho sieved\n",
        "sieve/large.txt": b"flour " * 400_000,
        "sieve/jars/heavy.jar": os.urandom(100_000),
        "sieve-1.5.dist-info/METADATA": b"Metadata-Version: 2.1\nName: sieve\nVersion: 1.5\n",
        "sieve-1.5.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, "sieve-1.5.dist-info/RECORD"])
    path = tmp_path / "sieve-1.5-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as target:
        for name, content in {**files, "sieve-1.5.dist-info/RECORD": record.encode()}.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o100755 if name.endswith("program") else 0o100644) << 16
            target.writestr(entry, content)
    return path


def test_a_slim_wheel_lacks_what_was_named_and_its_record_lists_the_rest(wheel: Path) -> None:
    before = wheel.stat().st_size
    smaller = wheels.slim(wheel, ("sieve/jars/",))
    assert smaller.name == "sieve-1.5-1slim-py3-none-any.whl"
    assert not wheel.exists()
    assert smaller.stat().st_size < before / 10
    with zipfile.ZipFile(smaller) as opened:
        assert opened.testzip() is None
        names = opened.namelist()
        record = opened.read("sieve-1.5.dist-info/RECORD").decode()
        assert opened.getinfo("sieve/program").external_attr >> 16 & 0o111
    assert "sieve/jars/heavy.jar" not in names
    assert sorted(row[0] for row in csv.reader(io.StringIO(record))) == sorted(names)


def test_pip_installs_a_slim_wheel(wheel: Path, tmp_path: Path) -> None:
    wheels.slim(wheel, ("sieve/jars/",))
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", str(tmp_path)]
    subprocess.run([*command, "--target", str(target), "sieve==1.5"], check=True, capture_output=True)
    assert (target / "sieve" / "large.txt").read_bytes() == b"flour " * 400_000
    assert os.access(target / "sieve" / "program", os.X_OK)
    assert not (target / "sieve" / "jars").exists()


def test_what_was_asked_for_comes_first_and_then_the_small_before_the_large(tmp_path: Path) -> None:
    sizes = {"ray-2.60.0-1slim-cp312.whl": 40, "pandas-3.1-cp312.whl": 12, "six-1-py3.whl": 1, "pydantic-2-py3.whl": 5}
    taken, left = wheels.choose({tmp_path / name: size for name, size in sizes.items()}, 50)
    assert [wheels.project(path) for path in taken] == ["pydantic", "ray", "six"]
    assert [wheels.project(path) for path in left] == ["pandas"]


def test_missing_are_the_wheels_of_projects_that_are_not_installed(wheel: Path) -> None:
    (wheel.parent / "PyYAML-1.0-py3-none-any.whl").touch()
    assert wheels.missing(wheel.parent) == [wheel]
