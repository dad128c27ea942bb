"""What the plan learns from the first rows: which cannot be used and why, what becomes of columns, how rows look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from plan_jobs import Planner, lines_of, rows_of

from tamis.operators.problems import RowProblem
from tamis.pipeline.inputs.files import resolve
from tamis.pipeline.inputs.shards import scan
from tamis.pipeline.job.job_file import load_job
from tamis.pipeline.planning.plan import Plan, make_plan
from tamis.pipeline.planning.sampling import Trouble

HISTORY = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "early"}]
TURNS = [*HISTORY, {"role": "user", "content": "second <|im_end|>"}]


@pytest.fixture
def plan(tmp_path: Path, tiny_model: Path) -> Planner:
    return Planner(tmp_path, tiny_model)


def shown(planner: Planner, count: int, *assignments: str, with_texts: bool = False) -> Plan:
    return make_plan(load_job(None, planner.job, assignments), show=count, with_texts=with_texts)


def test_rows_of_a_head_keep_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines_of([{"a": 1}, b"{", {"a": 2}, b"[]", {"a": 3, "b": 4}]))
    [file] = resolve([str(tmp_path / "a.jsonl")], "auto", {})
    scanned = scan(file, 10, {})
    numbered = scanned.first_rows()
    assert [number for number, _ in numbered] == [0, 1, 2, 3, 4]
    assert [isinstance(value, RowProblem) for _, value in numbered] == [False, True, False, True, False]
    assert numbered[4][1] == {"a": 3, "b": 4}
    assert scanned.columns == ("a", "b")


def test_every_code_is_counted_with_its_first_row(plan: Planner, tmp_path: Path) -> None:
    rows: list[Any] = rows_of(10)
    rows[3] = b"{cut"
    rows[5] = rows[7] = {"prompt": "secret", "response": ""}
    rows[8] = {"prompt": "word " * 300, "response": "x"}
    (tmp_path / "data/a.jsonl").write_bytes(lines_of(rows))
    made = plan("max_tokens=100")
    assert [(found.code, found.rows, found.file, found.row) for found in made.estimate.troubles] == [
        ("empty_response", 2, "a.jsonl", 5),
        ("malformed_json", 1, "a.jsonl", 3),
        ("overlong", 1, "a.jsonl", 8),
    ]
    assert (made.estimate.bad, made.estimate.overlong) == (0.3, 0.1)
    assert all(found.message and not found.text for found in made.estimate.troubles)
    assert "secret" not in str([*made.estimate.troubles, *made.warnings, *made.notes])
    kept = plan("max_tokens=100", "overlong=keep_end")
    assert [found.code for found in kept.estimate.troubles] == ["empty_response", "malformed_json"]


def test_the_text_of_a_row_that_cannot_be_used_only_if_asked_for(plan: Planner, tmp_path: Path) -> None:
    (tmp_path / "data/a.jsonl").write_bytes(lines_of([*rows_of(3), {"prompt": "secret" * 100, "response": ""}]))
    [trouble] = shown(plan, 1, with_texts=True).estimate.troubles
    assert isinstance(trouble, Trouble)
    assert trouble.text.startswith('{"prompt": "secretsecret')
    assert len(trouble.text) < 310


def test_rows_as_they_are_rendered(plan: Planner, tmp_path: Path) -> None:
    row = {"messages": TURNS, "response": "late"}
    (tmp_path / "data/a.jsonl").write_bytes(lines_of([{"messages": TURNS[:1]}, row, row, row]))
    assert shown(plan, 0).samples == ()
    made = shown(plan, 2)
    assert [(sample.file, sample.row) for sample in made.samples] == [("a.jsonl", 1), ("a.jsonl", 2)]
    sample = made.samples[0]
    assert sample.roles == ("user", "assistant", "user", "assistant")
    assert [piece.strip() for piece, kind in sample.pieces if kind == "scored"] == ["late"]
    whole = "".join(piece for piece, _ in sample.pieces)
    assert whole.count("second <|im_end|>") == 1
    assert not any("second" in piece for piece, kind in sample.pieces if kind == "control")


def test_every_answer_is_scored_where_tokens_are(plan: Planner, tmp_path: Path) -> None:
    chat = [*TURNS, {"role": "assistant", "content": "late"}]
    (tmp_path / "data/a.jsonl").write_bytes(lines_of([{"messages": chat}] * 3))
    plan.job["method"] = "toss"
    plan.job["toss.utility_references"] = str(tmp_path / "safe.jsonl")
    [sample] = shown(plan, 1).samples
    assert [piece.strip() for piece, kind in sample.pieces if kind == "scored"] == ["early", "late"]


def test_what_becomes_of_columns_is_in_the_plan(plan: Planner, tmp_path: Path) -> None:
    rows = [{**row, "few_shot": "x", "source": "web"} for row in rows_of(5)]
    (tmp_path / "data/a.jsonl").write_bytes(lines_of(rows))
    made = plan()
    [warning] = made.warnings
    assert warning.startswith("columns left out of the prompt: few_shot (row 0)")
    assert made.notes == ("text columns that are not read: source",)
    (tmp_path / "data/b.jsonl").write_bytes(lines_of(rows_of(5)))
    (tmp_path / "data/c.jsonl").write_bytes(lines_of(rows))
    made = plan()
    [warning] = made.warnings
    assert warning.startswith("a.jsonl: columns left out")
    assert made.notes == ("a.jsonl: text columns that are not read: source",)
