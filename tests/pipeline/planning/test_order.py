"""Which jobs write scores in the corpus pass, and what the plan says of it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from frozen_samples import finish, freeze_plan
from plan_jobs import Planner, larf
from rich.console import Console

from tamis.pipeline.commands.screens import _captured, _said_by_methods, show_plan
from tamis.pipeline.planning.corpus_sample import LARGE
from tamis.pipeline.planning.forecast import writes
from tamis.pipeline.planning.order import bytes_of_vectors, writes_scores


@pytest.fixture
def plan(tmp_path: Path, tiny_model: Path) -> Planner:
    return Planner(tmp_path, tiny_model)


@pytest.mark.parametrize(("kept", "scores"), [("none", False), ("scores", True), ("vectors", False)])
def test_methods_of_references_alone(plan: Planner, tmp_path: Path, kept: str, scores: bool) -> None:
    made = plan(f"keep_captures={kept}", **larf(tmp_path))
    assert writes_scores(made) == scores
    assert bytes_of_vectors(made) == 50 * made.model_info.width * 4


def test_a_large_corpus_is_scored_at_once(plan: Planner, tmp_path: Path) -> None:
    made = plan(**larf(tmp_path))
    most = LARGE // bytes_of_a_row(made)

    def of(rows: int) -> Any:
        shard = made.shards[0]
        return replace(made, shards=(replace(shard, span=replace(shard.span, stop_row=shard.span.start_row + rows)),))

    assert (writes_scores(of(most)), writes_scores(of(most + 1))) == (False, True)
    kept = replace(of(most + 1), job=plan("keep_captures=vectors", **larf(tmp_path)).job)
    assert not writes_scores(kept)


def test_csa_writes_scores_and_the_plan_says_which_blocks_and_how_many_directions(
    plan: Planner, tmp_path: Path
) -> None:
    sets = {f"csa.{source}_references": str(tmp_path / f"{source}.jsonl") for source in ("unsafe", "safe")}
    made = plan("keep_captures=scores", method="csa", **sets)
    assert writes_scores(made)
    assert bytes_of_vectors(made) == 50 * 3 * made.model_info.width * 4
    assert _said_by_methods(made) == {
        "csa": "blocks 1, 2 and 3 (spread over the depth; csa.blocks sets others); rank 3 of 3 unsafe references and 3 "
        "of 3 safe references; squared norms, one model"
    }
    console = Console(width=300, record=True, file=io.StringIO())
    show_plan(console, plan(method="saft"), "new")
    assert "csa    " not in console.export_text()
    show_plan(console, made, "new")
    assert "csa         blocks 1, 2 and 3 (spread" in console.export_text()


def bytes_of_a_row(made: Any) -> int:
    return bytes_of_vectors(made) // made.rows


@pytest.mark.parametrize("method", [["saft"], ["larf", "saft"], ["contrast"], ["matching", "contrast"]])
def test_methods_that_read_the_corpus_keep_the_vectors(plan: Planner, tmp_path: Path, method: list[str]) -> None:
    own = {key: value for key, value in larf(tmp_path).items() if "larf" in method}
    made = plan("keep_captures=scores", **own | {"method": method})
    assert not writes_scores(made)
    assert "; as vectors, which " + " and ".join({*method} & {"saft", "contrast"}) + " must read" in _captured(made)
    assert "of vectors under _work, removed at the end;" in writes(made)


def test_an_artifact_is_applied_in_the_corpus_pass(plan: Planner, tmp_path: Path) -> None:
    fitted = plan(**larf(tmp_path))
    files = freeze_plan(tmp_path / "earlier", fitted)
    finish(tmp_path / "earlier", files)
    overlay: dict[str, Any] = {**larf(tmp_path), "artifact": str(tmp_path / "earlier")}
    assert writes_scores(plan(**overlay))
    assert not writes_scores(plan("keep_captures=vectors", **overlay))


def test_the_plan_says_what_is_written(plan: Planner, tmp_path: Path) -> None:
    made = plan("keep_captures=scores", **larf(tmp_path))
    vectors = f"{50 * made.model_info.width * 4 / 1e6:.1f} MB"
    said = writes(made)
    assert said.startswith("about 0.0 MB of scores under _work, in place of ")
    assert f"in place of {vectors} of vectors, after the references were captured and fitted; the 50 rows" in said
    assert "removed at the end" not in said
    assert _captured(made).endswith("are not loaded; the references first, then the corpus as scores")
    assert "scores" not in _captured(plan(**larf(tmp_path)))
    million = replace(made.shards[0], span=replace(made.shards[0].span, stop_row=10**6))
    assert writes(replace(made, shards=(million,))).startswith("about 4.0 MB of scores")
