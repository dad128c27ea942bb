"""The dataset card: its structure under hostile text, and real loading of an output folder by `datasets`."""

from __future__ import annotations

import re
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from markdown_it import MarkdownIt
from report_samples import HOSTILE, hostile_summary, retyped, summary

from tamis.pipeline.report import render_card, render_report
from tamis.pipeline.report import text as words
from tamis.pipeline.report.card import fenced, markdown


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_leaves_the_structure_of_the_card_alone(text: str) -> None:
    data = hostile_summary(text)
    card = render_card(data)
    card.encode("utf-8")
    plain = render_card(retyped(data, text, "x"))
    assert _outline(card) == _outline(plain)
    front = yaml.safe_load(card.split("---\n")[1])
    folders = {"default": "kept", "dropped": "dropped", "scores": "scores"}
    assert front["configs"] == [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{folder}/*.parquet"}]}
        for name, folder in folders.items()
    ]
    assert front["pretty_name"] == words.one_line(text)


def _outline(card: str) -> list[str]:
    """The card's structure outside of code blocks: block types and levels, cells of tables, links, HTML."""
    body = card.split("\n---\n", 1)[1]
    outline: list[str] = []
    for token in MarkdownIt("commonmark").enable("table").parse(body):
        outline.append(token.type + token.tag)
        outline += [child.type for child in token.children or [] if child.type != "text"]
    return outline


def test_markdown_shows_the_text_itself() -> None:
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
    for name, texts in (("dropped", ["d"]), ("scores", ["e"])):
        other = datasets.load_dataset(str(out), name, split="train", cache_dir=str(tmp_path / "cache"))
        assert other.to_list() == [{"text": text, "score": 0.5} for text in texts]


def test_where_nothing_was_dropped_the_card_has_no_such_config() -> None:
    """`datasets` cannot load one without rows."""
    card = render_card(summary(counts={"rows_in": 3, "kept": 3, "dropped": 0, "quarantined": 0}))
    front = yaml.safe_load(card.split("---\n")[1])
    assert [config["config_name"] for config in front["configs"]] == ["default", "scores"]
    assert '"dropped"' not in card


def test_where_nothing_was_kept_the_card_has_no_default() -> None:
    """The same; but scores/ alone would be taken for the default, and it is not the corpus."""
    for dropped, expected in ((3, ["dropped", "scores"]), (0, ["default", "scores"])):
        counts = {"rows_in": 3, "kept": 0, "dropped": dropped, "quarantined": 3 - dropped}
        card = render_card(summary(counts=counts))
        front = yaml.safe_load(card.split("---\n")[1])
        assert [config["config_name"] for config in front["configs"]] == expected
        assert ("kept = load_dataset(" in card) == ("default" in expected)


PLACES = {
    "input": {"path": ["/home/jane doe/data/train.jsonl", "data/more.jsonl", "s3://bucket/deep/x.jsonl"]},
    "output": "../out/new",
    "model": {"name": "~/models/chat-8b", "template": "/srv/templates/{{x}}.jinja"},
    "larf": {"unsafe_references": "file:///srv/refs/unsafe.jsonl"},
    "schedule": {"root": "/srv/nights/"},
}


def test_the_card_names_no_place_on_the_machine() -> None:
    warnings = [
        "/home/jane doe/data/train.jsonl: not read to the end; see ../out/new/manifest.json, /var/lib/y and 3 rows/s",
        "s3://bucket/deep/x.jsonl and hf://datasets/team/name/a.jsonl were slow (https://example.org/a/b)",
    ]
    model = {"name": "~/models/chat-8b", "revision": "local"}
    for kind in ({}, {"kind": "tokens", "fingerprint": {"toss.utility_model": "/home/jane doe/a/adapter"}}):
        card = render_card(summary(job=PLACES, warnings=warnings, model=model, **kind))
        for place in ("jane", "/home", "/srv", "../out", "~/models", "/var/lib", "file:"):
            assert place not in card, place
        job = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
        assert job["input"]["path"] == ["train.jsonl", "data/more.jsonl", "s3://bucket/deep/x.jsonl"]
        assert job["schedule"] == {"root": "nights"}
        assert "train.jsonl: not read to the end; see new/manifest.json, y and 3 rows/s" in card
        assert (
            "s3://bucket/deep/x.jsonl and hf://datasets/team/name/a.jsonl were slow (https://example.org/a/b)" in card
        )


def test_the_card_says_where_a_row_is_found_again() -> None:
    for ids, said in (("all", "in `scores/` and in `kept/` or"), ("dropped", "A row of `dropped/` has the same")):
        assert said in render_card(summary(job={"sample_id": ids}))
    assert "sample_id" not in render_card(summary(job={"method": ["larf"]}))  # of an earlier version


def test_the_card_says_which_columns_are_json() -> None:
    names = ["<b>a*", *(f"x[].k{number}" for number in range(20))]
    card = render_card({"json_columns": names})
    [line] = [line for line in card.splitlines() if "json.loads" in line]
    assert line.startswith("Rows differ in the keys or types of &lt;b&gt;a\\*, x\\[\\].k0, ")
    assert "k8 and 11 more places. To keep" in line
    assert "json.loads" not in render_card({})
