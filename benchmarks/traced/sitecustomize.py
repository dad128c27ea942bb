"""Python imports this module by itself in every process whose PYTHONPATH holds this folder: it notes when what counts
for a start began and ended. benchmarks/startup.py reads the notes.

A note is a line of JSON in a file per process, in the folder STARTUP_TRACE: [name, began, ended, CPU seconds], by
the clock that all processes of the machine share. Without STARTUP_TRACE nothing happens.
"""

from __future__ import annotations

import functools
import importlib.abc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

IMPORTS = {"torch", "transformers", "ray", "ray.data", "tamis.pipeline.curate"}
ENGINE = ("tamis.operators.model.architecture", "tamis.operators.forward.representations")
"""These import the parts of torch and transformers that those leave for later."""

CALLS = {
    "tamis.pipeline.planning.plan": ["make_plan"],
    "tamis.pipeline.cluster.session": ["_init"],
    "tamis.pipeline.capture.graph": ["_graph"],
    "tamis.pipeline.capture.worker": ["ModelWorker.__init__", "ModelWorker._start", "ModelWorker._capture"],
    "tamis.pipeline.capture.driver": ["Forward.load"],
    "tamis.pipeline.capture.tokenise": ["tokenise_shard"],
}
"""Module -> functions of it that are noted, too."""


class Finder(importlib.abc.MetaPathFinder):
    """Finds what the others find, and notes the import."""

    def __init__(self, note: Callable[[str, float, float], None]) -> None:
        self.note = note
        self.left = {*IMPORTS, *ENGINE, *CALLS}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.left:
            return None
        self.left.discard(fullname)
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((found for found in others if found is not None), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def noted(module: ModuleType) -> None:
                began, cpu = time.time(), time.process_time()
                load(module)
                self.note(f"import {fullname}", began, cpu)
                for call in CALLS.get(fullname, ()):
                    wrap(module, call, self.note)

            spec.loader.exec_module = noted  # type: ignore[method-assign]
        return spec


def wrap(module: ModuleType, path: str, note: Callable[[str, float, float], None]) -> None:
    *within, name = path.split(".")
    owner: Any = functools.reduce(getattr, within, module)
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def noted(*arguments: Any, **named: Any) -> Any:
        began, cpu = time.time(), time.process_time()
        try:
            return inner(*arguments, **named)
        finally:
            note(path, began, cpu)

    setattr(owner, name, noted)


def begin(folder: Path) -> None:
    notes = (folder / f"{os.getpid()}.jsonl").open("a", buffering=1)

    def note(name: str, began: float, cpu: float) -> None:
        notes.write(json.dumps([name, began, time.time(), time.process_time() - cpu]) + "\n")

    note("python", time.time(), 0.0)
    sys.meta_path.insert(0, Finder(note))


if "STARTUP_TRACE" in os.environ:
    begin(Path(os.environ["STARTUP_TRACE"]))
