"""JSON that two readers would understand differently is refused; all else reads as Python's own reader has it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.conversation.strict_json import parse
from tamis.operators.problems import RowProblem

values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
)


@given(value=values, escape=st.booleans())
def test_what_was_written_is_read(value: Any, escape: bool) -> None:
    assert parse(json.dumps(value, ensure_ascii=escape)) == value


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"a": 1, "a": 1}', "duplicate_keys"),
        ('[{"b": {"a": 1, "\\u0061": 2}}]', "duplicate_keys"),
        ("[1e999]", "number_too_large"),
        ("[-1" + "0" * 400 + ".0]", "number_too_large"),
        ("9" * 5000, "malformed_json"),
        ("[" * 100_000, "malformed_json"),
        ("{'a': 1}", "malformed_json"),
        ("", "malformed_json"),
        ("1 2", "malformed_json"),
    ],
)
def test_what_is_refused(text: str, code: str) -> None:
    with pytest.raises(RowProblem) as caught:
        parse(text)
    assert caught.value.code == code
    assert len(caught.value.message) < 150


def test_literals_of_other_writers_stay_what_they_are() -> None:
    nan, low = parse("[NaN, -Infinity]")
    assert nan != nan
    assert low == float("-inf")
    assert parse("1e308") == 1e308
