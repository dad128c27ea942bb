"""The charts of all pages: histogram with a cut, columns, curves, and bars of shares, as inline SVG.

Each has axis labels, and a title and a description for readers who cannot see it, and is None when there is nothing to
draw. Its colours are those of the page, in light and in dark: what stands out is "marked", all else "plain".
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tamis.pipeline.report import svg, text

_NAME_ROOM = 112.0  # the most width for the names beside the ends of curves
_LOG_FROM = 50  # columns of counts get a log scale if one is this many times as tall as another


@dataclass(frozen=True)
class Words:
    """The words of a chart: its title, its two axes, and what kind of number stands on each."""

    title: str
    vertical: str
    horizontal: str
    unit: svg.Unit = "number"
    across: svg.Unit = "number"


@dataclass(frozen=True)
class Curve:
    """A line through (x, height). kind: its class in the style sheet. name: what stands beside its end, if anything.

    hint: what it is, for a pointer that rests on it.
    """

    name: str
    kind: str
    points: Sequence[tuple[float, float]]
    hint: str = ""


def histogram(bins: Mapping[str, Any], cut: float | None, said: Words, gone: str, values: str) -> Markup | None:
    """The kept and the removed part (key `gone`) per bin, the cut as a line. values: what a place on the axis means.

    The count axis is logarithmic when the tallest bar of the removed part would be less than a tenth of the tallest
    bar.
    """
    edges = [text.number(edge) for edge in bins.get("edges") or []]
    kept, removed = ([text.whole(count) for count in bins.get(name) or []] for name in ("kept", gone))
    bounds = [edge for edge in edges if edge is not None]
    most = max([*kept, *removed], default=0)
    if len(bounds) != len(edges) or len(edges) != len(kept) + 1 or len(kept) != len(removed) or most <= 0:
        return None
    low, high = bounds[0], bounds[-1]
    if high <= low or math.isclose(low, high, rel_tol=1e-12, abs_tol=1e-300):  # all equal: a bin of some width
        low, high = low - 0.5, high + 0.5
        bounds = [low + (high - low) * i / len(kept) for i in range(len(kept) + 1)]
    stacked = max(k + r for k, r in zip(kept, removed, strict=True))
    axes = svg.Axes(low, high, svg.log_scale(most) if 0 < max(removed) < most / 10 else svg.scale(0, stacked))
    bins_drawn = list(zip(bounds, bounds[1:], kept, removed, strict=False))
    parts = [_bin(axes, *bin_) for bin_ in bins_drawn]
    spots = [
        svg.spot(
            axes.x(left),
            axes.x(right),
            f"{text.between(left, right)}: {text.count(stayed)} kept, {text.count(went)} {gone}",
        )
        for left, right, stayed, went in bins_drawn
    ]
    words = (
        f"{text.count(sum(kept))} {said.vertical} kept and {text.count(sum(removed))} {gone}, "
        f"{values} from {text.score(low, 4)} to {text.score(high, 4)}"
    )
    if cut is not None:
        seen = low <= cut <= high
        words += f", cut at {text.score(cut)}" + ("" if seen else " (outside of the plot)")
        parts += [_cut(axes.x(cut), cut)] if seen else []
    parts += spots  # last, so that a pointer finds them
    return _figure(axes, said, svg.marks(svg.round_within(low, high), said.across), parts, words)


def filled(bins: Mapping[str, Any], gone: str) -> list[tuple[Any, Any, int, int]]:
    """The numbers of a histogram: (low, high, kept, removed) of the bins that are not empty."""
    edges = bins.get("edges") or []
    rows = zip(edges, edges[1:], bins.get("kept") or [], bins.get(gone) or [], strict=False)
    return [row for row in rows if row[2] or row[3]]


def columns(
    values: Sequence[float | None],
    labels: Sequence[str],
    said: Words,
    marked: Collection[int] = (),
    *,
    level: float | None = None,
    each: str = "{}",
    written: Sequence[str] = (),
) -> Markup | None:
    """One column per value, upwards or downwards from 0. marked: the columns that stand out.

    level: a height to compare with. each: a label in a sentence ("block {}"). written: the values in words, which then
    stand at the ends of the columns.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    least = min((value for value in known if value), default=1)
    by_power = said.unit == "count" and max(known) > _LOG_FROM * least
    scale = svg.log_scale(max(known)) if by_power else svg.scale(min(0.0, *known), max(0.0, *known, level or 0.0))
    axes = svg.Axes(0, len(values), scale)
    heights = [axes.y(value or 0.0) for value in values]
    bars = [
        svg.bar("marked" if at in marked else "plain", axes.x(at + 0.13), axes.x(at + 0.87), axes.y(0), heights[at])
        for at, value in enumerate(values)
        if value
    ]
    lines = [svg.level("axis", axes.y(0)), *([svg.level("overall", axes.y(level))] if level is not None else [])]
    ends = [
        svg.label(axes.x(at + 0.5), heights[at] - 6, words, "value") for at, words in enumerate(written)
    ]  # last, so that nothing is drawn over them
    below = [(at + 0.5, label) for at, label in enumerate(labels)]
    in_words = written or [svg.in_words(value, said.unit) for value in values]
    words = "; ".join(f"{each.format(label)}: {value}" for label, value in zip(labels, in_words, strict=True))
    needed = next(iter(marked)) if len(marked) == 1 else None
    spots = [
        svg.spot(axes.x(at), axes.x(at + 1), f"{each.format(label)}: {value}")
        for at, (label, value) in enumerate(zip(labels, in_words, strict=True))
    ]
    return _figure(axes, said, below, [*bars, *lines, *ends, *spots], words, needed=needed)


def curves(
    drawn: Sequence[Curve],
    said: Words,
    *,
    dots: bool = False,
    bounds: tuple[float, float] | None = None,
    below: Sequence[tuple[float, str]] = (),
    words: str = "",
) -> Markup | None:
    """Lines, the last above the others. bounds: the range of heights, if not that of the points.

    below: the places to label on the horizontal axis, if not round numbers. words: the description, if not both ends of
    each line.
    """
    points = [point for curve in drawn for point in curve.points]
    if not points:
        return None
    start, stop = min(x for x, _ in points), max(x for x, _ in points)
    low, high = bounds or (min(y for _, y in points), max(y for _, y in points))
    whole = svg.WIDTH - svg.LEFT - svg.RIGHT
    beside = max(
        (svg.width(svg.fitted(curve.name, _NAME_ROOM)) + svg.DIGIT for curve in drawn if curve.name), default=0
    )
    span = ((stop - start) or 1.0) * whole / (whole - beside)
    axes = svg.Axes(start, start + span, svg.scale(low, high))
    parts = []
    for curve in drawn:
        places = [(axes.x(x), axes.y(y)) for x, y in curve.points]
        parts.append(svg.curve(curve.kind, places, curve.hint))
        parts += [svg.dot(curve.kind, *place) for place in places if dots or len(places) == 1]
    parts += _names(axes, [curve for curve in drawn if curve.name])
    ticks = below or svg.marks(svg.round_within(start, stop), said.across)
    words = words or "; ".join(_ends(curve, said) for curve in drawn)
    return _figure(axes, said, ticks, parts, words)


def share_bar(part: float, scale: float, mark: float | None) -> Markup:
    """One bar of a table: `part` and the line `mark` on an axis from 0 to `scale` (all shares)."""
    line = Markup("")
    if mark is not None:
        at = svg.portion(mark, scale)
        line = Markup('<line class="overall" x1="{}" x2="{}" y1="0" y2="14"/>').format(at, at)
    return Markup(
        '<svg class="bar" aria-hidden="true" focusable="false"><rect class="track" width="100%" height="14"/>'
        '<rect class="marked" width="{}" height="14"/>{}</svg>'
    ).format(svg.portion(part, scale), line)


def composition(parts: Sequence[tuple[str, int]]) -> Markup | None:
    """One bar over the whole width, divided into (css class, rows) parts; None without rows."""
    total = sum(rows for _, rows in parts)
    if total <= 0:
        return None
    start, pieces = 0, []
    for name, rows in parts:
        pieces.append(
            Markup('<rect class="{}" x="{}" width="{}" height="18"/>').format(
                name, svg.portion(start, total), svg.portion(rows, total)
            )
        )
        start += rows
    words = ", ".join(f"{text.share(rows, total)} {name}" for name, rows in parts)
    return Markup('<svg class="composition" role="img" aria-label="{}">{}</svg>').format(words, Markup("").join(pieces))


def _figure(
    axes: svg.Axes,
    said: Words,
    below: Sequence[tuple[float, str]],
    parts: Sequence[Markup],
    words: str,
    *,
    needed: int | None = None,
) -> Markup:
    """The parts of a chart with its two axes. below: the labels of the horizontal one; `needed` is never left out."""
    vertical = said.vertical + (" (log scale)" if axes.scale.logarithmic else "")
    across = svg.below([(axes.x(at), label) for at, label in below], needed)
    titles = svg.axis_titles(vertical, said.horizontal)
    return svg.figure(said.title, words, [svg.grid(axes, said.unit), *parts, across, titles])


def _bin(axes: svg.Axes, left: float, right: float, kept: int, removed: int) -> Markup:
    """A bin's kept part, and the removed one above it."""
    start, stop = axes.x(left), axes.x(right)
    middle, foot = start, kept
    if kept and removed and axes.scale.logarithmic:  # logarithmic heights do not add up: the two stand side by side
        middle, foot = (start + stop) / 2, 0
    parts = []
    if kept:
        parts.append(svg.bar("plain", start, stop if middle == start else middle, axes.y(0), axes.y(kept)))
    if removed:
        parts.append(svg.bar("marked", middle, stop, axes.y(foot), axes.y(foot + removed)))
    return Markup("").join(parts)


def _cut(x: float, cut: float) -> Markup:
    """The line of the cut, with its name on the side where there is room."""
    side, anchor = (-6, "end") if x > svg.WIDTH - 150 else (6, "start")
    line = svg.line("cut", x, x, svg.TOP - 14, svg.HEIGHT - svg.BOTTOM)
    return line + svg.label(x + side, svg.TOP - 12, f"cut {text.score(cut, 3)}", "value", anchor)


def _ends(curve: Curve, said: Words) -> str:
    """The first and the last point of a line in words."""
    ends = (f"{svg.in_words(y, said.unit)} at {text.fact(x)}" for x, y in (curve.points[0], curve.points[-1]))
    return (f"{curve.name}: " if curve.name else "") + ", ".join(ends)


def _names(axes: svg.Axes, curves: Sequence[Curve]) -> list[Markup]:
    """The names beside the ends of the first curves, moved apart where they would overlap; as many as have room."""
    most = int((svg.HEIGHT - svg.TOP - svg.BOTTOM) / svg.LINE)
    ends = sorted(curves[:most], key=lambda curve: -axes.y(curve.points[-1][1]))  # the lowest first
    made, below = [], svg.HEIGHT - svg.BOTTOM + svg.LINE
    for left, curve in zip(range(len(ends), 0, -1), ends, strict=True):
        x, y = curve.points[-1]
        height = max(min(axes.y(y) + 4, below - svg.LINE), svg.TOP + svg.LINE * (left - 1))
        made.append(svg.label(axes.x(x) + svg.DIGIT, height, svg.fitted(curve.name, _NAME_ROOM), "value", "start"))
        below = height
    return made
