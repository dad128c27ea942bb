"""What the report is made of: texts and numbers for people, and the plots."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from chart_reader import Chart, assert_neat
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.pipeline.report import text as words
from tamis.pipeline.report.page import length_columns, score_histogram
from tamis.pipeline.report.prose import advice


@given(
    st.dictionaries(st.text(min_size=1), st.text() | st.integers() | st.booleans() | st.none() | st.lists(st.text()))
)
@settings(max_examples=150, deadline=None)
def test_the_job_can_be_read_back(job: dict[str, Any]) -> None:
    text = words.as_yaml(job)
    assert yaml.safe_load(text) == job
    assert words.visible(text) == text


def test_yaml_has_no_anchors() -> None:
    shared = {"x": [1]}
    assert "&" not in words.as_yaml({"a": shared, "b": shared})


@given(st.text(alphabet=st.characters()))
def test_visible_text_is_writable_and_stable(text: str) -> None:
    shown = words.visible(text)
    shown.encode("utf-8")
    assert words.visible(shown) == shown
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b\u2028]", shown)


def test_strange_characters_are_shown() -> None:
    assert words.visible("a\x00b\x7fc\r\nd\re\tf") == "a␀b␡c\nd␍e\tf"
    assert words.visible("\u202e\ud800\U000e0041") == "⟦U+202E⟧⟦U+D800⟧⟦U+E0041⟧"
    assert words.visible("👩‍👧 ❤️ é \ufffd") == "👩‍👧 ❤️ é \ufffd"


def test_the_charts_of_samples_say_what_the_summary_does() -> None:
    bins = {"edges": [0, 1, 2], "kept": [100, 0], "dropped": [0, 50]}
    scores = Chart(score_histogram(bins, None, "<b>"))
    assert "&lt;b&gt; score  (higher = riskier to train on)" in str(score_histogram(bins, None, "<b>"))
    assert "100 samples kept and 50 dropped" in scores.words
    assert [scores.height(top) for _, _, top, _ in scores.bars("marked")] == pytest.approx([50], abs=0.2)
    deciles = [{"low": 9**n, "high": 9 ** (n + 1), "rows": 9, "dropped": n} for n in range(10)]
    picture = length_columns(deciles, 0.5)
    assert_neat(picture)
    lengths = Chart(picture)
    assert lengths.values[:2] == ["0 %", "11.1 %"]
    assert "9–81 tokens: 11.1 %" in lengths.words
    tops = [lengths.height(top) for _, _, top, _ in lengths.bars("marked")]
    assert tops == pytest.approx([n / 9 for n in range(1, 10)], abs=0.005)
    assert length_columns([], None) is None


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (words.count(1234567), "1,234,567"),
        (words.count(None), "–"),
        (words.span(3, 3), "3"),
        (words.span(640, 1279), "640–1,279"),
        (words.short_count(0), "0"),
        (words.short_count(2_500), "2,500"),
        (words.short_count(250_000), "250 k"),
        (words.short_count(1e6), "1 M"),
        (words.short_count(2.5e10), "25 bn"),
        (words.share(0, 5), "0 %"),
        (words.share(5, 5), "100 %"),
        (words.share(1, 100_000), "< 0.01 %"),
        (words.share(99_999, 100_000), "> 99.99 %"),
        (words.share(999, 1000), "99.90 %"),
        (words.share(1, 0), "–"),
        (words.share(None), "–"),
        (words.score(-0.0144143), "-0.0144143"),
        (words.score(0.1 + 0.2), "0.300000"),
        (words.score(float("nan")), "–"),
        (words.score(1234.5678), "1,234.57"),
        (words.score(3e-9), "3.00000e-09"),
        (words.rate(61.64), "61.6"),
        (words.rate(14231.2), "14,231"),
        (words.seconds(0.042), "0.04 s"),
        (words.seconds(59.97), "1 min 00 s"),
        (words.seconds(3599.7), "1 h 00 min"),
        (words.seconds(7_322_400), "2,034 h 00 min"),
        (words.size(999), "999 bytes"),
        (words.size(91_234_560), "91.2 MB"),
        (words.when("2026-11-20T21:04:33+00:00"), "2026-11-20 21:04 UTC"),
        (words.when("yesterday"), "yesterday"),
        (words.fact([0.31, 2, True, None]), "0.31, 2, yes, –"),
        (words.fact(120.0), "120"),
        (advice("malformed_json")[:4], "Mend"),
        (advice("never_heard_of")[:4], "Look"),
    ],
)
def test_numbers_are_formatted(made: str, expected: str) -> None:
    assert made == expected
