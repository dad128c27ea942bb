"""Which artifact a night is cut with, and when a new one is due."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.pipeline.job.schedule import ScheduleSpec
from tamis.pipeline.nights.artifacts import Choice, choose_artifact
from tamis.pipeline.nights.runs import Refit, Run


def spec(artifact: Any = "frozen") -> ScheduleSpec:
    return ScheduleSpec.model_validate({"root": "r", "artifact": artifact})


def run(name: str, artifact: str | None = None, **facts: Any) -> Run:
    return Run(name, created=facts.pop("created", name), artifact=artifact, **facts)


FIRST, SECOND = run("n1"), run("n2", "n1")


@pytest.mark.parametrize("artifact", ["frozen", {"refit_every": 1}, "each_night"])
def test_the_first_night_fits_its_own(artifact: Any) -> None:
    assert choose_artifact(spec(artifact), [], []) == Choice(None)
    failed = Run("n1", "it was begun and has not ended")
    assert choose_artifact(spec(artifact), [failed], []) == Choice(None)


def test_all_others_use_that_of_the_first() -> None:
    assert choose_artifact(spec(), [SECOND, FIRST], []) == Choice("n1", ("n1", "n2"))


def test_the_first_is_the_one_that_was_finished_first() -> None:
    late = run("n0", created="n3")  # for an old night, run after it
    assert choose_artifact(spec(), [late, FIRST], []).name == "n1"


def test_an_artifact_that_was_fitted_from_nights_counts_more() -> None:
    refits = [Refit("_artifacts/a", "n3"), Refit("_artifacts/b", "n5")]
    third = run("n6", "_artifacts/b")
    assert choose_artifact(spec(), [FIRST, SECOND, third], refits) == Choice("_artifacts/b", ("n6",))


def test_where_the_source_of_an_artifact_is_gone_the_copy_in_the_newest_night_is_used() -> None:
    """Else the next night would make a cut of its own without a word."""
    assert choose_artifact(spec(), [run("n3", "n1"), SECOND], []).name == "n3"
    assert choose_artifact(spec(), [run("n3", "/elsewhere")], []).name == "n3"


def test_each_night_may_fit_its_own() -> None:
    assert choose_artifact(spec("each_night"), [FIRST], [Refit("_artifacts/a", "n3")]) == Choice(None)


def test_runs_that_mask_tokens_have_no_artifact() -> None:
    assert choose_artifact(spec(), [run("n0", drops=False), FIRST], []).name == "n1"


@pytest.mark.parametrize(("every", "due"), [(1, True), (2, True), (3, False)])
def test_a_new_one_is_due_when_so_many_nights_used_the_last(every: int, due: bool) -> None:
    found = choose_artifact(spec({"refit_every": every}), [FIRST, SECOND], [])
    assert (found.name, found.refit) == ("n1", due)


@given(st.integers(1, 5), st.integers(1, 20))
def test_every_n_nights_use_one_artifact_and_each_night_is_fitted_from_once(every: int, count: int) -> None:
    """Night after night: a refit before a night is from the `every` nights before it, each of which is used once."""
    runs: list[Run] = []
    refits: list[Refit] = []
    fitted_from: list[str] = []
    for number in range(count):
        name = f"n{number:02d}"
        found = choose_artifact(spec({"refit_every": every}), runs, refits)
        artifact = found.name
        if found.refit:
            assert len(found.used_by) == every
            fitted_from += found.used_by
            artifact = f"_artifacts/{name}"
            refits.append(Refit(artifact, name))
        runs.append(run(name, artifact))
    assert fitted_from == [each.name for each in runs[: len(fitted_from)]]
    assert len(refits) == (count - 1) // every
