"""`import tamis`: at once, typed, and from any folder."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tamis
from tamis.pipeline import errors

ROOT = Path(__file__).parents[2]
HEAVY = "{'torch', 'ray', 'transformers', 'datasets', 'pandas', 'pyarrow', 'numpy', 'pydantic', 'typer'}"


def python(code: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_import_loads_nothing(tmp_path: Path) -> None:
    code = f"import sys, tamis; dir(tamis); print(tamis.__version__, sorted({HEAVY} & set(sys.modules)))"
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert python(code, tmp_path) == f"{version} []\n"


def test_the_functions_load_neither_torch_nor_ray(tmp_path: Path) -> None:
    heavy = "{'torch', 'ray', 'transformers', 'datasets'}"
    code = f"import sys; from tamis import *; print(sorted({heavy} & set(sys.modules)))"
    assert python(code, tmp_path) == "[]\n"


def test_the_import_leaves_the_process_as_it_is(tmp_path: Path) -> None:
    code = """
import logging, os, signal, sys, threading, warnings
def state():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    hooks = [sys.excepthook, sys.unraisablehook, threading.excepthook, logging.lastResort, logging.raiseExceptions]
    return [*handlers, *hooks, warnings.showwarning, dict(os.environ), threading.active_count(), sys.stderr, sys.stdout]
before = state()
import tamis
from tamis import *
try:
    tamis.curate([{"a": "b"}], method="nothing", output="out")
except tamis.errors.ConfigError as error:
    print(error)
print(state() == before)
"""
    said = python(code, tmp_path)
    assert "method" in said
    assert said.endswith("True\n")
    assert list(tmp_path.iterdir()) == []


def test_every_name_is_there_and_no_other() -> None:
    assert dir(tamis) == sorted(tamis.__all__)
    assert all(getattr(tamis, name) is not None for name in tamis.__all__)
    with pytest.raises(AttributeError, match="no attribute 'curat'"):
        _ = tamis.curat  # type: ignore[attr-defined]


def test_the_errors_are_those_of_the_pipeline() -> None:
    kinds = {kind.__name__: kind for kind in errors.TamisError.__subclasses__()}
    assert {name: getattr(tamis.errors, name) for name in tamis.errors.__all__} == {
        "TamisError": errors.TamisError,
        **kinds,
    }


def test_the_wheel_has_every_module_and_the_types() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["package-dir"]["tamis"] == "api"
    assert settings["package-data"]["tamis"] == ["py.typed"]
    assert (ROOT / "api" / "py.typed").read_text() == ""
    for top in ("operators", "pipeline"):
        folders = {file.parent for file in (ROOT / top).rglob("__init__.py")}
        names = {
            ".".join(["tamis", *folder.relative_to(ROOT).parts]): str(folder.relative_to(ROOT)) for folder in folders
        }
        assert {key: value for key, value in settings["package-dir"].items() if value.split("/")[0] == top} == names
        assert set(names) <= set(settings["packages"])
