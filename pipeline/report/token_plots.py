"""Plots of a run that masks tokens: risk, place in the answer, share per sample, training and rounds.

Each plot is None when there is nothing to draw. Values that are not finite numbers are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tamis.pipeline.report import plots, svg, text

_POINTS = 300  # at most, per curve; a training may have 100,000 steps
_LABEL_SPACE = 0.14  # extra share of the horizontal range, for the names to the right of the curves
_LINE = 15.0  # height of one line of words
_DIGIT = 7.0  # width of one character of a label
_LOG_FROM = 50  # use a log scale if a column is this many times as tall as another


@dataclass(frozen=True)
class Words:
    """The words of a plot: its title, its two axes, and how the values of the vertical axis are written."""

    title: str
    vertical: str
    horizontal: str
    tick: Callable[[float], str]


@dataclass(frozen=True)
class Curve:
    """A named line through (x, height). kind: its class in the style sheet."""

    name: str
    kind: str
    points: Sequence[tuple[float, float]]


def risk_histogram(histogram: Mapping[str, Any], cut: float | None) -> Markup | None:
    """Tokens kept and discarded per bin of the risk, the cut as a line."""
    counted = {
        "edges": histogram.get("edges"),
        **{name: [text.whole(value) for value in histogram.get(name) or []] for name in ("kept", "discarded")},
    }
    horizontal = "risk of a token: loss under the utility reference - loss under the harmful one"
    return plots.stacked(
        counted, cut, plots.Words("tokens", "discarded", "risks", horizontal, "Histogram of risks", short_count)
    )


def position_shares(positions: Sequence[Mapping[str, Any]], overall: float | None) -> Markup | None:
    """Share of discarded tokens by place in the answer, the overall share as a line."""
    shares = [text.whole(row.get("discarded")) / (text.whole(row.get("tokens")) or 1) for row in positions]
    said = Words("Share discarded by place in the answer", "share discarded", _PLACE, _percent)
    return columns(shares, [place(row) for row in positions], said, "discarded", line=overall)


def position_risks(positions: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Mean risk of the tokens by their place in the answer."""
    means = [text.number(row.get("mean_risk")) for row in positions]
    return columns(
        means, [place(row) for row in positions], Words("Mean risk by place in the answer", "mean risk", _PLACE, _plain)
    )


def sample_shares(shares: Mapping[str, Any]) -> Markup | None:
    """Samples by the discarded share of their response tokens: first none, then equal steps."""
    rows = [text.whole(value) for value in shares.get("rows") or []]
    counts = [text.whole(shares.get("none")), *rows]
    if not rows or not any(counts):
        return None
    labels = ["none", *(f"{100 * (step + 1) / len(rows):.3g} %" for step in range(len(rows)))]
    scale = max(counts) > _LOG_FROM * min(count for count in counts if count)
    said = Words(
        "Samples by share discarded",
        "samples" + (" (log scale)" if scale else ""),
        "share of a sample's response tokens that is discarded, up to",
        short_count,
    )
    return columns([float(count) for count in counts], labels, said, "discarded", logarithmic=scale, first="kept")


def training_curves(references: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Training loss by step, one line per trained reference."""
    curves = []
    # Trainings with the same number of epochs differ in steps: they can be compared by epoch.
    by_epoch = all(len(losses(reference, "epoch")) == len(losses(reference)) for reference in references)
    for reference in references:
        named = str(reference.get("name") or "reference")
        kind = "utility" if named == "utility" else "harmful"
        points = _thinned(losses(reference, "epoch" if by_epoch else "step"))
        if points:
            curves.append(Curve(named, kind + (" again" if "-" in named else ""), points))
    said = Words("Training loss of the references", "loss (cross-entropy)", "epoch" if by_epoch else "step", _plain)
    return lines(curves, said)


def round_curve(rounds: Sequence[Mapping[str, Any]]) -> Markup | None:
    """The overlap of each round's mask with the final one; the mean risk where the overlap is not known."""
    known = [(float(text.whole(row.get("round"))), row) for row in rounds]
    overlaps = [(at, value) for at, row in known if (value := text.number(row.get("overlap"))) is not None]
    if overlaps:
        said = Words("Overlap with the final mask by round", "in common with the final mask", "round", _percent)
        return lines([Curve("", "harmful", overlaps)], said, dots=True, bounds=(0.0, 1.0))
    risks = [(at, value) for at, row in known if (value := text.number(row.get("mean_risk"))) is not None]
    said = Words("Mean risk by round", "mean risk", "round", _plain)
    return lines([Curve("", "harmful", risks)] if risks else [], said, dots=True)


def losses(reference: Mapping[str, Any], by: str = "step") -> list[tuple[float, float]]:
    """(step, loss) of a reference's training, in the order of the steps; by="epoch" gives (epoch, loss)."""
    pairs = [(text.number(point.get(by)), text.number(point.get("loss"))) for point in reference.get("curve") or []]
    return sorted((at, loss) for at, loss in pairs if at is not None and loss is not None)


def place(row: Mapping[str, Any]) -> str:
    """A position or a range of positions: "3", "64–127"."""
    low, high = text.whole(row.get("low")), text.whole(row.get("high"))
    return text.count(low) if high <= low else f"{text.count(low)}–{text.count(high)}"


def columns(
    values: Sequence[float | None],
    labels: Sequence[str],
    said: Words,
    kind: str = "block",
    *,
    line: float | None = None,
    logarithmic: bool = False,
    first: str | None = None,
) -> Markup | None:
    """One column per value, upwards or downwards from 0. line: a level to compare with. first: the kind of the first
    column."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    if logarithmic:
        ticks = svg.powers(max(known))
        lift = svg.log_lift(max(*known, ticks[-1]))
    else:
        ticks, lift = _scale(min(0.0, *known), max(0.0, *known, line or 0.0))
    axes = svg.Axes(0, len(values), lift)
    parts = [svg.grid(axes, [(at, said.tick(at)) for at in ticks])]
    slot = axes.x(1) - axes.x(0)
    every = max(1, math.ceil((max(map(len, labels)) + 1) * _DIGIT / slot))
    floor = axes.y(0)
    for index, value in enumerate(values):
        left, right = axes.x(index + 0.12), axes.x(index + 0.88)
        if value:
            height = max(1.5, abs(axes.y(value) - floor))  # one sample must be visible beside a million
            chosen = first if first and not index else kind
            parts.append(svg.bar(chosen, left, right, floor - height if value > 0 else floor, height))
        if index % every == 0:
            parts.append(svg.tick((left + right) / 2, labels[index]))
    parts.append(svg.level("axis", floor))
    if line is not None:
        parts.append(svg.level("overall", axes.y(line)))
    parts.append(svg.axis_title(said.vertical, said.horizontal))
    words = "; ".join(
        f"{label}: {text.UNKNOWN if value is None else said.tick(value)}"
        for label, value in zip(labels, values, strict=True)
    )
    return svg.figure(said.title, words, parts)


def lines(
    curves: Sequence[Curve], said: Words, *, dots: bool = False, bounds: tuple[float, float] | None = None
) -> Markup | None:
    """Curves with their names at the right end. bounds: the range of heights, if not that of the points."""
    points = [point for curve in curves for point in curve.points]
    if not points:
        return None
    low, high = bounds or (min(y for _, y in points), max(y for _, y in points))
    ticks, lift = _scale(low, high)
    start, stop = min(x for x, _ in points), max(x for x, _ in points)
    named = any(curve.name for curve in curves)
    span = (stop - start) or 1.0
    axes = svg.Axes(start, start + span * (1 + (_LABEL_SPACE if named else 0)), lift)
    parts = [svg.grid(axes, [(at, said.tick(at)) for at in ticks])]
    below = [at for at in svg.round_steps(start, start + span, 8) if at <= stop * (1 + 1e-9)]
    if said.horizontal == "round":
        below = [at for at in below if at == int(at)]
    parts += [svg.tick(axes.x(at), text.fact(at)) for at in below or [start]]
    for curve in curves:
        drawn = " ".join(f"{svg.n(axes.x(x))},{svg.n(axes.y(y))}" for x, y in curve.points)
        parts.append(Markup('<polyline class="curve {}" points="{}"></polyline>').format(curve.kind, drawn))
        if dots or len(curve.points) == 1:
            parts += [
                Markup('<circle class="{}" cx="{}" cy="{}" r="4"></circle>').format(
                    curve.kind, svg.n(axes.x(x)), svg.n(axes.y(y))
                )
                for x, y in curve.points
            ]
    if named:
        parts += _names(axes, curves)
    parts.append(svg.axis_title(said.vertical, said.horizontal))
    words = "; ".join(
        f"{curve.name + ': ' if curve.name else ''}{said.tick(curve.points[0][1])} at {curve.points[0][0]:g}, "
        f"{said.tick(curve.points[-1][1])} at {curve.points[-1][0]:g}"
        for curve in curves
    )
    return svg.figure(said.title, words, parts)


def short_count(value: float) -> str:
    """A count that fits beside an axis: 2,500, 250 k, 10 M, 2.5 bn."""
    if value < 1e4:
        return text.count(value)
    unit, name = next((unit, name) for unit, name in ((1e9, "bn"), (1e6, "M"), (1e3, "k")) if value >= unit)
    return f"{value / unit:,.4g} {name}"


_PLACE = "place of the token in its answer (0: the first)"


def _percent(value: float) -> str:
    return f"{100 * value:.4g} %"


def _plain(value: float) -> str:
    return f"{value + 0.0:.4g}"


def _scale(low: float, high: float) -> tuple[list[float], Callable[[float], float]]:
    """Round ticks around low..high, and the function that places a value between the outermost ticks (0..1)."""
    if high - low < 1e-9 * max(1.0, abs(low), abs(high)):
        high = low + max(1.0, abs(low)) * 0.1
    step = svg.nice_ceiling((high - low) / 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    bottom, span = step * first, step * (last - first)
    return [step * number for number in range(first, last + 1)], lambda value: (value - bottom) / span


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about _POINTS points: means over stretches of equal length, so that no step is ignored."""
    stretch = math.ceil(len(points) / _POINTS)
    if stretch <= 1:
        return list(points)
    groups = [points[at : at + stretch] for at in range(0, len(points), stretch)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _names(axes: svg.Axes, curves: Sequence[Curve]) -> list[Markup]:
    """The curves' names beside their ends, moved apart where they would overlap."""
    ends = sorted(curves, key=lambda curve: -axes.y(curve.points[-1][1]))  # the lowest first
    room = min(_LINE, (svg.HEIGHT - svg.TOP - svg.BOTTOM) / len(ends))
    made = []
    below = svg.HEIGHT - svg.BOTTOM + room
    for left, curve in zip(range(len(ends), 0, -1), ends, strict=True):
        x, y = curve.points[-1]
        height = max(min(axes.y(y) + 4, below - room), svg.TOP + room * (left - 1))
        made.append(svg.label(axes.x(x) + 8, height, curve.name[:20], "value start"))
        below = height
    return made
