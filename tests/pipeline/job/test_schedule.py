"""`schedule:` of a job file: which night, where it lies, and what cannot be meant."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.job.job_file import Job, job_schema, load_job, load_layers_job
from tamis.pipeline.planning.fingerprint import settings_of

DAY = "2024-02-29"


def job(schedule: Any, **settings: Any) -> Job:
    tree = {"input": "in", "model": "m", "method": "saft", "schedule": schedule}
    return load_job(None, {name: value for name, value in {**tree, **settings}.items() if value is not None})


def refused(schedule: Any, **settings: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        job(schedule, **settings)
    return str(raised.value)


@pytest.mark.parametrize(
    ("schedule", "output"),
    [
        ({"root": "r"}, f"r/{DAY}"),
        ({"root": "s3://bucket/nights/"}, f"s3://bucket/nights/{DAY}"),
        ({"root": "r", "name": "%Y/%m/day-%d"}, "r/2024/02/day-29"),
        ({"root": "r", "name": "%G-W%V-%u"}, "r/2024-W09-4"),
        ({"root": "r", "name": "day=%Y%j"}, "r/day=2024060"),
    ],
)
def test_the_output_follows_from_the_night(schedule: dict[str, Any], output: str) -> None:
    assert job({**schedule, "date": DAY}).output == output


def test_tonight_is_the_day_in_utc() -> None:
    before = datetime.now(UTC).date()
    found = job({"root": "r"}).schedule.date
    assert before <= found <= datetime.now(UTC).date()


def test_the_flag_for_the_day_needs_a_schedule() -> None:
    with pytest.raises(ConfigError, match=r"schedule\.root is missing"):
        load_job(None, {"input": "in", "model": "m", "method": "saft", "output": "o", "schedule.date": DAY})


def test_the_schedule_changes_no_result() -> None:
    assert not [name for name in settings_of(job({"root": "r"})) if name.startswith("schedule")]


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({}, "schedule.root is missing"),
        ({"root": ""}, "schedule.root"),
        ({"root": "r", "name": "run"}, "two days would share a folder"),
        ({"root": "r", "name": "%m-%d"}, "two days would share a folder"),
        ({"root": "r", "name": "%Y-%m"}, "two days would share a folder"),
        ({"root": "r", "name": "../%Y-%m-%d"}, "names folders such as '../2024-01-01'"),
        ({"root": "r", "name": "/%Y-%m-%d"}, "names folders such as"),
        ({"root": "r", "name": "_%Y-%m-%d"}, "names folders such as"),
        ({"root": "r", "name": "%c"}, "names folders such as"),
        ({"root": "r", "date": "yesterday"}, "write a day as 2026-11-29"),
        ({"root": "r", "date": "2024-02-30"}, "write a day as 2026-11-29"),
        ({"root": "r", "date": 20240229}, "write a day as 2026-11-29"),
        ({"root": "r", "date": "2999-01-01"}, "that night is still to come"),
        ({"root": "r", "artifact": "frozne"}, "schedule.artifact: input should be 'frozen' or 'each_night'"),
        ({"root": "r", "artifact": {"refit_every": 0}}, "schedule.artifact.refit_every: "),
        ({"root": "r", "artifact": {"every": 2}}, "unknown key schedule.artifact.every"),
        ({"root": "r", "changed": "maybe"}, "schedule.changed"),
        ({"root": "r", "roots": "r"}, "unknown key schedule.roots; did you mean schedule.root?"),
        ("r", "schedule"),
    ],
)
def test_what_cannot_be_meant_is_told(schedule: Any, said: str) -> None:
    told = refused(schedule)
    assert said in told
    assert "output" not in told


@pytest.mark.parametrize(
    ("schedule", "settings", "said"),
    [
        ({}, {"output": "o"}, "give output or schedule, not both"),
        ({"artifact": {"refit_every": 7}}, {}, "set keep_captures: vectors"),
        ({"artifact": {"refit_every": 7}}, {"keep_captures": True, "artifact": "a"}, "leave one of them out"),
        ({"artifact": "each_night"}, {"artifact": "a"}, "leave one of them out"),
        (
            {},
            {"method": "toss", "toss": {"utility_references": "g"}},
            "set schedule.artifact: each_night",
        ),
        ({}, {"input": "hf://datasets/a/b"}, "has revisions, not files that arrive night by night"),
    ],
)
def test_what_does_not_go_together_is_told(schedule: dict[str, Any], settings: dict[str, Any], said: str) -> None:
    assert said in refused({"root": "r", **schedule}, **settings)


def test_token_masks_may_be_made_every_night() -> None:
    made = job(
        {"root": "r", "date": DAY, "artifact": "each_night"}, method="toss", toss={"utility_references": "good.jsonl"}
    )
    assert made.output == f"r/{DAY}"


def test_the_layer_search_takes_a_job_with_a_schedule() -> None:
    """As it takes any job; its own output must be named."""
    found = load_layers_job(None, {"model": "m", "output": "o", "schedule": {"root": "r"}, "input": "in"})
    assert found.output == "o"


def test_a_job_needs_an_output_or_a_schedule() -> None:
    assert "output is missing" in refused(None)
    schema = job_schema()
    assert "output" not in schema["required"]
    assert schema["oneOf"] == [{"required": ["output"]}, {"required": ["schedule"]}]
