"""What the schedules (cron, Airflow) do with each exit code of tamis. A script stands in for tamis."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exit_codes
import pytest

from tamis.pipeline.errors import DriftError, InternalError, TamisError

DEPLOY = Path(__file__).parents[2] / "deploy"

DONE, PAGED, RETRIED = (0,), (1, 2, 3, 6, 70, 130, 137, 143), (4, 5)


def subclasses(kind: type) -> list[type]:
    return [each for child in kind.__subclasses__() for each in (child, *subclasses(child))]


def test_every_exit_code_of_tamis_is_decided_on() -> None:
    codes = {kind.exit_code for kind in subclasses(TamisError)}
    assert codes <= set(exit_codes.RETRY) | set(exit_codes.PAGE)
    assert InternalError.exit_code in exit_codes.PAGE
    assert DriftError.exit_code in exit_codes.PAGE
    assert "drifted" in exit_codes.in_words(DriftError.exit_code)


@pytest.mark.parametrize(
    ("codes", "what"), [(DONE, "done"), (RETRIED, "retry"), ((*PAGED, -9), "page")], ids=["done", "retry", "page"]
)
def test_the_table_says_what_is_next(codes: tuple[int, ...], what: str) -> None:
    assert {exit_codes.what_next(code) for code in codes} == {what}
    assert all(str(code) in exit_codes.in_words(code) for code in codes)


Night = Callable[..., tuple[int, int, list[str]]]


@pytest.fixture
def night(tmp_path: Path) -> Night:
    """Runs nightly.sh with a tamis that ends with these codes, one a try. Gives the exit code, the tries, the pages."""
    tamis, pager = tmp_path / "tamis", tmp_path / "pager"
    tamis.write_text('#!/bin/bash\necho "$*" >> "$0.log"; sed -n "$(wc -l < "$0.log")p" "$0.codes" > "$0.now"\n')
    with tamis.open("a") as file:
        file.write('exit "$(cat "$0.now")"\n')
    pager.write_text('#!/bin/bash\necho "$1" >> "$0.log"\n')
    for script in (tamis, pager):
        script.chmod(0o755)

    def run(*codes: int, **environment: str) -> tuple[int, int, list[str]]:
        (tmp_path / "tamis.codes").write_text("".join(f"{code}\n" for code in codes))
        told = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TAMIS_PAGE": str(pager), "TAMIS_RETRY_SECONDS": "0"}
        told |= {"TAMIS_NIGHT": "2024-02-29"}
        script = [str(DEPLOY / "cron" / "nightly.sh"), str(tmp_path / "job.yaml"), "--drop", "0.2"]
        done = subprocess.run(script, env=told | environment, capture_output=True, text=True, timeout=60)
        tries, said = tmp_path / "tamis.log", tmp_path / "pager.log"
        lines = tries.read_text().splitlines() if tries.exists() else []
        assert set(lines) <= {f"curate {tmp_path / 'job.yaml'} --drop 0.2 --date 2024-02-29"}
        return done.returncode, len(lines), said.read_text().splitlines() if said.exists() else []

    return run


def test_a_good_night_is_quiet(night: Night) -> None:
    assert night(0) == (0, 1, [])


@pytest.mark.parametrize("code", PAGED)
def test_what_would_fail_again_pages_a_person_at_once(night: Night, code: int) -> None:
    ended, tries, [said] = night(code, 0)
    assert (ended, tries) == (code, 1)
    assert f"exit code {code}" in said


@pytest.mark.parametrize("code", RETRIED)
def test_what_may_pass_is_tried_again(night: Night, code: int) -> None:
    assert night(code, 5, 0) == (0, 3, [])


def test_a_person_is_paged_when_the_tries_are_over(night: Night) -> None:
    ended, tries, [said] = night(5, 5, 4, TAMIS_RETRIES="2")
    assert (ended, tries) == (4, 3)
    assert "after 3 tries" in said


def test_a_retry_may_find_that_the_job_is_wrong(night: Night) -> None:
    ended, tries, [said] = night(5, 2, 0)
    assert (ended, tries, "exit code 2" in said) == (2, 2, True)


def test_a_night_does_not_begin_before_the_last_one_has_ended(night: Night, tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert night(2, TAMIS_LOCK=str(tmp_path / "lock")) == (0, 0, [])
    assert night(0, TAMIS_LOCK=str(tmp_path / "lock")) == (0, 1, [])


class Retried(Exception):
    """Stands for AirflowException."""


class Failed(Retried):
    """Stands for AirflowFailException."""


@pytest.fixture
def dag(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The DAG file, loaded with stand-ins for the names that it takes from Airflow; and what it told them."""
    told: dict[str, Any] = {}

    def task(**options: Any) -> Callable[[Any], Any]:
        return lambda function: lambda *arguments: told.update(options, function=function, arguments=arguments)

    def as_dag(**options: Any) -> Callable[[Any], Any]:
        told.update(options)
        return lambda function: function

    sdk, exceptions = types.ModuleType("airflow.sdk"), types.ModuleType("airflow.sdk.exceptions")
    vars(sdk).update(dag=as_dag, task=task)
    vars(exceptions).update(AirflowException=Retried, AirflowFailException=Failed)
    for name, module in {
        "airflow": types.ModuleType("airflow"),
        "airflow.sdk": sdk,
        "airflow.sdk.exceptions": exceptions,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    exec(compile((DEPLOY / "airflow" / "tamis_dag.py").read_text(), "tamis_dag.py", "exec"), {"__name__": "tamis_dag"})
    return told


def test_nights_do_not_overlap_and_are_not_made_up_for_by_the_dozen(dag: dict[str, Any]) -> None:
    assert (dag["max_active_runs"], dag["catchup"], dag["default_args"]["retries"]) == (1, False, 3)
    assert dag["arguments"] == ("{{ ds }}",)


@pytest.mark.parametrize(("codes", "raises"), [(PAGED, Failed), (RETRIED, Retried)], ids=["page", "retry"])
def test_the_task_tells_airflow_whether_another_try_helps(
    dag: dict[str, Any],
    codes: tuple[int, ...],
    raises: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tamis = tmp_path / "tamis"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for code in codes:
        tamis.write_text(f'#!/bin/bash\necho "$*" > "$0.log"; exit {code}\n')
        tamis.chmod(0o755)
        with pytest.raises(raises) as raised:
            dag["function"]("2026-11-29")
        assert type(raised.value) is raises
        assert (tmp_path / "tamis.log").read_text() == "curate /etc/tamis/nightly.yaml --date 2026-11-29\n"
    tamis.write_text("#!/bin/bash\n")
    assert dag["function"]("2026-11-29") is None
