"""JSON text -> Python values, refusing text that two parsers would read differently.

Of two equal keys, Python's own parser takes the last and other parsers the first, so a filter and a trainer could see
two different samples. Python's parser also reads 1e999 as infinity. NaN and Infinity are not JSON but are accepted:
pandas and Python's own writer produce them, Arrow reads them too, and they are written back unchanged.
"""

from __future__ import annotations

import json
import math
from typing import Any

from tamis.operators.problems import RowProblem


def parse(text: str) -> Any:
    """The value of a JSON text. Raises RowProblem: malformed_json, duplicate_keys, number_too_large."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise RowProblem("malformed_json", f"{error.msg} at character {error.pos}") from None
    except (ValueError, RecursionError) as error:  # integers of thousands of digits, thousands of nested brackets
        raise RowProblem("malformed_json", f"not readable: {type(error).__name__}") from None


def parse_at(text: str, position: int) -> tuple[Any, int]:
    """The value that starts at `position`, and its end. Raises what JSONDecoder.raw_decode raises, and RowProblem."""
    return _DECODER.raw_decode(text, position)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise RowProblem("duplicate_keys", "an object has the same key twice, and readers differ in which one counts")
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise RowProblem("number_too_large", "a number is too large for 64-bit floating point")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite)
