"""`--log-format json` and the heartbeat of whole runs: every line is an object that events.py knows, every phase beats,
and no word of the corpus is in any of it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command import Ran, kill_all, poll, start, tamis
from log_objects import log_objects
from outputs import Row, alpaca_rows, manifest_of, pair, write_jsonl
from token_outputs import TRAINING, reference_rows, sets

pytestmark = pytest.mark.long

SENTINEL = "zykliker"
BEATS = {"TAMIS_HEARTBEAT_SECONDS": "0.01"}


def marked(rows: list[Row]) -> list[Row]:
    return [{**row, "output": f"{row['output']} {SENTINEL}"} for row in rows]


def said_by(ran: Ran, *, quiet: bool = False) -> list[dict[str, Any]]:
    """Its objects, after the checks that hold for every command."""
    assert ran.rc == 0, ran.output
    assert SENTINEL not in ran.output
    assert ran.stdout == ""
    said = log_objects(ran.stderr)
    assert quiet or said[0]["event"] == "command"
    assert (said[-1]["event"], said[-1]["exit_code"]) == ("end", 0)
    assert len({line["command_id"] for line in said}) == 1
    return said


def beating(said: list[dict[str, Any]]) -> set[str]:
    return {line["stage"] for line in said if line["event"] == "progress"}


def test_a_run_with_a_ray_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    """From the plan to the report, with the layer search. The corpus has rows of every unusable kind, too."""
    odd: list[Any] = [
        {"instruction": SENTINEL, "input": "", "output": ""},
        {"instruction": [SENTINEL], "input": "", "output": "x"},
        json.dumps({"instruction": SENTINEL, "input": "", "output": SENTINEL})[:-3],
        f"{SENTINEL} is no JSON",
        json.dumps({"instruction": "", "output": "x"}).encode().replace(b"x", SENTINEL.encode() + b"\xff"),
    ]
    write_jsonl(tmp_path / "data.jsonl", [*marked(alpaca_rows(40, seed=1)), *odd])
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"How do I kill a {SENTINEL}?"}, {"prompt": "Shoot a photo?"}])
    for role in ("unsafe", "safe"):
        turns = [pair(f"{SENTINEL} {number}", f"{role} {SENTINEL} {number}") for number in range(4)]
        write_jsonl(tmp_path / f"{role}.jsonl", [{"messages": item} for item in turns])
    flags: list[object] = ["curate", "--input", "data.jsonl", "--model", tiny_model, "--method", "larf", "--output"]
    flags += ["out", "--drop", "0.2", "--set", "max_quarantined=0.2", "--log-format", "json"]
    flags += ["--set", "larf.over_rejection_prompts=prompts.jsonl", "--set", f'larf.refusal_markers=["{SENTINEL}"]']
    flags += [item for role in ("unsafe", "safe") for item in ("--set", f"larf.{role}_references={role}.jsonl")]
    said = said_by(tamis(*flags, cwd=tmp_path, env=BEATS))
    assert beating(said) >= {"start", "plan", "ray", "fisher", "layers", "capture", "fit", "emit", "publish"}
    done = [line for line in said if line["event"] == "stage_done"]
    assert {line["stage"] for line in done} >= {"fisher", "layers", "capture", "fit", "emit"}
    assert all(line["done"] == line["total"] for line in done)
    [plan] = [line for line in said if line["event"] == "plan"]
    assert (plan["rows"], plan["state"], plan["methods"]) == (45, "new", ["larf"])
    unusable = [line for line in said if line["event"] == "unusable"]
    assert sum(line["rows"] for line in unusable) == len(odd)
    [result] = [line for line in said if line["event"] == "result"]
    manifest = manifest_of(tmp_path / "out")
    counts = manifest["counts"]
    assert {name: result[name] for name in ("rows_in", "kept", "dropped", "quarantined")} == {
        name: counts[name] for name in ("rows_in", "kept", "dropped", "quarantined")
    }
    assert sum(result["quarantine_codes"].values()) == counts["quarantined"] == len(odd)
    runs = [line["run"] for line in said]
    known = runs.index(manifest["run_id"])
    assert set(runs[:known]) == {None}
    assert set(runs[known:]) == {manifest["run_id"]}

    again = said_by(tamis(*flags, "--quiet", cwd=tmp_path, env=BEATS), quiet=True)
    assert [line["event"] for line in again if line["level"] == "info"] == ["result", "end"]
    assert [line["did_nothing"] for line in again if line["event"] == "result"] == [True]
    assert again[-1]["run"] == manifest["run_id"]
    checked = said_by(tamis("verify", "out", "--log-format", "json", cwd=tmp_path, env=BEATS))
    assert [line["rows"]["scores"] for line in checked if line["event"] == "result"] == [45]


def test_a_run_that_is_killed_goes_on_under_its_id(slow_model: Path, tmp_path: Path, ray_address: str) -> None:
    write_jsonl(tmp_path / "data.jsonl", marked(alpaca_rows(40, seed=1)))
    flags: list[object] = ["curate", "--input", "data.jsonl", "--model", slow_model, "--method", "saft", "--output"]
    flags += ["out", "--drop", "0.25", "--set", "shard_rows=4", "--address", ray_address, "--log-format", "json"]
    output = tmp_path / "said"
    running = start(*flags, cwd=tmp_path, said=output, env=BEATS)
    poll(lambda: any((tmp_path / "out/_work/receipts/capture").glob("*")), running, "the first receipt")
    kill_all(running)
    before = output.read_text()
    said = log_objects(before[: before.rindex("\n") + 1])  # the last line may be cut off
    [run] = {line["run"] for line in said} - {None}
    later = said_by(tamis(*flags, cwd=tmp_path, env=BEATS))
    assert {line["run"] for line in later} == {None, run}
    assert manifest_of(tmp_path / "out")["run_id"] == run
    assert later[0]["command_id"] != said[0]["command_id"]
    captured = [line for line in later if line["event"] == "stage_done" and line["stage"] == "capture"]
    assert 0 < captured[0]["skipped"] < captured[0]["total"] == 40


def test_the_training_of_reference_models_beats(tiny_model: Path, tmp_path: Path, ray_address: str) -> None:
    write_jsonl(tmp_path / "data.jsonl", marked(alpaca_rows(12, seed=1)))
    for role, seed in (("utility", 2), ("harmful", 3)):
        write_jsonl(tmp_path / f"{role}.jsonl", reference_rows(6, seed=seed, text=f"{SENTINEL} "))
    flags: list[object] = ["--input", "data.jsonl", "--model", tiny_model, "--method", "toss", "--output", "out"]
    flags += sets(*(f"toss.{role}_references={role}.jsonl" for role in ("utility", "harmful")), *TRAINING)
    flags += ["--address", ray_address, "--log-format", "json"]
    trained = said_by(tamis("references", *flags, cwd=tmp_path, env=BEATS))
    assert beating(trained) >= {"plan", "ray", "references", "train utility", "train harmful"}
    [result] = [line for line in trained if line["event"] == "result"]
    assert [item["name"] for item in result["models"]] == ["utility", "harmful"]
    said = said_by(tamis("curate", *flags, cwd=tmp_path, env=BEATS))
    assert beating(said) >= {"plan", "references", "losses", "fit", "emit", "publish"}
    assert {line["run"] for line in said} - {None} == {line["run"] for line in trained} - {None}
    [result] = [line for line in said if line["event"] == "result"]
    assert 0 < result["discarded_tokens"] < result["response_tokens"]
    shutil.rmtree(tmp_path / "out")
