"""Lineage events: when which is sent, how a run ends, and what is refused before it begins."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from lineage_rules import checked
from plan_jobs import Planner, larf

from tamis.pipeline.emit import lineage
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.job.job_file import load_job
from tamis.pipeline.planning.frozen_job import FrozenJob
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.run import paths
from tamis.pipeline.run.frozen import Frozen
from tamis.pipeline.storage.store import Store

RUN = str(uuid.UUID(int=7))


@pytest.fixture
def plan(tmp_path: Path, tiny_model: Path) -> Plan:
    return Planner(tmp_path, tiny_model)(f"lineage={tmp_path}/events.jsonl")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


def told(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]


def manifest_in(store: Store, **others: Any) -> Mapping[str, Any]:
    """Of a run of 50 rows, with its files."""
    files = [
        store.write_table(f"{part}/000000.parquet", pa.table({"score": [0.5] * 50})).to_dict()
        for part in (paths.KEPT, paths.SCORES)
    ]
    counts = {"rows_in": 50, "kept": 50, "dropped": 0, "quarantined": 0}
    return {"complete": True, "counts": counts, "files": files, **others}


def test_a_run_begins_and_completes(plan: Plan, store: Store, tmp_path: Path) -> None:
    manifest = manifest_in(store)
    with lineage.events(plan, store, RUN) as ended:
        assert checked([*told(tmp_path), {**told(tmp_path)[0], "eventType": "ABORT"}]) == ["START", "ABORT"]
        assert store.exists(paths.LINEAGE)
        ended(manifest)
    events = told(tmp_path)
    assert checked(events) == ["START", "COMPLETE"]
    assert {event["run"]["runId"] for event in events} == {RUN}
    kept = events[1]["outputs"][0]
    assert kept["name"] == str(tmp_path / "out" / "kept")
    statistics = kept["outputFacets"]["outputStatistics"]
    assert (statistics["rowCount"], statistics["fileCount"]) == (50, 1)
    assert statistics["size"] == (tmp_path / "out/kept/000000.parquet").stat().st_size
    assert [(field["name"], field["type"]) for field in kept["facets"]["schema"]["fields"]] == [("score", "double")]
    assert [item["name"] for item in events[1]["inputs"]] == [str(tmp_path / "data"), str(plan.model.path)]
    assert not store.exists(paths.LINEAGE)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (InputError("3 of 50 rows cannot be used"), "FAIL", "3 of 50 rows cannot be used"),
        (ValueError("the text of a sample"), "FAIL", "ValueError"),
        (KeyboardInterrupt(), "ABORT", "stopped by a signal; the same command goes on"),
        (SystemExit(143), "ABORT", "stopped by a signal; the same command goes on"),
    ],
)
def test_a_run_that_does_not_complete_says_so(
    plan: Plan, store: Store, tmp_path: Path, error: BaseException, kind: str, said: str
) -> None:
    with pytest.raises(type(error)), lineage.events(plan, store, RUN):
        raise error
    events = told(tmp_path)
    assert checked(events) == ["START", kind]
    assert events[1]["run"]["facets"]["errorMessage"]["message"] == said
    assert events[1]["run"]["facets"]["errorMessage"]["programmingLanguage"] == "PYTHON"


def test_a_killed_command_fails_when_the_next_one_begins(plan: Plan, store: Store, tmp_path: Path) -> None:
    killed = lineage.events(plan, store, RUN)
    killed.__enter__()  # and nothing more, as after kill -9
    manifest = manifest_in(store)
    with lineage.events(plan, store, RUN) as ended:
        ended(manifest)
    events = told(tmp_path)
    assert checked(events) == ["START", "FAIL", "START", "COMPLETE"]
    assert "killed" in events[1]["run"]["facets"]["errorMessage"]["message"]


def test_an_incomplete_run_fails_with_what_it_has(plan: Plan, store: Store, tmp_path: Path) -> None:
    failed = [{"shard": "000001-a", "rows": 20, "reason": "r"}]
    manifest = manifest_in(store, complete=False, failed=failed)
    with lineage.events(plan, store, RUN) as ended:
        ended(manifest)
    events = told(tmp_path)
    assert checked(events) == ["START", "FAIL"]
    assert events[1]["run"]["facets"]["errorMessage"]["message"] == "20 rows in 1 shards were set aside; run again"
    assert events[1]["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 50


def test_references_are_inputs(tmp_path: Path, tiny_model: Path, store: Store) -> None:
    planner = Planner(tmp_path, tiny_model)
    made = planner(f"lineage={tmp_path}/events.jsonl", **larf(tmp_path))
    event = lineage.event_of(made, store, RUN, "START")
    names = [item.name for item in event.inputs or ()]
    assert names == [str(tmp_path / name) for name in ("data", "safe.jsonl", "unsafe.jsonl")] + [str(tiny_model)]


def test_the_artifact_of_an_earlier_run_is_an_input(plan: Plan, store: Store, tmp_path: Path) -> None:
    """By the name that it has among the outputs of that run."""
    facts: Any = None
    frozen = Frozen(str(tmp_path / "before"), facts, {}, {}, "0" * 64, str(tmp_path / "before/artifact"))
    event = lineage.event_of(replace(plan, artifact=FrozenJob(plan.job, frozen, ())), store, RUN, "START")
    found = (event.inputs or [])[-1]
    assert (found.name, found.facets["version"].datasetVersion) == (str(tmp_path / "before/artifact"), "0" * 64)


def test_the_job_is_named_as_asked(
    tmp_path: Path, tiny_model: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner = Planner(tmp_path, tiny_model)
    made = planner(lineage={"to": str(tmp_path / "events.jsonl"), "job": "nightly"})
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "team")
    job = lineage.event_of(made, store, RUN, "START").job
    assert (job.namespace, job.name) == ("team", "nightly")


def test_what_cannot_be_sent_is_a_warning(
    plan: Plan, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = manifest_in(store)
    with lineage.events(plan, store, RUN) as ended:
        (tmp_path / "events.jsonl").unlink()
        (tmp_path / "events.jsonl").mkdir()
        ended(manifest)
    assert "warning: a lineage event was not sent" in capsys.readouterr().err


def test_without_the_key_nothing_is_sent(tmp_path: Path, tiny_model: Path, store: Store) -> None:
    with lineage.events(Planner(tmp_path, tiny_model)(), store, RUN) as ended:
        ended({})
    assert not (tmp_path / "out").exists()


# --- before anything is done --------------------------------------------------------------------------------------


def job(tmp_path: Path, to: str) -> Any:
    words = {"input": "in", "output": str(tmp_path / "out"), "model": "m", "method": "saft", "lineage": to}
    return load_job(None, words)


def refused(tmp_path: Path, to: str) -> str:
    with pytest.raises(ConfigError) as error:
        lineage.ready(job(tmp_path, to))
    assert not (tmp_path / "events.jsonl").exists()
    return str(error.value)


def test_what_cannot_take_events_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "no file on this machine" in refused(tmp_path, "s3://bucket/events.jsonl")
    assert "in the output folder" in refused(tmp_path, f"{tmp_path}/out/events.jsonl")
    assert "cannot be written" in refused(tmp_path, f"{tmp_path}/nowhere/events.jsonl")
    assert "cannot be written" in refused(tmp_path, str(tmp_path))
    assert "OpenLineage is not configured" in refused(tmp_path, "config")
    lineage.ready(job(tmp_path, f"{tmp_path}/events.jsonl"))
    assert not (tmp_path / "events.jsonl").exists()  # a plan writes nothing


def test_the_clients_own_configuration_is_used(
    tmp_path: Path, tiny_model: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(tmp_path / "events.jsonl"))
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")
    made = Planner(tmp_path, tiny_model)("lineage=config")
    lineage.ready(made.job)
    with pytest.raises(KeyError), lineage.events(made, store, RUN):
        raise KeyError
    assert checked(told(tmp_path)) == ["START", "FAIL"]


def test_a_missing_client_is_named_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "openlineage"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "site-packages" not in entry])
    assert "pip install 'tamis[lineage]'" in refused(tmp_path, f"{tmp_path}/events.jsonl")
