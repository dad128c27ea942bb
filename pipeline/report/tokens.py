"""The page of a run that masks tokens (TOSS, TOSS-Pro): how much, where, why, and whether to trust it.

Drawn from a TokenSummary (see summary.py); any key of it may be missing, empty or None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tamis.pipeline.report import charts, share_table, text, token_charts, token_examples, token_prose, token_trust
from tamis.pipeline.report.html import render
from tamis.pipeline.report.run_view import run_view

STRINGS_SHOWN = 40

_REFERENCE_FACTS = ("rows", "response_tokens", "steps")


def render_token_report(summary: Mapping[str, Any]) -> str:
    """The complete page for a summary (a TokenSummary). Pure: the same summary gives the same page."""
    data = token_examples.samples_view(summary)
    return render("tokens.html", page_data=data, full_colour=data["scale"], **_view(summary))


def _view(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the template shows, in the order of the page; the template itself decides nothing."""
    tokens = summary.get("tokens") or {}
    response, discarded = text.whole(tokens.get("response")), text.whole(tokens.get("discarded"))
    histogram = summary.get("risk_histogram") or {}
    positions = list(summary.get("positions") or [])
    shares = summary.get("sample_shares") or {}
    references = list(summary.get("references") or [])
    rounds = list(summary.get("rounds") or [])
    overall = discarded / response if response else None
    return {
        **run_view(summary),
        "headline": token_prose.headline(summary),
        "selection_line": token_prose.selection_line(summary),
        "response": response,
        "discarded": discarded,
        "composition": charts.composition([("kept", response - discarded), ("discarded", discarded)]),
        "checks": token_trust.checks(summary),
        "histogram": token_charts.risk_histogram(histogram, text.number(tokens.get("cut"))),
        "bins": charts.filled(histogram, "discarded"),
        "cut": text.number(tokens.get("cut")),
        "readings": token_prose.how_to_read(summary),
        "position_shares": token_charts.position_shares(positions, overall),
        "position_risks": token_charts.position_risks(positions),
        "positions": [{**row, "place": token_charts.place(row)} for row in positions],
        "sample_shares": token_charts.sample_shares(shares),
        "shares": shares,
        "strings": _strings(summary.get("token_strings") or [], overall),
        "sources": share_table.by_source(_sources(summary.get("sources") or []), "discarded", "tokens"),
        "references": [_reference(reference) for reference in references],
        "curves": token_charts.training_curves(references),
        "rounds": rounds,
        "round_curve": token_charts.round_curve(rounds),
        "example_groups": token_examples.groups(summary.get("examples") or []),
    }


def _strings(strings: Sequence[Mapping[str, Any]], overall: float | None) -> dict[str, Any]:
    """The strings that were discarded most often, each with the discarded share of its occurrences."""
    counted = [{**row, **{name: text.whole(row.get(name)) for name in ("tokens", "discarded")}} for row in strings]
    largest = sorted(counted, key=lambda row: -row["discarded"])[:STRINGS_SHOWN]
    spelled = [{**row, "token": spelling(str(row.get("token") or ""))} for row in largest]
    return share_table.with_bars(spelled, "discarded", "tokens", overall)


def spelling(token: str) -> str:
    """A token on one line, with the blanks at its ends made visible."""
    shown, left_out = text.clip(text.visible(token).replace("\n", "↵").replace("\t", "⇥"), 60)
    inner = shown.strip(" ")
    ends = (len(shown) - len(shown.lstrip(" ")), len(shown) - len(shown.rstrip(" ")))
    spelled = "␣" * ends[0] + inner + "␣" * ends[1] if inner else "␣" * len(shown)
    return spelled + ("…" if left_out else "")


def _sources(sources: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    counts = ("rows", "dropped", "tokens", "discarded")
    return [{"source": row.get("source"), **{name: text.whole(row.get(name)) for name in counts}} for row in sources]


def _reference(reference: Mapping[str, Any]) -> dict[str, Any]:
    """A reference, with the loss at the first and at the last step of its training."""
    losses = [loss for _, loss in token_charts.losses(reference)]
    known = {name: reference.get(name) for name in ("name", "how", "source", *_REFERENCE_FACTS)}
    return known | {"first_loss": losses[0] if losses else None, "last_loss": losses[-1] if losses else None}
