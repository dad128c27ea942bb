"""`tamis curate` with LARF and SAFT on JSON lines: every row is accounted for, and exactly the riskiest are dropped.

The scores are computed again with only transformers (the whole model, one sample at a time) and numpy.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from command import Ran, curate, tamis
from outputs import Row, alpaca_rows, check_whole, merged, pair, rows_of, sentence, tables, write_jsonl

from tamis.operators.requests import Request
from tamis.pipeline.commands.tune import halves

pytestmark = pytest.mark.usefixtures("one_thread")

LARF_LAYER, SAFT_LAYER = 1, 2
MALFORMED = ['{"instruction": "half a', '{"instruction": "no answer", "input": "", "output": ""}']
METHODS = ["larf", "saft"]


@dataclass(frozen=True)
class Corpus:
    """The input of every run here. rows: in order, str if malformed. groups: indices of identical rows."""

    folder: Path
    model: Path
    rows: list[Row | str]
    groups: list[list[int]]
    flags: list[str]


@dataclass(frozen=True)
class Naive:
    """Scores of the usable rows, in order, computed by the definition."""

    larf: np.ndarray[Any, Any]
    saft: np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def corpus(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Three files, 130 rows: 6 groups of 5 identical rows over all files, two malformed rows, the rest distinct."""
    folder = tmp_path_factory.mktemp("curate")
    rows: list[Row | str] = [*alpaca_rows(98, seed=1)]
    for number, twin in enumerate(alpaca_rows(6, seed=2)):
        for copy in range(5):
            rows.insert((7 * number + 23 * copy) % len(rows), dict(twin))
    rows.insert(40, MALFORMED[0])
    rows.insert(111, MALFORMED[1])
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(json.dumps(row), []).append(place)
    write_jsonl(folder / "data" / "a.jsonl", rows[:50])
    write_jsonl(folder / "data" / "b.jsonl", rows[50:120])
    write_jsonl(folder / "data" / "c.jsonl", rows[120:])
    for role in ("unsafe", "safe"):
        write_jsonl(folder / f"{role}.jsonl", [{"messages": messages} for messages in references(role)])
    return Corpus(
        folder,
        tiny_model,
        rows,
        [places for places in groups.values() if len(places) > 1],
        [
            *("--input", f"{folder}/data", "--model", f"{tiny_model}", "--method", "larf", "--method", "saft"),
            *("--set", f"larf.layer={LARF_LAYER}", "--set", f"saft.layer={SAFT_LAYER}", "--set", "max_quarantined=0.1"),
            *("--set", f"larf.unsafe_references={folder}/unsafe.jsonl"),
            *("--set", f"larf.safe_references={folder}/safe.jsonl"),
            # One row per batch: identical rows then have scores identical to the bit, and tie.
            *("--set", "model.token_budget=1"),
        ],
    )


def references(role: str) -> list[list[dict[str, str]]]:
    prompts, answers = random.Random(3), random.Random(role)
    return [pair(sentence(prompts), sentence(answers, 3, 9 if role == "safe" else 30)) for _ in range(10)]


@pytest.fixture(scope="module")
def naive(corpus: Corpus) -> Naive:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(corpus.model)
    model = AutoModelForCausalLM.from_pretrained(corpus.model, dtype=torch.float32, attn_implementation="eager").eval()

    def states(messages: list[dict[str, str]]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.inference_mode():
            hidden = model(ids, output_hidden_states=True).hidden_states
        return hidden[LARF_LAYER + 1][0, -1].numpy(), hidden[SAFT_LAYER + 1][0, -1].numpy()

    seen = [states(as_messages(row)) for row in usable(corpus)]
    unsafe = [states(messages)[0] for messages in references("unsafe")]
    safe = [states(messages)[0] for messages in references("safe")]
    larf = [np.mean([cosine(z, u) - cosine(z, s) for u, s in zip(unsafe, safe, strict=True)]) for z, _ in seen]
    return Naive(np.array(larf), saft_scores(np.array([z for _, z in seen])))


def as_messages(row: Row) -> list[dict[str, str]]:
    prompt = f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"]
    return pair(prompt, row["output"])


def usable(corpus: Corpus) -> list[Row]:
    return [row for row in corpus.rows if isinstance(row, dict)]


def cosine(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.float32:
    result: np.float32 = (a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))
    return result


def saft_scores(vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Squared projection on the first right singular vector of the centred matrix, float64."""
    centred = vectors.astype(np.float64) - vectors.astype(np.float64).mean(axis=0)
    basis = np.linalg.svd(centred, full_matrices=False)[2]
    scores: np.ndarray[Any, Any] = (centred @ basis[0]) ** 2
    return scores


def cut_in_a_group(corpus: Corpus, scores: np.ndarray[Any, Any]) -> int:
    """The number of rows to drop so that the cut goes through a group of five identical rows and drops two of them."""
    places = [place for place, row in enumerate(corpus.rows) if isinstance(row, dict)]
    order = [places[i] for i in np.argsort(-scores, kind="stable")]
    firsts = [min(order.index(place) for place in group) for group in corpus.groups]
    below_half = [first + 2 for first in firsts if 5 <= first <= len(order) // 2 - 5]
    assert below_half, "no group of identical rows has a rank to cut at; take another seed"
    return max(below_half)


def dropped_places(scores: Sequence[float], count: int) -> set[int]:
    """A stable sort with the riskiest first: of equal scores, the first in the corpus is dropped first."""
    return set(np.argsort(-np.asarray(scores), kind="stable")[:count].tolist())


@pytest.fixture(scope="module")
def count(corpus: Corpus, naive: Naive) -> int:
    return cut_in_a_group(corpus, naive.larf)


@pytest.fixture(scope="module")
def main_run(corpus: Corpus, count: int, ray_address: str) -> tuple[Path, Ran]:
    """A run with small shards that keeps the captured vectors."""
    out = corpus.folder / "out"
    flags = ["--drop-count", count, "--set", "shard_rows=16", "--set", "keep_captures=true", "--output", out]
    return out, curate(*corpus.flags, *flags, cwd=corpus.folder, address=ray_address)


def test_every_row_is_accounted_for(main_run: tuple[Path, Ran], corpus: Corpus, count: int) -> None:
    out, _ = main_run
    manifest = check_whole(out, METHODS, work_kept=True)
    assert manifest["counts"] == {
        "rows_in": len(corpus.rows),
        "kept": len(corpus.rows) - count - 2,
        "dropped": count,
        "quarantined": 2,
        "truncated": 0,
    }
    assert len(tables(out, "scores")) > 6  # several shards per file, otherwise this test shows little


def test_kept_dropped_and_quarantined_rows_are_the_input(main_run: tuple[Path, Ran], corpus: Corpus) -> None:
    out, _ = main_run
    found = merged(out)
    assert len(found) == len(corpus.rows)
    for (decision, row), original in zip(found, corpus.rows, strict=True):
        if isinstance(original, str) or not original["output"]:
            assert decision == "quarantined"
            assert row["raw_text"] == (original if isinstance(original, str) else json.dumps(original))
        elif decision == "dropped":
            assert set(row) == {*original, "sample_id", "method", "score", "quantile", "reason"}
            assert {name: row[name] for name in original} == original
        else:
            assert row == original
    scored = rows_of(out, "scores")
    places = [("a.jsonl", i) for i in range(50)] + [("b.jsonl", i) for i in range(70)]
    places += [("c.jsonl", i) for i in range(len(corpus.rows) - 120)]
    assert [(row["source"], row["row"]) for row in scored] == places


def test_kept_loads_with_datasets(
    main_run: tuple[Path, Ran], corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    out, _ = main_run
    expected = [row for decision, row in merged(out) if decision == "kept"]
    files = sorted(str(path) for path in (out / "kept").glob("*.parquet"))
    by_files = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "a"))
    by_card = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "b"))
    assert by_files.to_list() == by_card.to_list() == expected


def test_scores_are_those_of_the_definition(main_run: tuple[Path, Ran], naive: Naive) -> None:
    scored = [row for row in rows_of(main_run[0], "scores") if row["decision"] != "quarantined"]
    larf = np.array([row["larf"] for row in scored])
    np.testing.assert_allclose(larf, naive.larf, rtol=0, atol=1e-4)
    # The scores of the rows must differ by far more than that, otherwise this would show nothing.
    assert larf.std() > 0.02
    saft = np.array([row["saft"] for row in scored])
    np.testing.assert_allclose(saft, naive.saft, rtol=1e-4, atol=1e-4 * naive.saft.mean())


def test_the_filter_is_tested_and_judged(main_run: tuple[Path, Ran], corpus: Corpus, count: int) -> None:
    """The figures are those of a naive computation from the captured references and scores/."""
    out, ran = main_run
    manifest = check_whole(out, METHODS, work_kept=True)
    trust = manifest["trust"]
    column = Request(LARF_LAYER, "last_token").column
    names = {path.name for path in (out / "scores").glob("*.parquet")}
    captured = [pq.read_table(path) for path in sorted((out / "_work/capture").glob("*")) if
                path.name not in names]  # fmt: skip
    unsafe, safe = (np.array(table.column(column).to_pylist(), np.float64) for table in captured)
    u, s = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (unsafe, safe))
    won = []
    for fold in range(5):
        held = np.arange(10) % 5 == fold
        direction = u[~held].mean(axis=0) - s[~held].mean(axis=0)
        won += [(a > b) for a in (u[held] @ direction) for b in (s[held] @ direction)]
    larf_safe, larf, saft = trust["tests"]
    assert (larf_safe["method"], larf_safe["against"], larf_safe["unsafe"]) == ("larf", "safe", 10)
    assert larf_safe["auroc"]["value"] == pytest.approx(np.mean(won), abs=0.011)  # float32 scores, 20 pairs of 5 folds
    assert (larf["against"], larf["others"]) == ("corpus", len(usable(corpus)))
    assert saft["borrowed"] == "larf"

    scored = [row for row in rows_of(out, "scores") if row["decision"] != "quarantined"]
    scores = {name: [row[name] for row in scored] for name in METHODS}
    [pair] = trust["agreement"]["pairs"]
    ranks = [pa.array(scores[name]) for name in METHODS]
    mid = [(pc.rank(x, tiebreaker="min").to_numpy() + pc.rank(x, tiebreaker="max").to_numpy()) / 2.0 for x in ranks]
    assert pair["spearman"] == pytest.approx(float(np.corrcoef(*mid)[0, 1]), abs=1e-3)
    dropped = [dropped_places(scores[name], count) for name in METHODS]
    assert (pair["both"], pair["dropped"]) == (len(dropped[0] & dropped[1]), count)
    assert trust["agreement"]["lengths"][0]["spearman"] == pytest.approx(manifest["score_length_spearman"], abs=1e-9)

    refusing = {"kept": 0, "dropped": 0}
    for decision, row in merged(out):
        if decision in refusing:
            refusing[decision] += any(word in row["output"][:200] for word in ("cannot", "can't", "can not", "sorry"))
    assert trust["refusing"] == refusing
    said = " ".join(ran.stdout.split())
    assert trust["verdict"]["verdict"] in said.lower()
    assert " ".join(trust["verdict"]["reasons"][0].split()[:6]) in said
    assert trust["verdict"]["verdict"] in (out / "report.html").read_text().lower()


def test_saft_equals_a_full_svd_of_the_captured_vectors(main_run: tuple[Path, Ran]) -> None:
    out, _ = main_run
    column = Request(SAFT_LAYER, "last_token").column
    captured = pa.concat_tables(tables(out, "_work/capture")[: len(tables(out, "scores"))])
    vectors = captured.filter(pc.is_null(captured.column("code"))).column(column).to_pylist()
    scored = np.array([row["saft"] for row in rows_of(out, "scores") if row["saft"] is not None])
    expected = saft_scores(np.array(vectors, dtype=np.float32))
    np.testing.assert_allclose(scored, expected, rtol=1e-6, atol=1e-6 * expected.mean())


def test_dropped_rows_are_the_riskiest_ties_by_order(
    main_run: tuple[Path, Ran], corpus: Corpus, naive: Naive, count: int
) -> None:
    scored = [row for row in rows_of(main_run[0], "scores") if row["decision"] != "quarantined"]
    dropped = {place for place, row in enumerate(scored) if row["decision"] == "dropped"}
    assert dropped == dropped_places([row["larf"] for row in scored], count)
    assert dropped == dropped_places(group_means(corpus, naive.larf), count)
    lowest = min(row["larf"] for row in scored if row["decision"] == "dropped")
    highest = max(row["larf"] for row in scored if row["decision"] == "kept")
    assert lowest == highest, "the cut was to go through identical rows"
    reasons = [row["reason"] for row in rows_of(main_run[0], "dropped")]
    assert sum("is at the cut" in reason for reason in reasons) == 2
    assert sum("is above the cut" in reason for reason in reasons) == count - 2


def group_means(corpus: Corpus, scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The naive scores, averaged over identical rows to remove rounding differences."""
    by_row: dict[str, list[float]] = {}
    rows = [json.dumps(row) for row in usable(corpus)]
    for row, score in zip(rows, scores, strict=True):
        by_row.setdefault(row, []).append(float(score))
    return np.array([np.mean(by_row[row]) for row in rows])


@pytest.mark.long
def test_other_shards_and_two_workers_change_nothing(
    main_run: tuple[Path, Ran], corpus: Corpus, count: int, ray_address: str
) -> None:
    out, again = main_run[0], corpus.folder / "again"
    flags = ["--drop-count", count, "--set", "shard_rows=7", "--workers", "2", "--output", again]
    curate(*corpus.flags, *flags, cwd=corpus.folder, address=ray_address)
    check_whole(again, METHODS)
    assert len(tables(again, "scores")) > len(tables(out, "scores"))
    assert [(decision, original(row)) for decision, row in merged(again)] == [
        (decision, original(row)) for decision, row in merged(out)
    ]
    for name in ("kept", "dropped"):
        assert {table.schema for table in tables(again, name)} == {table.schema for table in tables(out, name)}
    first, second = ([row for row in rows_of(run, "scores") if row["larf"] is not None] for run in (out, again))
    assert [row["sample_id"] for row in first] == [row["sample_id"] for row in second]
    for method in METHODS:
        assert [row[method] for row in first] == pytest.approx([row[method] for row in second], rel=1e-5, abs=1e-7)


def original(row: Row) -> Row:
    """The row without the columns that dropped/ adds, whose rounding depends on the threads of the forward pass."""
    return {name: value for name, value in row.items() if name not in {"score", "quantile", "reason"}}


def test_batches_shipped_references_and_a_share(corpus: Corpus, naive: Naive, ray_address: str) -> None:
    out = corpus.folder / "share"
    flags = ["--input", corpus.folder / "data", "--model", corpus.model, "--method", "larf", "--method", "saft"]
    flags += ["--set", f"saft.layer={SAFT_LAYER}", "--set", f"larf.layer={LARF_LAYER}"]
    flags += ["--set", "max_quarantined=0.1", "--set", "selection.by=saft"]
    flags += ["--drop", "0.25", "--output", out]
    curate(*flags, cwd=corpus.folder, address=ray_address)
    manifest = check_whole(out, METHODS)
    usable_rows = len(naive.saft)
    assert manifest["counts"]["dropped"] == usable_rows // 4
    scored = [row for row in rows_of(out, "scores") if row["decision"] != "quarantined"]
    saft = np.array([row["saft"] for row in scored])
    np.testing.assert_allclose(saft, naive.saft, rtol=1e-4, atol=1e-4 * naive.saft.mean())
    dropped = {place for place, row in enumerate(scored) if row["decision"] == "dropped"}
    assert dropped == dropped_places(saft, usable_rows // 4)
    facts = manifest["methods"][0]["facts"]
    assert facts["references"] == {"unsafe": 120, "safe": 120}


def test_evaluate_and_tune_meet_the_scores_of_the_run(main_run: tuple[Path, Ran], tmp_path: Path) -> None:
    """Labels by the number in the corpus and by the number in the file, over three files, many shards and a row in
    quarantine in two of them. tune fits and scores anew from the kept vectors, and must find the same scores."""
    out, _ = main_run
    scored = rows_of(out, "scores")
    chance = random.Random(5)
    labels = [
        {
            **({"row": number} if number % 2 else {"source": row["source"], "row": row["row"]}),
            "harmful": chance.random() < 0.4,
        }
        for number, row in enumerate(scored)
    ]
    path = write_jsonl(tmp_path / "labels.jsonl", labels)
    usable = [number for number, row in enumerate(scored) if row["decision"] != "quarantined"]
    harmful = np.array([labels[number]["harmful"] for number in usable])
    first = halves(harmful)
    evaluated, tuned = (
        json.loads(tamis(command, out, "--labels", path, "--json", cwd=tmp_path).stdout)
        for command in ("evaluate", "tune")
    )
    assert [method["name"] for method in evaluated["methods"]] == METHODS
    for method in evaluated["methods"]:
        scores = np.array([scored[number][method["name"]] for number in usable])
        assert method["auroc"]["value"] == pytest.approx(auroc(scores, harmful), abs=1e-12)
        [way] = [
            way
            for way in tuned["ways"]
            if (way["method"], way["layer"], way["k"] or 1) == (method["name"], method["layer"], 1)
        ]
        assert way["chosen"]["auroc"]["value"] == pytest.approx(auroc(scores[first], harmful[first]), abs=1e-12)
        assert way["confirmed"]["auroc"]["value"] == pytest.approx(auroc(scores[~first], harmful[~first]), abs=1e-12)
    assert {way["layer"] for way in tuned["ways"]} == {LARF_LAYER, SAFT_LAYER}
    assert evaluated["labels"]["in_quarantine"] == tuned["labels"]["without_vectors"] == 2


def auroc(scores: np.ndarray[Any, Any], harmful: np.ndarray[Any, Any]) -> float:
    bad, good = scores[harmful][:, None], scores[~harmful][None]
    return float(((bad > good) + 0.5 * (bad == good)).mean())
