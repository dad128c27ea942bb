"""The HTML page: the summary laid out for a person who must decide whether to use the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tamis.pipeline.report import charts, drift, filter_test, layers, prose, share_table, text, trust
from tamis.pipeline.report.charts import Words
from tamis.pipeline.report.html import render
from tamis.pipeline.report.run_view import run_view
from tamis.pipeline.report.sample_data import SAMPLE_LIMIT, TEXT_LIMIT, messages_of, samples_view

_LENGTHS = "response tokens, by tenth of the corpus"


def render_report(summary: Mapping[str, Any]) -> str:
    """The complete page for a summary (a Summary). Pure: the same summary gives the same page."""
    titles = _titles(prose.control(summary) is not None)
    return render("report.html", page_data=samples_view(summary, titles | _DRAWN), **_view(summary, titles))


def _view(summary: Mapping[str, Any], titles: Mapping[str, str]) -> dict[str, Any]:
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
        "own_sources": share_table.by_source(_named(summary.get("own_sources") or []), "dropped", "rows"),
        "other_plots": _other_plots(summary),
        "length_plot": length_columns(deciles, share_table.share(deciles, "dropped", "rows")),
        "deciles": deciles,
        "spearman": text.number(summary.get("score_length_spearman")),
        "overlaps": trust.overlaps(deciles),
        "browsed": _browsed(summary),
        "sample_groups": _sample_groups(summary, titles),
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


def _other_plots(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A plot of the scores of every method that did not decide, with what is to be known of its rows."""
    titles = {str(method.get("name")): method.get("title") for method in summary.get("methods") or []}
    browsed = _browsed(summary)
    of = f" Of {text.count(browsed['rows'])} rows in evenly spaced parts of the corpus." if browsed["part"] else ""
    plots = []
    for name, histogram in ((summary.get("browse") or {}).get("histograms") or {}).items():
        title = str(titles.get(name) or prose.method_name(name))
        bins = charts.filled(histogram, "dropped")
        plots.append({"title": title, "plot": score_histogram(histogram, None, title), "bins": bins, "of": of})
    return plots


def _browsed(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the page says of how its samples were chosen."""
    browse = summary.get("browse") or {}
    rows, whole = text.whole(browse.get("rows")), text.whole((summary.get("counts") or {}).get("rows_in"))
    limits = {"text_limit": TEXT_LIMIT, "sample_limit": SAMPLE_LIMIT}
    return {"rows": rows, "part": rows < whole, "several": len(browse.get("methods") or []) > 1, **limits}


def _named(sources: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**source, "source": source.get("source") or "(empty)"} for source in sources]


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


def _titles(by_draw: bool) -> dict[str, str]:
    """Of the groups of samples, by their names in a summary."""
    borders = (
        ("Dropped, with the lowest scores", "Kept, with the highest scores")
        if by_draw
        else ("Just beyond the cut: dropped", "Just short of the cut: kept")
    )
    return {"riskiest": "Riskiest", "borderline_dropped": borders[0], "borderline_kept": borders[1]}


_DRAWN = {"random_dropped": "Dropped, at random", "random_kept": "Kept, at random", "unlike": "Methods disagree most"}


def _sample_groups(summary: Mapping[str, Any], titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """The samples of the manifest, for a page whose script does not run."""
    return [
        {"title": title, "samples": [_sample(sample) for sample in summary.get(name) or []]}
        for name, title in titles.items()
    ]


def _sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: sample.get(name) for name in ("sample_id", "source", "row", "score", "rank", "n_response_tokens")}
    return known | {"messages": messages_of(sample)}
