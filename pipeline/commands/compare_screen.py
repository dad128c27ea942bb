"""`tamis compare` on a terminal, and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from rich.console import Console
from rich.table import Table

from tamis.pipeline.commands.compare import MOST_SHOWN, Compared, texts_of
from tamis.pipeline.commands.compare_page import page
from tamis.pipeline.commands.screen_parts import plain
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.planning.plan import place_of
from tamis.pipeline.report import text
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import phase

PAGE, NUMBERS = "compare.html", "compare.json"


def files_of(
    output: str, runs: list[Store], options: Mapping[str, Any], *, force: bool
) -> dict[str, tuple[Store, str]]:
    """Where the page and the numbers go: (store, name), by PAGE and NUMBERS. output: a folder, or a file .html (with
    the numbers beside it) or .json (alone). ConfigError for a file that is there, or a place inside a run."""
    path = PurePosixPath(output)
    stem = {".html": (".html", ".json"), ".json": (".json",)}.get(path.suffix)
    if stem is None:
        store, found = Store(output, options), {PAGE: PAGE, NUMBERS: NUMBERS}
    else:
        folder = output.removesuffix(path.name) or "."
        store = Store(folder, options)
        kinds = {".html": PAGE, ".json": NUMBERS}
        found = {kinds[suffix]: f"{path.stem}{suffix}" for suffix in stem}
    for run in runs:
        if place_of(store.url).startswith(place_of(run.url)):
            raise ConfigError(f"--output {output} lies in the run {run.path()}; choose another place")
    if not force:
        there = [store.path(name) for name in found.values() if store.exists(name)]
        if there:
            raise ConfigError(f"--output: {there[0]} is there already; choose another place, or add --force")
    return {kind: (store, name) for kind, name in found.items()}


def write(found: Compared, files: Mapping[str, tuple[Store, str]]) -> dict[str, str]:
    """Write the page and the numbers. Where each lies, as `page` and `numbers`."""
    written = {}
    if PAGE in files:
        phase("compare", "reading the texts for the page")
        texts = texts_of(found, MOST_SHOWN)
        store, name = files[PAGE]
        store.write(name, page(found.figures, found.alone, texts).encode("utf-8"))
        written["page"] = store.path(name)
    if NUMBERS in files:
        store, name = files[NUMBERS]
        store.write(name, (json.dumps(found.figures, indent=2, allow_nan=False) + "\n").encode())
        written["numbers"] = store.path(name)
    return written


def in_a_line(figures: Mapping[str, Any]) -> str:
    """The outcome in one line."""
    pairs = [
        f"{' and '.join(pair['runs'])} both drop {pair['both']:,} (Jaccard {text.score(pair['jaccard'], 3)})"
        for pair in figures["pairs"]
    ]
    return f"{figures['rows']['shared']:,} rows: {'; '.join(pairs)}"


def show_compared(console: Console, figures: Mapping[str, Any], written: Mapping[str, str]) -> None:
    """The figures as tables; no texts."""
    names = [run["name"] for run in figures["runs"]]
    runs = _table("run", "folder", "what falls", "kept>", "dropped>", "quarantined>")
    for run in figures["runs"]:
        counts = [f"{run[name]:,}" for name in ("kept", "dropped", "quarantined")]
        runs.add_row(run["name"], plain(run["path"]), plain(f"{run['how']} by {run['selected_by']}"), *counts)
    pairs = _table("runs", "both>", "by chance>", "only the first>", "only the second>", "Jaccard>")
    for pair in figures["pairs"]:
        pairs.add_row(
            " and ".join(pair["runs"]),
            f"{pair['both']:,}",
            text.score(pair["both_by_chance"], 3),
            *(f"{count:,}" for count in pair["only"]),
            text.score(pair["jaccard"], 3),
        )
    ranks = _table("score", "against", "Spearman>", "")
    for pair in figures["ranks"]:
        a, b = ([pair[side]["run"], pair[side]["method"]] for side in ("a", "b"))
        rho = text.UNKNOWN if pair["spearman"] is None else f"{pair['spearman']:+.3f}"
        same = "the same scores to the bit" if pair["identical"] else "the same method" if pair["same_method"] else ""
        ranks.add_row(plain(", ".join(a)), plain(", ".join(b)), rho, same)
    shares = _table("dropped of", *(f"{name}>" for name in names))
    for source in figures["sources"]:
        shares.add_row(plain(source["source"]), *_shares(source))
    if "other_sources" in figures:
        shares.add_row(f"{figures['other_sources']['sources']:,} other files", *_shares(figures["other_sources"]))
    for tenth in figures["length_deciles"]:
        shares.add_row(f"answers of {tenth['low']:,} to {tenth['high']:,} tokens", *_shares(tenth))
    for table in (runs, pairs, ranks, shares):
        console.print(table)
        console.print()
    alone = ", ".join(f"{own['run']} {own['rows']:,}" for own in figures["alone"])
    console.print(f"dropped by one run alone: {alone} rows", highlight=False)
    for note in figures["notes"]:
        console.print(f"note: {plain(note)}", highlight=False)
    for name, path in written.items():
        console.print(f"{name:<8} {plain(path)}", soft_wrap=True, highlight=False)


def _shares(counts: Mapping[str, Any]) -> list[str]:
    return [text.share(dropped, rows) for dropped, rows in zip(counts["dropped"], counts["rows"], strict=True)]


def _table(*names: str) -> Table:
    """names: of the columns; those of numbers end in >."""
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name.removesuffix(">"), justify="right" if name.endswith(">") else "left", overflow="fold")
    return table
