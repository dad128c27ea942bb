"""What the report is made of: texts and numbers for people, and the plots."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from report_samples import Page

from tamis.pipeline.report import text as words
from tamis.pipeline.report.plots import length_columns, score_histogram
from tamis.pipeline.report.prose import advice
from tamis.pipeline.report.svg import nice_ceiling


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


def test_histogram_bars_show_every_dropped_row() -> None:
    plot = score_histogram({"edges": [0, 1, 2, 3], "kept": [100_000, 10, 0], "dropped": [0, 1, 1]}, 1.5, "LARF")
    assert plot is not None
    heights = [float(h) for h in re.findall(r'class="dropped"[^>]* height="([\d.]+)"', plot)]
    assert len(heights) == 2
    assert min(heights) >= 1.5
    assert "(log scale)" in plot
    assert "cut 1.50000" in plot
    page = Page(plot)
    assert "100,010 samples kept and 2 dropped" in page.shown
    linear = score_histogram({"edges": [0, 1, 2], "kept": [100, 0], "dropped": [0, 50]}, None, "<b>")
    assert linear is not None
    assert "log scale" not in linear
    assert "&lt;b&gt; score" in linear
    assert 'class="cut"' not in linear
    tall = [float(h) for h in re.findall(r'<rect class="(?:kept|dropped)"[^>]* height="([\d.]+)"', linear)]
    assert tall[0] == pytest.approx(2 * tall[1], rel=0.01)


@pytest.mark.parametrize(
    "histogram",
    [
        {},
        {"edges": [], "kept": [], "dropped": []},
        {"edges": [0, 1], "kept": [0], "dropped": [0]},
        {"edges": [0, 1], "kept": [1, 2], "dropped": [0, 0]},
        {"edges": [0, float("inf")], "kept": [1], "dropped": [0]},
    ],
)
def test_a_histogram_that_cannot_be_drawn_is_left_out(histogram: dict[str, Any]) -> None:
    assert score_histogram(histogram, 0.5, "LARF") is None


@given(
    st.lists(st.integers(0, 10**7), min_size=1, max_size=12),
    st.floats(-1e6, 1e6),
    st.floats(1e-4, 1e6),
    st.integers(0, 10**7),
)
@settings(deadline=None)
def test_plots_stay_inside_the_picture(kept: list[int], low: float, width: float, dropped: int) -> None:
    n = len(kept)
    edges = [low + width * i / n for i in range(n + 1)]
    plot = score_histogram({"edges": edges, "kept": kept, "dropped": [*[0] * (n - 1), dropped]}, low, "M")
    columns = length_columns([{"low": i, "high": i, "rows": k + 1, "dropped": k // 2} for i, k in enumerate(kept)], 0.5)
    for picture in [p for p in (plot, columns) if p is not None]:
        for x, y, w, h in re.findall(r'x="([\d.-]+)" y="([\d.-]+)" width="([\d.-]+)" height="([\d.-]+)"', picture):
            assert float(x) >= 70
            assert float(x) + float(w) <= 946
            assert float(y) >= 30
            assert float(y) + float(h) <= 268.1


def test_one_score_for_all_is_drawn() -> None:
    assert score_histogram({"edges": [0.5, 0.5], "kept": [3], "dropped": [0]}, 0.5, "M") is not None


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (words.count(1234567), "1,234,567"),
        (words.count(None), "–"),
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
        (str(nice_ceiling(0.21)), "0.25"),
        (advice("malformed_json")[:4], "Mend"),
        (advice("never_heard_of")[:4], "Look"),
    ],
)
def test_numbers_are_formatted(made: str, expected: str) -> None:
    assert made == expected
