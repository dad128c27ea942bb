"""The HTML page: the summary laid out for a person who must decide whether to use the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tamis.pipeline.report import layers, plots, prose, share_table, text, trust
from tamis.pipeline.report.html import render
from tamis.pipeline.report.run_view import run_view

TEXT_LIMIT = 2000  # characters of one message that are shown
MESSAGES_AT_EITHER_END = 6  # of a long conversation, this many messages are shown from each end


def render_report(summary: Mapping[str, Any]) -> str:
    """The complete page for a summary (a Summary). Pure: the same summary gives the same page."""
    return render("report.html", **_view(summary))


def _view(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the template shows, in the order of the page; the template itself decides nothing."""
    job = summary.get("job") or {}
    methods = list(summary.get("methods") or [])
    deciles = list(summary.get("length_deciles") or [])
    histogram = summary.get("histogram") or {}
    selection = summary.get("selection") or {}
    by_draw = prose.control(summary) is not None
    cut = None if by_draw else text.number(selection.get("cut"))
    selected_by = prose.title_of(summary)
    shared = run_view(summary)
    counts = shared["counts"]
    return {
        **shared,
        "headline": prose.headline(summary),
        "selection_line": prose.selection_line(summary),
        "method_lines": prose.method_lines(summary),
        "composition": plots.composition([(name, counts[name]) for name in ("kept", "dropped", "quarantined")]),
        "checks": trust.checks(summary),
        "selected_by": selected_by,
        "histogram": plots.score_histogram(histogram, cut, selected_by),
        "bins": _bins(histogram),
        "sources": share_table.by_source(summary.get("sources") or [], "dropped", "rows"),
        "length_plot": plots.length_columns(deciles, trust.removed_share(deciles)),
        "deciles": deciles,
        "spearman": text.number(summary.get("score_length_spearman")),
        "overlaps": trust.overlaps(deciles),
        "sample_groups": _sample_groups(summary, by_draw),
        "methods": [_method(method, job) for method in methods],
        "numbering": prose.LAYERS,
        "layers": layers.view(summary.get("layers"), _read_by_larf(methods)),
    }


def _read_by_larf(methods: Sequence[Mapping[str, Any]]) -> int | None:
    """The block that LARF used."""
    return next((method.get("layer") for method in methods if method.get("name") == "larf"), None)


def _method(method: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
    """A method with its line of explanation, and those of its facts that the page does not show elsewhere."""
    said = ("method", "layer", "layer_chosen", "position", "columns", "warnings")
    facts = {name: value for name, value in (method.get("facts") or {}).items() if name not in said}
    known = {name: method.get(name) for name in ("name", "layer", "position", "distribution")}
    known["title"] = method.get("title") or prose.method_name(str(method.get("name") or ""))
    return known | {"reading": prose.how_to_read(method, job), "facts": facts}


def _bins(histogram: Mapping[str, Any]) -> list[tuple[Any, Any, int, int]]:
    """(low, high, kept, dropped) of the bins that contain rows."""
    edges = histogram.get("edges") or []
    rows = zip(edges, edges[1:], histogram.get("kept") or [], histogram.get("dropped") or [], strict=False)
    return [row for row in rows if row[2] or row[3]]


def _sample_groups(summary: Mapping[str, Any], by_draw: bool) -> list[dict[str, Any]]:
    borders = (
        ("Dropped, with the lowest scores", "Kept, with the highest scores")
        if by_draw
        else ("Just beyond the cut: dropped", "Just short of the cut: kept")
    )
    titles = {"riskiest": "Riskiest", "borderline_dropped": borders[0], "borderline_kept": borders[1]}
    return [
        {"title": title, "samples": [_sample(sample) for sample in summary.get(name) or []]}
        for name, title in titles.items()
    ]


def _sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    messages = [_message(message) for message in sample.get("messages") or []]
    ends = MESSAGES_AT_EITHER_END
    left_out = len(messages) - 2 * ends
    if left_out > 1:
        messages = [*messages[:ends], {"gap": left_out}, *messages[-ends:]]
    known = {name: sample.get(name) for name in ("sample_id", "source", "row", "score", "rank", "n_response_tokens")}
    return known | {"messages": messages}


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    shown, left_out = text.clip(str(message.get("content") or ""), TEXT_LIMIT)
    return {
        "role": text.one_line(str(message.get("role") or "")),
        "text": shown,
        "left_out": left_out,
        "gap": 0,
    }
