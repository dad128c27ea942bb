"""The screen of `tamis plan --from`: the vectors that a finished run has kept, and which of them the methods read."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from tamis.operators.requests import Request
from tamis.pipeline.commands.screen_parts import plain
from tamis.pipeline.commands.screens import STATES, size
from tamis.pipeline.planning.refitting import Read
from tamis.pipeline.recipes.from_kept import KeptPlan


def show_kept_plan(console: Console, found: KeptPlan) -> None:
    """What is read of the run, which vectors suffice and which are missing, the cut and the output."""
    grid = Table.grid(padding=(0, 2))
    for name, said in lines_of(found):
        if said:
            grid.add_row(name, plain(said))
    console.print(grid)
    for note in found.wanted.notes if found.wanted is not None else ():
        console.print(f"[yellow]warning:[/] {plain(note)}")
    console.print()


def lines_of(found: KeptPlan) -> list[tuple[str, str]]:
    """(what, in words), in the order of the screen."""
    parent, wanted = found.parent, found.wanted
    model = parent.manifest["model"]
    spare = [request for request in found.captured if request not in {each.request for each in found.reads}]
    said = [
        ("from", f"{parent.store.path()}, a finished run of {', '.join(parent.methods)}"),
        ("rows", f"{found.rows:,} in {len(parent.shards):,} shards, with {size(found.bytes)} of captures"),
        ("model", f"{model['name']}, {model['blocks']} blocks x {model['width']}; it is not opened"),
        ("captured", _listed([each for each in found.reads if each.there])),
        ("missing", _listed([each for each in found.reads if not each.there])),
        ("not read", ", ".join(map(_pair, spare))),
    ]
    if wanted is None or found.state is None:
        return said
    job = wanted.job
    rule, amount = job.selection.rule
    return [
        *said,
        ("references", ", ".join(f"{role} (captured as {there})" for role, there in wanted.roles.items()) or "none"),
        ("drop", f"{rule.replace('_', ' ')} {amount:g}, by {job.selected_by}"),
        ("output", f"{job.output} ({STATES[found.state]})"),
    ]


def words_of(found: KeptPlan) -> str:
    """The plan in one line."""
    missing = _listed([each for each in found.reads if not each.there])
    if missing:
        return f"{found.rows:,} rows; missing: {missing}"
    words = f"{found.rows:,} rows with all vectors that are read"
    return f"{words}, and the run would fail" if found.refused is not None else f"{words}; the output is {found.state}"


def facts_of(found: KeptPlan) -> dict[str, Any]:
    """The plan as values, in the keys of any plan."""
    wanted, model = found.wanted, found.parent.manifest["model"]
    return {
        "state": found.state,
        "rows": found.rows,
        "shards": len(found.parent.shards),
        "bytes": found.bytes,
        "methods": list(dict.fromkeys(each.method for each in found.reads)),
        "model": model["name"],
        "blocks": model["blocks"],
        "width": model["width"],
        "output": None if wanted is None else wanted.job.output,
        "will_fail": found.refused is not None,
    }


def facts_alone(found: KeptPlan) -> dict[str, Any]:
    """What `--json` says besides."""
    return {
        "from": found.parent.store.path(),
        "captured": [request.column for request in found.captured],
        "reads": [_read(each) for each in found.reads],
        "warnings": [] if found.wanted is None else list(found.wanted.notes),
    }


def _read(each: Read) -> dict[str, Any]:
    column = None if each.request is None else each.request.column
    return {"method": each.method, "column": column, "there": each.there}


def _listed(reads: list[Read]) -> str:
    return "; ".join(f"{each.method}: {_pair(each.request)}" for each in reads)


def _pair(request: Request | None) -> str:
    if request is None:
        return "the block that a search with the model finds"
    return f"block {request.block} (0-based), {request.position}"
