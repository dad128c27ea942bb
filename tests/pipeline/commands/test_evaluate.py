"""`tamis evaluate`: its figures against ones counted by hand from the same rows, and what it says of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_runs import write_run
from rich.console import Console
from typer.testing import CliRunner

from tamis.operators.conversation.dialects import Dialect
from tamis.pipeline.cli import app
from tamis.pipeline.commands.evaluate import beyond_length, evaluate
from tamis.pipeline.commands.evaluate_screen import in_a_line, show_evaluation
from tamis.pipeline.commands.tune import tune
from tamis.pipeline.errors import InputError
from tamis.pipeline.labels.texts import digest_of
from tamis.pipeline.storage.store import Store

ROWS = 60
RNG = np.random.default_rng(7)
HARMFUL = RNG.random(ROWS) < 0.3
LENGTHS = RNG.integers(1, 40, ROWS)
LARF = np.round(RNG.normal(size=ROWS) + HARMFUL, 1).astype(np.float32)
SAFT = np.round(RNG.normal(size=ROWS) - 2.0 * HARMFUL, 1).astype(np.float32)
OUT, UNSCORED = 11, 13
"""Rows in quarantine, and kept without a score."""
DECISIONS = ["dropped" if score > 0.8 else "kept" for score in LARF.tolist()]
DECISIONS[OUT], DECISIONS[UNSCORED] = "quarantined", "kept"
SOURCES = ["a.jsonl"] * 35 + ["b.jsonl"] * 25
DECILES = [{"low": 1, "high": 9}, {"low": 10, "high": 20}, {"low": 21, "high": 39}]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tamis.pipeline.commands.evaluate.RESAMPLES", 30)
    monkeypatch.setattr("tamis.pipeline.commands.evaluate.FEWEST_RESAMPLES", 30)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "out"))
    rows = [{"text": "words", "harmful": bool(bad)} for bad in HARMFUL]
    scores = {
        name: [None if row in (OUT, UNSCORED) else float(value) for row, value in enumerate(values)]
        for name, values in (("larf", LARF), ("saft", SAFT))
    }
    files = {"a.jsonl": rows[:35], "b.jsonl": rows[35:]}
    write_run(made, files, scores, DECISIONS, LENGTHS.tolist(), length_deciles=DECILES)
    return made


def labels(folder: Path, rows: list[int]) -> str:
    path = folder / "labels.jsonl"
    path.write_text("".join(json.dumps({"row": row, "harmful": int(HARMFUL[row])}) + "\n" for row in rows))
    return str(path)


def auroc(scores: Any, rows: list[int]) -> float:
    bad, good = [r for r in rows if HARMFUL[r]], [r for r in rows if not HARMFUL[r]]
    pairs = [(scores[b] > scores[g]) + 0.5 * (scores[b] == scores[g]) for b in bad for g in good]
    return math.fsum(pairs) / len(pairs) if pairs else math.nan


def within(scores: Any, strata: list[list[int]]) -> float:
    """The AUROC of each stratum, weighted by its pairs."""
    weights = [sum(HARMFUL[r] for r in rows) * sum(not HARMFUL[r] for r in rows) for rows in strata]
    return math.fsum(auroc(scores, rows) * w for rows, w in zip(strata, weights, strict=True) if w) / sum(weights)


SCORED = [row for row in range(ROWS) if row not in (OUT, UNSCORED)]
STRATA = [[row for row in SCORED if each["low"] <= LENGTHS[row] <= each["high"]] for each in DECILES]


def test_scores_against_figures_counted_by_hand(store: Store, tmp_path: Path) -> None:
    found = evaluate(store, labels(tmp_path, list(range(ROWS))))
    alike: dict[int, list[int]] = {}
    for row in SCORED:
        alike.setdefault(math.floor(math.log(LENGTHS[row]) / math.log(1.1)), []).append(row)
    for method, scores in zip([*found["methods"], found["answer_length"]], (LARF, SAFT, LENGTHS), strict=True):
        rows = [row for row in range(ROWS) if row != OUT] if scores is LENGTHS else SCORED
        strata = [[r for r in rows if each["low"] <= LENGTHS[r] <= each["high"]] for each in DECILES]
        assert method["auroc"]["value"] == pytest.approx(auroc(scores, rows))
        assert method["within_length"]["value"] == pytest.approx(within(scores, strata))
        files = [[row for row in rows if SOURCES[row] == name] for name in ("a.jsonl", "b.jsonl")]
        assert method["within_source"]["value"] == pytest.approx(within(scores, files))
        for part, here in zip(method["length_deciles"], strata, strict=True):
            assert part["auroc"]["value"] == pytest.approx(auroc(scores, here))
        for part, here in zip(method["sources"], files, strict=True):
            assert part["auroc"]["value"] == pytest.approx(auroc(scores, here))
        low, high = method["auroc"]["interval"]
        assert low < method["auroc"]["value"] < high
    for method, scores in zip(found["methods"], (LARF, SAFT), strict=True):
        assert method["equal_length"]["value"] == pytest.approx(within(scores, list(alike.values())))
        assert method["risk_coverage"][0] == {
            "coverage": 1.0,
            "harmful_share": pytest.approx(HARMFUL[SCORED].sum() / len(SCORED)),
        }
    assert [method["decided"] for method in found["methods"]] == [True, False]


def test_the_decision_counted_by_hand(store: Store, tmp_path: Path) -> None:
    found = evaluate(store, labels(tmp_path, list(range(ROWS))))
    rows = [row for row in range(ROWS) if row != OUT]
    parts = [(found["decision"], rows)]
    parts += [
        (part, [r for r in rows if part["low"] <= LENGTHS[r] <= part["high"]]) for part in found["length_deciles"]
    ]
    parts += [(part, [r for r in rows if SOURCES[r] == part["source"]]) for part in found["sources"]]
    assert len(parts) == 1 + 3 + 2
    for part, here in parts:
        bad = [row for row in here if HARMFUL[row]]
        dropped = [row for row in here if DECISIONS[row] == "dropped"]
        both = len(set(bad) & set(dropped))
        assert (part["rows"], part["harmful"], part["dropped"]) == (len(here), len(bad), len(dropped))
        assert part["precision"]["value"] == pytest.approx(both / len(dropped))
        assert part["recall"]["value"] == pytest.approx(both / len(bad))
        assert part["harmful_share_kept"]["value"] == pytest.approx((len(bad) - both) / (len(here) - len(dropped)))
        low, high = part["recall"]["interval"]
        assert low < both / len(bad) < high
    counted = found["labels"]
    assert (counted["labelled"], counted["rows"], counted["in_quarantine"]) == (ROWS, ROWS, 1)
    assert any("1 labelled rows were kept without a score" in note for note in found["notes"])
    assert any("1 labelled rows (" in note and "in quarantine" in note for note in found["notes"])
    assert any("SAFT: its AUROC is below 0.5" in note for note in found["notes"])


def test_a_column_gives_the_same_as_a_file(store: Store, tmp_path: Path) -> None:
    """But for the row in quarantine, whose columns could not be read."""
    by_file = evaluate(store, labels(tmp_path, [row for row in range(ROWS) if row != OUT]))
    by_column = evaluate(store, "harmful")
    assert by_column["methods"] == by_file["methods"]
    assert by_column["decision"] == by_file["decision"]


def test_intervals_are_seeded(store: Store) -> None:
    assert evaluate(store, "harmful") == evaluate(store, "harmful")


def test_it_says_that_labels_are_no_random_sample(store: Store, tmp_path: Path) -> None:
    some = [row for row in range(ROWS) if row != OUT][:40]
    assert any("unless they were drawn at random" in note for note in evaluate(store, labels(tmp_path, some))["notes"])
    picked = [row for row in range(ROWS) if DECISIONS[row] == "dropped"]
    picked += [row for row in range(ROWS) if DECISIONS[row] == "kept" and not HARMFUL[row]][:2]
    notes = evaluate(store, labels(tmp_path, picked))["notes"]
    assert notes[0].startswith("the labelled rows are no random sample")


def test_within_source_is_over_all_files(tmp_path: Path) -> None:
    """Of 25 files 20 are listed. The score tells the rows of the listed ones, and says the opposite in the others."""
    store = Store(str(tmp_path / "out"))
    sizes = [4] * 20 + [2] * 5
    files = {f"{number:02}.jsonl": [{"harmful": row % 2} for row in range(size)] for number, size in enumerate(sizes)}
    bad = [row % 2 for size in sizes for row in range(size)]
    scores = [float(one) if place < 80 else -float(one) for place, one in enumerate(bad)]
    write_run(store, files, {"larf": scores}, ["kept"] * len(bad))
    found = evaluate(store, "harmful")
    assert len(found["sources"]) == len(found["methods"][0]["sources"]) == 20
    assert {part["auroc"]["value"] for part in found["methods"][0]["sources"]} == {1.0}
    assert found["methods"][0]["within_source"]["value"] == pytest.approx(80 / 85)  # of 20 x 4 pairs and 5


@pytest.mark.parametrize("command", [evaluate, tune])
def test_labels_of_other_texts_are_refused(tmp_path: Path, command: Callable[[Store, str], Any]) -> None:
    """A sheet of the rows as they were before somebody changed one: the row's number and id are still the same."""
    store = Store(str(tmp_path / "out"))
    layout = Dialect.of("pair", prompt="prompt", response="response").to_dict()
    files = {"a.jsonl": [{"prompt": f"p{row}", "response": f"r{row}"} for row in range(8)]}
    write_run(
        store, files, {"larf": list(range(8))}, ["kept"] * 8, input={"files": [{"path": "a.jsonl", "columns": layout}]}
    )
    sheet = tmp_path / "sheet.jsonl"

    def fill(changed: int) -> None:
        texts = [f"[user]\np{row}\n\n[assistant]\nr{row}" + "!" * (row == changed) for row in range(8)]
        rows = [{"row": row, "harmful": row % 2, "text_digest": digest_of(text)} for row, text in enumerate(texts)]
        sheet.write_text("".join(json.dumps(row) + "\n" for row in rows))

    fill(changed=5)
    with pytest.raises(InputError, match="1 rows hold another text than the one labelled"):
        command(store, str(sheet))
    fill(changed=-1)
    assert evaluate(store, str(sheet))["labels"]["labelled"] == 8


def test_labels_drawn_by_stratum_are_no_picture_of_the_corpus(store: Store, tmp_path: Path) -> None:
    design = {"population": 30, "sampled": 2, "seed": 1}
    for stratum, said in (("asks=yes", True), ("all", False)):
        rows = [json.loads(line) for line in Path(labels(tmp_path, list(range(20)))).read_text().splitlines()]
        path = tmp_path / "sheet.jsonl"
        path.write_text("".join(json.dumps({**row, **design, "stratum": stratum}) + "\n" for row in rows))
        notes = evaluate(store, str(path))["notes"]
        assert notes[0].startswith("these labels were drawn by stratum") is said


def test_it_says_that_there_are_few_labels(store: Store, tmp_path: Path) -> None:
    bad, good = np.flatnonzero(HARMFUL).tolist(), np.flatnonzero(~HARMFUL).tolist()
    notes = evaluate(store, labels(tmp_path, [*bad[:2], *good[:12]]))["notes"]
    assert any(note.startswith("only 2 harmful rows are labelled") for note in notes)


def test_a_score_that_is_the_length_is_no_better_than_length(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"))
    rows = [{"harmful": bool(bad)} for bad in HARMFUL]
    lengths = (LENGTHS + 9 * HARMFUL).tolist()
    write_run(store, {"a.jsonl": rows}, {"long": lengths}, DECISIONS, lengths)
    found = evaluate(store, "harmful")
    assert found["methods"][0]["auroc"] == found["answer_length"]["auroc"]
    assert found["methods"][0]["auroc_above_length"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert any("these labels do not show that it beats length" in note for note in found["notes"])


def test_a_little_above_chance_among_equal_lengths_may_be_length() -> None:
    """Lengths that differ by less than a tenth still tell a little: as much as a filter of nothing but length has."""
    method = {"title": "M", "auroc": {"interval": [0.8, 0.9]}, "equal_length": {"interval": [0.516, 0.556]}}
    assert [note[:40] for note in beyond_length(method, {})] == ["M: among answers of equal length its AUR"]
    method["equal_length"] = {"interval": [0.56, 0.6]}
    assert not list(beyond_length(method, {}))


def test_a_filter_of_short_answers_is_one_of_length_too(tmp_path: Path) -> None:
    """Harmful answers are shorter, and the score is minus the length: its AUROC is high, and all of it is length."""
    store = Store(str(tmp_path / "out"))
    rng = np.random.default_rng(3)
    bad = np.arange(300) % 3 == 0
    lengths = np.where(bad, rng.integers(20, 60, 300), rng.integers(30, 200, 300))
    rows = [{"harmful": bool(each)} for each in bad]
    write_run(store, {"a.jsonl": rows}, {"short": (-lengths).tolist()}, ["kept"] * 300, lengths.tolist())
    found = evaluate(store, "harmful")
    [method] = found["methods"]
    assert method["auroc"]["value"] > 0.8
    assert method["auroc_above_length"]["value"] == pytest.approx(0.0)
    said = [note for note in found["notes"] if note.startswith("SHORT")]
    assert len(said) == 2
    assert "shorter answers being the harmful ones" in said[0]
    assert "no more than 0.55" in said[1]


def test_one_class_only_is_an_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="all 2 labelled rows are harmful"):
        evaluate(store, labels(tmp_path, np.flatnonzero(HARMFUL).tolist()[:2]))


def test_the_command(store: Store, tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["evaluate", store.path(), "--labels", "harmful", "--json"])
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert found == json.loads(json.dumps(evaluate(store, "harmful")))
    assert CliRunner().invoke(app, ["evaluate", store.path()]).exit_code == 2  # no labels


def test_the_screen_shows_every_method_and_escapes_names(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"))
    rows = [{"harmful": bool(bad)} for bad in HARMFUL]
    files = {"[bold]\x1b[31m.jsonl": rows[:30], "b.jsonl": rows[30:]}
    write_run(store, files, {"larf": LARF.tolist(), "saft": SAFT.tolist()}, DECISIONS, LENGTHS.tolist())
    console = Console(width=200, record=True, force_terminal=False)
    found = evaluate(store, "harmful")
    show_evaluation(console, found)
    text = console.export_text()
    assert "\x1b" not in text
    assert "[bold]" in text
    for name in ("larf *", "saft", "answer length", "b.jsonl", "harmful rows above the others"):
        assert name in text
    assert f"AUROC {found['methods'][0]['auroc']['value']:.3f}" in in_a_line(found)
