"""The layers of packages: imports only go down, and operators only compute, without Ray, storage or jobs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OPERATORS = sorted((ROOT / "operators").rglob("*.py"))
# transformers tokenises with tokenizers and renders with jinja2; both are installed with it.
ALLOWED = {"accelerate", "numpy", "peft", "pyarrow", "torch", "transformers", "safetensors", "tokenizers", "jinja2"}


FLOORS = {
    "operators": "problems requests conversation tokens model forward statistics generation methods references "
    "training",
    "pipeline": "terminal errors storage inputs job cluster run labels models planning capture fit references report "
    "emit layers recipes curate nights commands cli",
    "api": "errors shown corpora command finished arguments jobs",
}
"""The packages and the modules next to them, lowest layer first. Modules of api/ are imported as tamis.NAME."""


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of everything from tamis that `file` imports; for a name in a module, that module."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tamis."):
            for alias in node.names:
                name = f"{node.module}.{alias.name}".removeprefix("tamis.")
                is_module = (ROOT / name.replace(".", "/")).with_suffix(".py").exists()
                yield node.lineno, in_its_room(name if is_module else (node.module or "").removeprefix("tamis."))
        elif isinstance(node, ast.ImportFrom) and node.module == "tamis":
            yield from ((node.lineno, "api.__init__") for _ in node.names)
        elif isinstance(node, ast.Import):
            found = [alias.name for alias in node.names if alias.name.split(".")[0] == "tamis"]
            yield from ((node.lineno, in_its_room(name.partition(".")[2])) for name in found)


def in_its_room(name: str) -> str:
    """The module that is imported as tamis.NAME, by its place in the repository."""
    return name if name.split(".")[0] in ("operators", "pipeline") else f"api.{name or '__init__'}"


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def floor_of(module: str) -> tuple[int, int]:
    top, room = module.split(".")[:2]
    return list(FLOORS).index(top), [*FLOORS[top].split(), "__init__"].index(room)


@pytest.mark.parametrize("top", FLOORS)
def test_imports_go_down_only(top: str) -> None:
    broken = []
    for file in sorted((ROOT / top).rglob("*.py")):
        module = module_of(file)
        if module != top:  # the top package's own __init__ belongs to no layer
            up = [(line, name) for line, name in imports(file) if floor_of(name) > floor_of(module)]
            broken += [f"{file.relative_to(ROOT)}:{line} imports {name}, a floor above" for line, name in up]
    assert broken == []


def test_there_is_no_cycle() -> None:
    files = [file for top in FLOORS for file in sorted((ROOT / top).rglob("*.py"))]
    graph = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): {
            name for _, name in imports(file)
        }
        for file in files
    }
    list(TopologicalSorter(graph).static_order())  # CycleError names the modules


def test_the_hall_is_not_a_room() -> None:
    beside = sorted(path.name for path in (ROOT / "pipeline").iterdir() if path.name != "__pycache__")
    assert len([name for name in beside if name not in {"__init__.py", "py.typed"}]) <= 21, beside
    rooms = [path for top in FLOORS for path in (ROOT / top).iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert [room for room in rooms if not ast.get_docstring(ast.parse((room / "__init__.py").read_text()))] == []


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
    """If two modules both spelled out a name, they could come to mean different files."""
    names = re.compile(r"(_work|kept|dropped|quarantine|scores|artifact)/|_work$|(manifest|incomplete)\.json$")
    found = []
    for file in sorted([*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "api").rglob("*.py")]):
        tree = ast.parse(file.read_text())
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
                found += [f"{file.name}:{node.lineno}: {node.value}"] if names.match(node.value) else []
    assert [place for place in found if not place.startswith("paths.py")] == []


@pytest.mark.parametrize(
    "module",
    [
        "operators.tokens.tokenizer",
        "operators.tokens.questions",
        "pipeline.capture.tokenise",
        "pipeline.emit.samples",
        "pipeline.recipes.samples",
    ],
)
def test_what_only_reads_and_writes_imports_no_torch(module: str, tmp_path: Path) -> None:
    """Otherwise each process of a run would spend seconds on the import."""
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
