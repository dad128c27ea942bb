"""What charts are made of: axes, bars, lines and labels as inline SVG, coloured by the page's style sheet.

All text is escaped, and no label leaves the picture. Coordinates refer to a picture of WIDTH x HEIGHT.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from markupsafe import Markup, escape

from tamis.pipeline.report import text

WIDTH, HEIGHT = 960.0, 320.0
LEFT, RIGHT, TOP, BOTTOM = 96.0, 24.0, 34.0, 52.0
DIGIT = 8.0  # width of a digit of a label in the widest of the page's fonts
LINE = 15.0  # height of a line of words
LOG_FLOOR = 0.5  # on a log scale a count of 1 must still have height
LONGEST = 9  # characters of a number that have room beside an axis

Unit = Literal["count", "share", "number"]


@dataclass(frozen=True)
class Scale:
    """The vertical axis: its round ticks, and where between its ends (0..1) a value lies."""

    ticks: Sequence[float]
    lift: Callable[[float], float]
    logarithmic: bool = False


@dataclass(frozen=True)
class Axes:
    """The mapping from data values to coordinates. low, high: the ends of the horizontal axis."""

    low: float
    high: float
    scale: Scale

    def x(self, value: float) -> float:
        return LEFT + (value - self.low) / (self.high - self.low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - self.scale.lift(value) * (HEIGHT - TOP - BOTTOM)


def nice_ceiling(value: float) -> float:
    """The smallest round number (1, 2, 2.5 or 5 times a power of ten) that is at least `value`, which is positive."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 2.5, 5, 10) if power * step >= value * (1 - 1e-12))


def round_steps(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from the last at or below `low` to the first at or above `high`."""
    step = nice_ceiling((high - low) / about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * index for index in range(first, last + 1)]


def round_within(low: float, high: float, about: int = 8) -> list[float]:
    """Round numbers between `low` and `high`; `low` itself where there are none."""
    fuzz = 1e-9 * (high - low)
    return [at for at in round_steps(low, high, about) if low - fuzz <= at <= high + fuzz] if high > low else [low]


def scale(low: float, high: float) -> Scale:
    """A scale whose ends are round. It is wider than the values where these differ by less than labels can tell."""
    if high - low < 1e-9 * max(1.0, abs(low), abs(high)):
        high = low + max(1.0, abs(low)) * 0.1
    ticks = round_steps(low, high)
    while max(map(len, _numbers(ticks))) > LONGEST:
        high += high - low
        ticks = round_steps(low, high)
    return Scale(ticks, lambda value: (value - ticks[0]) / (ticks[-1] - ticks[0]))


def log_scale(peak: float) -> Scale:
    """A scale of counts up to `peak`, but at least to 10, with ticks at 1, 10, ..."""
    ticks = [10.0**power for power in range(math.ceil(math.log10(max(peak, 1))) + 1) if 10.0**power <= max(peak, 10)]
    base, top = math.log(LOG_FLOOR), math.log(max(peak, ticks[-1]))
    return Scale(ticks, lambda value: (math.log(max(value, LOG_FLOOR)) - base) / (top - base), logarithmic=True)


def marks(ticks: Sequence[float], unit: Unit) -> list[tuple[float, str]]:
    """The ticks with their labels; of counts only the whole ones."""
    if unit == "count":
        return [(at, text.short_count(at)) for at in ticks if at == int(at)]
    if unit == "share":
        return [(at, in_words(at, unit)) for at in ticks]
    return list(zip(ticks, _numbers(ticks), strict=True))


def in_words(value: float | None, unit: Unit) -> str:
    """A value that is not a tick."""
    if unit == "share" and value is not None:
        return f"{100 * value:.4g} %"
    return text.count(value) if unit == "count" else text.fact(value)


def _numbers(ticks: Sequence[float]) -> list[str]:
    """Numbers in one notation, with just the digits that tell each from the next."""
    if len(ticks) < 2:
        return [text.fact(at) for at in ticks]
    step = ticks[1] - ticks[0]
    last = math.floor(math.log10(step) + 1e-9) - (1 if f"{step:e}".startswith("2.5") else 0)  # place of the last digit
    plain = [f"{at + 0.0:,.{max(0, -last)}f}" for at in ticks]
    if max(map(len, plain)) <= LONGEST:
        return plain
    digits = max(0, math.floor(math.log10(max(map(abs, ticks))) + 1e-9) - last)
    by_power = [f"{at:.{digits}e}" if at else "0" for at in ticks]
    return min(plain, by_power, key=lambda labels: max(map(len, labels)))


def grid(axes: Axes, unit: Unit) -> Markup:
    """A horizontal line with its label at every tick, and the line at the bottom."""
    drawn = [
        level("grid", axes.y(at)) + label(LEFT - 8, axes.y(at) + 4, words, "tick", "end")
        for at, words in marks(axes.scale.ticks, unit)
    ]
    return Markup("").join([*drawn, level("axis", HEIGHT - BOTTOM)])


def below(at_words: Sequence[tuple[float, str]], needed: int | None = None) -> Markup:
    """Labels below the plot at (x, words): all, or every second, third, ... so that none overlap. needed: the index of
    one that must be there."""
    if not at_words:
        return Markup("")
    places = [inside(x, width(words)) for x, words in at_words]
    nearest = min((right - left for left, right in pairwise(places)), default=WIDTH)
    every = math.ceil((max(width(words) for _, words in at_words) + DIGIT) / max(nearest, 1e-3))
    shown = [index for index in range(0, len(places), every) if needed is None or abs(index - needed) >= every]
    shown += [] if needed is None else [needed]
    return Markup("").join(
        label(at_words[index][0], HEIGHT - BOTTOM + 18, at_words[index][1]) for index in sorted(shown)
    )


def axis_titles(vertical: str, horizontal: str) -> Markup:
    """The titles of the two axes."""
    middle = n((TOP + HEIGHT - BOTTOM) / 2)
    return Markup('<text class="title" text-anchor="middle" transform="translate(14 {}) rotate(-90)">{}</text>').format(
        middle, fitted(vertical, HEIGHT)
    ) + label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, horizontal, "title")


def level(kind: str, y: float) -> Markup:
    """A horizontal line over the whole plot. kind, here and below: its class in the style sheet."""
    return line(kind, LEFT, WIDTH - RIGHT, y, y)


def line(kind: str, x1: float, x2: float, y1: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(kind, n(x1), n(x2), n(y1), n(y2))


def bar(kind: str, left: float, right: float, floor: float, end: float) -> Markup:
    """An upright bar from its floor up or down to its end. It is never too flat to be seen: one among a million is."""
    gap = 0.5 if right - left > 3 else 0.0
    height = max(1.5, abs(floor - end))
    top = floor if end > floor else floor - height
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
        kind, n(left + gap), n(top), n(max(0.5, right - left - 2 * gap)), n(height)
    )


def spot(left: float, right: float, words: str) -> Markup:
    """What a pointer finds over a part of the plot, from top to bottom."""
    return Markup('<rect class="spot" x="{}" y="{}" width="{}" height="{}" data-tip="{}"/>').format(
        n(left), n(TOP), n(right - left), n(HEIGHT - TOP - BOTTOM), text.visible(words)
    )


def curve(kind: str, points: Sequence[tuple[float, float]], hint: str) -> Markup:
    """A line through points. hint: what it is, for a pointer that rests on it."""
    drawn = " ".join(f"{n(x)},{n(y)}" for x, y in points)
    told = Markup("<title>{}</title>").format(text.visible(hint)) if hint else ""
    return Markup('<polyline class="curve {}" points="{}">{}</polyline>').format(kind, drawn, told)


def dot(kind: str, x: float, y: float) -> Markup:
    return Markup('<circle class="{}" cx="{}" cy="{}" r="4"/>').format(kind, n(x), n(y))


def label(x: float, y: float, words: str, kind: str = "tick", anchor: str = "middle") -> Markup:
    """A text at x, moved sideways where it would leave the picture. anchor: start, middle or end."""
    shown = fitted(words, WIDTH)
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, n(inside(x, width(shown), anchor)), n(y), anchor, shown
    )


def inside(x: float, wide: float, anchor: str = "middle") -> float:
    """The place nearest to x at which a text of this width stays in the picture."""
    before = {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
    return max(before, min(x, WIDTH - wide + before))


def width(words: str) -> float:
    """The width of a label, about: points and blanks are narrower than a digit, Chinese is twice as wide."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in words)
    narrow = sum(character in " .,:;'|-" for character in words)
    return DIGIT * (len(words) + wide - 3 / 8 * narrow)


def fitted(words: str, room: float) -> str:
    """The words, or as many of their characters as there is room for, and an ellipsis."""
    shown = text.visible(words)[:200]  # more than there ever is room for
    while width(shown) > room:
        shown = shown[:-2] + "…"
    return shown


def figure(title: str, words: str, parts: Sequence[Markup]) -> Markup:
    """The picture of these parts. words: what it shows, for readers who cannot see it."""
    return Markup('<svg class="plot" role="img" viewBox="0 0 {} {}"><title>{}</title><desc>{}</desc>{}</svg>').format(
        n(WIDTH), n(HEIGHT), text.visible(title), escape(text.visible(words)), Markup("").join(parts)
    )


def portion(part: float, whole: float) -> str:
    """A length as a share of the picture."""
    return f"{100 * min(1.0, part / whole if whole else 0.0):.3f}%"


def n(value: float) -> str:
    """A coordinate: at most two decimals, none when whole."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
