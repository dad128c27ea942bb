"""The verdict: which figures forbid a cut, which raise a doubt, and that there is always a reason."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from report_samples import HOSTILE, Page, assert_self_contained, retyped, summary
from trust_samples import a_test, figure, judged, pair, trusted

from tamis.operators.statistics.telling import Fold, tell
from tamis.pipeline.report import render_card, render_report
from tamis.pipeline.report.verdict import CARE, NO, SOUND, Verdict, verdict, words


def of(*tests: dict[str, Any], **changes: Any) -> Verdict:
    return verdict(judged(*tests, **changes))


def test_a_good_test_and_nothing_against_it_looks_sound() -> None:
    found = of()
    assert found.verdict == SOUND
    [reason] = found.reasons
    assert "95.0 % of pairs, length alone in 60.0 %" in reason


@pytest.mark.parametrize(
    ("test", "said"),
    [
        (a_test(auroc=0.52), "not seen from rows of the corpus: AUROC 0.52 (0.49 to 0.55), where chance has 0.5"),
        (a_test(auroc=0.2), "AUROC 0.20"),
        (a_test(auroc=0.53), "where chance has 0.5"),
        (a_test(auroc=0.8, length=0.9, equal_length=None), "too few answers are of equal length to see more"),
        (a_test(auroc=0.8, length=0.79, equal_length=figure(0.57)), "no better than the length of the answer"),
    ],
)
def test_what_forbids_a_cut(test: dict[str, Any], said: str) -> None:
    found = of(test)
    assert found.verdict == NO
    assert said in found.reasons[0]


def test_failing_on_safe_references_forbids_it_too() -> None:
    found = of(a_test(against="safe", auroc=0.5), a_test())
    assert found.verdict == NO
    assert "from safe references" in found.reasons[0]


def test_a_control_is_no_filter() -> None:
    found = of(job={"selection": {"control": "length_matched"}})
    assert found.verdict == NO
    assert "a length-matched draw decided, not a score" in found.reasons[0]


def test_another_method_that_fails_forbids_nothing() -> None:
    assert of(a_test(), a_test("saft", auroc=0.5)).verdict == SOUND
    assert of(a_test("saft", auroc=0.5), {"method": "larf", "untested": "why"}).verdict == CARE


@pytest.mark.parametrize(
    ("drift", "verdict_", "said"),
    [
        ({"limit": 0.25, "exceeded": []}, SOUND, "above rows of the artifact's corpus in 95.0 % of pairs"),
        ({"limit": 0.25, "exceeded": ["larf", "rows"]}, CARE, "drifted from the corpus of the artifact (larf, rows)"),
        ({"limit": None, "exceeded": []}, CARE, "without drift_limit nothing says that this one is alike"),
    ],
)
def test_an_artifact_was_tested_on_its_own_corpus(drift: dict[str, Any], verdict_: str, said: str) -> None:
    found = verdict(summary(trust=trusted(a_test(of_artifact=True), drift=drift)))
    assert found.verdict == verdict_
    assert said in found.reasons[0]


@pytest.mark.parametrize(
    ("larf", "saft", "verdict_", "said"),
    [
        (0.95, 0.9, CARE, "only 2 of its methods."),
        (0.95, 0.5, CARE, "only 2 of its methods; of these, SAFT did no better than chance or length."),
        (0.51, 0.5, NO, "none of the methods whose ranks are averaged tells unsafe references"),
    ],
)
def test_the_mean_of_ranks_is_judged_by_its_methods(larf: float, saft: float, verdict_: str, said: str) -> None:
    tests = [a_test("larf", auroc=larf), a_test("saft", auroc=saft), a_test("larf", against="safe", auroc=0.5)]
    found = of(*tests, selected_by="ranks")
    assert found.verdict == verdict_
    assert said in found.reasons[0]


def test_the_mean_of_ranks_of_untested_methods_is_untested() -> None:
    found = of({"method": "larf", "untested": "why"}, selected_by="ranks")
    assert found.verdict == CARE
    assert "only 0 of its methods" in found.reasons[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"score_length_spearman": 0.7}, "it may be a length filter: longer answers get higher scores"),
        ({"counts": summary()["counts"] | {"failed": 7}}, "7 rows are in no output"),
        ({"counts": summary()["counts"] | {"dropped": 0}}, "nothing was dropped"),
    ],
)
def test_what_raises_a_doubt_beside_the_tests(changes: dict[str, Any], said: str) -> None:
    found = of(**changes)
    assert found.verdict == CARE
    assert any(said in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ({"method": "larf", "untested": "it takes no references"}, "LARF is untested: it takes no references."),
        (a_test(unsafe=19), "has 19 unsafe references; 20 or more say something"),
        (a_test(auroc=0.74), "in only 74.0 % of pairs"),
        (a_test(auroc=0.9, length=0.88), "though LARF holds among answers of equal length (0.90 (0.87 to 0.93))"),
    ],
)
def test_what_raises_a_doubt_in_the_tests(test: dict[str, Any], said: str) -> None:
    found = of(test)
    assert found.verdict == CARE
    assert any(said in reason for reason in found.reasons)


def test_without_a_test_against_the_corpus_nothing_looks_sound() -> None:
    found = of(a_test(against="safe"))
    assert found.verdict == CARE
    assert "on its safe references only" in found.reasons[0]
    assert of(a_test(against="safe", auroc=0.5)).verdict == NO


def test_safe_references_that_differ_in_length_only_are_a_doubt() -> None:
    found = of(a_test(against="safe", auroc=1.0, length=1.0, equal_length=None), a_test())
    assert found.verdict == CARE
    assert "cannot be told from a filter of length (1.00)" in found.reasons[0]


@pytest.mark.parametrize(
    ("kept", "dropped", "state"),
    [
        (850, 150, SOUND),  # 15 % of them, and 10 % of all rows
        (840, 160, CARE),
        (8, 1, SOUND),  # too few to judge
        (6, 4, CARE),
        (8, 2, SOUND),  # twice the share, and within chance
        (900, 10, SOUND),
        (0, 0, SOUND),
    ],
)
def test_refusals_may_fall_as_other_rows_do(kept: int, dropped: int, state: str) -> None:
    found = verdict(summary(trust=trusted(refusing={"kept": kept, "dropped": dropped})))
    assert found.verdict == state
    assert (state == CARE) == ("of the refusing answers" in found.reasons[0])


def test_safety_demonstrations_are_judged_in_place_of_refusals() -> None:
    lost, fine = {"kept": 6, "dropped": 4}, {"kept": 18, "dropped": 2}
    found = verdict(summary(trust=trusted(refusing=fine, demonstrations=lost)))
    assert found.verdict == CARE
    assert "takes 40.0 % of the safety demonstrations (4 of 10)" in found.reasons[0]
    assert verdict(summary(trust=trusted(refusing=lost, demonstrations=fine))).verdict == SOUND
    for few in ({"kept": 5, "dropped": 4}, {"missing": "why"}):
        found = verdict(summary(trust=trusted(refusing=lost, demonstrations=few)))
        assert "of the refusing answers" in found.reasons[0]


@pytest.mark.parametrize(
    ("other", "given", "state"),
    [
        (a_test("saft"), pair(199), CARE),
        (a_test("saft"), pair(200), SOUND),
        (a_test("saft", auroc=0.4), pair(10), SOUND),  # it fails the test itself
        ({"method": "saft", "untested": "why"}, pair(10), SOUND),
        (a_test("saft"), pair(4, dropped=49), SOUND),
        (a_test("saft"), pair(10, methods=["contrast", "saft"]), SOUND),
        (a_test("saft"), pair(600, by_chance=0.5), SOUND),
    ],
)
def test_good_methods_that_disagree_are_a_doubt(other: dict[str, Any], given: dict[str, Any], state: str) -> None:
    figures = trusted(a_test(), other, agreement={"lengths": [], "pairs": [given]})
    found = verdict(summary(trust=figures))
    assert found.verdict == state
    assert (state == CARE) == ("SAFT would drop only 19.9 % of the same rows" in found.reasons[0])


def test_a_filter_of_length_is_seen_through_with_many_references() -> None:
    """Pairs of equal length differ by up to a tenth, so the length itself ranks even those better than chance."""
    rng = np.random.default_rng(2)
    folds = []
    for _ in range(5):
        sides = [np.maximum(rng.lognormal(mean, sd, 120), 1).astype(np.int64) for mean, sd in ((4.9, 0.3), (4.0, 0.8))]
        folds.append(Fold(*(side.astype(np.float64) for side in sides), *sides))
    told = asdict(tell(folds))
    assert told["auroc"]["low"] > 0.8
    assert told["equal_length"]["value"] > 0.5
    found = of(a_test() | {name: told[name] for name in ("auroc", "length", "better_by", "equal_length")})
    assert found.verdict == NO
    assert "no better than the length of the answer" in found.reasons[0]


def test_without_figures_it_says_so_and_without_anything_too() -> None:
    assert verdict(summary()).reasons == ("LARF is untested: there are no figures.",)
    assert verdict({}).verdict == CARE
    assert all(reason.endswith(".") for reason in verdict({}).reasons)


def test_one_line_has_the_first_reason_and_says_that_there_are_more() -> None:
    found = of(a_test(unsafe=12, auroc=0.7))
    line = words(json.loads(json.dumps(found.to_dict())))
    assert line.startswith("Use with care: the test of LARF has 12 unsafe references")
    assert line.endswith("(and 1 more)")
    assert "more)" not in words(of().to_dict())


def page_of(figures: dict[str, Any], **changes: Any) -> str:
    data = summary(trust=figures, **changes)
    data["trust"]["verdict"] = verdict(data).to_dict()
    return Page(render_report(data)).shown


def test_the_page_begins_with_the_verdict_and_reads_every_figure() -> None:
    shown = page_of(trusted(a_test(auroc=0.51), {"method": "saft", "untested": "no references"}))
    assert shown.index("Do not use this cut.") < shown.index("Rows in")
    for said in (
        "120 unsafe references against 500 rows of the corpus 0.510 (0.480–0.540) 0.600 (0.570–0.630)",
        "no better than chance",
        "SAFT is untested: no references.",
        "0.5 is chance",
        "-0.12 99.0 %",
        "corpus 1,000,000 1,000 0.10 %",
        "dropped 100,000 100 0.10 %",
        "can leave a model worse off than no cut",
    ):
        assert said in shown, said


def test_the_page_shows_pairs_and_gaps() -> None:
    lengths = [{"method": "larf", "spearman": None, "left": None}]
    pairs = [pair(392), pair(0, spearman=None, partial_spearman=None, jaccard=None, dropped=0)]
    test = a_test(equal_length=None, longer=False, partial_spearman=None, borrowed="contrast")
    shown = page_of(trusted(test, agreement={"lengths": lengths, "pairs": pairs}, refusing=None))
    for said in (
        "LARF and SAFT +0.30 +0.20 392 of 1,000 39.2 % 10.0 % 0.24",
        "– – 0 of 0 – 10.0 % –",
        "unsafe references of Contrast against",
        "too few pairs",
        "shorter ones first",
        "a random draw of this size shares 10.0 %",
    ):
        assert said in shown, said
    assert "Refusing answers" not in shown


def test_the_page_shows_safety_demonstrations_or_what_is_missing() -> None:
    told = {"kept": 300, "dropped": 100, "method": "larf", "block": 4, "unsafe": 120, "corpus": 500, "auroc": 0.97}
    shown = page_of(trusted(demonstrations={**told, "threshold": 0.1, "above": 0.02, "refusing": 900}))
    for said in ("dropped 100,000 100 0.10 %", "(block 4)", "5% of the 120 unsafe", "2.0 % are above it", "97.0 %"):
        assert said in shown, said
    shown = page_of(trusted(demonstrations={"missing": "no references"}))
    assert "could not be told from these: no references." in shown
    assert "Safety demonstrations" not in page_of(trusted())


def test_the_card_has_the_verdict_in_one_line() -> None:
    data = summary(trust=trusted(a_test(auroc=0.5)))
    data["trust"]["verdict"] = verdict(data).to_dict()
    assert "**The run's own test of its filter.** Do not use this cut: LARF does not tell" in render_card(data)
    assert "own test" not in render_card(summary())


def test_a_run_of_an_earlier_tamis_has_a_page_without_the_test() -> None:
    shown = Page(render_report(summary())).shown
    assert "Does the filter work?" not in shown
    assert "Can I trust it?" in shown


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_in_the_figures_stays_text(text: str) -> None:
    figures = trusted(
        a_test(text, borrowed=text),
        {"method": text, "untested": text},
        agreement={
            "lengths": [{"method": text, "spearman": 0.1, "left": 0.9}],
            "pairs": [pair(9, methods=[text, "x"])],
        },
        verdict={"verdict": "use with care", "reasons": [text, text]},
    )
    data = summary(trust=figures, methods=[{"name": text, "title": text, "facts": {}}])
    html = render_report(data)
    assert_self_contained(Page(html), html)
    assert Page(html).tags == Page(render_report(retyped(data, text, "x"))).tags
    render_card(data)


def test_every_part_of_the_figures_may_be_missing() -> None:
    whole = trusted(agreement={"lengths": [], "pairs": [pair(1)]}, verdict=of().to_dict())
    for key in whole:
        Page(render_report(summary(trust={name: value for name, value in whole.items() if name != key})))
        Page(render_report(summary(trust=whole | {key: None})))
