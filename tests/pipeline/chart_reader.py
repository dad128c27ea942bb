"""Charts as a reader sees them: values by the labels of the axes, and whether any label leaves or covers another."""

from __future__ import annotations

import math
import unicodedata
from itertools import combinations
from xml.etree import ElementTree

UNITS = {"k": 1e3, "M": 1e6, "bn": 1e9, "%": 0.01}
FLOOR, CEILING, LEFT, RIGHT = 268.0, 34.0, 96.0, 936.0


class Chart:
    """A chart as its reader sees it: what stands where, and what the labels beside it say."""

    def __init__(self, picture: str | None) -> None:
        assert picture is not None
        self.root = parsed(picture)
        self.words = self.root.findtext("desc") or ""
        texts = [(text.get("class"), text.get("text-anchor") or "", text) for text in self.root.iter("text")]
        self.ticks = [
            (value(t.text or ""), float(t.get("y", "nan")) - 4)
            for kind, anchor, t in texts
            if (kind, anchor) == ("tick", "end")
        ]
        self.below = [(float(t.get("x", "nan")), t.text or "") for t in self.root.iter("text") if t.get("y") == "286"]
        self.values = [t.text for kind, _, t in texts if kind == "value"]

    def bars(self, kind: str) -> list[tuple[float, float, float, float]]:
        """(left, right, top, foot)"""
        rects = ([float(rect.get(name, "nan")) for name in ("x", "width", "y", "height")] for rect in self.kind(kind))
        return [(x, x + wide, y, y + high) for x, wide, y, high in rects]

    def kind(self, name: str) -> list[ElementTree.Element]:
        return [element for element in self.root.iter() if (element.get("class") or "").split()[-1:] == [name]]

    def height(self, y: float) -> float:
        """The value at this place, by the labels of two lines."""
        return between(self.ticks[0], self.ticks[-1], y)

    def power(self, y: float) -> float:
        """The same on a log scale."""
        (low, at), (high, up) = self.ticks[0], self.ticks[-1]
        return float(10 ** between((math.log10(low), at), (math.log10(high), up), y))

    def across(self, x: float) -> float:
        (left, low), (right, high) = self.below[1], self.below[-2]  # those at the edges may be moved
        return between((value(low), left), (value(high), right), x)


def between(one: tuple[float, float], two: tuple[float, float], at: float) -> float:
    """The value at a place, by the (value, place) of two others."""
    return one[0] + (two[0] - one[0]) * (at - one[1]) / (two[1] - one[1])


def value(label: str) -> float:
    """What a label says: "2,500", "250 k", "12.5 %"."""
    number, _, unit = label.partition(" ")
    return float(number.replace(",", "")) * UNITS.get(unit, 1.0)


def parsed(picture: str) -> ElementTree.Element:
    """Without the characters that a page may hold and XML may not."""
    return ElementTree.fromstring("".join(c if c.isprintable() or c.isspace() else " " for c in picture))


def boxes(picture: str) -> list[tuple[str, float, float, float, float]]:
    """(words, left, right, top, foot) of every label, as far as its size can be told without its font."""
    found = []
    for text in parsed(picture).iter("text"):
        words = text.text or ""
        wide = sum(
            16 if unicodedata.east_asian_width(c) in "WF" else 5 if c in " .,:;'|-" else 8 for c in words
        )  # 12.5 px DejaVu Sans: no font of the page is wider
        if text.get("transform"):  # the title of the vertical axis, upright
            found.append((words, 4.0, 17.0, 151 - wide / 2, 151 + wide / 2))
            continue
        x, y = float(text.get("x", "nan")), float(text.get("y", "nan"))
        left = x - wide * {"start": 0.0, "middle": 0.5, "end": 1.0}[text.get("text-anchor") or ""]
        found.append((words, left, left + wide, y - 10, y + 3))
    return found


def assert_neat(picture: str | None) -> None:
    assert picture is not None
    root = parsed(picture)
    for rect in root.iter("rect"):
        x, y, wide, high = (float(rect.get(name, "nan")) for name in ("x", "y", "width", "height"))
        assert LEFT - 0.1 <= x <= x + wide <= RIGHT + 0.6
        assert CEILING - 1.6 <= y <= y + high <= FLOOR + 1.6
    for line in root.iter("polyline"):
        for x, y in (map(float, point.split(",")) for point in (line.get("points") or "").split()):
            assert LEFT - 0.1 <= x <= RIGHT + 0.1
            assert CEILING - 0.1 <= y <= FLOOR + 0.1
    labels = boxes(picture)
    for words, left, right, top, foot in labels:
        assert -0.1 <= left <= right <= 960.1, words
        assert 0 <= top <= foot <= 320, words
    for one, two in combinations(labels, 2):
        beside = one[2] <= two[1] + 0.1 or two[2] <= one[1] + 0.1
        above = one[4] <= two[3] + 0.1 or two[4] <= one[3] + 0.1
        assert beside or above, (one, two)
