"""What a person sees on the terminal of a run that masks tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tamis.pipeline.commands.screen_parts import counts_table, plain, rates
from tamis.pipeline.run.paths import KEPT, REFERENCES, REPORT
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.text import shown


def show_references(console: Console, references: Sequence[Mapping[str, Any]], store: Store) -> None:
    """The reference models: what they were trained on, and how the training changed their loss."""
    table = Table(box=None, pad_edge=False)
    for name in ("model", "from", "rows", "response tokens", "steps", "first loss", "last loss"):
        table.add_column(name, justify="left" if name in ("model", "from") else "right", overflow="fold")
    for item in references:
        curve = item["curve"]
        losses = [f"{curve[place]['loss']:.4f}" for place in (0, -1)] if curve else ["", ""]
        counts = ["" if item[key] is None else f"{item[key]:,}" for key in ("rows", "response_tokens", "steps")]
        table.add_row(plain(item["name"]), plain(f"{item['how']}: {item['source']}"), *counts, *losses)
    console.print(table)
    console.print()
    console.print(f"models   {shown(store.path(REFERENCES))}", soft_wrap=True, markup=False, highlight=False)


def show_token_outcome(console: Console, manifest: Mapping[str, Any], store: Store) -> None:
    """The summary at the end of a run: rows, tokens, the cut, the reference models, and where to look."""
    counts, tokens, timings = manifest["counts"], manifest["tokens"], manifest["timings"]
    console.print(f"[bold]{plain(manifest['title'])}[/]", highlight=False)
    table = counts_table(counts)
    table.add_row("response tokens", f"{tokens['response']:,}", "")
    share = tokens["discarded"] / max(tokens["response"], 1)
    table.add_row("discarded tokens", f"{tokens['discarded']:,}", f"{share:.1%}")
    console.print(table)
    console.print()
    grid = Table.grid(padding=(0, 2))
    cut = "" if tokens["cut"] is None else f"; the cut is at risk {tokens['cut']:.6g}"
    grid.add_row("selection", plain(f"{tokens['requested']:g} of the response tokens, {tokens['scope']}{cut}"))
    for item in manifest["rounds"]:
        overlap = "" if item["overlap"] is None else f", {item['overlap']:.0%} of its discards are final"
        grid.add_row(plain(f"round {item['round']}"), f"{item['added']:,} samples added{overlap}")
    for stage, timing in timings.items():
        if stage in ("plan", "ray_start", "model_load", "total"):
            continue
        grid.add_row(plain(stage), rates(timing))
    overheads = {"plan": "plan", "ray_start": "Ray's start", "model_load": "model load"}
    extra = [f"{label} {timings[key]['seconds']:.1f} s" for key, label in overheads.items() if key in timings]
    grid.add_row("all in all", f"{timings['total']['seconds']:.1f} s ({', '.join(extra)})")
    for code, facts in manifest["quarantine_codes"].items():
        grid.add_row("quarantined", plain(f"{facts['rows']:,} × {code}: {facts['message']}"))
    console.print(grid)
    console.print()
    show_references(console, manifest["references"], store)
    for warning in manifest["warnings"]:
        console.print(f"[yellow]warning:[/] {plain(warning)}")
    console.print(f"report   {shown(store.path(REPORT))}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"corpus   {shown(store.path(KEPT))}/*.parquet", soft_wrap=True, markup=False, highlight=False)
