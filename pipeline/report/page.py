"""The HTML page: the summary laid out for a person who must decide whether to use the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tamis.pipeline.report import charts, drift, filter_test, layers, prose, share_table, text, trust
from tamis.pipeline.report.charts import Words
from tamis.pipeline.report.html import render
from tamis.pipeline.report.run_view import run_view

TEXT_LIMIT = 2000  # characters of one message that are shown
MESSAGES_AT_EITHER_END = 6  # of a long conversation, this many messages are shown from each end

_LENGTHS = "response tokens, by tenth of the corpus"


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
        "composition": charts.composition([(name, counts[name]) for name in ("kept", "dropped", "quarantined")]),
        "checks": trust.checks(summary),
        "test": filter_test.view(summary),
        "selected_by": selected_by,
        "histogram": score_histogram(histogram, cut, selected_by),
        "bins": charts.filled(histogram, "dropped"),
        "sources": share_table.by_source(summary.get("sources") or [], "dropped", "rows"),
        "length_plot": length_columns(deciles, share_table.share(deciles, "dropped", "rows")),
        "deciles": deciles,
        "spearman": text.number(summary.get("score_length_spearman")),
        "overlaps": trust.overlaps(deciles),
        "sample_groups": _sample_groups(summary, by_draw),
        "methods": [_method(method, job) for method in methods],
        "numbering": prose.LAYERS,
        "drift": drift.view(summary.get("drift")),
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


def score_histogram(histogram: Mapping[str, Any], cut: float | None, method: str) -> Markup | None:
    """Rows kept and dropped per bin of the score, with the cut as a line; None when there is nothing to draw."""
    said = Words("Histogram of scores", "samples", f"{method} score  (higher = riskier to train on)", "count")
    return charts.histogram(histogram, cut, said, "dropped", "scores")


def length_columns(deciles: Sequence[Mapping[str, Any]], overall: float | None) -> Markup | None:
    """Share of rows dropped, one column per length decile, the overall share as a line; None without deciles."""
    shares = [decile["dropped"] / decile["rows"] if decile["rows"] else 0.0 for decile in deciles]
    return charts.columns(
        shares,
        [text.span(decile["low"], decile["high"]) for decile in deciles],
        Words("Share dropped by length of the answer", "share dropped", _LENGTHS, "share"),
        range(len(shares)),
        level=overall,
        each="{} tokens",
        written=[text.share(decile["dropped"], decile["rows"]) for decile in deciles],
    )


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
