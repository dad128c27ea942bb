"""What the page's script gets: each sample once, bounded texts, and JSON that no text can break out of."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import HOSTILE, data_of, sample, summary
from token_report_samples import example, token_summary

from tamis.pipeline.report import render_report, render_token_report
from tamis.pipeline.report import text as words
from tamis.pipeline.report.html import embedded
from tamis.pipeline.report.sample_data import SAMPLE_LIMIT, TEXT_LIMIT
from tamis.pipeline.report.token_examples import TOKENS_AT_EITHER_END

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_embedded_json_is_the_value_and_cannot_end_its_element(value: Any) -> None:
    made = str(embedded(value))
    assert not set("<>&\u2028\u2029") & set(made)
    made.encode("utf-8")

    def shown(value: Any) -> Any:
        if isinstance(value, str):
            return words.visible(value)
        if isinstance(value, dict):
            return {words.visible(name): shown(inner) for name, inner in value.items()}
        return list(map(shown, value)) if isinstance(value, list) else value

    assert json.loads(made) == shown(value)


@pytest.mark.parametrize("text", [*HOSTILE, "__proto__", "constructor"])
def test_hostile_texts_reach_the_script_as_texts(text: str) -> None:
    hostile = sample(text, sample_id=text, source=text, messages=[{"role": text, "content": text}])
    data = data_of(render_report(summary(riskiest=[hostile], borderline_dropped=[], borderline_kept=[])))
    [found] = data["samples"]
    assert found["id"] == words.visible(text)
    assert found["m"] == [[words.one_line(text), words.visible(text), 0]]
    assert data["sources"] == [words.one_line(text)]


def browsed(**groups: list[dict[str, Any]]) -> dict[str, Any]:
    empty: dict[str, Any] = {"random_kept": [], "random_dropped": [], "unlike": [], "histograms": {}}
    return summary(
        riskiest=[sample("a", sample_id="1", rank=1)],
        borderline_dropped=[sample("b", sample_id="2", rank=9)],
        borderline_kept=[],
        methods=[{"name": "saft", "title": "SAFT"}, {"name": "larf", "title": "LARF"}],
        own_sources=[{"source": "web", "rows": 500, "dropped": 100}],
        browse={**empty, "methods": ["saft", "larf"], "rows": 500, **groups},
    )


def drawn(sample_id: str, **changes: Any) -> dict[str, Any]:
    known = {
        "decision": "dropped",
        "rank": None,
        "scores": {"saft": 3.0, "larf": 0.25},
        "places": {"saft": 0.125, "larf": 0.5},
        "apart": 0.375,
        "own_source": "web",
        "text_digest": "d" * 32,
    }
    return sample("text", sample_id=sample_id, **(known | changes))


def test_a_sample_of_several_groups_is_there_once_with_all_that_is_known() -> None:
    html = render_report(browsed(random_dropped=[drawn("2"), drawn("3", own_source=None)], unlike=[drawn("3")]))
    data = data_of(html)
    assert [(each["id"], each["g"]) for each in data["samples"]] == [("1", [0]), ("2", [1, 3]), ("3", [3, 5])]
    assert data["groups"][3] == "Dropped, at random"
    assert [column["title"] for column in data["columns"]] == ["LARF", "SAFT", "apart", "tokens"]
    _, second, _ = data["samples"]
    assert second["v"] == [0.25, 3.0, 0.375, 1234]
    assert second["d"] == "dropped"
    assert second["h"] == "d" * 32
    assert ["SAFT", "3.00000, above 12.5 % of the rows compared"] in second["f"]
    assert ["rank", "9 (1 is the riskiest)"] in second["f"]
    assert data["sources"] == ["(empty)", "web"]
    assert "500 rows, evenly spaced parts of the corpus" in html


def test_own_sources_that_the_run_does_not_list_are_no_filter() -> None:
    """Too many of them, or not in every shard."""
    known = browsed(random_dropped=[drawn("3")])
    data = data_of(render_report(known | {"own_sources": None}))
    assert data["source"] == "file"
    assert data["sources"] == [drawn("3")["source"]]
    assert ["source", "web"] in data["samples"][-1]["f"]
    assert data_of(render_report(known))["source"] == "source"


def test_side_of_the_cut_is_known_without_being_said() -> None:
    data = data_of(render_report(summary(borderline_kept=[sample("x", sample_id="9")])))
    assert [each["d"] for each in data["samples"] if each["id"] == "9"] == ["kept"]


def test_texts_are_bounded_and_say_what_is_left_out() -> None:
    turns = [{"role": "user", "content": "y" * 10_000} for _ in range(100)]
    long = sample("", sample_id="1", messages=turns)
    huge = sample("z" * 1_000_000, sample_id="2")
    data = data_of(render_report(summary(riskiest=[long, huge], borderline_dropped=[], borderline_kept=[])))
    many, one = data["samples"]
    assert [len(message) for message in many["m"]] == [3] * 6 + [1] + [3] * 6
    assert many["m"][6] == [88]
    assert sum(len(message[1]) for message in many["m"] if len(message) > 1) <= SAMPLE_LIMIT
    assert all(message[2] == 10_000 - len(message[1]) for message in many["m"] if len(message) > 1)
    assert one["m"][1] == ["assistant", "z" * TEXT_LIMIT, 1_000_000 - TEXT_LIMIT]


def test_characters_made_visible_do_not_lengthen_a_text() -> None:
    messages = [{"role": "user", "content": "\u202e" * 9000}, {"role": "user", "content": "a\r\n" * 9000}]
    data = data_of(render_report(summary(riskiest=[sample("", sample_id="1", messages=messages)])))
    shown = {each["id"]: each["m"] for each in data["samples"]}["1"]
    assert shown[0] == ["user", "⟦U+202E⟧" * (TEXT_LIMIT // 8), 9000 - TEXT_LIMIT // 8]
    assert shown[1] == ["user", words.visible(("a\r\n" * 9000)[:TEXT_LIMIT]), 27_000 - TEXT_LIMIT]


@given(st.text(st.sampled_from("a\r\n\x00\u202e\ud800é")), st.integers(0, 30))
def test_as_much_is_shown_as_fits(text: str, limit: int) -> None:
    shown, used = words.clip_visible(text, limit)
    assert shown == words.visible(text[:used]) == words.visible(shown)
    fitting = [length for length in range(min(len(text), limit) + 1) if len(words.visible(text[:length])) <= limit]
    assert used == max(fitting)


def test_numbers_that_are_not_known_stay_unknown() -> None:
    bad = drawn("3", scores={"larf": float("nan"), "saft": None}, score=None, apart=None, n_response_tokens=None)
    data = data_of(render_report(browsed(random_dropped=[bad])))
    assert data["samples"][-1]["v"] == [None, None, None, None]


def test_tokens_reach_the_script_with_their_risks() -> None:
    pieces = [{"text": f"{n}\n", "risk": n / 1000, "discarded": n % 2 == 0} for n in range(3 * TOKENS_AT_EITHER_END)]
    pieces[0] = {"text": "Ask", "risk": None, "discarded": False}
    data = data_of(render_token_report(token_summary(examples=[example("x", pieces=pieces, group="part")])))
    [found] = data["samples"]
    assert found["t"][0] == ["Ask", None, 0]
    assert found["t"][1] == ["1↵\n", 0.001, 0]
    assert found["t"][TOKENS_AT_EITHER_END] == [TOKENS_AT_EITHER_END, TOKENS_AT_EITHER_END // 2]
    assert len(found["t"]) == 2 * TOKENS_AT_EITHER_END + 1
    assert data["scale"] == pytest.approx(1.19, abs=0.02)  # nearly the largest
    assert data["groups"][found["g"][0]] == "Samples with a part discarded"
