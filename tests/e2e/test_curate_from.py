"""`tamis curate --from` after a real run: with the model gone, its tables are byte for byte those of a fresh run with
these methods; nothing is written where a capture is damaged, or one that is needed is not there."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command import Ran, curate, tamis
from outputs import alpaca_rows, manifest_of, pair, snapshot, write_jsonl

from tamis.pipeline.storage.store import Store

pytestmark = pytest.mark.long

METHODS = ("--method", "contrast", "--method", "saft", "--set", "contrast.layer=2", "--set", "saft.layer=2",
           "--set", "selection.by=ranks", "--drop-count", "17")  # fmt: skip


@dataclass(frozen=True)
class Runs:
    """run: LARF, with its vectors kept; its model is gone. fresh: METHODS on the same data, by the model."""

    folder: Path
    address: str

    def again(self, *flags: object, run: Path | None = None, to: str = "new") -> Ran:
        source = run or self.folder / "run"
        return tamis("curate", "--from", source, *flags, "--output", to, "--address", self.address, cwd=self.folder)


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, ray_address: str) -> Runs:
    """Two files of different layouts in 9 shards, with rows that cannot be used or of which nothing is learned."""
    folder = tmp_path_factory.mktemp("again")
    model = shutil.copytree(tiny_model, folder / "model")
    rows: list[Any] = [dict(row) for _ in range(5) for row in alpaca_rows(12, seed=5)] + alpaca_rows(40, seed=6)
    rows.insert(20, '{"instruction": "no answer", "input": "", "output": ""}')
    rows.insert(70, '{"instruction": "half a')
    write_jsonl(folder / "data" / "a.jsonl", rows)
    chats: list[Any] = [{"messages": pair(row["instruction"], row["output"])} for row in alpaca_rows(27, seed=7)]
    chats.append({"messages": [chats[0]["messages"][0], {**chats[0]["messages"][1], "weight": 0}]})
    write_jsonl(folder / "data" / "b.jsonl", chats)
    for number, name in enumerate(("unsafe", "safe")):
        write_jsonl(folder / f"{name}.jsonl", alpaca_rows(20, seed=8 + number))
    # One row a batch: the vectors are the same to the bit.
    flags = [
        *("--input", "data", "--model", model, "--set", "model.token_budget=1", "--set", "max_quarantined=0.1"),
        *("--set", "shard_rows=16"),
    ]
    larf = ["larf.layer=2", "larf.unsafe_references=unsafe.jsonl", "larf.safe_references=safe.jsonl"]
    settings = [each for setting in (*larf, "keep_captures=vectors") for each in ("--set", setting)]
    curate(*flags, "--method", "larf", *settings, "--output", "run", cwd=folder, address=ray_address)
    fresh = ("--set", "contrast.unsafe_references=unsafe.jsonl", "--output", "fresh")
    curate(*flags, *METHODS, *fresh, cwd=folder, address=ray_address)
    _names_the_command(folder, flags)
    shutil.rmtree(model)
    return Runs(folder, ray_address)


def _names_the_command(folder: Path, flags: list[Any]) -> None:
    """Another method in the folder of a run whose vectors suffice for it: the error is what to run instead."""
    other = ("plan", *flags, "--method", "saft", "--set", "saft.layer=2", "--drop-count", 17, "--output", "run")
    ran = tamis(*other, "--set", "keep_captures=vectors", cwd=folder)
    command = f"tamis curate --from {folder / 'run'} --output NEW --method saft --set saft.layer=2"
    assert (ran.rc, f"{command} --set selection.drop_count=17" in ran.stderr) == (2, True), ran.output
    ran = tamis(*other, "--set", "saft.layer=1", cwd=folder)
    assert (ran.rc, "--from" in ran.stderr) == (2, False), ran.output
    # Rows or references that the run has not read: its vectors are not theirs.
    write_jsonl(more := folder / "data" / "c.jsonl", alpaca_rows(5, seed=9))
    ran = tamis(*other, cwd=folder)
    more.unlink()
    assert (ran.rc, "--from" in ran.stderr) == (2, False), ran.output
    before = (unsafe := folder / "unsafe.jsonl").read_bytes()
    write_jsonl(unsafe, alpaca_rows(20, seed=10))
    larf = ("larf.layer=2", "larf.unsafe_references=unsafe.jsonl", "larf.safe_references=safe.jsonl")
    given = [each for setting in larf for each in ("--set", setting)]
    ran = tamis("plan", *flags, "--method", "larf", *given, "--drop-count", 17, "--output", "run", cwd=folder)
    unsafe.write_bytes(before)
    assert (ran.rc, "--from" in ran.stderr) == (2, False), ran.output


def contents(out: Path) -> dict[str, str]:
    """The tables of an output, and the files of its methods."""
    return {
        str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest()
        for part in ("kept", "dropped", "quarantine", "scores", "artifact")
        for file in (out / part).glob("*")
        if file.suffix != ".json"
    }


def frozen(out: Path) -> dict[str, Any]:
    """The artifact's facts but for the digest of its files, of which one names the run."""
    return {key: value for key, value in Store(str(out)).read_facts("artifact/frozen.json").items() if key != "files"}


def test_it_is_the_output_of_a_fresh_run(runs: Runs) -> None:
    run, new, fresh = (runs.folder / name for name in ("run", "new", "fresh"))
    before = snapshot(run)
    flags = (*METHODS, "--set", "contrast.unsafe_references=unsafe.jsonl")
    ran = runs.again(*flags)
    assert ran.rc == 0, ran.output
    assert "no model is opened" in ran.stderr
    assert contents(new) == contents(fresh)
    assert snapshot(run) == before
    assert tamis("verify", "new", cwd=runs.folder).rc == 0
    ours, theirs, parent = manifest_of(new), manifest_of(fresh), manifest_of(run)
    fingerprint = dict(ours["fingerprint"])
    assert len(fingerprint.pop("vectors of")) == 64
    assert fingerprint == theirs["fingerprint"]
    for key in (
        "counts",
        "unscored",
        "quarantine_codes",
        "methods",
        "selected_by",
        "selection",
        "histogram",
        "sources",
    ):
        assert ours[key] == theirs[key], key
    for key in ("title", "length_deciles", "riskiest", "borderline_dropped", "borderline_kept", "trust", "model"):
        assert ours[key] == theirs[key], key
    assert (ours["unscored"], ours["counts"]["dropped"]) == (1, 17)
    assert sorted(ours["warnings"]) == sorted(theirs["warnings"])
    assert frozen(new) == frozen(fresh)
    assert (ours["parent"]["run_id"], ours["parent"]["reused"]) == (parent["run_id"], "vectors")
    assert not (new / "_work").exists()
    assert "complete already" in runs.again(*flags).stdout
    # What was made of it can be cut anew, but has no vectors of its own.
    ran = tamis("select", "new", "--by", "saft", "--drop", 0.1, "--output", "cut", "--address", runs.address,
                cwd=runs.folder)  # fmt: skip
    assert ran.rc == 0, ran.output
    assert f"it was made of {run}: name that one" in runs.again("--method", "saft", run=new, to="none").stderr


def test_nothing_is_written_where_the_captures_do_not_allow_it(runs: Runs, tmp_path: Path) -> None:
    to = str(tmp_path / "new")
    ran = runs.again("--method", "saft", "--set", "saft.layer=1", to=to)
    assert (ran.rc, "saft reads block 1 at last_token" in ran.stderr) == (2, True), ran.output
    ran = runs.again("--method", "saft", "--set", "saft.layer=2", "--model", tmp_path, to=to)
    assert (ran.rc, "model.name" in ran.stderr) == (2, True), ran.output
    copy = shutil.copytree(runs.folder / "run", tmp_path / "copy")
    [file] = (copy / "_work" / "capture").glob("000003-*.parquet")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    ran = runs.again("--method", "saft", "--set", "saft.layer=2", run=copy, to=to)
    assert (ran.rc, file.name in ran.stderr) == (2, True), ran.output
    assert not Path(to).exists()
    plan = ("plan", "--from", runs.folder / "run", "--method", "saft", "--output", to)
    ran = tamis(*plan, "--set", "saft.layer=1", cwd=runs.folder)
    assert (ran.rc, "saft: block 1 (0-based), last_token" in ran.stdout) == (2, True), ran.output
    ran = tamis(*plan, "--set", "saft.layer=2", "--json", cwd=runs.folder)
    found = json.loads(ran.stdout)
    assert found["reads"] == [{"method": "saft", "column": "block_02.last_token", "there": True}]
    assert (found["state"], found["will_fail"], Path(to).exists()) == ("new", False, False), ran.output
    # The input has grown since.
    file = runs.folder / "data" / "b.jsonl"
    whole = file.read_bytes()
    try:
        file.write_bytes(whole + b"\n")
        ran = runs.again("--method", "saft", "--set", "saft.layer=2", to=to)
        assert (ran.rc, "b.jsonl" in ran.stderr, Path(to).exists()) == (3, True, False), ran.output
    finally:
        file.write_bytes(whole)
