"""A plausible summary, hostile texts and a strict reader of HTML: what the tests of the report share."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "br", "rect", "line", "input"}
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
        "unscored": 0,
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


def drift(text: str = "larf scores", **changes: Any) -> dict[str, Any]:
    """The drift of a run with an artifact. text: the name of a method's figure."""
    figures = [
        {"name": text, "psi": 0.31, "by_chance": 0.02, "then": [50, 50], "now": [80, 20], "bins": [0.1]},
        {"name": "share beyond the cut", "psi": 0.0, "by_chance": 0.02, "then": [90, 10], "now": [80, 20], "bins": []},
        {"name": "answer lengths", "psi": 0.2, "by_chance": 0.6, "then": [50, 50], "now": [50, 50], "bins": [7.0]},
        {"name": "quarantine", "psi": 0.1, "by_chance": 0.02, "then": [98, 2], "now": [99, 1], "bins": []},
    ]
    return {
        "artifact": "s3://bucket/made",
        "limit": 0.25,
        "exceeded": [text],
        "rows": {"then": 1000, "now": 200},
        "scored": {"then": 980, "now": 190},
        "fell": {"then": 98, "now": 38},
        "majority_allowed": False,
        "figures": figures,
        "quarantine": {"empty_response": {"then": 20, "now": 10}},
        **changes,
    }


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
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)
            if self.in_box:
                self.boxes[-1] += data

    @property
    def shown(self) -> str:
        return " ".join("".join(self.text).split())


def assert_self_contained(page: Page, html: str) -> None:
    """One style, and on a page with data one script and the data, each allowed by its hash; nothing else can load."""
    assert not {"img", "iframe", "object", "embed", "link", "base", "form", "image", "use"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert not {"src", "href", "srcset", "action", "xlink:href", "style"} & names
    assert not [name for name in names if name.startswith("on")]
    assert "url(" not in html.split("</style>")[0]
    assert "@import" not in html.split("</style>")[0]
    style = html.split("<style>")[1].split("</style>")[0]
    scripts = re.findall(r"<script>(.*?)</script>", html, re.S)
    assert page.tags.count("script") == 2 * len(scripts) in (0, 2)
    assert html.count('<script type="application/json" id="page-data">') == len(scripts)
    allowed = f"script-src 'sha256-{digest_of(scripts[0])}'; " if scripts else ""
    policy = (
        f"default-src 'none'; {allowed}style-src 'sha256-{digest_of(style)}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    assert ("content", policy) in page.attributes


def digest_of(content: str) -> str:
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def data_of(html: str) -> Any:
    """What the page gives to its script."""
    [data] = re.findall(r'<script type="application/json" id="page-data">(.*?)</script>', html, re.S)
    return json.loads(data)


def retyped(value: Any, old: str, new: str) -> Any:
    """The same structure with another text."""
    if isinstance(value, dict):
        return {(new if key == old else key): retyped(inner, old, new) for key, inner in value.items()}
    if isinstance(value, list):
        return [retyped(inner, old, new) for inner in value]
    return new if value == old else value


def hostile_summary(text: str) -> dict[str, Any]:
    """`text` wherever a text can stand."""
    return summary(
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
        drift=drift(text, artifact=text, quarantine={text: {"then": 1, "now": 2}}),
        warnings=[text],
        input={
            "files": [{"path": text, "dialect": text, "rows": 1, "bytes": 1, "format": text}],
            "rows": 1,
            "bytes": 1,
        },
    )
