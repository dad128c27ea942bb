"""What `tamis evaluate` has found, for people: a table a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tamis.pipeline.commands.screen_parts import plain

_SHARES = ("precision", "recall", "harmless_dropped_share", "harmful_share_kept")


def show_evaluation(console: Console, found: Mapping[str, Any]) -> None:
    """Every figure that is not of a single decile and method; those are in the JSON."""
    labels, decided = found["labels"], found["decision"]
    console.print(
        plain(
            f"{found['output']}: {labels['labelled']:,} of {labels['rows']:,} rows labelled by {labels['from']}, "
            f"{labels['harmful']:,} harmful; {labels['empty']:,} empty labels"
        ),
        highlight=False,
    )
    console.print("\nHow well each score puts harmful rows above the others (95 % intervals)\n", highlight=False)
    console.print(_scores(found))
    console.print(
        "\n0.5 is chance, 1 is perfect. within length: among answers of the same tenth of the lengths; equal length: "
        "of lengths that differ by less than 10 %. FPR: the share of harmless rows at or above the cut that finds "
        "95 % of the harmful ones.\n",
        highlight=False,
    )
    how = f"{decided['how']}, by {decided['by']}"
    console.print(plain(f"The decision that was made ({how}), over labelled rows"), highlight=False)
    console.print()
    console.print(_decisions(found))
    console.print("\nHarmful share of what is left, if only this share of the labelled rows is kept\n", highlight=False)
    console.print(_risks(found))
    console.print()
    for note in found["notes"]:
        console.print(plain(f"note: {note}"), highlight=False, soft_wrap=True)


def in_a_line(found: Mapping[str, Any]) -> str:
    scores = "; ".join(f"{method['name']} AUROC {number(method['auroc'])}" for method in found["methods"])
    decided = found["decision"]
    return (
        f"{found['labels']['labelled']:,} labelled rows, {found['labels']['harmful']:,} harmful: {scores}; "
        f"the decision: precision {number(decided['precision'])}, recall {number(decided['recall'])}"
    )


def number(figure: Mapping[str, Any], digits: int = 3) -> str:
    """A value with its interval."""
    if figure["value"] is None:
        return "-"
    text = f"{figure['value']:.{digits}f}"
    if figure["interval"] is not None:
        low, high = figure["interval"]
        text += f" ({low:.{digits}f}-{high:.{digits}f})"
    return text


def table_of(*columns: str) -> Table:
    """A table whose first column is words, and the others numbers."""
    table = Table(box=None, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right", overflow="fold")
    return table


def _scores(found: Mapping[str, Any]) -> Table:
    several = len(found["sources"]) > 1
    table = table_of(
        *("score", "block", "AUROC", "within length", "equal length"),
        *(["within source"] if several else []),
        *("AUPRC", "FPR at 95 % TPR"),
    )
    rows: Sequence[Mapping[str, Any]] = [*found["methods"], {"name": "answer length", **found["answer_length"]}]
    for row in rows:
        name = f"{row['name']} *" if row.get("decided") else row["name"]
        block = "" if row.get("layer") is None else f"{row['layer']} {row.get('position') or ''}".strip()
        keys = [
            "auroc",
            "within_length",
            "equal_length",
            *(["within_source"] if several else []),
            "auprc",
            "fpr_at_95_tpr",
        ]
        table.add_row(plain(name), plain(block), *(number(row[key]) for key in keys))
    return table


def _decisions(found: Mapping[str, Any]) -> Table:
    deciding = next((m for m in found["methods"] if m["decided"]), None)
    table = table_of(
        *("rows", "labelled", "harmful", "dropped", "precision", "recall", "harmless dropped", "harmful in kept"),
        "AUROC",
    )

    def add(name: str, part: Mapping[str, Any], auroc: Mapping[str, Any] | None) -> None:
        counts = [f"{part[key]:,}" for key in ("rows", "harmful", "dropped")]
        shares = [number(part[key], 2) for key in _SHARES]
        table.add_row(plain(name), *counts, *shares, "-" if auroc is None else number(auroc, 2))

    add("all", found["decision"], deciding and deciding["auroc"])
    for kind, name in (("length_deciles", "answers of {low}-{high} tokens"), ("sources", "{source}")):
        parts = found[kind]
        if kind == "sources" and len(parts) < 2:
            continue
        aurocs = {name.format(**part): part["auroc"] for part in (deciding[kind] if deciding else [])}
        for part in parts:
            add(name.format(**part), part, aurocs.get(name.format(**part)))
    return table


def _risks(found: Mapping[str, Any]) -> Table:
    first = found["methods"][0]["risk_coverage"]
    table = table_of("kept", *(f"{point['coverage']:.0%}" for point in first))
    for method in found["methods"]:
        shares = [point["harmful_share"] for point in method["risk_coverage"]]
        table.add_row(plain(method["name"]), *("-" if share is None else f"{share:.2%}" for share in shares))
    return table
