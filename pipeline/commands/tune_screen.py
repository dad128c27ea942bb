"""What `tamis tune` has found, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from tamis.pipeline.commands.evaluate_screen import number, table_of
from tamis.pipeline.commands.screen_parts import plain

_MOST = 30


def show_tuning(console: Console, found: Mapping[str, Any]) -> None:
    """The ways, best first, and the fragment of the best."""
    labels, halves = found["labels"], found["halves"]
    console.print(
        plain(
            f"{found['output']}: {labels['labelled']:,} of {labels['rows']:,} rows labelled by {labels['from']}; "
            + "; ".join(
                f"{name} by {halves[key]['harmful']:,} harmful and {halves[key]['harmless']:,} harmless rows"
                for name, key in (("chosen", "chosen"), ("confirmed", "confirmed"))
            )
        ),
        highlight=False,
    )
    console.print()
    table = table_of("method", "block", "position", "k", "AUROC, choosing", "AUROC, confirming", "equal length")
    for way in found["ways"][:_MOST]:
        cells = [way["layer"], way["position"], way["k"]]
        table.add_row(
            plain(way["method"] + (" *" if way["current"] else "")),
            *("" if cell is None else plain(cell) for cell in cells),
            *_figures(way),
        )
    table.add_row("answer length", "", "", "", *_figures(found["answer_length"]))
    console.print(table)
    if len(found["ways"]) > _MOST:
        console.print(f"... and {len(found['ways']) - _MOST:,} more; --json has all", highlight=False)
    console.print("\n95 % intervals; * decided in this run; equal length: confirming, among lengths within 10 %\n")
    difference = found["above_current"]
    if difference is not None:
        low, high = difference["interval"]
        console.print(
            f"the best minus *, confirming: {difference['value']:+.3f} ({low:+.3f} to {high:+.3f})", highlight=False
        )
    for line in found["left_out"]:
        console.print(plain(f"left out: {line}"), highlight=False, soft_wrap=True)
    for note in found["notes"]:
        console.print(plain(f"note: {note}"), highlight=False, soft_wrap=True)
    console.print()
    console.print(plain_lines(found["fragment"]), highlight=False, soft_wrap=True)


def plain_lines(text: str) -> str:
    return "\n".join(plain(line) for line in text.splitlines())


def in_a_line(found: Mapping[str, Any]) -> str:
    best = found["ways"][0]
    where = " ".join(str(best[key]) for key in ("layer", "position", "k") if best[key] is not None)
    return f"best of {len(found['ways']):,} ways: {best['method']} {where}, AUROC {number(best['confirmed']['auroc'])}"


def _figures(way: Mapping[str, Any]) -> list[str]:
    return [number(way["chosen"]["auroc"]), number(way["confirmed"]["auroc"]), number(way["confirmed"]["equal_length"])]
