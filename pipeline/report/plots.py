"""Plots as inline SVG: small, sharp in print, coloured by the page's style sheet (so light and dark mode work).

Every plot has axis labels, and a title and a description for readers who cannot see it; all text is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tamis.pipeline.report import svg, text


@dataclass(frozen=True)
class Words:
    """The words of a histogram: what it counts, the part that is removed, the values on its axis, and its title."""

    counted: str
    gone: str
    values: str
    horizontal: str
    title: str
    tick: Callable[[float], str] = text.count


def score_histogram(histogram: Mapping[str, Any], cut: float | None, method: str) -> Markup | None:
    """Rows kept and dropped per bin of the score, with the cut as a line; None when there is nothing to draw."""
    horizontal = f"{method} score  (higher = riskier to train on)"
    return stacked(histogram, cut, Words("samples", "dropped", "scores", horizontal, "Histogram of scores"))


def stacked(histogram: Mapping[str, Any], cut: float | None, said: Words) -> Markup | None:
    """The kept and the removed part (key said.gone) per bin, the cut as a line; None when there is nothing to draw.

    The count axis is logarithmic when the tallest bar of the removed part would be less than a tenth of the tallest
    bar.
    """
    edges = [text.number(edge) for edge in histogram.get("edges") or []]
    kept, dropped = list(histogram.get("kept") or []), list(histogram.get(said.gone) or [])
    bounds = [edge for edge in edges if edge is not None]
    most = max([*kept, *dropped], default=0)
    if len(bounds) != len(edges) or len(edges) != len(kept) + 1 or len(kept) != len(dropped) or most <= 0:
        return None
    low, high = bounds[0], bounds[-1]
    if high <= low:  # all scores are equal: a bin of some width around the score
        low, high = low - 0.5, high + 0.5
        bounds = [low + (high - low) * i / len(kept) for i in range(len(kept) + 1)]
    logarithmic = 0 < max(dropped) < most / 10
    peak = most if logarithmic else max(k + d for k, d in zip(kept, dropped, strict=True))
    ticks = svg.powers(peak) if logarithmic else svg.round_steps(0, peak)
    top = max(peak, ticks[-1])
    axes = svg.Axes(low, high, svg.log_lift(top) if logarithmic else lambda value: value / top)

    parts = [svg.count_grid(axes, ticks, said.tick), svg.value_axis(axes)]
    for index, (k, d) in enumerate(zip(kept, dropped, strict=True)):
        left, right = axes.x(bounds[index]), axes.x(bounds[index + 1])
        parts.append(_bin(axes, left, right, k, d, side_by_side=logarithmic))
    parts.append(
        svg.axis_title(
            said.counted + (" (log scale)" if logarithmic else ""),
            said.horizontal,
        )
    )
    seen = cut is not None and low <= cut <= high
    if seen and cut is not None:
        parts.append(_cut_line(axes.x(cut), cut))
    words = (
        f"{text.count(sum(kept))} {said.counted} kept and {text.count(sum(dropped))} {said.gone}, "
        f"{said.values} from {text.score(low, 4)} to {text.score(high, 4)}"
    )
    if cut is not None:
        words += f", cut at {text.score(cut)}" + ("" if seen else " (outside of the plot)")
    return svg.figure(said.title, words, parts)


def length_columns(deciles: Sequence[Mapping[str, Any]], overall: float | None) -> Markup | None:
    """Share of rows dropped, one column per length decile, the overall share as a line; None without deciles."""
    shares = [(d["dropped"] / d["rows"] if d["rows"] else 0.0) for d in deciles]
    if not shares:
        return None
    ticks = svg.round_steps(0, max(*shares, overall or 0.0, 0.01))
    axes = svg.Axes(0, len(shares), lambda value: value / ticks[-1])
    bars, labels, line = [], [], Markup("")
    for index, (decile, value) in enumerate(zip(deciles, shares, strict=True)):
        left, right = axes.x(index + 0.14), axes.x(index + 0.86)
        middle = (left + right) / 2
        bars.append(svg.bar("dropped", left, right, axes.y(value), axes.y(0) - axes.y(value)))
        labels.append(svg.label(middle, axes.y(value) - 6, text.share(decile["dropped"], decile["rows"]), "value"))
        span = text.count(decile["low"])
        if decile["high"] != decile["low"]:
            span += f"–{text.count(decile['high'])}"
        labels.append(svg.label(middle, svg.HEIGHT - svg.BOTTOM + 18, span, "tick"))
    if overall is not None:
        line = svg.level("overall", axes.y(overall))
    parts = [svg.share_grid(axes, ticks), *bars, line, *labels]  # the numbers last, so that nothing is drawn over them
    parts.append(svg.axis_title("share dropped", "response tokens, by tenth of the corpus"))
    words = "; ".join(
        f"{text.count(d['low'])} to {text.count(d['high'])} tokens: {text.share(d['dropped'], d['rows'])}"
        for d in deciles
    )
    return svg.figure("Share dropped by length of the answer", words, parts)


def share_bar(part: float, scale: float, mark: float | None) -> Markup:
    """One bar of a table: `part` and the line `mark` on an axis from 0 to `scale` (all shares)."""
    line = Markup("")
    if mark is not None:
        at = svg.percent(mark, scale)
        line = Markup('<line class="overall" x1="{}" x2="{}" y1="0" y2="14"/>').format(at, at)
    return Markup(
        '<svg class="bar" aria-hidden="true" focusable="false"><rect class="track" width="100%" height="14"/>'
        '<rect class="dropped" width="{}" height="14"/>{}</svg>'
    ).format(svg.percent(part, scale), line)


def composition(parts: Sequence[tuple[str, int]]) -> Markup | None:
    """One bar over the whole width, divided into (css class, rows) parts; None without rows."""
    total = sum(rows for _, rows in parts)
    if total <= 0:
        return None
    start, pieces = 0, []
    for name, rows in parts:
        pieces.append(
            Markup('<rect class="{}" x="{}" width="{}" height="18"/>').format(
                name, svg.percent(start, total), svg.percent(rows, total)
            )
        )
        start += rows
    words = ", ".join(f"{text.share(rows, total)} {name}" for name, rows in parts)
    return Markup('<svg class="composition" role="img" aria-label="{}">{}</svg>').format(words, Markup("").join(pieces))


def _bin(axes: svg.Axes, left: float, right: float, kept: int, dropped: int, side_by_side: bool) -> Markup:
    floor = axes.y(0)
    bars: list[Markup] = []

    def bar(kind: str, start: float, stop: float, low: float, high: float) -> None:
        if high > low:
            height = max(1.5, axes.y(low) - axes.y(high))  # one row must be visible beside ten thousand
            bars.append(svg.bar(kind, start, stop, (floor if low == 0 else axes.y(low)) - height, height))

    if kept and dropped and side_by_side:  # logarithmic heights do not add up, so such bars are never stacked
        middle = (left + right) / 2
        bar("kept", left, middle, 0, kept)
        bar("dropped", middle, right, 0, dropped)
    else:
        bar("kept", left, right, 0, kept)
        bar("dropped", left, right, kept, kept + dropped)
    return Markup("").join(bars)


def _cut_line(x: float, cut: float) -> Markup:
    anchor = "end" if x > svg.WIDTH - 150 else ""
    line = Markup('<line class="cut" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
        svg.n(x), svg.n(svg.TOP - 14), svg.n(svg.HEIGHT - svg.BOTTOM)
    )
    side = -6 if anchor else 6
    return line + svg.label(x + side, svg.TOP - 12, f"cut {text.score(cut)}", f"cutname {anchor or 'start'}")
