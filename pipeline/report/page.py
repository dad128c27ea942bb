"""The HTML page: the summary laid out for a person who must decide whether to use the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tamis.pipeline.report import layers, plots, prose, svg, text, trust
from tamis.pipeline.report.html import render

TEXT_LIMIT = 2000  # characters shown of one message
MESSAGES_AT_EITHER_END = 6  # messages shown of a long conversation: its first and its last ones
TABLE_ROWS = 30
COUNTS = ("rows_in", "kept", "dropped", "quarantined", "truncated")

_STAGES = {
    "plan": "Plan",
    "ray_start": "Ray start",
    "layers": "Layer search",
    "model_load": "Model load",
    "capture": "Capture (forward pass)",
    "fit": "Fit",
    "emit": "Emit (write output)",
    "total": "Total",
}


def render_report(summary: Mapping[str, Any]) -> str:
    """The complete page for a summary (a Summary). Pure: the same summary gives the same page."""
    return render("report.html", **_view(summary))


def _view(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the template shows, in the order of the page; the template itself decides nothing."""
    counts = dict.fromkeys(COUNTS, 0) | dict(summary.get("counts") or {})
    job = summary.get("job") or {}
    methods = list(summary.get("methods") or [])
    deciles = list(summary.get("length_deciles") or [])
    histogram = summary.get("histogram") or {}
    selection = summary.get("selection") or {}
    by_draw = prose.control(summary) is not None
    cut = None if by_draw else text.number(selection.get("cut"))
    selected_by = prose.method_name(str(summary.get("selected_by") or ""))
    return {
        "title": summary.get("title") or "tamis report",
        "created": summary.get("created") or "",
        "tamis_version": summary.get("tamis_version") or "",
        "headline": prose.headline(summary),
        "selection_line": prose.selection_line(summary),
        "method_lines": prose.method_lines(summary),
        "counts": counts,
        "composition": plots.composition([(name, counts[name]) for name in ("kept", "dropped", "quarantined")]),
        "warnings": list(summary.get("warnings") or []),
        "checks": trust.checks(summary),
        "selected_by": selected_by,
        "histogram": plots.score_histogram(histogram, cut, selected_by),
        "bins": _bins(histogram),
        "sources": _sources(summary.get("sources") or []),
        "length_plot": plots.length_columns(deciles, trust.removed_share(deciles)),
        "deciles": deciles,
        "spearman": text.number(summary.get("score_length_spearman")),
        "overlaps": trust.overlaps(deciles),
        "sample_groups": _sample_groups(summary, by_draw),
        "quarantine": _quarantine(summary.get("quarantine_codes") or {}),
        "methods": [_method(method, job) for method in methods],
        "numbering": prose.LAYERS,
        "layers": layers.view(summary.get("layers"), _read_by_larf(methods)),
        "input": summary.get("input") or {},
        "files": _capped((summary.get("input") or {}).get("files") or [], key="bytes"),
        "model": summary.get("model") or {},
        "timings": _timings(summary.get("timings") or {}),
        "job_yaml": text.as_yaml(job) if job else "",
        "fingerprint": summary.get("fingerprint") or {},
        "versions": summary.get("versions") or {},
    }


def _read_by_larf(methods: Sequence[Mapping[str, Any]]) -> int | None:
    """The block that LARF has read."""
    return next((method.get("layer") for method in methods if method.get("name") == "larf"), None)


def _method(method: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
    """A method with its line of explanation, and of its facts those that the page does not say elsewhere."""
    said = ("method", "layer", "layer_chosen", "position", "columns", "warnings")
    facts = {name: value for name, value in (method.get("facts") or {}).items() if name not in said}
    known = {name: method.get(name) for name in ("name", "layer", "position")}
    return known | {"reading": prose.how_to_read(method, job), "facts": facts}


def _bins(histogram: Mapping[str, Any]) -> list[tuple[Any, Any, int, int]]:
    """(low, high, kept, dropped) of the bins that hold rows."""
    edges = histogram.get("edges") or []
    rows = zip(edges, edges[1:], histogram.get("kept") or [], histogram.get("dropped") or [], strict=False)
    return [row for row in rows if row[2] or row[3]]


def _sources(sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sources that lost most, each with its bar; the others as one line."""
    shown = sorted(sources, key=lambda s: (-s["dropped"], -s["rows"], str(s["source"])))
    top, rest = shown[:TABLE_ROWS], shown[TABLE_ROWS:]
    if len(rest) == 1:
        top, rest = shown, []
    rows = [dict(source) for source in top]
    if rest:
        merged = {name: sum(source[name] for source in rest) for name in ("rows", "dropped")}
        rows.append({"source": f"{len(rest):,} other sources", "rest": True, **merged})
    overall = trust.removed_share(sources)
    largest = max((row["dropped"] / row["rows"] for row in rows if row["rows"]), default=0.0)
    scale = min(1.0, svg.nice_ceiling(max(largest, overall or 0.0, 0.01)))
    for row in rows:
        row["bar"] = plots.share_bar(row["dropped"] / row["rows"] if row["rows"] else 0.0, scale, overall)
    return {"rows": rows, "overall": overall, "scale": scale, "total": len(sources)}


def _capped(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[Mapping[str, Any]], int]:
    """The largest rows by `key`, and how many are left out."""
    largest = sorted(rows, key=lambda row: -(text.number(row.get(key)) or 0))
    return largest[:TABLE_ROWS], max(0, len(rows) - TABLE_ROWS)


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


def _quarantine(codes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    ordered = sorted(codes.items(), key=lambda item: (-item[1].get("rows", 0), item[0]))
    return [{"code": code, "advice": prose.advice(code), **entry} for code, entry in ordered]


def _timings(timings: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for stage, cost in timings.items():
        known = cost if isinstance(cost, Mapping) else {"seconds": cost}
        rates = {name: text.number(known.get(name)) for name in ("rows_per_second", "tokens_per_second")}
        label = _STAGES.get(stage, stage.replace("_", " ").capitalize())
        rows.append({"stage": label, "total": stage == "total", "seconds": known.get("seconds"), **rates})
    return rows
