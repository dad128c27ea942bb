"""Parts of the terminal summaries that all kinds of runs share."""

from __future__ import annotations

from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table

from tamis.pipeline.terminal.text import shown


def plain(value: object) -> str:
    """`value`, which comes from outside, for a console with markup: one line without any styling."""
    return escape(shown(value))


def counts_table(counts: Mapping[str, int]) -> Table:
    """Rows read, kept, dropped, quarantined, in failed shards, and truncated, each with its share."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    table.add_column(justify="right")
    total = max(counts["rows_in"], 1)
    table.add_row("rows read", f"{counts['rows_in']:,}", "")
    for name in ("kept", "dropped", "quarantined"):
        table.add_row(name, f"{counts[name]:,}", f"{counts[name] / total:.1%}")
    if counts.get("failed"):
        table.add_row("set aside", f"{counts['failed']:,}", f"{counts['failed'] / total:.1%}")
    if counts["truncated"]:
        table.add_row("cut to max_tokens", f"{counts['truncated']:,}", f"{counts['truncated'] / total:.1%}")
    return table


def rates(timing: Mapping[str, float]) -> str:
    """How long a stage took, and how fast it was."""
    parts = [f"{timing['seconds']:.1f} s"]
    if timing.get("rows_per_second"):
        parts.append(f"{timing['rows_per_second']:,.0f} rows/s")
    if timing.get("tokens_per_second"):
        parts.append(f"{timing['tokens_per_second']:,.0f} tokens/s")
    return ", ".join(parts)
