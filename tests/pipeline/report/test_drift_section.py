"""What page, terminal and warnings say of drift."""

from __future__ import annotations

from report_samples import Page, assert_self_contained, drift, summary

from tamis.pipeline.report import render_card, render_report
from tamis.pipeline.report.drift import lines, warnings


def test_each_figure_has_its_numbers_and_a_sentence() -> None:
    html = render_report(summary(drift=drift()))
    page = Page(html)
    assert_self_contained(page, html)
    for said in (
        "it is that of the artifact in s3://bucket/made",
        "drift_limit 0.25: exceeded by larf scores; the command ends with exit code 6.",
        "larf scores 0.310 0.020 above the limit Scores in tenths of the artifact's corpus",
        "share beyond the cut 0.000 0.020 within the limit How much the cut drops, 10.0 % then and 20.0 % now",
        "answer lengths 0.200 0.600 too few rows to tell Response tokens in tenths",
        "quarantine 0.100 0.020 within the limit Rows that cannot be scored, by their code, 2.0 % then and 5.0 % now",
        "empty_response 2.0 % 5.0 %",
    ):
        assert said in page.shown


def test_without_a_limit_or_above_none_of_them() -> None:
    quiet = Page(render_report(summary(drift=drift(exceeded=[])))).shown
    assert "drift_limit 0.25: no figure exceeds it." in quiet
    assert "exit code 6" not in quiet
    unlimited = Page(render_report(summary(drift=drift(exceeded=[], limit=None)))).shown
    assert "No drift_limit is set." in unlimited
    assert unlimited.count("no limit is set") == 4


def test_a_run_without_an_artifact_says_nothing_of_drift() -> None:
    assert 'id="drift"' not in render_report(summary())
    assert lines(None) == []


def test_the_terminal_has_two_lines() -> None:
    figures = "larf scores 0.31, share beyond the cut 0.00, answer lengths 0.20, quarantine 0.10"
    assert lines(drift()) == [
        f"PSI (limit 0.25): {figures}",
        "beyond the cut: 20.0 % now, 10.0 % in the artifact's corpus",
    ]
    assert lines(drift(limit=None))[0] == f"PSI (no limit): {figures}"


def test_warnings_tell_what_has_drifted_and_what_cannot_be_told() -> None:
    drifted, few = warnings(drift())
    assert "the data has drifted from that of the artifact (larf scores)" in drifted
    assert "with 190 scored rows, and 980 in the artifact's corpus" in few
    assert "(answer lengths)" in few
    assert warnings(drift(exceeded=[], limit=None)) == []
    card = render_card(summary(drift=drift(), warnings=[drifted]))
    assert "drifted" in card
