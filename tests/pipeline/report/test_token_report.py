"""The page and the card of a run that masks tokens: right numbers, hostile tokens, missing parts, checks, plots."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
import yaml
from chart_reader import Chart, assert_neat
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from report_samples import HOSTILE, Page, assert_self_contained, retyped
from test_report_card import _outline
from token_report_samples import example, hostile_token_summary, reference, token_summary

from tamis.pipeline.report import render_card, render_token_report, token_charts
from tamis.pipeline.report import text as words
from tamis.pipeline.report.token_examples import PIECE_LIMIT, TOKENS_AT_EITHER_END, runs
from tamis.pipeline.report.token_trust import checks, first_tokens
from tamis.pipeline.report.tokens import STRINGS_SHOWN, spelling


def states(**changes: Any) -> dict[str, str]:
    return {check.title: check.state for check in checks(token_summary(**changes))}


def test_the_first_screen_says_what_was_masked_by_what_and_how_much() -> None:
    html = render_token_report(token_summary())
    page = Page(html)
    assert_self_contained(page, html)
    assert "http" not in html.replace("http-equiv", "")
    assert "TOSS-Pro masked 5,900,000 of 59,000,000 response tokens (10.0 %) in 1,000,000 samples." in page.shown
    assert "Asked for: the riskiest 10.0 % of all response tokens of the corpus." in page.shown
    assert "The cut fell at a risk of 0.2500. 600 samples with no token left went to dropped/." in page.shown
    assert page.shown.index("A warning of the run.") < page.shown.index("Risk of the tokens")
    for number in ("1,000,010", "999,400", "91.2 MB", "1 h 02 min", "61,204"):
        assert number in page.shown


def test_the_tables_hold_the_numbers_of_the_summary() -> None:
    data = token_summary()
    shown = Page(render_token_report(data)).shown
    for row in data["positions"]:
        place = words.count(row["low"]) + (f"–{words.count(row['high'])}" if row["high"] > row["low"] else "")
        risk = words.score(row["mean_risk"], 4)
        share = words.share(row["discarded"], row["tokens"])
        assert f"{place} {row['tokens']:,} {risk} {row['discarded']:,} {share}" in shown
    bins = data["risk_histogram"]
    for low, high, kept, gone in zip(bins["edges"], bins["edges"][1:], bins["kept"], bins["discarded"], strict=False):
        if kept or gone:
            assert f"{words.score(low, 4)} {words.score(high, 4)} {kept:,} {gone:,}" in shown
    for row in data["token_strings"]:
        assert (
            f"{row['id']} {row['tokens']:,} {row['discarded']:,} {words.share(row['discarded'], row['tokens'])}"
            in shown
        )
    assert "forum/dump-2.parquet 100,000 560 9,000,000 3,400,000 37.8 %" in shown
    assert "harmful-1 trained harmful-1.jsonl 3,000 540,000 93" in shown
    assert "0 1,500 1,500 -0.05100 0.2130 81.2 % 1 3,000 0 -0.06200 0.2500 100 %" in shown
    assert "333,656 samples keep every token, 600 keep none." in shown


def test_rendering_is_pure() -> None:
    data = token_summary()
    before = copy.deepcopy(data)
    assert render_token_report(data) == render_token_report(json.loads(json.dumps(data)))
    assert data == before


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_tokens_stay_text_wherever_they_stand(text: str) -> None:
    data = hostile_token_summary(text)
    html = render_token_report(data)
    html.encode("utf-8")
    page = Page(html)
    assert_self_contained(page, html)
    assert page.tags == Page(render_token_report(retyped(data, text, "x"))).tags
    assert words.visible(html) == html
    marked = re.findall(r'<mark title="risk 0.5000">(.*?)</mark>', html, re.S)
    assert [Markup(found).unescape() for found in marked] == [words.visible(text).replace("\n", "↵\n")]
    card = render_card(data)
    card.encode("utf-8")
    assert _outline(card) == _outline(render_card(retyped(data, text, "x")))


def test_every_part_may_be_missing_or_empty() -> None:
    whole = token_summary()
    for key, value in whole.items():
        for empty in (None, type(value)()):
            Page(render_token_report(whole | {key: empty}))
            render_card(whole | {key: empty})
        if isinstance(value, dict):
            for inner in value:
                Page(render_token_report(whole | {key: {**value, inner: None}}))
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for inner in value[0]:
                Page(render_token_report(whole | {key: [{**value[0], inner: None}]}))
            Page(render_token_report(whole | {key: [{}]}))
    shown = Page(render_token_report({"kind": "tokens"})).shown
    render_card({"kind": "tokens"})
    assert "There are no risks to plot." in shown
    assert "Undefined" not in shown
    nothing = {**token_summary(), "tokens": {"response": 10, "discarded": 0, "cut": float("nan")}, "method": "toss"}
    assert "TOSS masked none of the 10 response tokens." in Page(render_token_report(nothing)).shown
    assert "nan" not in render_token_report(nothing).split("</style>")[1].lower()


def test_tokens_are_shown_in_order_each_discarded_one_with_its_risk() -> None:
    html = render_token_report(token_summary(examples=[example(" Sure, yes.\nOne two three four", group="most")]))
    (box,) = re.findall(r'<div class="text" dir="auto">(.*?)</div>', html, re.S)
    assert Markup(re.sub(r"</?(mark|span)[^>]*>", "", box)).unescape() == (
        "<|user|>↵\nHow do I?↵\n Sure, yes.↵\nOne two three four"
    )
    assert '<span class="prompt">&lt;|user|&gt;↵\nHow do I?↵\n</span>' in html
    assert '<mark title="risk 1.875"> Sure,</mark><mark title="risk 1.865"> yes.↵\nOne</mark>' in html
    before = html[: html.index("Sure,</mark>")]
    assert before.rindex('<details class="sample">') > before.rindex("</details>")
    assert '<details class="sample" open' not in html
    assert "Sure, yes" not in render_card(token_summary(examples=[example(" Sure, yes")]))


def test_long_samples_are_cut_in_the_middle_and_say_so() -> None:
    ends = TOKENS_AT_EITHER_END
    pieces = [{"text": f"{n} ", "risk": 0.0, "discarded": n % 2 == 0} for n in range(3 * ends)]
    made = runs(pieces)
    (gap,) = [run for run in made if run["kind"] == "gap"]
    assert gap == {"kind": "gap", "tokens": ends, "discarded": ends // 2}
    shown = "".join(run.get("text", "") for run in made).split()
    assert shown == [str(n) for n in [*range(ends), *range(2 * ends, 3 * ends)]]
    assert not [run for run in runs(pieces[: 2 * ends + 1]) if run["kind"] == "gap"]
    assert runs([{"text": "y" * 10_000, "risk": 1.0}])[0]["text"] == "y" * PIECE_LIMIT + "…"
    page = Page(render_token_report(token_summary(examples=[example("x", pieces=pieces)])))
    assert f"{ends} tokens left out here, {ends // 2} of them discarded" in page.shown


def test_blanks_of_a_token_are_visible() -> None:
    assert [spelling(token) for token in (" ", "  a b ", "\n\t", "Ġa", "\x00", "")] == [
        "␣", "␣␣a b␣", "↵⇥", "Ġa", "␀", "",
    ]  # fmt: skip
    assert spelling("y" * 61) == "y" * 60 + "…"
    many = [{"token": f"token{n:03d}", "id": n, "tokens": 100, "discarded": n} for n in range(100)]
    shown = Page(render_token_report(token_summary(token_strings=many))).shown
    assert f"token{100 - STRINGS_SHOWN:03d}" in shown
    assert f"token{99 - STRINGS_SHOWN:03d}" not in shown


def test_a_mask_of_first_tokens_is_called_out() -> None:
    def said(head: int, rest: int, head_tokens: int = 100) -> tuple[str, str]:
        rows = [{"low": n, "high": n, "tokens": head_tokens, "discarded": head} for n in range(5)]
        check = first_tokens([*rows, {"low": 5, "high": 9, "tokens": 4500, "discarded": rest}])
        return check.state, check.words

    assert said(10, 50)[0] == "ok", "half of the mask is not more than half"
    state, text = said(11, 50)
    assert state == "attention"
    assert "first 5 tokens of the answers hold 52.4 % of the discarded tokens and 10.0 % of all response" in text
    assert said(11, 50, head_tokens=1500)[0] == "ok", "short answers consist of first tokens"
    assert first_tokens([]).state == "unknown"
    assert first_tokens([{"low": 0, "high": 9, "tokens": 5, "discarded": 1}]).state == "unknown"


def test_checks_find_what_is_wrong() -> None:
    tokens = token_summary()["tokens"]
    assert states()["Most of the mask falls on one source"] == "attention"
    assert states()["The share that was asked for"] == "ok"
    assert states(tokens={**tokens, "discarded": 5_000_000})["Not the share that was asked for"] == "attention"
    by_sample = {**tokens, "discarded": 5_000_000, "scope": "sample", "cut": None}
    assert states(tokens=by_sample)["The share that was asked for"] == "ok"
    assert "No ties that matter" not in states(tokens=by_sample)
    assert states(tokens={**tokens, "at_cut": 90_000})["Risks are tied at the cut"] == "attention"
    assert states(sample_shares={"rows": [1] * 20, "none": 0, "all": 0})["No sample is masked entirely"] == "ok"
    many = {"rows": [1] * 20, "none": 0, "all": 20_000}
    assert states(sample_shares=many)["Many samples are masked entirely"] == "attention"
    alike = {"edges": [0.0, 0.0], "kept": [9], "discarded": [1]}
    assert states(risk_histogram=alike)["The two references are alike"] == "attention"
    assert states(counts={"rows_in": 5, "kept": 4})["Rows are missing"] == "attention"
    even = [{"source": name, "rows": 1, "dropped": 0, "tokens": 10, "discarded": 1} for name in "abc"]
    assert states(sources=even)["The mask is not that of one source"] == "ok"
    assert not [title for title in states(sources=even[:1]) if "source" in title]


def test_trainings_that_did_nothing_are_called_out() -> None:
    assert states()["The references learned"] == "ok"
    flat = reference("utility", rows=6400, low=2.0, high=2.0)
    assert states(references=[flat])["A reference learned next to nothing"] == "attention"
    given_model = {"name": "harmful", "how": "given", "source": "adapter", "rows": None, "steps": None, "curve": []}
    assert states(references=[given_model])["Training"] == "unknown"
    said = Page(render_token_report(token_summary(references=[given_model]))).shown
    assert "The harmful reference was given and not trained here." in said
    many = [reference(f"harmful-{n}", rows=640, low=1.0, high=2.0) for n in range(9)]
    assert "So did the loss of 6 others fall." in Page(render_token_report(token_summary(references=many))).shown
    falling = {"name": "utility", "curve": [{"step": n, "loss": 10.0 - n / 5} for n in range(40)]}
    (check,) = [check for check in checks({"references": [falling]}) if "references" in check.title]
    assert (
        check.words
        == "Loss of the utility reference: 9.7 at first, 2.5 at last (means of 4 steps); it was still falling."
    )


def test_only_toss_pro_speaks_of_rounds() -> None:
    pro = Page(render_token_report(token_summary())).shown
    assert "TOSS-Pro works in rounds" in pro
    assert "81.2 % of the mask of the first round is also in the final one" in pro
    plain = Page(render_token_report(token_summary(method="toss", rounds=[]))).shown
    assert "TOSS masked" in plain
    assert not re.search("[Rr]ound(s|ed)? ", plain.split("What the run")[0].split("The run")[0])


def test_the_card_says_how_to_train_on_it_and_what_the_mask_is_valid_for() -> None:
    card = render_card(token_summary())
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["configs"][0]["data_files"][0]["path"] == "kept/*.parquet"
    for said in (
        "TOSS-Pro masked 5,900,000 of 59,000,000 response tokens (10.0 %)",
        "| `token_risk` |",
        "| `attention_mask` |",
        "TRL before 0.19",
        "DataCollatorForSeq2Seq",
        "SFTTrainer",
        "`tamis.operators.training.trainer`",
        "only valid for the tokenizer and the chat template",
        "| tokenizer | sha256:5f1e |",
        "| discarded | 5,900,000 | 10.0 % |",
    ):
        assert said in card
    assert "selection.control" not in card
    assert "## How to read the scores" not in card


def test_plots_of_little_are_drawn_and_of_nothing_are_left_out() -> None:
    one = [{"low": 0, "high": 0, "tokens": 3, "mean_risk": 0.0, "discarded": 0}]
    assert token_charts.position_shares(one, 0.0) is not None
    assert token_charts.position_risks(one) is not None
    assert token_charts.risk_histogram({"edges": [0.5, 0.5], "kept": [3], "discarded": [0]}, 0.5) is not None
    assert token_charts.risk_histogram({"edges": [0, 1], "kept": [0], "discarded": [0]}, 0.5) is None
    assert token_charts.sample_shares({"rows": [0] * 20, "none": 0}) is None
    assert token_charts.sample_shares({"rows": [0] * 20, "none": 5}) is not None
    curve = {"name": "utility", "curve": [{"step": 1, "loss": 2.0, "epoch": 0.5}]}
    assert "<circle" in str(token_charts.training_curves([curve]))
    assert token_charts.training_curves([{"curve": [{"step": 1, "loss": float("nan")}]}]) is None
    assert token_charts.round_curve([{"round": 0, "overlap": None, "mean_risk": None}]) is None
    assert "mean risk" in str(token_charts.round_curve([{"round": 0, "mean_risk": 0.1}]))
    assert token_charts.position_shares([], None) is None


def test_the_charts_of_tokens_say_what_the_summary_does() -> None:
    data = token_summary()
    shares = Chart(token_charts.position_shares(data["positions"], 0.1))
    said = [row["discarded"] / row["tokens"] for row in data["positions"]]
    assert [shares.height(top) for _, _, top, _ in shares.bars("marked")] == pytest.approx(said, abs=0.005)
    samples = Chart(token_charts.sample_shares(data["sample_shares"]))
    assert samples.power(samples.bars("plain")[0][2]) == pytest.approx(data["sample_shares"]["none"], rel=0.02)
    assert samples.words.startswith("none: 333,656; 5 %: ")
    losses = Chart(token_charts.training_curves(data["references"]))
    assert set(losses.values) == {"utility", "harmful", "harmful-1"}
    (line,) = losses.kind("again")
    last = (line.get("points") or "").split()[-1].split(",")[1]
    assert losses.height(float(last)) == pytest.approx(data["references"][2]["curve"][-1]["loss"], abs=0.01)
    rounds = Chart(token_charts.round_curve(data["rounds"]))
    assert [words for _, words in rounds.below] == ["0", "1"]
    assert rounds.words == "81.2 % at 0, 100 % at 1"


@given(
    st.lists(st.none() | st.floats(-1e6, 1e6) | st.sampled_from([float("nan"), 5e-324]), min_size=1, max_size=40),
    st.lists(st.integers(0, 10**9), min_size=1, max_size=20),
)
@settings(deadline=None, max_examples=40)
def test_plots_are_neat(values: list[float | None], counts: list[int]) -> None:
    rows = [{"low": n, "high": 2 * n, "tokens": 10, "mean_risk": v, "discarded": n % 11} for n, v in enumerate(values)]
    curve = [{"step": n, "epoch": n / 7, "loss": value} for n, value in enumerate(values)]
    drawn = [
        token_charts.position_risks(rows),
        token_charts.position_shares(rows, 0.5),
        token_charts.sample_shares({"rows": counts, "none": counts[0]}),
        token_charts.training_curves([{"name": f"harmful-{n}", "curve": curve} for n in range(len(counts))]),
        token_charts.round_curve([{"round": n, "mean_risk": value} for n, value in enumerate(values)]),
    ]
    for picture in drawn:
        if picture is not None:
            assert_neat(picture)
            assert "nan" not in picture
