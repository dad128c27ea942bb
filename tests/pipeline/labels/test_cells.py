"""Every text survives a CSV cell, and none of them is run or rounded there."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.pipeline.labels.cells import shielded, unshielded


@given(st.text() | st.text(alphabet="'=+-@\t\r\n15e a"))
def test_every_text_comes_back(text: str) -> None:
    assert unshielded(shielded(text)) == text


@pytest.mark.parametrize("text", ["=1+1", "+1", "-2", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "'=1"])
def test_nothing_is_run(text: str) -> None:
    assert shielded(text) == "'" + text


@pytest.mark.parametrize("text", ["1234567890123456", "00000000000012e7", "12345678901234E1", "1,5"])
def test_nothing_is_taken_for_a_number(text: str) -> None:
    assert shielded(text) == "'" + text


@given(st.from_regex(re.compile(r"[0-9a-f]{16}", re.ASCII), fullmatch=True))
def test_most_sample_ids_stay_as_they_are(sample_id: str) -> None:
    assert shielded(sample_id) in (sample_id, "'" + sample_id)
    assert shielded("0123456789abcdef") == "0123456789abcdef"


def test_plain_text_stays_as_it_is() -> None:
    assert shielded("[user]\n=1+1") == "[user]\n=1+1"
    assert shielded("") == ""
