"""Make `tamis.operators` of this checkout importable where tamis is not installed.

The folders stand at the root of the repository under other names than they are imported by, so that putting the root
on sys.path is not enough. Import this module before anything of tamis.operators.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def make_importable(root: Path = ROOT) -> None:
    """Leave an installed tamis alone; else import tamis.operators from `root`/operators."""
    if importlib.util.find_spec("tamis") is not None and importlib.util.find_spec("tamis.operators") is not None:
        return
    folder = root / "operators"
    spec = importlib.util.spec_from_file_location(
        "tamis.operators", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    parent = types.ModuleType("tamis")
    parent.__path__ = []
    operators = importlib.util.module_from_spec(spec)
    sys.modules |= {"tamis": parent, "tamis.operators": operators}
    spec.loader.exec_module(operators)
    parent.operators = operators  # type: ignore[attr-defined]


make_importable()
