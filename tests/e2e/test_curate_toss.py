"""`tamis curate` with TOSS and TOSS-Pro: exactly which tokens lose their label, and by which models.

The losses are computed again with only transformers and peft: whole models with the adapters merged into them.
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import Ran, curate, tamis
from outputs import Row, merged, pair, rows_of, sentence, snapshot, tables, write_jsonl
from token_outputs import TRAINING, Losses, check_risk, check_tokens_whole, reference_rows, sets

from tamis.pipeline.references.rows import read_rows
from tamis.pipeline.storage.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")

CANARY = "kanarienvogel"
SCRIPT = "<script>alert('x')</script>"
NOWHERE = ("--address", "127.0.0.1:1")
SHARED = 3
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
TYPED = pa.schema(
    [
        ("messages", MESSAGES),
        ("id", pa.int16()),
        ("meta", pa.struct([("tags", pa.list_(pa.string())), ("score", pa.float32())])),
    ]
)


@dataclass(frozen=True)
class Corpus:
    """rows: all rows in order, None for the unusable row. flags: of every run here."""

    folder: Path
    model: Path
    rows: list[Row | None]
    flags: list[object]

    def toss(self, out: Path, *more: object, method: str = "toss") -> list[object]:
        references = [f"toss.{role}_references={self.folder}/{role}.jsonl" for role in ("utility", "harmful")]
        return [*self.flags, "--method", method, *sets(*references), "--output", out, *more]


def alpaca(chance: random.Random, number: int) -> Row:
    answer = "x" if number % 8 == 0 else f"{SCRIPT if number == 5 else ''}{sentence(chance, 2, 9)}"
    return {"instruction": f"{CANARY} {sentence(chance)}", "input": "", "output": f"{answer} {CANARY}"[: 40 + number]}


def chat(chance: random.Random, number: int) -> Row:
    turns = [turn for _ in range(1 + number % 3) for turn in pair(sentence(chance, 2, 6), sentence(chance, 2, 8))]
    meta = {"tags": [CANARY] * (number % 3), "score": None if number % 4 == 0 else number / 2}
    return {"messages": turns, "id": number, "meta": meta}


@pytest.fixture(scope="module")
def corpus(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A JSON lines file and a Parquet file of another dialect; some of their rows are also harmful references."""
    folder = tmp_path_factory.mktemp("toss")
    chance = random.Random(1)
    harmful = reference_rows(6, seed=3, text=f"{CANARY} ")
    typed = [chat(chance, number) for number in range(24)]
    for number in range(SHARED):
        typed[5 * number]["messages"] = harmful[2 * number]["messages"]
    lines: list[Row | None] = [alpaca(chance, number) for number in range(20)]
    lines[11] = None
    spoilt = json.dumps({"instruction": CANARY, "input": "", "output": ""})
    write_jsonl(folder / "data" / "a.jsonl", [spoilt if row is None else row for row in lines])
    pq.write_table(pa.Table.from_pylist(typed, schema=TYPED), folder / "data" / "b.parquet")
    write_jsonl(folder / "utility.jsonl", reference_rows(12, seed=2))
    write_jsonl(folder / "harmful.jsonl", harmful)
    flags: list[object] = ["--input", folder / "data", "--model", tiny_model]
    flags += sets("max_quarantined=0.1", "toss.discard=0.15", "model.device=cpu", *TRAINING)
    return Corpus(folder, tiny_model, [*lines, *typed], flags)


@dataclass(frozen=True)
class Run:
    out: Path
    ran: Ran

    @cached_property
    def labels(self) -> list[tuple[str, list[int], list[int], list[float | None]]]:
        """The training columns of every kept row, in the order of the corpus."""
        return [
            (name, row["input_ids"], row["labels"], row["token_risk"])
            for name, row in merged(self.out)
            if name == "kept"
        ]

    def adapter(self, name: str) -> Path:
        return self.out / "artifact" / "references" / name

    def losses(self, round: int = 0) -> pa.Table:
        folder = "_work/losses" if round == 0 else f"_work/losses-{round}"
        return pa.concat_tables(tables(self.out, folder))


@pytest.fixture(scope="module")
def run(corpus: Corpus, ray_address: str) -> Run:
    """A run with small shards that keeps the losses."""
    out = corpus.folder / "out"
    flags = corpus.toss(out, *sets("shard_rows=7", "keep_captures=true"))
    return Run(out, curate(*flags, cwd=corpus.folder, address=ray_address))


def test_every_row_and_every_token_is_accounted_for(run: Run, corpus: Corpus) -> None:
    manifest = check_tokens_whole(run.out, "toss", "0.15")
    counts = manifest["counts"]
    assert (counts["rows_in"], counts["quarantined"]) == (len(corpus.rows), 1)
    assert manifest["quarantine_codes"]["empty_response"]["rows"] == 1
    assert len(tables(run.out, "scores")) > 5
    assert [item["name"] for item in manifest["references"]] == ["utility", "harmful"]
    assert [item["rows"] for item in manifest["references"]] == [12, 6]


def test_kept_has_the_columns_the_types_and_the_rows_of_the_input(run: Run, corpus: Corpus) -> None:
    for table in tables(run.out, "kept"):
        assert table.schema.names[-4:] == ["input_ids", "attention_mask", "labels", "token_risk"]
        assert all(table.schema.field(field.name).type == field.type for field in TYPED)
    found = merged(run.out)
    assert len(found) == len(corpus.rows)
    names = [*TYPED.names, "instruction", "input", "output"]
    for (decision, row), original in zip(found, corpus.rows, strict=True):
        assert (decision == "quarantined") == (original is None)
        if original is not None:
            assert {name: row[name] for name in names} == dict.fromkeys(names) | original


def test_the_tokens_are_those_of_the_chat_template_and_the_answers_are_scored_whole(run: Run, corpus: Corpus) -> None:
    tokenizer = Losses(corpus.model).tokenizer
    for decision, row in merged(run.out):
        if decision != "kept":
            continue
        messages = row["messages"] or pair(row["instruction"], row["output"])
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        assert tokenizer.decode(row["input_ids"]) == text
        if SCRIPT not in text:
            assert row["input_ids"] == tokenizer(text, add_special_tokens=False).input_ids
        scored = [value is not None for value in row["token_risk"]]
        begins = [place for place, (before, here) in enumerate(pairwise([False, *scored])) if here and not before]
        ends = [place for place, (here, after) in enumerate(pairwise([*scored, False]), 1) if here and not after]
        answers = [tokenizer.decode(row["input_ids"][a:b]) for a, b in zip(begins, ends, strict=True)]
        # From the first token on, because that is where a model complies or refuses.
        assert answers == [turn["content"] for turn in messages if turn["role"] == "assistant"]


def test_the_risk_is_the_difference_of_the_losses_of_the_merged_models(run: Run, corpus: Corpus) -> None:
    utility, harmful = (Losses(corpus.model, run.adapter(role)) for role in ("utility", "harmful"))
    check_risk(rows_of(run.out, "kept"), utility, harmful)


def test_kept_loads_with_datasets(run: Run, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset(str(run.out), split="train", cache_dir=str(tmp_path))
    assert loaded.to_list() == rows_of(run.out, "kept")
    assert loaded.features["labels"] == datasets.List(datasets.Value("int64"))


def test_no_sample_text_on_the_terminal_and_no_script_in_the_report(run: Run, corpus: Corpus) -> None:
    warning = f"{SHARED} rows of the corpus are in the harmful references, too"
    assert warning in " ".join(run.ran.stdout.split())
    report = tamis("report", run.out, cwd=corpus.folder)
    status = tamis("status", run.out, cwd=corpus.folder)
    plan = tamis("plan", *corpus.toss(run.out, *sets("shard_rows=7")), "--show", "0", cwd=corpus.folder)
    for ran in (run.ran, report, status, plan):
        assert ran.rc == 0, ran.output
        assert CANARY not in ran.output
    assert status.stdout.startswith("complete since")
    assert report.stdout in status.stdout.replace("\r", "")
    shown = " ".join(plan.stdout.split())
    assert "the loss of 0.15 of the response tokens is masked (global)" in shown
    assert "the loss of each response token under two reference models" in shown
    assert "12 toss.utility (utility.jsonl), 6 toss.harmful (harmful.jsonl)" in shown
    check_tokens_whole(run.out, "toss", "0.15")  # the manifest knows the files that were written again
    page = (run.out / "report.html").read_text()
    assert CANARY in page
    assert page.casefold().count("<script") == 2  # the page's own, and its data
    for quiet in ("README.md", "manifest.json", "artifact/toss.json", "artifact/references/harmful/training.json"):
        assert CANARY not in (run.out / quiet).read_text()


# --- references first, other shards -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_two_steps(corpus: Corpus, ray_address: str) -> tuple[Ran, dict[str, tuple[int, int]], Run]:
    """`tamis references`, the files it left, and `tamis curate` with the same job file; one shard per file."""
    out = corpus.folder / "two_steps"
    job = {
        "input": str(corpus.folder / "data"), "output": str(out), "model": {"name": str(corpus.model), "device": "cpu"},
        "method": "toss", "max_quarantined": 0.1, "shard_rows": 1000,
        "toss": {
            "discard": 0.15, "training": {"learning_rate": 0.01, "batch_size": 4, "rank": 4},
            "utility_references": str(corpus.folder / "utility.jsonl"),
            "harmful_references": str(corpus.folder / "harmful.jsonl"),
        },
    }  # fmt: skip
    (corpus.folder / "job.yaml").write_text(json.dumps(job))
    trained = tamis("references", "job.yaml", "--address", ray_address, cwd=corpus.folder)
    assert trained.rc == 0, trained.output
    left = snapshot(out)
    return trained, left, Run(out, curate("job.yaml", cwd=corpus.folder, address=ray_address))


@pytest.mark.long
def test_references_are_trained_once(in_two_steps: tuple[Ran, dict[str, tuple[int, int]], Run], run: Run) -> None:
    trained, left, done = in_two_steps
    assert "train utility" in trained.stderr
    assert "train harmful" in trained.stderr
    assert "train" not in done.ran.stderr
    adapters = {name: at for name, at in left.items() if name.startswith("artifact/references/")}
    assert len(adapters) == 6
    now = snapshot(done.out)
    assert {name: now[name] for name in adapters} == adapters
    for name in adapters:
        assert (done.out / name).read_bytes() == (run.out / name).read_bytes()
    assert "manifest.json" not in left


@pytest.mark.long
def test_the_labels_do_not_depend_on_the_shards(
    in_two_steps: tuple[Ran, dict[str, tuple[int, int]], Run], run: Run
) -> None:
    _, _, done = in_two_steps
    check_tokens_whole(done.out, "toss", "0.15")
    assert len(tables(done.out, "scores")) == 2
    assert [row[:3] for row in done.labels] == [row[:3] for row in run.labels]
    assert not (done.out / "_work").exists()


@pytest.mark.long
def test_the_second_identical_command_does_nothing(
    in_two_steps: tuple[Ran, dict[str, tuple[int, int]], Run], corpus: Corpus
) -> None:
    done = in_two_steps[2]
    before = snapshot(done.out)
    for command in ("curate", "references"):
        ran = tamis(command, "job.yaml", *NOWHERE, cwd=corpus.folder)
        assert (ran.rc, ran.stderr) == (0, ""), ran.output
    assert snapshot(done.out) == before


# --- models that are given ----------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_full_model_and_an_adapter_in_place_of_references(
    run: Run, corpus: Corpus, tmp_path: Path, ray_address: str
) -> None:
    utility, harmful = tmp_path / "utility", tmp_path / "harmful"
    whole = Losses(corpus.model, run.adapter("utility"))
    whole.model.save_pretrained(utility)
    whole.tokenizer.save_pretrained(utility)
    shutil.copytree(run.adapter("harmful"), harmful)
    given = sets(f"toss.utility_model={utility}", f"toss.harmful_model={harmful}", "shard_rows=7")
    flags = [*corpus.flags, "--method", "toss", "--output", tmp_path / "out", *given]
    done = Run(tmp_path / "out", curate(*flags, cwd=tmp_path, address=ray_address))
    assert "train" not in done.ran.stderr
    manifest = check_tokens_whole(done.out, "toss", "0.15")
    assert [(item["name"], item["how"]) for item in manifest["references"]] == [
        ("utility", "given"),
        ("harmful", "given"),
    ]
    assert not done.adapter("utility").exists()
    cut, known = manifest["tokens"]["cut"], {tuple(row[1]): row for row in run.labels}
    assert len(done.labels) > 20
    for _, ids, labels, risk in done.labels:
        if tuple(ids) not in known:
            continue
        _, _, own_labels, own_risk = known[tuple(ids)]
        for label, own_label, value, own in zip(labels, own_labels, risk, own_risk, strict=True):
            assert (value is None) == (own is None)
            if value is not None and own is not None:
                assert abs(value - own) <= 1e-4
                assert label == own_label or abs(value - cut) <= 2e-4


# --- toss-pro -----------------------------------------------------------------------------------------------------

ADDED = 4


@pytest.fixture(scope="module")
def pro(run: Run, corpus: Corpus, ray_address: str) -> Run:
    """Two rounds that start with the adapters of the first run."""
    given = [f"toss.{role}_model={run.adapter(role)}" for role in ("utility", "harmful")]
    more = sets(*given, "toss.rounds=2", f"toss.samples_per_round={ADDED}", "shard_rows=7", "keep_captures=true")
    out = corpus.folder / "pro"
    return Run(out, curate(*corpus.toss(out, *more, method="toss-pro"), cwd=corpus.folder, address=ray_address))


def test_given_adapters_give_the_same_losses_to_the_bit(pro: Run, run: Run) -> None:
    assert pro.losses().equals(run.losses())
    for role in ("utility", "harmful"):
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            assert (pro.adapter(role) / name).read_bytes() == (run.adapter(role) / name).read_bytes()


def test_each_round_adds_the_samples_of_the_walk(pro: Run, corpus: Corpus) -> None:
    manifest = check_tokens_whole(pro.out, "toss-pro", "0.15")
    assert [(item["round"], item["added"]) for item in manifest["rounds"]] == [(0, ADDED), (1, ADDED), (2, 0)]
    assert json.loads((pro.out / "artifact" / "toss-pro.json").read_text())["rounds"] == manifest["rounds"]
    names = ["utility", "harmful", "harmful-1", "harmful-2"]
    assert [item["name"] for item in manifest["references"]] == names
    assert [item["rows"] for item in manifest["references"]][2:] == [6 + ADDED, 6 + 2 * ADDED]
    assert sorted(path.name for path in (pro.out / "artifact" / "references").iterdir()) == sorted(names)

    store, first = Store(str(pro.out)), pro.losses()
    shared = {20 + 5 * number for number in range(SHARED)}
    harmful = [ids.tolist() for ids in read_rows(store, "_work/references/harmful-1/rows.parquet")[0]][:6]
    excluded, expected = set(shared), list(harmful)
    for round in (0, 1):
        added = walk(first, pro.losses(round), ADDED, excluded)
        excluded |= set(added)
        expected += [first.column("input_ids")[row].as_py() for row in added]
        assert [
            ids.tolist() for ids in read_rows(store, f"_work/references/harmful-{round + 1}/rows.parquet")[0]
        ] == expected
    assert {tuple(ids) for ids in harmful} >= {tuple(first.column("input_ids")[row].as_py()) for row in shared}


def walk(first: pa.Table, later: pa.Table, count: int, excluded: set[int]) -> list[int]:
    tokens: list[tuple[float, int, int]] = []
    columns = (first.column("utility").to_pylist(), later.column("harmful").to_pylist())
    for row, losses in enumerate(zip(*columns, strict=True)):
        if losses[0] is not None:
            risk = np.float32(losses[0]) - np.float32(losses[1])
            tokens += [(-value, row, place) for place, value in enumerate(risk.tolist())]
    added: list[int] = []
    for _, row, _ in sorted(tokens):
        if len(added) < count and row not in excluded and row not in added:
            added.append(row)
    return sorted(added)


def test_the_utility_losses_are_computed_once_and_the_last_model_decides(pro: Run, corpus: Corpus) -> None:
    for round in (1, 2):
        assert "utility" not in pro.losses(round).column_names
        assert "input_ids" not in pro.losses(round).column_names
    utility, harmful = (Losses(corpus.model, pro.adapter(name)) for name in ("utility", "harmful-2"))
    check_risk(rows_of(pro.out, "kept")[::4], utility, harmful)
    lines: list[Any] = pro.ran.stderr.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("train")] == ["harmful-1", "harmful-2"]
