"""The section `selection`: what may be said together, and what a cut among the rows of one run excludes."""

from __future__ import annotations

from typing import Any

import pytest

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.job.job_file import Job, load_job

SCHEDULE = {"root": "nights", "name": "%Y-%m-%d"}


def job(selection: dict[str, Any], **overlay: Any) -> Job:
    given = {"input": "a.jsonl", "output": "out", "model": "m", "method": ["larf", "saft"], "selection": selection}
    return load_job(None, {**given, **overlay})


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ({}, "drop 0.1"),
        ({"drop_count": 1200}, "drop count 1,200"),
        ({"threshold": -0.5}, "threshold -0.5"),
        ({"drop": 0.2, "within": "length_decile"}, "drop 0.2 within each length_decile"),
        ({"drop": 0.2, "control": "length_matched"}, "drop 0.2, length_matched control"),
    ],
)
def test_in_words(selection: dict[str, Any], words: str) -> None:
    assert job(selection).selection.in_words == words


def test_ranks_decide_among_several_methods() -> None:
    assert job({"by": "ranks"}).selected_by == "ranks"
    with pytest.raises(ConfigError, match="name more than one in method"):
        job({"by": "ranks"}, method="larf")


@pytest.mark.parametrize("selection", [{"by": "ranks"}, {"within": "source"}])
def test_a_cut_among_its_own_rows_has_no_part_in_another_run(selection: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="leave artifact out"):
        job(selection, artifact="other")
    with pytest.raises(ConfigError, match="each_night"):
        job(selection, output=None, schedule=SCHEDULE)
    assert job(selection, output=None, schedule={**SCHEDULE, "artifact": "each_night"}).selection.rule == ("drop", 0.1)


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        ({"within": "source", "drop_count": 3}, "give drop"),
        ({"within": "source", "threshold": 3.0}, "give drop"),
        ({"within": "language"}, "selection.within"),
        ({"within": "source", "control": "length_matched"}, "groups of its own"),
        ({"control": "length_matched", "threshold": 1.0}, "control needs drop or drop_count"),
        ({"by": "contrast"}, "selection.by is contrast, which is not among method"),
    ],
)
def test_what_cannot_be_said_together(selection: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        job(selection)
