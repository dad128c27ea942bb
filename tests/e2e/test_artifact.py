"""`tamis curate --artifact`: the same data gets the scores and decisions of the run that fitted, new data those of a
naive computation with what was fitted there; drift ends the command with exit code 6 and the output whole."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import safetensors.numpy
from command import Ran, tamis
from outputs import alpaca_rows, check_whole, manifest_of, merged, pair, rows_of, sentence, tables, write_jsonl

from tamis.pipeline.storage.seals import opened, sealed

METHODS = ["larf", "saft"]
FALLING = 7  # of groups of five equal rows: the cut goes through the second group


Drifted = tuple[Path, Ran, list[object]]
"""The output of a night, what its command printed, and its flags."""


@dataclass(frozen=True)
class Nights:
    folder: Path
    model: Path
    address: str

    @property
    def parent(self) -> Path:
        return self.folder / "parent"

    def flags(self, data: str, out: str, artifact: Path) -> list[object]:
        """Of a night's run: no references, no layer, no cut."""
        given = ["--input", self.folder / data, "--model", self.model, "--method", "larf", "--method", "saft"]
        return [*given, "--artifact", artifact, "--set", "max_quarantined=0.1", "--output", self.folder / out]

    def __call__(self, *flags: object) -> Ran:
        return tamis("curate", *flags, "--address", self.address, cwd=self.folder)


@pytest.fixture(scope="module")
def nights(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, ray_address: str) -> Nights:
    """A finished run on 12 groups of five equal rows, which is told nothing of the nights to come."""
    folder = tmp_path_factory.mktemp("nights")
    rows: list[Any] = [dict(row) for _ in range(5) for row in alpaca_rows(12, seed=5)]
    rows.insert(20, '{"instruction": "no answer", "input": "", "output": ""}')
    write_jsonl(folder / "data.jsonl", rows)
    prompts = random.Random(6)
    for role in ("unsafe", "safe"):
        answers = [pair(sentence(prompts), sentence(prompts, 3, 9 if role == "safe" else 30)) for _ in range(8)]
        write_jsonl(folder / f"{role}.jsonl", [{"messages": messages} for messages in answers])
    flags = ["--input", folder / "data.jsonl", "--model", tiny_model, "--method", "larf", "--method", "saft"]
    flags += ["--set", "larf.layer=fisher", "--drop-count", FALLING, "--set", "max_quarantined=0.1"]
    flags += ["--set", f"larf.unsafe_references={folder}/unsafe.jsonl"]
    flags += ["--set", f"larf.safe_references={folder}/safe.jsonl", "--set", "shard_rows=16"]
    # One row per batch: a row's numbers are then the same to the bit in any shard, and equal rows tie.
    flags += ["--set", "model.token_budget=1", "--output", folder / "parent"]
    made = Nights(folder, tiny_model, ray_address)
    ran = made(*flags)
    assert ran.rc == 0, ran.output
    return made


@pytest.mark.long
def test_the_same_data_gets_the_same_scores_and_decisions(nights: Nights) -> None:
    flags = nights.flags("data.jsonl", "same", nights.parent)
    ran = nights(*flags, "--set", "shard_rows=9")
    assert ran.rc == 0, ran.output
    manifest = check_whole(nights.folder / "same", METHODS)
    assert merged(nights.folder / "same") == merged(nights.parent)
    ours, theirs = (rows_of(out, "scores") for out in (nights.folder / "same", nights.parent))
    assert ours == theirs
    assert manifest["counts"] == manifest_of(nights.parent)["counts"]
    at_cut = [row["decision"] for row in ours if row["larf"] == manifest["selection"]["cut"]]
    assert (at_cut.count("dropped"), at_cut.count("kept")) == (2, 3)
    # Fisher chose the layer then; now it is simply read.
    theirs_larf = manifest_of(nights.parent)["methods"][0]
    assert theirs_larf["facts"]["layer_chosen"].startswith("fisher")
    assert manifest["methods"][0]["layer"] == theirs_larf["layer"]
    assert not (nights.folder / "same/artifact/layers.json").exists()
    tests = manifest_of(nights.parent)["trust"]["tests"]
    assert manifest["trust"]["tests"] == [{**test, "of_artifact": True} for test in tests]
    drift = manifest["drift"]
    assert [figure["psi"] for figure in drift["figures"]] == pytest.approx([0.0] * 5)
    assert drift["exceeded"] == []
    assert "larf.layer" in " ".join(ran.stdout.split("taken from it:")[1].split()[:30])


@pytest.fixture(scope="module")
def drifted(nights: Nights) -> Drifted:
    """A night of other data, with what is left of the run: its artifact/, at another place."""
    alone = nights.folder / "alone"
    shutil.copytree(nights.parent / "artifact", alone)
    chance = random.Random(8)
    rows = [
        {"instruction": "Tell me more", "input": "", "output": " ".join(sentence(chance, 20, 40) for _ in range(4))}
        for _ in range(60)
    ]
    write_jsonl(nights.folder / "other.jsonl", rows)
    flags = [*nights.flags("other.jsonl", "other", alone), "--set", "keep_captures=true"]
    return nights.folder / "other", nights(*flags), flags


@pytest.mark.long
def test_new_data_gets_the_scores_of_a_naive_computation(nights: Nights, drifted: Drifted) -> None:
    out, _, _ = drifted
    captured = pa.concat_tables(tables(out, "_work/capture"))
    captured = captured.filter(pc.is_null(captured.column("code")))
    facts = {method["name"]: method["facts"] for method in manifest_of(nights.parent)["methods"]}
    vectors = {name: np.array(captured.column(facts[name]["columns"][0]).to_pylist(), np.float64) for name in METHODS}
    arrays = {
        name: safetensors.numpy.load((nights.parent / "artifact" / f"{name}.safetensors").read_bytes())
        for name in METHODS
    }
    units = vectors["larf"] / np.linalg.norm(vectors["larf"], axis=1, keepdims=True)
    larf = units @ arrays["larf"]["direction"].astype(np.float64)
    saft = ((vectors["saft"] - arrays["saft"]["mean"]) @ arrays["saft"]["basis"][0]) ** 2
    scored = [row for row in rows_of(out, "scores") if row["decision"] != "quarantined"]
    np.testing.assert_allclose([row["larf"] for row in scored], larf, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose([row["saft"] for row in scored], saft, rtol=1e-6, atol=1e-7 * saft.max())
    assert np.std(larf) > 1e-4
    cut = manifest_of(nights.parent)["selection"]["cut"]
    assert manifest_of(out)["selection"]["cut"] == cut
    assert [row["decision"] for row in scored] == ["dropped" if row["larf"] > cut else "kept" for row in scored]


@pytest.mark.long
def test_drift_ends_with_code_6_and_the_output_is_whole(nights: Nights, drifted: Drifted) -> None:
    out, ran, _ = drifted
    assert ran.rc == 6, ran.output
    [last] = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert "the data has drifted from that of the artifact: " in last
    assert "answer lengths " in last
    assert str(out) in last
    manifest = check_whole(out, METHODS, work_kept=True)
    assert manifest["complete"]
    assert "answer lengths" in manifest["drift"]["exceeded"]
    assert manifest["drift"]["scored"] == {"then": 60, "now": 60}
    assert "exit code 6" in (out / "report.html").read_text(encoding="utf-8")
    assert tamis("verify", out, cwd=nights.folder).rc == 0


@pytest.mark.long
def test_the_artifact_goes_on_with_the_output(nights: Nights, drifted: Drifted) -> None:
    """So the next night may name this one, and has the cut and the statistics of the run that fitted."""
    files = {path.name: path.read_bytes() for path in (drifted[0] / "artifact").iterdir()}
    theirs = {path.name: path.read_bytes() for path in (nights.parent / "artifact").iterdir()}
    assert files == {name: data for name, data in theirs.items() if not name.startswith("layers")}


@pytest.mark.long
def test_an_interrupted_run_goes_on_and_another_artifact_is_refused(nights: Nights, drifted: Drifted) -> None:
    out, _, flags = drifted
    before = merged(out)
    done = nights(*flags)  # nothing is left to do, and a person must still look
    assert (done.rc, "nothing was done" in done.stdout) == (6, True)
    (out / "manifest.json").unlink()
    shutil.rmtree(out / "kept")
    shutil.rmtree(out / "_work/receipts/emit")
    again = nights(*flags)
    assert again.rc == 6, again.output
    assert "60 rows were done before" in again.stderr or "capture  60 / 60" in again.stderr, again.stderr
    assert merged(out) == before
    # The same settings at the same place, with another cut: the output says so instead of mixing both.
    facts = opened(json.loads((nights.folder / "alone/frozen.json").read_text()))
    assert facts["cut"]["ties"] == 2
    facts["cut"]["ties"] = 1
    (nights.folder / "alone/frozen.json").write_text(json.dumps(sealed(facts)))
    refused = nights(*flags)
    assert refused.rc == 2
    assert "  - artifact: " in refused.stderr
