"""The report page: right numbers, hostile text, missing parts, and the checks at its head."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from report_samples import HOSTILE, Page, assert_self_contained, hostile_summary, retyped, sample, summary

from tamis.pipeline.report import render_card, render_report
from tamis.pipeline.report import text as words
from tamis.pipeline.report.sample_data import TEXT_LIMIT
from tamis.pipeline.report.trust import checks, length_check, overlaps


def test_the_first_screen_says_what_was_removed_by_what_and_how_many() -> None:
    html = render_report(summary())
    page = Page(html)
    assert "LARF removed 100,000 of 1,000,000 scored samples (10.0 %)." in page.shown
    assert "the cut fell at a score of 0.250000" in page.shown
    for number in ("1,000,010", "900,000", "91.2 MB", "LARF: layer 10 of 32 (0 to 31), position last_token"):
        assert number in page.shown
    assert page.shown.index("A warning of the run.") < page.shown.index("How to read the score")
    assert "1 h 02 min" in page.shown
    assert "http" not in re.sub(r"http-equiv", "", html)
    assert_self_contained(page, html)


def test_rendering_is_pure() -> None:
    data = summary()
    before = copy.deepcopy(data)
    assert render_report(data) == render_report(json.loads(json.dumps(data)))
    assert render_card(data) == render_card(data)
    assert data == before


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text_wherever_it_stands(text: str) -> None:
    data = hostile_summary(text)
    html = render_report(data)
    html.encode("utf-8")
    page = Page(html)
    assert_self_contained(page, html)
    assert page.tags == Page(render_report(retyped(data, text, "x"))).tags
    assert page.boxes[1] == words.visible(text)  # the answer of the riskiest sample, character by character
    assert words.visible(html) == html
    assert "49" not in page.boxes[1]


def test_long_texts_and_long_conversations_are_cut_and_say_so() -> None:
    long = sample("y" * 100_000)
    many = sample("last", messages=[{"role": "user", "content": f"turn {i}"} for i in range(100)])
    page = Page(render_report(summary(riskiest=[long, many], borderline_dropped=[], borderline_kept=[])))
    assert page.boxes[1] == "y" * TEXT_LIMIT
    assert "98,000 more characters left out" in page.shown
    assert "88 messages left out here" in page.shown
    assert page.boxes[-1] == "turn 99"
    assert len(page.boxes) == 2 + 12


def test_sample_texts_are_behind_details() -> None:
    html = render_report(summary())
    assert html.index("Caution.") < html.index("the riskiest text")
    for text in ("the riskiest text", "a dropped text", "a kept text"):
        before = html[: html.index(text)]
        assert before.rindex('<details class="sample">') > before.rindex("</details>")
    assert '<details class="sample" open' not in html
    assert "the riskiest text" not in render_card(summary())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"counts": {"rows_in": 0, "kept": 0, "dropped": 0, "quarantined": 0, "truncated": 0}},
            "The corpus held no rows",
        ),
        (
            {"counts": {"rows_in": 7, "kept": 0, "dropped": 0, "quarantined": 7, "truncated": 0}},
            "No row could be scored: all 7 are in quarantine.",
        ),
        (
            {"counts": {"rows_in": 7, "kept": 7, "dropped": 0, "quarantined": 0, "truncated": 0}},
            "LARF removed none of the 7 scored samples.",
        ),
        ({"job": {"selection": {"control": "random"}}}, "removed by a random draw, not by their LARF score."),
    ],
)
def test_headlines(changes: dict[str, Any], said: str) -> None:
    assert said in Page(render_report(summary(**changes))).shown
    assert said in render_card(summary(**changes))


def test_every_part_may_be_missing_or_empty() -> None:
    whole = summary()
    for key, value in whole.items():
        for empty in (None, type(value)()):
            Page(render_report(whole | {key: empty}))
            render_card(whole | {key: empty})
    page = Page(render_report({}))
    render_card({})
    assert "There are no scores to plot." in page.shown
    assert "Undefined" not in page.shown
    nothing = summary(
        score_length_spearman=None,
        selection={"how": "share 0.1", "cut": None, "requested": 0.1, "at_cut": None},
        riskiest=[sample("t", score=None, rank=None, n_response_tokens=None, messages=[])],
        timings={"capture": {"seconds": None, "rows_per_second": None}},
        histogram={"edges": [0.0, float("nan")], "kept": [1], "dropped": [0]},
    )
    shown = Page(render_report(nothing)).shown
    assert "There is no cut." in shown
    assert "nan" not in shown.lower()
    assert "None" not in shown.replace("None.", "")


def test_lengths_that_explain_the_removal_are_called_out() -> None:
    def said(correlation: float | None, deciles: list[tuple[int, int]]) -> tuple[str, str]:
        rows = [{"low": i, "high": i, "rows": n, "dropped": d} for i, (n, d) in enumerate(deciles)]
        check = length_check({"score_length_spearman": correlation, "length_deciles": rows})
        return check.state, check.words

    flat = [(100, 10)] * 10
    assert said(0.5, flat)[0] == "ok"
    state, text = said(0.51, flat)
    assert state == "attention"
    assert "Longer answers get higher scores (Spearman correlation +0.51)" in text
    assert "Shorter answers" in said(-0.7, flat)[1]
    exact = (
        [(100, 30)] + [(100, 7)] * 5 + [(100, 9)] * 3 + [(100, 8)]
    )  # the first is 30 % against 10 %: not more than 3 x
    assert sum(d for _, d in exact) == 100
    assert said(0.0, exact)[0] == "ok"
    over = [(100, 31)] + [(100, 7)] * 6 + [(100, 9)] * 3
    assert sum(d for _, d in over) == 100
    state, text = said(None, over)
    assert state == "attention"
    assert "31.0 % went (31 of 100), against 10.0 % overall" in text
    assert said(None, [])[0] == "unknown"
    assert "This may be a length filter" in Page(render_report(summary(score_length_spearman=0.9))).shown


def test_checks_find_what_is_wrong() -> None:
    def found(**counts: int) -> dict[str, str]:
        known = {"rows_in": 100, "kept": 90, "dropped": 10, "quarantined": 0, "truncated": 0} | counts
        return {check.title: check.state for check in checks({"counts": known})}

    assert found()["Every row is accounted for"] == "ok"
    assert found(kept=89)["Rows are missing"] == "attention"
    assert found(kept=40, dropped=60)["More than half is gone"] == "attention"
    assert found(kept=80, quarantined=10)["Many rows are in quarantine"] == "attention"
    assert found(kept=89, quarantined=1)["Few rows are in quarantine"] == "ok"
    assert found(truncated=2)["Many samples were cut short"] == "attention"
    tied = {"counts": {"rows_in": 9, "kept": 5, "dropped": 4, "quarantined": 0}, "selection": {"at_cut": 50}}
    assert "Scores are tied at the cut" in [check.title for check in checks(tied)]
    by_threshold = tied | {"job": {"selection": {"threshold": 0.5}}}
    assert "Scores are tied at the cut" not in [check.title for check in checks(by_threshold)]


def test_overlap_with_random_and_length_matched_removals() -> None:
    all_of_one = [{"rows": 10, "dropped": 10}, {"rows": 90, "dropped": 0}]
    assert overlaps(all_of_one) == (0.1, 1.0)
    assert overlaps([{"rows": 50, "dropped": 5}, {"rows": 50, "dropped": 5}]) == (0.1, 0.1)
    assert overlaps([{"rows": 50, "dropped": 0}]) is None
    assert overlaps([]) is None


def test_sources_beyond_thirty_are_summed() -> None:
    sources = [{"source": f"file{i:03d}", "rows": 1000, "dropped": i} for i in range(100)]
    shown = Page(render_report(summary(sources=sources))).shown
    assert "file099" in shown
    assert "file070" in shown
    assert "file069" not in shown
    assert f"70 other sources 70,000 {sum(range(70)):,} 3.5 %" in shown
