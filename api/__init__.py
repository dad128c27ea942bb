"""tamis from Python: what the command does, as functions.

    import tamis

    run = tamis.curate(rows, model="path/to/model", method="contrast", drop=0.1, output="out/")
    run.kept, run.dropped, run.scores, run.report()

docs/python.md shows all of it. A name is imported when it is first used, so that `import tamis` takes no time. This is
the third room, above the pipeline; nothing in the other two imports it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tamis import errors as errors
    from tamis.finished import Exported, Report, Run, evaluate, export, load, select
    from tamis.jobs import Plan, curate, plan

    __version__: str

_HOMES = {
    **dict.fromkeys(("Plan", "curate", "plan"), "tamis.jobs"),
    **dict.fromkeys(("Exported", "Report", "Run", "evaluate", "export", "load", "select"), "tamis.finished"),
}

__all__ = [
    "Exported",
    "Plan",
    "Report",
    "Run",
    "__version__",
    "curate",
    "errors",
    "evaluate",
    "export",
    "load",
    "plan",
    "select",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        found: Any = version("tamis")
    elif name == "errors":
        found = importlib.import_module("tamis.errors")
    elif name in _HOMES:
        found = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return list(__all__)
