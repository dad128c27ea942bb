"""Report page and dataset card: right numbers, hostile text, missing parts, and loading by `datasets`."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.pipeline.report import render_card, render_report
from tamis.pipeline.report import text as words
from tamis.pipeline.report.card import fenced, markdown
from tamis.pipeline.report.page import TEXT_LIMIT
from tamis.pipeline.report.plots import length_columns, nice_ceiling, score_histogram
from tamis.pipeline.report.prose import advice
from tamis.pipeline.report.trust import checks, length_check, overlaps

VOID = {"meta", "br", "rect", "line"}
HOSTILE = [
    "<script>alert(1)</script>",
    "</style></title></details><img src=https://evil.example/x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>&lt;b&gt;&amp;",
    "{{ 7 * 7 }}{% raw %}",
    "nul \x00 bell \x07 escape \x1b[31m",
    "left \u202egnol\u202c right \u2066isolate\u2069 zero\u200bwidth",
    "emoji 👩‍👩‍👧 and é, שלום",
    "half a surrogate \ud800 and \udcff",
    "<!-- ]]> --><base href=//evil.example>",
    "```\n---\n| a | b |\n# heading\n[x](javascript:alert(1)) `code` *b* _i_",
]


def summary(**changes: Any) -> dict[str, Any]:
    """A whole, plausible summary of 1,000,010 rows; `changes` replace top-level keys."""
    base: dict[str, Any] = {
        "title": "corpus.jsonl",
        "created": "2026-11-20T21:04:33+00:00",
        "tamis_version": "0.1.0",
        "job": {
            "input": {"path": ["corpus.jsonl"]},
            "model": {"name": "a/model"},
            "method": ["larf"],
            "max_tokens": 2048,
        },
        "fingerprint": {"model": "a/model@main", "max_tokens": 2048},
        "versions": {"torch": "2.13.0"},
        "input": {
            "files": [
                {
                    "path": "corpus.jsonl",
                    "dialect": "alpaca",
                    "rows": 1_000_010,
                    "bytes": 91_234_560,
                    "format": "jsonl",
                }
            ],
            "rows": 1_000_010,
            "bytes": 91_234_560,
        },
        "model": {
            "name": "a/model",
            "revision": "main",
            "architecture": "LlamaForCausalLM",
            "blocks": 32,
            "width": 4096,
            "dtype": "float32",
            "device": "cpu",
        },
        "counts": {
            "rows_in": 1_000_010,
            "kept": 900_000,
            "dropped": 100_000,
            "quarantined": 10,
            "truncated": 7,
        },
        "quarantine_codes": {"malformed_json": {"rows": 10, "message": "Expecting value"}},
        "methods": [{"name": "larf", "layer": 10, "position": "last_token", "facts": {"references": {"unsafe": 100}}}],
        "selected_by": "larf",
        "selection": {"how": "share 0.1", "cut": 0.25, "requested": 0.1, "at_cut": 1},
        "histogram": {
            "edges": [-1.0, 0.0, 0.25, 1.0],
            "kept": [500_000, 400_000, 0],
            "dropped": [0, 0, 100_000],
        },
        "sources": [{"source": "corpus.jsonl", "rows": 1_000_000, "dropped": 100_000}],
        "length_deciles": [
            {"low": 1, "high": 50, "rows": 500_000, "dropped": 60_000},
            {"low": 51, "high": 9000, "rows": 500_000, "dropped": 40_000},
        ],
        "score_length_spearman": -0.12,
        "riskiest": [sample("the riskiest text")],
        "borderline_dropped": [sample("a dropped text")],
        "borderline_kept": [sample("a kept text")],
        "timings": {"plan": {"seconds": 0.5}, "capture": {"seconds": 3725.0, "rows_per_second": 268.5}},
        "warnings": ["A warning of the run."],
    }
    return base | changes


def sample(content: str, **changes: Any) -> dict[str, Any]:
    base = {
        "sample_id": "00ff",
        "source": "corpus.jsonl",
        "row": 12345,
        "score": 0.5,
        "rank": 1,
        "n_response_tokens": 1234,
        "messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "content": content}],
    }
    return base | changes


class Page(HTMLParser):
    """Collects tags, attributes and text; fails on unbalanced tags."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.boxes: list[str] = []
        self.in_box = False
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "div" and ("class", "text") in attrs:
            self.boxes.append("")
            self.in_box = True
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.in_box = False
        self.text.append(" " if tag in {"td", "th", "dt", "dd"} else "")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)
            if self.in_box:
                self.boxes[-1] += data

    @property
    def shown(self) -> str:
        return " ".join("".join(self.text).split())


def assert_self_contained(page: Page, html: str) -> None:
    assert not {"script", "img", "iframe", "object", "embed", "link", "base", "form", "image", "use"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert not {"src", "href", "srcset", "action", "xlink:href", "style"} & names
    assert not [name for name in names if name.startswith("on")]
    assert "url(" not in html.split("</style>")[0]
    assert "@import" not in html.split("</style>")[0]
    policy = dict(page.attributes)["content"]
    assert policy is not None
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:") in page.attributes


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
    data = summary(
        title=text,
        created=text,
        tamis_version=text,
        job={"input": {"path": [text]}, text: text},
        fingerprint={text: text},
        versions={text: text},
        model={"name": text, "revision": text, "blocks": 2},
        selected_by=text,
        quarantine_codes={text: {"rows": 1, "message": text}},
        methods=[{"name": text, "layer": 1, "position": text, "facts": {text: text}}],
        selection={"how": text, "cut": 0.1, "requested": text, "at_cut": 1},
        sources=[{"source": text, "rows": 10, "dropped": 1}],
        riskiest=[sample(text, source=text, sample_id=text)],
        borderline_dropped=[sample(text, messages=[{"role": text, "content": text}])],
        timings={text: {"seconds": 1.0}},
        warnings=[text],
        input={
            "files": [{"path": text, "dialect": text, "rows": 1, "bytes": 1, "format": text}],
            "rows": 1,
            "bytes": 1,
        },
    )
    html = render_report(data)
    html.encode("utf-8")
    page = Page(html)
    assert_self_contained(page, html)
    assert page.tags == Page(render_report(_retyped(data, text, "x"))).tags
    assert page.boxes[1] == words.visible(text)  # the answer of the riskiest sample, character by character
    assert words.visible(html) == html
    assert "49" not in page.boxes[1]

    card = render_card(data)
    card.encode("utf-8")
    plain = render_card(_retyped(data, text, "x"))
    assert _outline(card) == _outline(plain)
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "kept/*.parquet"}]}
    ]
    assert front["pretty_name"] == words.one_line(text)


def _retyped(value: Any, old: str, new: str) -> Any:
    """The same structure with another text."""
    if isinstance(value, dict):
        return {(new if key == old else key): _retyped(inner, old, new) for key, inner in value.items()}
    if isinstance(value, list):
        return [_retyped(inner, old, new) for inner in value]
    return new if value == old else value


def _outline(card: str) -> list[str]:
    """The card's structure outside of code blocks: block types and levels, cells of tables, links, HTML."""
    from markdown_it import MarkdownIt

    body = card.split("\n---\n", 1)[1]
    outline: list[str] = []
    for token in MarkdownIt("commonmark").enable("table").parse(body):
        outline.append(token.type + token.tag)
        outline += [child.type for child in token.children or [] if child.type != "text"]
    return outline


def test_markdown_shows_the_text_itself() -> None:
    from markdown_it import MarkdownIt

    for text in [
        *HOSTILE,
        "1. one",
        "- dash",
        "+ plus",
        "# head",
        "a|b\\|c",
        "--- ",
        "~/x",
        "=",
        "10.5 %",
        "-0.1",
        "   x",
    ]:
        for frame in ("{}", "- {}", "| |\n|---|\n| {} |"):
            tokens = MarkdownIt("commonmark").enable("table").parse(frame.format(markdown(text)))
            children = [child for token in tokens for child in token.children or []]
            assert {child.type for child in children} <= {"text", "text_special"}
            shown = "".join(child.content for child in children)
            assert shown == words.one_line(text)


def test_a_fence_is_longer_than_what_it_holds() -> None:
    assert fenced("a ```` b\n", "yaml") == "`````yaml\na ```` b\n`````"
    job = {"a": "`" * 7 + "\nx", "b": "```\n# not a heading"}
    card = render_card(summary(job=job))
    block = re.search(r"^(`{3,})yaml\n(.*?)\n\1$", card, re.S | re.M)
    assert block is not None
    assert yaml.safe_load(block.group(2)) == job


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


def test_load_dataset_on_the_output_folder_gives_kept_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    out = tmp_path / "out"
    rows = {"kept": ["a", "b", "c"], "dropped": ["d"], "scores": ["e"], "quarantine": ["f"]}
    for folder, texts in rows.items():
        (out / folder).mkdir(parents=True)
        extra = {} if folder == "kept" else {"score": [0.5] * len(texts)}
        pq.write_table(pa.table({"text": texts} | extra), out / folder / "0001.parquet")
    # A shard of which nothing is kept: no row group, since `datasets` fails on a row group without rows.
    pq.ParquetWriter(out / "kept" / "0002.parquet", pa.schema([("text", pa.string())])).close()
    (out / "artifact").mkdir()
    (out / "artifact" / "artifact.json").write_text("{}")
    (out / "manifest.json").write_text("{}")
    (out / "report.html").write_text(render_report(summary()), encoding="utf-8")
    title = "data|with `ticks`\n---\n: [x] \x00"
    (out / "README.md").write_text(render_card(summary(title=title)), encoding="utf-8")

    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))

    assert list(loaded) == ["train"]
    assert loaded["train"].column_names == ["text"]
    assert list(loaded["train"]["text"]) == ["a", "b", "c"]
