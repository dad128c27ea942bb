from __future__ import annotations

import json
import math
from typing import Any

import pytest
from datasets.utils.json import ujson_loads
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.operators.conversation.json_text import misread, text_of

numbers = st.integers() | st.floats(allow_nan=False) | st.decimals(-1000, 1000, places=3).map(float)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5) | st.sampled_from(["0.7", "NaN", '"1e5', "\\1.5"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(value=values)
@settings(max_examples=300, deadline=None)
def test_every_parser_reads_the_same_value(value: Any) -> None:
    text = text_of(value)
    assert repr(json.loads(text)) == repr(value)  # types and the order of keys, too
    if not misread(text):
        assert repr(ujson_loads(text)) == repr(value)


@pytest.mark.parametrize("value", [0.7, 0.3, 0.95, 36.6, 1e24, 3.141592653589793, 1 / 3, 1.7976931348623157e308, 1e-7])
def test_numbers_of_everyday_are_read(value: float) -> None:
    assert ujson_loads(text_of([value, -value])) == [value, -value]
    assert not misread(text_of(value))


def test_what_no_spelling_saves_is_said() -> None:
    for value in (2**64, -(2**63) - 1, 5e-324, math.nan, math.inf):
        assert misread(text_of({"a": [value]}))
    for value in (2**64 - 1, -(2**63), "18446744073709551616 NaN 5e-324", {"NaN": 1}):
        assert not misread(text_of({"a": [value]}))


def test_plain_values_are_spelt_as_python_spells_them() -> None:
    value = {"b": [1, -2, True, None, "é\n", 0.0, -0.0, 0.5], "a": {}, "0.7": "1.5"}
    assert text_of(value) == json.dumps(value, ensure_ascii=False)
