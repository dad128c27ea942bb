"""What a person sees of a night of a schedule before its plan: which files are new, and which are not and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from tamis.pipeline.commands.screen_parts import plain
from tamis.pipeline.nights.night import Night

_SHOWN = 10


FINISHED = "files that have come since are for the next night, or for a night that you name with --date"
NOTHING = "nothing is new, and nothing was written"


def in_a_line(night: Night) -> str:
    """The night in one line."""
    if night.state == "finished" or night.listing is None:
        return f"night {night.name} is finished; {FINISHED}"
    if not night.inputs.files and not night.listing.changed:
        return f"night {night.name}: {NOTHING}"
    return f"night {night.name}: {len(night.inputs.files):,} new files, {len(night.listing.covered):,} covered"


def show_night(console: Console, night: Night) -> None:
    """How the files of the input were sorted, and what follows."""
    if night.state == "finished" or night.listing is None:
        console.print(f"night {plain(night.name)} is finished; {FINISHED}", highlight=False)
        return
    found = night.listing
    grid = Table.grid(padding=(0, 2))
    grid.add_row("night", plain(f"{night.name} ({'goes on' if night.state == 'resumed' else 'new'})"))
    grid.add_row("new files", f"{len(night.inputs.files):,}")
    if found.covered:
        by_run = Counter(twin.entry.run for twin in found.covered)
        runs = [f"{run} ({count:,})" for run, count in sorted(by_run.items(), reverse=True)]
        grid.add_row("covered", plain(f"{len(found.covered):,}, by {_some(runs)}"))
    for name, twins, what in (
        ("touched", found.touched, "the same bytes as in"),
        ("delivered twice", found.duplicates, "the bytes of"),
        ("changed", found.changed, "since"),
    ):
        for twin in twins[:_SHOWN]:
            of = f"{twin.entry.url} in " if name == "delivered twice" else ""
            grid.add_row(name, plain(f"{twin.file.name}: {what} {of}night {twin.entry.run}"))
        if len(twins) > _SHOWN:
            grid.add_row(name, f"and {len(twins) - _SHOWN:,} more")
    if night.waiting:
        grid.add_row("for the next night", plain(f"{len(night.waiting):,}: {_some(f.name for f in night.waiting)}"))
    grid.add_row("artifact", plain(artifact_of(night)))
    console.print(grid)
    if not night.inputs.files:
        for note in night.inputs.notes:
            console.print(f"[yellow]warning:[/] {plain(note)}")
        if not found.changed:
            console.print(NOTHING)
    console.print()


def artifact_of(night: Night) -> str:
    """Which artifact the night uses, in words."""
    if night.artifact.refit:
        return f"a new one, first fitted from the captures of {_some(night.artifact.used_by)}"
    used = night.facts.get("artifact")
    return "its own" if used is None else f"that of {used}"


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN:,} more" if len(listed) > _SHOWN else ""
    return f"{', '.join(listed[:_SHOWN])}{more}"
