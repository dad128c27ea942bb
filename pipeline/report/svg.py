"""The elements of plots: axes, bars, lines and labels as inline SVG, coloured by the page's style sheet.

All text is escaped. Coordinates refer to a picture of WIDTH x HEIGHT.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from tamis.pipeline.report import text

WIDTH, HEIGHT = 960.0, 320.0
LEFT, RIGHT, TOP, BOTTOM = 74.0, 18.0, 34.0, 52.0
LOG_FLOOR = 0.5  # on a log axis a count of 1 must still have height


@dataclass(frozen=True)
class Axes:
    """The mapping from data values to coordinates. `lift` maps a value of the vertical axis to 0..1."""

    low: float
    high: float
    lift: Callable[[float], float]

    def x(self, value: float) -> float:
        return LEFT + (value - self.low) / (self.high - self.low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - self.lift(value) * (HEIGHT - TOP - BOTTOM)


def nice_ceiling(value: float) -> float:
    """The smallest round number (1, 2, 2.5 or 5 times a power of ten) that is at least `value`, which is positive."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 2.5, 5, 10) if power * step >= value * (1 - 1e-12))


def round_steps(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from `low` (a multiple of the step, or above) to the first at or beyond `high`."""
    step = nice_ceiling((high - low) / about)
    first = math.ceil(low / step - 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [step * index for index in range(first, last + 1)]


def grid(axes: Axes, ticks: Sequence[tuple[float, str]]) -> Markup:
    """Horizontal lines at (height, label), and the line at the bottom."""
    lines = [level("grid", axes.y(at)) + label(LEFT - 8, axes.y(at) + 4, words, "tick end") for at, words in ticks]
    return Markup("").join([*lines, level("axis", HEIGHT - BOTTOM)])


def level(kind: str, y: float) -> Markup:
    """A horizontal line over the whole plot."""
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
        kind, n(LEFT), n(WIDTH - RIGHT), n(y), n(y)
    )


def count_grid(axes: Axes, ticks: Sequence[float], words: Callable[[float], str] = text.count) -> Markup:
    """The grid of a vertical axis of counts."""
    return grid(axes, [(tick, words(tick)) for tick in ticks if tick == int(tick)])


def share_grid(axes: Axes, ticks: Sequence[float]) -> Markup:
    """The grid of a vertical axis of shares (0..1)."""
    return grid(axes, [(tick, f"{100 * tick:.4g} %") for tick in ticks])


def value_axis(axes: Axes) -> Markup:
    """Round numbers below the plot."""
    ticks = [tick for tick in round_steps(axes.low, axes.high, 8) if tick <= axes.high + 1e-9 * (axes.high - axes.low)]
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9) + (1 if f"{step:e}".startswith("2.5") else 0))
    marks = []
    for at in ticks:
        big = max(abs(axes.low), abs(axes.high)) >= 1e7 or decimals > 6
        marks.append(tick(axes.x(at), f"{at:.3g}" if big else f"{at + 0.0:,.{decimals}f}"))
    return Markup("").join(marks)


def tick(x: float, words: str) -> Markup:
    """The label below the plot at x."""
    return label(x, HEIGHT - BOTTOM + 18, words, "tick")


def log_lift(top: float) -> Callable[[float], float]:
    """`lift` of a logarithmic axis of counts up to `top`, on which a count of 1 is still visible."""
    base = math.log(LOG_FLOOR)

    def lift(value: float) -> float:
        return (math.log(max(value, LOG_FLOOR)) - base) / (math.log(top) - base)

    return lift


def powers(peak: float) -> list[float]:
    """The ticks of that axis: 1, 10, ... up to `peak`, but at least to 10."""
    return [10.0**power for power in range(math.ceil(math.log10(max(peak, 1))) + 1) if 10.0**power <= max(peak, 10)]


def axis_title(vertical: str, horizontal: str) -> Markup:
    """The titles of the two axes."""
    middle = n((TOP + HEIGHT - BOTTOM) / 2)
    return Markup('<text class="title" text-anchor="middle" transform="translate(14 {}) rotate(-90)">{}</text>').format(
        middle, vertical
    ) + label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, horizontal, "title")


def bar(kind: str, left: float, right: float, top: float, height: float) -> Markup:
    """An upright bar. kind: its class in the style sheet."""
    gap = 0.5 if right - left > 3 else 0.0
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
        kind, n(left + gap), n(top), n(max(0.5, right - left - 2 * gap)), n(height)
    )


def label(x: float, y: float, words: str, kind: str) -> Markup:
    """A text. kind: its class, and "start" or "end" if the text should not be centred at x."""
    anchor = "end" if "end" in kind.split() else "start" if "start" in kind.split() else "middle"
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind.split()[0], n(x), n(y), anchor, text.visible(words)
    )


def figure(title: str, words: str, parts: Sequence[Markup]) -> Markup:
    """The picture of these parts. words: what it shows, for readers who cannot see it."""
    return Markup('<svg class="plot" role="img" viewBox="0 0 {} {}"><title>{}</title><desc>{}</desc>{}</svg>').format(
        n(WIDTH), n(HEIGHT), text.visible(title), escape(text.visible(words)), Markup("").join(parts)
    )


def percent(part: float, whole: float) -> str:
    """A length as a share of the picture."""
    return f"{100 * min(1.0, part / whole if whole else 0.0):.3f}%"


def n(value: float) -> str:
    """A coordinate: at most two decimals, none when whole."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
