"""The wall between the rooms: operators compute and know nothing of Ray, storage or jobs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OPERATORS = sorted((ROOT / "operators").rglob("*.py"))
# tokenizers and jinja2 are how transformers tokenises and renders; they come with it.
ALLOWED = {"accelerate", "numpy", "peft", "pyarrow", "torch", "transformers", "safetensors", "tokenizers", "jinja2"}


@pytest.mark.parametrize("file", OPERATORS, ids=lambda file: str(file.relative_to(ROOT)))
def test_operators_import_only_what_they_may(file: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    strangers = {
        name
        for name in imported
        if name.split(".")[0] not in ALLOWED | sys.stdlib_module_names and not name.startswith("tamis.operators")
    }
    assert not strangers


def test_what_lies_in_an_output_is_named_in_one_place() -> None:
    """Two modules that spell one name could come to mean two files."""
    names = re.compile(r"(_work|kept|dropped|quarantine|scores|artifact)/|_work$|(manifest|incomplete)\.json$")
    found = []
    for file in sorted((ROOT / "pipeline").rglob("*.py")):
        tree = ast.parse(file.read_text())
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
                found += [f"{file.name}:{node.lineno}: {node.value}"] if names.match(node.value) else []
    assert [place for place in found if not place.startswith("paths.py")] == []


@pytest.mark.parametrize(
    "module", ["operators.tokens", "operators.questions", "pipeline.tokenising", "pipeline.emit", "pipeline.samples"]
)
def test_what_only_reads_and_writes_imports_no_torch(module: str, tmp_path: Path) -> None:
    """Each process of a run would spend seconds on it."""
    code = f"import sys, tamis.{module}; print(sorted({{'torch', 'transformers', 'datasets'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_operators_work_where_ray_is_not_installed(tmp_path: Path) -> None:
    modules = [".".join(["tamis", *file.relative_to(ROOT).with_suffix("").parts]) for file in OPERATORS]
    modules = [name.removesuffix(".__init__") for name in modules]
    blocked = "import sys, importlib; sys.modules['ray'] = sys.modules['pydantic'] = sys.modules['typer'] = None"
    code = "\n".join([blocked, *[f"importlib.import_module({name!r})" for name in modules]])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
