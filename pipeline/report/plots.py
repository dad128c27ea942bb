"""Plots as inline SVG: small, sharp in print, coloured by the page's style sheet (so light and dark work).

Every plot has axis labels, and a title and a description for those who do not see it; all text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from tamis.pipeline.report import text

WIDTH, HEIGHT = 960.0, 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 74.0, 18.0, 34.0, 52.0
_LOG_FLOOR = 0.5  # on a log axis one row must still have height


@dataclass(frozen=True)
class _Axes:
    """Where data values land in the picture. `lift` maps a height's value to 0..1."""

    low: float
    high: float
    lift: Callable[[float], float]

    def x(self, value: float) -> float:
        return _LEFT + (value - self.low) / (self.high - self.low) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - self.lift(value) * (HEIGHT - _TOP - _BOTTOM)


def score_histogram(histogram: Mapping[str, Any], cut: float | None, method: str) -> Markup | None:
    """Rows kept and dropped per bin of the score, the cut as a line; None when there is nothing to draw.

    The count axis is logarithmic when the tallest dropped bar would be less than a tenth of the tallest bar.
    """
    edges = [text.number(edge) for edge in histogram.get("edges") or []]
    kept, dropped = list(histogram.get("kept") or []), list(histogram.get("dropped") or [])
    bounds = [edge for edge in edges if edge is not None]
    most = max([*kept, *dropped], default=0)
    if len(bounds) != len(edges) or len(edges) != len(kept) + 1 or len(kept) != len(dropped) or most <= 0:
        return None
    low, high = bounds[0], bounds[-1]
    if high <= low:  # every score is the same: a bin of some width around it
        low, high = low - 0.5, high + 0.5
        bounds = [low + (high - low) * i / len(kept) for i in range(len(kept) + 1)]
    logarithmic = 0 < max(dropped) < most / 10
    peak = most if logarithmic else max(k + d for k, d in zip(kept, dropped, strict=True))
    ticks = _powers(peak) if logarithmic else _round_steps(0, peak)
    top = max(peak, ticks[-1])
    axes = _Axes(low, high, _log_lift(top) if logarithmic else lambda value: value / top)

    parts = [_count_axis(axes, ticks), _score_axis(axes)]
    for index, (k, d) in enumerate(zip(kept, dropped, strict=True)):
        left, right = axes.x(bounds[index]), axes.x(bounds[index + 1])
        parts.append(_bin(axes, left, right, k, d, side_by_side=logarithmic))
    parts.append(
        _axis_title(
            "samples" + (" (log scale)" if logarithmic else ""),
            f"{method} score  (higher = riskier to train on)",
        )
    )
    seen = cut is not None and low <= cut <= high
    if seen and cut is not None:
        parts.append(_cut_line(axes.x(cut), cut))
    words = (
        f"{text.count(sum(kept))} samples kept and {text.count(sum(dropped))} dropped, "
        f"scores from {text.score(low, 4)} to {text.score(high, 4)}"
    )
    if cut is not None:
        words += f", cut at {text.score(cut)}" + ("" if seen else " (outside of the plot)")
    return _figure("Histogram of scores", words, parts)


def length_columns(deciles: Sequence[Mapping[str, Any]], overall: float | None) -> Markup | None:
    """Share of rows dropped, a column per length decile, the overall share as a line; None without any."""
    shares = [(d["dropped"] / d["rows"] if d["rows"] else 0.0) for d in deciles]
    if not shares:
        return None
    ticks = _round_steps(0, max(*shares, overall or 0.0, 0.01))
    axes = _Axes(0, len(shares), lambda value: value / ticks[-1])
    bars, labels, line = [], [], Markup("")
    for index, (decile, value) in enumerate(zip(deciles, shares, strict=True)):
        left, right = axes.x(index + 0.14), axes.x(index + 0.86)
        middle = (left + right) / 2
        bars.append(_bar("dropped", left, right, axes.y(value), axes.y(0) - axes.y(value)))
        labels.append(_label(middle, axes.y(value) - 6, text.share(decile["dropped"], decile["rows"]), "value"))
        span = text.count(decile["low"])
        if decile["high"] != decile["low"]:
            span += f"–{text.count(decile['high'])}"
        labels.append(_label(middle, HEIGHT - _BOTTOM + 18, span, "tick"))
    if overall is not None:
        line = _level("overall", axes.y(overall))
    parts = [_share_axis(axes, ticks), *bars, line, *labels]  # the numbers last: nothing may cross them
    parts.append(_axis_title("share dropped", "response tokens, by tenth of the corpus"))
    words = "; ".join(
        f"{text.count(d['low'])} to {text.count(d['high'])} tokens: {text.share(d['dropped'], d['rows'])}"
        for d in deciles
    )
    return _figure("Share dropped by length of the answer", words, parts)


def share_bar(part: float, scale: float, mark: float | None) -> Markup:
    """One bar of a table: `part` and the line `mark` on an axis from 0 to `scale` (all shares)."""
    line = Markup("")
    if mark is not None:
        at = _percent(mark, scale)
        line = Markup('<line class="overall" x1="{}" x2="{}" y1="0" y2="14"/>').format(at, at)
    return Markup(
        '<svg class="bar" aria-hidden="true" focusable="false"><rect class="track" width="100%" height="14"/>'
        '<rect class="dropped" width="{}" height="14"/>{}</svg>'
    ).format(_percent(part, scale), line)


def composition(parts: Sequence[tuple[str, int]]) -> Markup | None:
    """One bar over the whole width, cut into (css class, rows) parts; None without rows."""
    total = sum(rows for _, rows in parts)
    if total <= 0:
        return None
    start, pieces = 0, []
    for name, rows in parts:
        pieces.append(
            Markup('<rect class="{}" x="{}" width="{}" height="18"/>').format(
                name, _percent(start, total), _percent(rows, total)
            )
        )
        start += rows
    words = ", ".join(f"{text.share(rows, total)} {name}" for name, rows in parts)
    return Markup('<svg class="composition" role="img" aria-label="{}">{}</svg>').format(words, Markup("").join(pieces))


def nice_ceiling(value: float) -> float:
    """The smallest round number (1, 2, 2.5 or 5 times a power of ten) that is not below a positive value."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 2.5, 5, 10) if power * step >= value * (1 - 1e-12))


def _log_lift(top: float) -> Callable[[float], float]:
    base = math.log(_LOG_FLOOR)

    def lift(value: float) -> float:
        return (math.log(max(value, _LOG_FLOOR)) - base) / (math.log(top) - base)

    return lift


def _powers(peak: float) -> list[float]:
    return [10.0**power for power in range(math.ceil(math.log10(max(peak, 1))) + 1) if 10.0**power <= max(peak, 10)]


def _round_steps(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from `low` (a multiple of the step, or above) to the first at or beyond `high`."""
    step = nice_ceiling((high - low) / about)
    first = math.ceil(low / step - 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [step * index for index in range(first, last + 1)]


def _bin(axes: _Axes, left: float, right: float, kept: int, dropped: int, side_by_side: bool) -> Markup:
    floor = axes.y(0)
    bars: list[Markup] = []

    def bar(kind: str, start: float, stop: float, low: float, high: float) -> None:
        if high > low:
            height = max(1.5, axes.y(low) - axes.y(high))  # one row must be seen beside ten thousand
            bars.append(_bar(kind, start, stop, (floor if low == 0 else axes.y(low)) - height, height))

    if kept and dropped and side_by_side:  # logarithmic bars do not add up, so they are never stacked
        middle = (left + right) / 2
        bar("kept", left, middle, 0, kept)
        bar("dropped", middle, right, 0, dropped)
    else:
        bar("kept", left, right, 0, kept)
        bar("dropped", left, right, kept, kept + dropped)
    return Markup("").join(bars)


def _bar(kind: str, left: float, right: float, top: float, height: float) -> Markup:
    gap = 0.5 if right - left > 3 else 0.0
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
        kind, _n(left + gap), _n(top), _n(max(0.5, right - left - 2 * gap)), _n(height)
    )


def _count_axis(axes: _Axes, ticks: Sequence[float]) -> Markup:
    return _grid(axes, [(tick, text.count(tick)) for tick in ticks if tick == int(tick)])


def _share_axis(axes: _Axes, ticks: Sequence[float]) -> Markup:
    return _grid(axes, [(tick, f"{100 * tick:.4g} %") for tick in ticks])


def _grid(axes: _Axes, ticks: Sequence[tuple[float, str]]) -> Markup:
    lines = [_level("grid", axes.y(at)) + _label(_LEFT - 8, axes.y(at) + 4, words, "tick end") for at, words in ticks]
    return Markup("").join([*lines, _level("axis", HEIGHT - _BOTTOM)])


def _level(kind: str, y: float) -> Markup:
    """A horizontal line over the whole plot."""
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
        kind, _n(_LEFT), _n(WIDTH - _RIGHT), _n(y), _n(y)
    )


def _score_axis(axes: _Axes) -> Markup:
    ticks = [tick for tick in _round_steps(axes.low, axes.high, 8) if tick <= axes.high + 1e-9 * (axes.high - axes.low)]
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9) + (1 if f"{step:e}".startswith("2.5") else 0))
    marks = []
    for tick in ticks:
        big = max(abs(axes.low), abs(axes.high)) >= 1e7 or decimals > 6
        words = f"{tick:.3g}" if big else f"{tick + 0.0:,.{decimals}f}"
        marks.append(_label(axes.x(tick), HEIGHT - _BOTTOM + 18, words, "tick"))
    return Markup("").join(marks)


def _axis_title(vertical: str, horizontal: str) -> Markup:
    middle = _n((_TOP + HEIGHT - _BOTTOM) / 2)
    return Markup('<text class="title" text-anchor="middle" transform="translate(14 {}) rotate(-90)">{}</text>').format(
        middle, vertical
    ) + _label((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 8, horizontal, "title")


def _cut_line(x: float, cut: float) -> Markup:
    anchor = "end" if x > WIDTH - 150 else ""
    line = Markup('<line class="cut" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
        _n(x), _n(_TOP - 14), _n(HEIGHT - _BOTTOM)
    )
    side = -6 if anchor else 6
    return line + _label(x + side, _TOP - 12, f"cut {text.score(cut)}", f"cutname {anchor or 'start'}")


def _label(x: float, y: float, words: str, kind: str) -> Markup:
    anchor = "end" if "end" in kind.split() else "start" if "start" in kind.split() else "middle"
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind.split()[0], _n(x), _n(y), anchor, text.visible(words)
    )


def _figure(title: str, words: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="plot" role="img" viewBox="0 0 {} {}"><title>{}</title><desc>{}</desc>{}</svg>').format(
        _n(WIDTH), _n(HEIGHT), title, escape(text.visible(words)), Markup("").join(parts)
    )


def _percent(part: float, whole: float) -> str:
    return f"{100 * min(1.0, part / whole if whole else 0.0):.3f}%"


def _n(value: float) -> str:
    """A coordinate: at most two decimals, none when whole."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
