"""The page of a layer search, and its section in a run's report."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from chart_reader import Chart, assert_neat
from hypothesis import given, settings
from hypothesis import strategies as st
from report_samples import HOSTILE, Page, assert_self_contained, retyped, summary

from tamis.operators.statistics.sensitivity import FACTORS
from tamis.pipeline.layers.result import Part, combine, fisher_part, search_part
from tamis.pipeline.report import render_card, render_layers, render_report
from tamis.pipeline.report.layers import block_bars, refusal_lines, view

ROWS = [(50, 50, 50, 50, 50, 50), (40, 42, 48, 53, 58, 61), (50, 49, 50, 50, 50, 51)]


def result(layer: str = "auto", *, text: str = "x", search: bool = True, fisher: bool = True) -> dict[str, Any]:
    """Three blocks: the search points to block 1, the ratios to block 2."""
    counts = {(block, factor): row[place] for block, row in enumerate(ROWS) for place, factor in enumerate(FACTORS)}
    facts = {
        "fingerprint": {"model": text}, "prompts": {"name": text, "count": 100, "sha256": "aa"}, "markers": [text],
        "factors": list(FACTORS), "new_tokens": 32, "unscaled": 51, "unscaled_counts": [51], "precision": text,
        "seconds": {"wall": 1.5},
    }  # fmt: skip
    references = {"fingerprint": {}, "references": {"unsafe": 120, "safe": 119}, "left_out": 0, "precision": text}
    parts: list[Part | None] = [
        search_part(counts, 3, facts) if search else None,
        fisher_part(np.array([0.1, np.nan, 0.25]), references) if fisher else None,
    ]
    return {
        "created": "2026-11-20T21:04:33+00:00",
        "model": {"name": text, "blocks": 3},
        **combine(layer, *parts),
        "warnings": [text],
        "versions": {"tamis": text},
    }


def test_the_page_says_which_block_and_why() -> None:
    html = render_layers(result(text="corner.jsonl"))
    page = Page(html)
    assert_self_contained(page, html)
    assert "Scaling block 1 of 3 moves the refusals most: its sensitivity is 42." in page.shown
    assert "1 40 42 48 53 58 61 21 16 5 42 – most sensitive, read by LARF" in page.shown
    assert "2 50 49 50 50 50 51 1 1 0 2 0.2500 highest ratio" in page.shown
    assert "100 harmless prompts that sound unsafe (corner.jsonl)" in page.shown
    assert "Unscaled, 51 of the 100 answers are refusals." in page.shown
    assert "120 unsafe references from the 119 safe ones" in page.shown
    assert html.count("<polyline") == 3


def test_other_ways_to_the_block() -> None:
    assert "Block 2 of 3 parts the references best: its Fisher ratio is 0.2500." in render_layers(result("fisher"))
    alone = Page(render_layers(result("fisher", search=False)))
    assert "polyline" not in alone.tags
    assert "2 0.2500 highest ratio, read by LARF" in alone.shown
    nothing = result(fisher=False)
    nothing["chosen"] = {"block": 1, "how": "default_block"}
    assert "No block stands out, so block 1 of 3, at 31 % of the depth" in render_layers(nothing)
    instead = result()
    instead["chosen"] = {"block": 2, "how": "fisher_instead"}
    assert "so block 2 of 3, which parts the references best, is read instead" in render_layers(instead)
    assert "2 50 49 50 50 50 51 1 1 0 2 0.2500 highest ratio, read by LARF" in Page(render_layers(instead)).shown


def test_a_run_shows_the_search_that_it_has_used() -> None:
    method = {"name": "larf", "layer": 1, "position": "last_token", "facts": {"layer_chosen": "search"}}
    page = Page(render_report(summary(layers=result(), methods=[method])))
    assert "Which layer Scaling block 1 of 3 moves the refusals most" in page.shown
    assert "LARF: layer 1 of 32 (0 to 31), position last_token, found by the layer search" in page.shown
    by_hand = Page(render_report(summary(layers=result(), methods=[{**method, "layer": 0, "facts": {}}])))
    assert "LARF has read block 0, as the job says." in by_hand.shown
    assert "0 50 50 50 50 50 50 0 0 0 0 0.1000 read by LARF" in by_hand.shown
    assert "| `layers.html` |" in render_card(summary(layers=result()))
    assert "layers.html" not in render_card(summary())
    assert "Which layer" not in Page(render_report(summary())).shown
    assert "Which layer" not in Page(render_report(summary(layers=None))).shown


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    hostile = result(text=text)
    for html, tame in (
        (render_layers(hostile), render_layers(retyped(hostile, text, "x"))),
        (render_report(summary(layers=hostile, methods=[])), render_report(summary(layers=result(), methods=[]))),
    ):
        html.encode("utf-8")
        page = Page(html)
        assert_self_contained(page, html)
        assert page.tags == Page(tame).tags


def test_parts_may_be_missing() -> None:
    Page(render_layers({}))
    assert view(None) is None
    assert view({}) is None
    assert view({"blocks": []}) is None


def test_rendering_is_pure() -> None:
    made = result()
    assert render_layers(made) == render_layers(json.loads(json.dumps(made)))


def test_the_charts_say_what_the_search_does() -> None:
    counts = [dict(zip(map(str, FACTORS), row, strict=True)) for row in ROWS]
    lines = Chart(refusal_lines(counts, 51, 1))
    (picked,) = lines.kind("marked")
    drawn = [tuple(map(float, point.split(","))) for point in (picked.get("points") or "").split()]
    factors = [0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3]
    assert [lines.height(y) for _, y in drawn] == pytest.approx([40, 42, 48, 51, 53, 58, 61], abs=0.2)
    assert [x for x, _ in drawn] == pytest.approx([x for x, _ in lines.below], abs=0.1)
    assert [float(words) for _, words in lines.below] == factors
    assert lines.values == ["block 1"]
    assert lines.words == "A line for each of 3 blocks. Block 1: 40 refusals at 0.7, 51 unscaled, 61 at 1.3"
    assert "<title>block 2: 50 at 0.7, 49 at 0.8," in str(refusal_lines(counts, 51, 1))
    bars = Chart(block_bars([1.0, 42.0, None, -2.0], 1, "t", "v"))
    assert bars.height(bars.bars("marked")[0][2]) == pytest.approx(42, abs=0.2)
    assert bars.words == "block 0: 1; block 1: 42; block 2: –; block 3: -2"


@given(st.lists(st.tuples(*[st.integers(0, 10**5)] * 6), min_size=1, max_size=90), st.data())
@settings(deadline=None, max_examples=30)
def test_the_chosen_line_is_drawn_above_the_others(rows: list[tuple[int, ...]], data: st.DataObject) -> None:
    picked = data.draw(st.integers(0, len(rows) - 1))
    counts = [dict(zip(map(str, FACTORS), row, strict=True)) for row in rows]
    plot = refusal_lines(counts, data.draw(st.integers(0, 10**5)), picked)
    assert_neat(plot)
    kinds = re.findall(r'<polyline class="curve (\w+)"', str(plot))
    assert len(kinds) == len(rows)
    assert kinds.index("marked") == len(rows) - 1
    assert set(kinds) <= {"marked", *(f"depth{number}" for number in range(10))}


@pytest.mark.parametrize("picked", [0, 1, 11, 47, 89])
def test_the_chosen_block_keeps_its_label(picked: int) -> None:
    plot = block_bars([0.25] * 90, picked, "t", "v")
    assert_neat(plot)
    assert str(picked) in [words for _, words in Chart(plot).below]
