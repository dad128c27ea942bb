"""Text and numbers for people: strange characters made visible, long texts clipped, numbers with units.

Everything in a report goes through `visible`: afterwards a text can be written as UTF-8, cannot reorder the text around
it, and hides nothing. It does not escape HTML or Markdown; the templates do.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import yaml

UNKNOWN = "–"

# Written as code points on purpose: the characters themselves would be invisible here, too. Joiners (200C, 200D) and
# variation selectors (FE00-FE0F) stay: scripts and emoji need them, and they reorder nothing.
_HIDDEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, except tab and newline
    "\u00ad\u061c\u115f\u1160\u180e\u3164\uffa0"  # soft hyphen, Arabic letter mark, blank fillers
    "\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"  # zero width, bidi marks and overrides, separators
    "\ud800-\udfff\ufdd0-\ufdef\ufff0-\uffff"  # lone surrogates, noncharacters, specials
    "\U000e0000-\U000e0fff"  # tags and variation selectors that can hide text
    "]"
)


def visible(text: str) -> str:
    """The text with controls as pictures (NUL as ␀), other invisible or reordering characters as ⟦U+202E⟧."""
    return _HIDDEN.sub(_picture, text.replace("\r\n", "\n"))


def _picture(match: re.Match[str]) -> str:
    point = ord(match.group())
    if point < 0x20:
        return chr(0x2400 + point)
    if point == 0x7F:
        return "␡"
    if point == 0xFFFD:  # the replacement character is visible as it is
        return "\ufffd"
    return f"⟦U+{point:04X}⟧"


def one_line(text: str) -> str:
    """`visible`, with newlines as ␊ and tabs as spaces, and no blanks at the ends."""
    return visible(text).replace("\n", "␊").replace("\t", " ").strip()


def clip(text: str, limit: int) -> tuple[str, int]:
    """The first `limit` characters, and how many were left out."""
    return text[:limit], max(0, len(text) - limit)


def clip_visible(text: str, limit: int) -> tuple[str, int]:
    """At most `limit` characters of `visible`, and how many characters of the text they show."""
    used = min(len(text), limit)
    if len(visible(text[:used])) > limit:
        used = bisect_right(range(used), limit, key=lambda length: len(visible(text[:length]))) - 1
    return visible(text[:used]), used


def number(value: Any) -> float | None:
    """A finite float, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def whole(value: Any) -> int:
    """A count, 0 where it is not known."""
    return round(number(value) or 0)


def count(value: Any) -> str:
    """1234567 -> "1,234,567"."""
    known = number(value)
    return UNKNOWN if known is None else f"{round(known):,}"


def span(low: float, high: float) -> str:
    """Whole numbers from low to high: "3", "64–127"."""
    return count(low) if high <= low else f"{count(low)}–{count(high)}"


def short_count(value: float) -> str:
    """A count that fits beside an axis: 2,500, 250 k, 10 M, 2.5 bn."""
    if value < 1e4:
        return count(value)
    unit, name = next((unit, name) for unit, name in ((1e9, "bn"), (1e6, "M"), (1e3, "k")) if value >= unit)
    return f"{value / unit:,.4g} {name}"


def share(part: Any, whole: Any = 1) -> str:
    """A part of a whole in percent; "0 %" and "100 %" are used only when they are exact."""
    known, total = number(part), number(whole)
    if known is None or not total:
        return UNKNOWN
    percent = 100 * known / total
    if percent in (0, 100):
        return f"{percent:.0f} %"
    if 0 < percent < 0.01:
        return "< 0.01 %"
    if 99.99 < percent < 100:
        return "> 99.99 %"
    decimals = 2 if percent < 1 or percent > 99 else 1
    return f"{percent:.{decimals}f} %"


def score(value: Any, digits: int = 6) -> str:
    """A number with `digits` significant digits, in plain notation where that is readable."""
    known = number(value)
    if known is None:
        return UNKNOWN
    if known == 0:
        return "0"
    exponent = math.floor(math.log10(abs(known)))
    if exponent < -5 or exponent > 8:
        return f"{known:.{digits - 1}e}"
    return f"{known:,.{max(0, digits - 1 - exponent)}f}"


def between(low: float, high: float) -> str:
    """Two scores with three digits each, or with as many more as tell them apart: "0.0531 to 0.0548"."""
    pairs = ((score(low, digits), score(high, digits)) for digits in range(3, 9))
    return " to ".join(next((pair for pair in pairs if pair[0] != pair[1]), (score(low, 9), score(high, 9))))


def rate(value: Any) -> str:
    """Per second: three digits below 1,000, whole numbers above."""
    known = number(value)
    if known is None:
        return UNKNOWN
    return f"{known:,.0f}" if known >= 100 or known == 0 else f"{known:.3g}"


def seconds(value: Any) -> str:
    """0.042 -> "0.04 s", 192 -> "3 min 12 s", 3720 -> "1 h 02 min"."""
    known = number(value)
    if known is None:
        return UNKNOWN
    if known < 59.95:
        return f"{known:.2f} s" if known < 9.995 else f"{known:.1f} s"
    whole = round(known)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(known / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def size(value: Any) -> str:
    """Bytes with a decimal unit: 1234567 -> "1.23 MB"."""
    known = number(value)
    if known is None:
        return UNKNOWN
    for unit in ("bytes", "kB", "MB", "GB"):
        if known < 999.5:
            return f"{known:.0f} {unit}" if unit == "bytes" else f"{known:.3g} {unit}"
        known /= 1000
    return f"{known:,.3g} TB"


def when(iso: str) -> str:
    """An ISO 8601 time to the minute with its zone; anything else as it is."""
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".strip()


def fact(value: Any) -> str:
    """Any JSON value in one short line: whole numbers with commas, others to four digits, lists joined."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        said = score(value, 4)
        return said.rstrip("0").rstrip(".") if "." in said and "e" not in said else said
    if isinstance(value, list | tuple):
        return ", ".join(fact(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def facts(mapping: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) lines of a nested mapping; inner names follow their outer one after a dot."""
    lines: list[tuple[str, str]] = []
    for name, value in mapping.items():
        if isinstance(value, Mapping) and value:
            lines += [(f"{name}.{inner}", said) for inner, said in facts(value)]
        else:
            lines.append((str(name), fact(value)))
    return lines


class _Plain(yaml.SafeDumper):
    """YAML without anchors: a job file should show only values."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def as_yaml(value: Mapping[str, Any], width: int = 100) -> str:
    """YAML that loads to the same value and contains no invisible characters (they become YAML escapes)."""

    def dump(unicode: bool) -> str:
        return yaml.dump(dict(value), Dumper=_Plain, sort_keys=False, allow_unicode=unicode, width=width)

    text = dump(True)
    return text if visible(text) == text else dump(False)
