"""A JSON value as text that every reader reads as the same value.

`datasets` reads the text with pandas' parser, which multiplies where others divide: it reads 0.7 as 0.7000000000000001.
It keeps at most 15 decimals and whole numbers of 64 bits. So a number is spelt, where its plain spelling would be
misread, with zeros at its end or with an exponent: 0.700 is the same number to all readers. `misread` finds the numbers
for which there is no such spelling.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

_MAYBE = re.compile(r"\d\.\d|\d[eE]|\d{17}|NaN|Infinity")
"""In a text without this, every number is a whole one of less than 64 bits."""
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|(-?(?:\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|Infinity|NaN))', re.DOTALL)
_NUMBER = re.compile(r"-?(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?")
_DECIMALS = 15
"""pandas' parser ignores the decimals after these."""


def text_of(value: Any) -> str:
    """The value, as `json.loads` returns it, as JSON text in one line; keys keep their order."""
    text = json.dumps(value, ensure_ascii=False)
    return _spelt(value) if _MAYBE.search(text) else text


def misread(text: str) -> bool:
    """Whether `datasets` reads a number of this JSON text as another one, or not at all (NaN, beyond 64 bits)."""
    return _MAYBE.search(text) is not None and any(not _reads(token) for token in _numbers(text))


def _spelt(value: Any) -> str:
    if isinstance(value, dict):
        fields = (f"{json.dumps(key, ensure_ascii=False)}: {_spelt(inner)}" for key, inner in value.items())
        return "{" + ", ".join(fields) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_spelt, value)) + "]"
    text = json.dumps(value, ensure_ascii=False)
    return _spelling(text) if isinstance(value, float) and math.isfinite(value) else text


@lru_cache(4096)
def _spelling(plain: str) -> str:
    """The number in a spelling that is read exactly; as it was where there is none."""
    return plain if _reads(plain) else next(filter(_reads, _spellings(plain)), plain)


def _spellings(plain: str) -> Iterator[str]:
    """Other spellings of the same number, the most readable first."""
    found = _NUMBER.fullmatch(plain)
    assert found is not None
    whole, decimals, exponent = found[1], found[2] or "", int(found[3] or 0)
    sign = "-" if plain.startswith("-") else ""
    if not exponent:
        for zeros in range(1, _DECIMALS + 1 - len(decimals)):
            yield f"{plain}{'0' * zeros}"
    digits = (whole + decimals).lstrip("0")
    for zeros in range(19 - len(digits)):
        yield f"{sign}{digits}{'0' * zeros}e{exponent - len(decimals) - zeros}"
    for places in range(1, len(digits)):
        moved = exponent - len(decimals) + places
        yield f"{sign}{digits[:-places]}.{digits[-places:]}e{moved}"


def _numbers(text: str) -> Iterator[str]:
    return (found[1] for found in _TOKEN.finditer(text) if found[1] is not None)


@lru_cache(4096)
def _reads(token: str) -> bool:
    """Whether pandas' parser reads the number exactly: ultrajsondec.c, with and without a fused multiplication."""
    found = _NUMBER.fullmatch(token)
    if found is None:
        return False
    whole, decimals, exponent = found.groups()
    if decimals is None and exponent is None:
        return -(1 << 63) <= int(token) < 1 << 64
    if int(whole) >= 1 << 63:
        return False
    kept = (decimals or "")[:_DECIMALS]
    scale = float(f"1e-{len(kept)}")
    fraction = float(int(kept or "0"))
    plain = float(int(whole)) + fraction * scale
    fused = float(Fraction(float(int(whole))) + Fraction(fraction) * Fraction(scale))
    try:
        power = math.pow(10.0, int(exponent or 0))
    except OverflowError:
        return False
    wanted = abs(float(token))
    return power > 0 and plain * power == fused * power == wanted
