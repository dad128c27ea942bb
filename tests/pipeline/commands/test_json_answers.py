"""`--json`: one strict JSON object on stdout and nothing else, with the keys of the log, and the same exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from labelled_runs import write_run
from plan_jobs import lines_of, rows_of
from typer.testing import CliRunner, Result

from tamis.pipeline.cli import app
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.run import receipts
from tamis.pipeline.run.paths import INCOMPLETE, LAYERS_RUN, RUN
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.events import FIELDS
from tamis.pipeline.terminal.voice import VOICE


@pytest.fixture(autouse=True)
def _voice() -> Iterator[None]:
    yield
    VOICE.answers = False


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words), "--json"])


def answer(*words: object) -> dict[str, Any]:
    ran = invoke(*words)
    assert ran.exit_code == 0, ran.output

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads(ran.stdout, parse_constant=refuse)
    assert isinstance(found, dict)
    assert ran.stdout.isascii()
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


def finish(store: Store, **facts: Any) -> None:
    rows = [{"text": f"words {number}"} for number in range(6)]
    decisions = ["kept", "kept", "dropped", "kept", "kept", "kept"]
    whole = {
        "created": "2026-11-30T02:43:59+00:00",
        "counts": {"rows_in": 6, "kept": 5, "dropped": 1, "quarantined": 0, "truncated": 0},
        "quarantine_codes": {},
        "timings": {"total": {"seconds": 1.5}, "capture": {"seconds": 1.0}},
        "warnings": ["a warning\x1b[2J"],
        "title": "t",
    }
    write_run(store, {"a.jsonl": rows}, {"larf": [0.1, 0.2, 0.9, 0.3, 0.0, 0.1]}, decisions, **whole | facts)


def test_plan(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.jsonl").write_bytes(lines_of([*rows_of(50), {"prompt": "a secret word", "response": None}]))
    flags = ("--output", tmp_path / "o", "--model", tiny_model, "--method", "saft", "--set", "max_quarantined=0.5")
    found = answer("plan", "--input", tmp_path / "data", *flags)
    assert found["event"] == "plan"
    assert set(found) <= {"event", *FIELDS["plan"], "forecast", "estimate", "notes", "warnings", "unusable"}
    assert (found["rows"], found["files"], found["will_fail"], found["state"]) == (51, 1, False, "new")
    assert set(found["forecast"]) == {"asks for", "writes", "time", "memory"}
    estimate = found["estimate"]
    assert estimate["assumed"] is True
    assert estimate["seconds"] == pytest.approx(estimate["computed_tokens"] / estimate["tokens_per_second"], rel=0.01)
    assert min(estimate[f"{what}_bytes"] for what in ("driver", "weight", "batch")) > 0
    [trouble] = found["unusable"]
    assert (trouble["rows"], trouble["row"]) == (1, 50)
    assert "secret" not in json.dumps(found)
    failing = invoke("plan", "--input", tmp_path / "data", *flags[:-1], "max_quarantined=0.001")
    assert failing.exit_code == 3
    assert json.loads(failing.stdout)["will_fail"] is True
    shown = invoke("plan", "--input", tmp_path / "data", *flags, "--show", "1")
    assert isinstance(shown.exception, ConfigError)
    assert shown.stdout == ""


def test_verify(store: Store) -> None:
    finish(store)
    ran = invoke("verify", store.path())
    found = json.loads(ran.stdout)
    assert found["rows"]["scores"] == 6
    assert set(found) == {"event", "complete", "files", "bytes", "rows", "leftovers", "problems"}
    store.write("kept/stranger.parquet", b"x")
    ran = invoke("verify", store.path())
    assert isinstance(ran.exception, InputError)
    assert any("stranger" in problem for problem in json.loads(ran.stdout)["problems"])


def test_status_of_a_finished_run(store: Store) -> None:
    finish(store)
    found = answer("status", store.path())
    assert (found["state"], found["created"]) == ("complete", "2026-11-30T02:43:59+00:00")
    assert set(found) <= {"event", *FIELDS["result"], "state", "created", "warnings"}
    assert (found["rows_in"], found["kept"], found["dropped"]) == (6, 5, 1)
    assert found["warnings"] == ["a warning\x1b[2J"]


def test_status_under_way(store: Store) -> None:
    with_nothing = invoke("status", store.path())
    assert isinstance(with_nothing.exception, ConfigError)
    assert with_nothing.stdout == ""
    store.write_facts(RUN, {"fingerprint": {}, "rows": 20, "shards": 10, "reference_shards": 2})
    for number in range(3):
        receipts.write_cell(store, "capture", f"{number:06d}-x", "key", {})
    found = answer("status", store.path())
    assert found["state"] == "unfinished"
    captured, emitted = found["stages"]
    assert captured == {"name": "captured", "done": 3, "total": 12, "set_aside": 0, "round": 0}
    assert (emitted["name"], emitted["done"]) == ("emitted", 0)
    assert "at_work" not in found
    store.write_facts(
        INCOMPLETE, {"fingerprint": {}, "counts": {"rows_in": 20, "failed": 4}, "failed": [], "created": "then"}
    )
    assert answer("status", store.path())["incomplete"] == {"created": "then", "rows_in": 20, "failed": 4}


def test_status_of_other_states(store: Store) -> None:
    store.write_facts(INCOMPLETE, {"fingerprint": {}, "counts": {"rows_in": 20, "failed": 4}, "failed": []})
    assert answer("status", store.path())["state"] == "incomplete"
    store.write_facts(LAYERS_RUN, {"fingerprint": {}})
    receipts.write_cell(store, "layers", "000000-x", "key", {})
    found = answer("status", store.path())
    assert (found["state"], found["layer_cells"]) == ("layers_unfinished", 1)


def test_what_comes_before_the_answer_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    VOICE.answers = True
    drawn = []
    VOICE.show(lambda: drawn.append(1), "a plan", "plan", rows=3)
    VOICE.show(lambda: drawn.append(2), "done", "result", last=True, also={"warnings": ["w"]}, rows=3, cut=float("nan"))
    out, err = capsys.readouterr()
    assert drawn == []
    assert err == "a plan\n"
    assert json.loads(out) == {"event": "result", "rows": 3, "cut": None, "warnings": ["w"]}


def test_a_night_is_answered_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_bytes(lines_of(rows_of(1)))
    schedule = ("--set", f"schedule={{root: {tmp_path / 'root'}, date: 2024-11-27}}")
    flags = ("--input", tmp_path / "in", "--model", "m", "--method", "saft", *schedule)
    night: dict[str, Any] = {
        "night": {},
        "input": {"files": []},
        "fingerprint": {},
        "job": {"selection": {"drop": 0.1}},
    }
    finish(Store(str(tmp_path / "root/2024-11-27")), **night)
    found = answer("curate", *flags)
    assert (found["event"], found["kept"], found["did_nothing"]) == ("result", 5, True)
    planned = answer("plan", *flags)
    assert (planned["event"], planned["state"]) == ("night", "finished")
    assert planned["name"] == "2024-11-27"
