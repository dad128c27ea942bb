"""Which rows stand for the corpus: how many, the same whatever the sharding, and what the plan says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from frozen_samples import finish, freeze_plan
from hypothesis import given
from hypothesis import strategies as st
from plan_jobs import Planner, larf, lines_of, rows_of

from tamis.operators.methods import Contrast, Larf, Method, Saft
from tamis.operators.methods.contrast import SAMPLE_ROWS
from tamis.operators.statistics.drawing import drawn_rows
from tamis.pipeline.commands.screens import _captured
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.inputs.spans import Span
from tamis.pipeline.planning.corpus_sample import LARGE, DrawnRows, corpus_sides, draw, sizes
from tamis.pipeline.planning.forecast import writes
from tamis.pipeline.planning.order import corpus_side, writes_scores
from tamis.pipeline.planning.plan import Plan

MILLION, HUGE = 10**6, LARGE + 1
DRAWN = "contrast: 20 of the 100 rows, drawn by seed 3 and captured with the references"


def methods(**samples: Any) -> dict[str, Method]:
    made: dict[str, Method] = {"larf": Larf(layer=1), "saft": Saft(), "contrast": Contrast()}
    found = {name: made[name] for name in samples}
    if "contrast" in samples:
        found["contrast"] = Contrast(sample=samples["contrast"])
    return found


@pytest.mark.parametrize(
    ("wanted", "rows", "vectors", "kept", "drawn"),
    [
        # by itself: only where the vectors of the whole corpus would be written for Contrast alone
        ({"contrast": "auto"}, MILLION, HUGE, "none", SAMPLE_ROWS),
        ({"contrast": "auto"}, MILLION, LARGE, "none", None),
        ({"contrast": "auto"}, MILLION, LARGE, "scores", SAMPLE_ROWS),
        ({"contrast": "auto"}, MILLION, HUGE, "vectors", None),
        ({"contrast": "auto"}, SAMPLE_ROWS, HUGE, "scores", None),
        ({"contrast": "auto"}, SAMPLE_ROWS + 1, HUGE, "scores", SAMPLE_ROWS),
        ({"contrast": "auto", "larf": 1}, MILLION, HUGE, "none", SAMPLE_ROWS),
        ({"contrast": "auto", "saft": 1}, MILLION, HUGE, "none", None),
        # as the job says, whatever it costs
        ({"contrast": 400}, MILLION, 1, "none", 400),
        ({"contrast": 400}, MILLION, HUGE, "vectors", 400),
        ({"contrast": 400, "saft": 1}, MILLION, HUGE, "none", 400),
        ({"contrast": 400}, 400, HUGE, "none", None),
        ({"contrast": "all"}, MILLION, HUGE, "scores", None),
        ({"contrast": 0}, MILLION, HUGE, "none", None),
        ({"larf": 1}, MILLION, HUGE, "none", None),
        ({}, MILLION, HUGE, "none", None),
    ],
)
def test_how_many_rows_are_drawn(wanted: dict[str, Any], rows: int, vectors: int, kept: str, drawn: int | None) -> None:
    expected = {} if drawn is None else {"contrast": drawn}
    assert sizes(methods(**wanted), rows, vectors, kept) == expected


# --- which ones ---------------------------------------------------------------------------------------------------


def shards_of(files: list[int], step: int) -> list[Shard]:
    """Files of so many rows, in shards of at most `step`."""
    found: list[Shard] = []
    for number, rows in enumerate(files):
        source = SourceFile(f"/{number}", f"f{number}", "jsonl", None, 0, "")
        for start in range(0, rows, step):
            span = Span(start, min(start + step, rows), 0, 0)
            found.append(Shard(len(found), "corpus", source, (), span, {}, f"{number}-{start}"))
    return found


@given(
    files=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    steps=st.tuples(st.integers(1, 45), st.integers(1, 45)),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_the_rows_do_not_depend_on_the_sharding(
    files: list[int], steps: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, sum(files)))
    one, two = (draw({"contrast": count}, shards_of(files, step), 100, seed)["contrast"] for step in steps)
    assert one.files == two.files
    assert one.facts == two.facts
    # by hand: the rows of all files in a line
    line = [(f"f{number}", row) for number, rows in enumerate(files) for row in range(rows)]
    expected = [line[row] for row in drawn_rows(len(line), count, seed)]
    assert [(file["path"], row) for file in one.files for row in file["rows"]] == expected
    for drawn in (one, two):
        assert (drawn.count, drawn.of) == (count, sum(files))
        assert [shard.index for shard in drawn.shards] == list(range(100, 100 + len(drawn.shards)))
        assert {shard.role for shard in drawn.shards} == {"contrast.corpus"}
        assert all(shard.span.start_row <= row < shard.span.stop_row for shard in drawn.shards for row in shard.chosen)
        assert all(Shard.from_json(shard.to_json()) == shard for shard in drawn.shards)


def test_other_rows_of_one_shard_are_another_shard() -> None:
    shards = shards_of([500], 500)
    names = {draw({"contrast": 5}, shards, 1, seed)["contrast"].shards[0].name for seed in range(20)}
    names |= {draw({"own": 5}, shards, 1, 0)["own"].shards[0].name, shards[0].name}
    assert len(names) == 22


# --- in a plan ----------------------------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path: Path, tiny_model: Path) -> Planner:
    return Planner(tmp_path, tiny_model)


def contrast(folder: Path, **overlay: Any) -> dict[str, Any]:
    return {"method": "contrast", "contrast.unsafe_references": str(folder / "unsafe.jsonl"), **overlay}


def drawn_of(made: Plan) -> DrawnRows:
    return made.corpus_samples["contrast"]


def test_drawn_rows_are_captured_with_the_references(plan: Planner, tmp_path: Path) -> None:
    made = plan("contrast.sample=12", "shard_rows=20", **contrast(tmp_path))
    drawn = drawn_of(made)
    assert (drawn.count, drawn.of, drawn.seed) == (12, 50, 0)
    assert made.fit_shards == (*made.reference_shards, *drawn.shards)
    names = [shard.name for shard in [*made.shards, *made.fit_shards]]
    assert names == sorted({*names})
    assert writes_scores(made)  # however small the corpus
    assert not writes_scores(plan("contrast.sample=12", "keep_captures=vectors", **contrast(tmp_path)))
    assert (
        plan("contrast.sample=12", "shard_rows=7", **contrast(tmp_path)).corpus_samples["contrast"].files == drawn.files
    )
    assert plan("contrast.sample=12", "seed=1", **contrast(tmp_path)).corpus_samples["contrast"].files != drawn.files
    assert len(json.dumps(drawn.facts)) < 200


def test_with_saft_the_vectors_of_the_corpus_stay(plan: Planner, tmp_path: Path) -> None:
    both = contrast(tmp_path, method=["contrast", "saft"])
    assert plan("keep_captures=scores", **both).corpus_samples == {}
    made = plan("contrast.sample=12", "keep_captures=scores", **both)
    assert (drawn_of(made).count, writes_scores(made)) == (12, False)


def test_a_large_corpus_is_scored_against_a_sample_by_itself(plan: Planner, tmp_path: Path) -> None:
    """As many rows as there are, of a model that is wider: what the plan computes with."""
    (tmp_path / "data/a.jsonl").write_bytes(lines_of(rows_of(SAMPLE_ROWS + 1, words=1)))
    made = plan(**contrast(tmp_path))
    assert made.corpus_samples == {}
    assert corpus_side(made) == "contrast: all 4,097 rows, whose vectors take 0.5 MB only"
    made = plan("keep_captures=scores", **contrast(tmp_path))
    assert drawn_of(made).count == SAMPLE_ROWS
    start = "contrast: 4,096 of the 4,097 rows, drawn by seed 0 and captured with the references"
    assert corpus_side(made) == f"{start}, as keep_captures is scores"
    assert ", after the references and 0.5 MB of vectors of the drawn rows were captured and fitted" in writes(made)
    assert _captured(made).endswith("; the references and the drawn rows first, then the corpus as scores")


@pytest.mark.parametrize(
    ("sample", "drawn", "kept", "others", "said"),
    [
        (
            "auto",
            True,
            "none",
            [],
            f"{DRAWN}, as the vectors of all would take 9 GB",
        ),
        (
            20,
            True,
            "vectors",
            [],
            f"{DRAWN}, as contrast.sample says",
        ),
        ("all", False, "none", [], "contrast: all 100 rows, as contrast.sample says"),
        (100, False, "none", [], "contrast: all 100 rows, no more than the 100 that would be drawn"),
        ("auto", False, "none", [], "contrast: all 100 rows, no more than the 4,096 that would be drawn"),
        (20, False, "vectors", [], "contrast: all 100 rows, as keep_captures is vectors"),
        (20, False, "none", ["saft"], "contrast: all 100 rows, whose vectors saft must read anyway"),
        (20, False, "none", ["larf"], "contrast: all 100 rows, whose vectors take 9 GB only"),
    ],
)
def test_the_plan_says_what_stands_for_the_corpus_and_why(
    sample: Any, drawn: bool, kept: str, others: list[str], said: str
) -> None:
    wanted = methods(**dict.fromkeys(others, 1), contrast=sample)
    found = draw({"contrast": 20}, shards_of([100], 30), 4, 3) if drawn else {}
    assert corpus_sides(wanted, found, 100, "9 GB", kept) == [said]


def test_a_whole_corpus_leaves_no_trace_in_the_fingerprint(plan: Planner, tmp_path: Path) -> None:
    """So that runs and artifacts of an earlier tamis go on."""
    whole = plan(**contrast(tmp_path)).fingerprint
    assert not [key for key in whole if key in {"contrast.sample", "sample seed"}]
    for same in ("contrast.sample=all", "contrast.sample=0", "contrast.sample=50", "contrast.sample=4096", "seed=9"):
        assert plan(same, **contrast(tmp_path)).fingerprint == whole
    some = plan("contrast.sample=12", "seed=9", **contrast(tmp_path)).fingerprint
    assert some == {**whole, "contrast.sample": 12, "sample seed": 9}
    assert plan("contrast.sample=12", "keep_captures=scores", "seed=9", **contrast(tmp_path)).fingerprint == some


def test_nights_that_are_fitted_again_read_all_rows(plan: Planner, tmp_path: Path) -> None:
    night = {"root": str(tmp_path / "root"), "artifact": {"refit_every": 3}}
    overlay = {**contrast(tmp_path), "schedule": night, "keep_captures": "vectors", "output": None}
    with pytest.raises(ConfigError, match=r"contrast\.sample: refit_every fits from all rows of the nights"):
        plan("contrast.sample=12", **overlay)
    assert plan(**overlay).corpus_samples == {}


def test_an_artifact_brings_its_sample(plan: Planner, tmp_path: Path) -> None:
    made = plan("contrast.sample=12", **contrast(tmp_path, **{"contrast.layer": 1}))
    finish(tmp_path / "made", freeze_plan(tmp_path / "made", made))
    applied = {"method": "contrast", "artifact": str(tmp_path / "made"), "output": str(tmp_path / "new")}
    for said in ((), ("contrast.sample=12",), ("contrast.sample=auto", "seed=4")):
        later = plan(*said, **applied)
        assert later.corpus_samples == {}
        assert later.job.of("contrast").sample == 12
        assert corpus_side(later) == ""
    with pytest.raises(ConfigError, match=r"contrast\.sample: 12 there, 13 now"):
        plan("contrast.sample=13", **applied)


def test_an_artifact_of_the_whole_corpus_is_of_no_sample(plan: Planner, tmp_path: Path) -> None:
    made = plan(**contrast(tmp_path, **{"contrast.layer": 1}))
    finish(tmp_path / "made", freeze_plan(tmp_path / "made", made, facts={"contrast": {"count": 50}}))
    applied = {"method": "contrast", "artifact": str(tmp_path / "made"), "output": str(tmp_path / "new")}
    # As many rows as were there, or more, are all of them: a job that names a number goes on night after night.
    for same in ("all", "auto", 0, 50, 4096):
        assert plan(f"contrast.sample={same}", **applied).artifact is not None
    with pytest.raises(ConfigError, match=r"contrast\.sample: all there, 13 now"):
        plan("contrast.sample=13", **applied)


def test_larfs_open_block_counts_as_a_vector_more(plan: Planner, tmp_path: Path) -> None:
    searched = {**larf(tmp_path), **contrast(tmp_path), "method": ["larf", "contrast"], "larf.layer": "auto"}
    made = plan("contrast.sample=12", **searched)
    settled = made.with_layer(3, "search")
    assert settled.corpus_samples == made.corpus_samples
    assert replace(settled, shards=settled.shards[:1]).fit_shards == settled.fit_shards
