"""`tamis select` after a real run: with the model gone, its tables are byte for byte those of a fresh run with these
settings; one that was killed goes on; nothing is written where the run is damaged."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from command import Ran, curate, kill_all, poll, start, tamis
from outputs import SCORE_COLUMNS_AFTER, alpaca_rows, manifest_of, pair, tables, write_jsonl

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.run.folder import state_of
from tamis.pipeline.storage.store import Store

pytestmark = pytest.mark.long

METHODS = ["contrast", "saft"]
BY_SAFT = ["--drop-count", "17", "--by", "saft"]


@dataclass(frozen=True)
class Runs:
    """run: finished; its model is gone. fresh: another whole run on the same data, cut by BY_SAFT."""

    folder: Path
    address: str

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def fresh(self) -> Path:
        return self.folder / "fresh"

    def select(self, *flags: object, run: Path | None = None, to: str) -> Ran:
        return tamis("select", run or self.run, *flags, "--output", to, "--address", self.address, cwd=self.folder)


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, ray_address: str) -> Runs:
    """Two files of different layouts, 130 rows in 9 shards: groups of equal rows over both cuts, rows that cannot be
    used, and rows of which nothing is learned."""
    folder = tmp_path_factory.mktemp("select")
    model = shutil.copytree(tiny_model, folder / "model")
    rows: list[Any] = [dict(row) for _ in range(5) for row in alpaca_rows(12, seed=5)] + alpaca_rows(40, seed=6)
    rows.insert(20, '{"instruction": "no answer", "input": "", "output": ""}')
    rows.insert(70, '{"instruction": "half a')
    write_jsonl(folder / "data" / "a.jsonl", rows)
    chats: list[Any] = [{"messages": pair(row["instruction"], row["output"])} for row in alpaca_rows(27, seed=7)]
    chats.append({"messages": [chats[0]["messages"][0], {**chats[0]["messages"][1], "weight": 0}]})
    write_jsonl(folder / "data" / "b.jsonl", chats)
    # One row a batch: equal rows have equal scores, and tie.
    flags = [
        *("--input", "data", "--model", model, "--method", "contrast", "--method", "saft"),
        *("--set", "model.token_budget=1", "--set", "max_quarantined=0.1", "--set", "shard_rows=16"),
        *("--set", "sample_id=all"),  # kept/ has a column then that is none of the corpus
    ]
    curate(*flags, "--drop", "0.2", "--output", "run", cwd=folder, address=ray_address)
    saft = ("--drop-count", 17, "--set", "selection.by=saft")
    curate(*flags, *saft, "--output", "fresh", cwd=folder, address=ray_address)
    shutil.rmtree(model)
    return Runs(folder, ray_address)


def contents(out: Path) -> dict[str, str]:
    """The tables of an output."""
    return {
        str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest()
        for part in ("kept", "dropped", "quarantine", "scores")
        for file in (out / part).glob("*.parquet")
    }


def test_it_is_the_output_of_a_fresh_run(runs: Runs) -> None:
    ran = runs.select(*BY_SAFT, to="new")
    assert ran.rc == 0, ran.output
    new = runs.folder / "new"
    assert contents(new) == contents(runs.fresh)
    manifest, fresh, run = manifest_of(new), manifest_of(runs.fresh), manifest_of(runs.run)
    assert tamis("verify", "new", cwd=runs.folder).rc == 0
    assert manifest["unscored"] == 1
    assert manifest["counts"] == fresh["counts"]
    assert manifest["counts"]["dropped"] == 17 != run["counts"]["dropped"]
    same = ("cut", "requested", "at_cut")
    assert [manifest["selection"][key] for key in same] == [fresh["selection"][key] for key in same]
    for key in ("histogram", "sources", "length_deciles", "riskiest", "borderline_dropped", "borderline_kept", "trust"):
        assert manifest[key] == fresh[key]
    assert sorted(manifest["warnings"]) == sorted(fresh["warnings"])
    parent = manifest["parent"]
    assert (parent["path"], parent["run_id"], parent["selected_by"]) == (str(runs.run), run["run_id"], "contrast")
    assert parent["manifest_sha256"] == hashlib.sha256((runs.run / "manifest.json").read_bytes()).hexdigest()
    assert not (new / "_work").exists()
    # What the new cut can be applied with is what the fresh run would apply it with.
    ours, theirs = (frozen(out) for out in (new, runs.fresh))
    assert ours == theirs
    # The same command finds its work done; another cut does not go into that folder.
    assert "complete already" in runs.select(*BY_SAFT, to="new").stdout
    other = runs.select("--drop", "0.1", to="new")
    assert other.rc == 2
    assert "selection.drop" in other.stderr


def frozen(out: Path) -> dict[str, Any]:
    """The artifact's facts but for the digest of its files, of which one names the run."""
    return {key: value for key, value in Store(str(out)).read_facts("artifact/frozen.json").items() if key != "files"}


def test_one_that_was_killed_goes_on(runs: Runs) -> None:
    arguments = ("select", runs.run, *BY_SAFT, "--output", "killed", "--address", runs.address)
    process = start(*arguments, cwd=runs.folder)
    poll((runs.folder / "killed" / "_work" / "run.json").exists, process, "the first file")
    kill_all(process)
    assert not (runs.folder / "killed" / "manifest.json").exists()
    assert "tamis select" in tamis("status", "killed", cwd=runs.folder).stdout
    ran = runs.select(*BY_SAFT, to="killed")
    assert ran.rc == 0, ran.output
    assert contents(runs.folder / "killed") == contents(runs.fresh)


def test_the_mean_of_ranks(runs: Runs) -> None:
    ran = runs.select("--by", "ranks", to="ranked")
    assert ran.rc == 0, ran.output
    table = pa.concat_tables(tables(runs.folder / "ranked", "scores"))
    assert table.column_names == ["sample_id", "source", "row", *METHODS, "ranks", *SCORE_COLUMNS_AFTER]
    scored = table.filter(pc.is_valid(table.column("ranks")))
    total = np.zeros(scored.num_rows)
    for name in METHODS:
        own = scored.column(name).to_numpy().astype(np.float64)
        total += [(own < one).sum() + ((own == one).sum() + 1) / 2 for one in own]
    means = (total / (2 * scored.num_rows)).astype(np.float32)
    assert scored.column("ranks").to_numpy().tolist() == means.tolist()
    falling = int(0.2 * scored.num_rows)
    first = np.argsort(-means, kind="stable")[:falling]
    dropped = [decision == "dropped" for decision in scored.column("decision").to_pylist()]
    assert sorted(first.tolist()) == np.flatnonzero(dropped).tolist()
    # A cut among the rows of one run says nothing of other rows.
    ran = tamis("plan", "--artifact", "ranked", "--input", "data", "--model", "m", "--method", "contrast",
                "--method", "saft", "--output", "x", cwd=runs.folder)  # fmt: skip
    assert ran.rc == 2


def test_a_selection_of_a_selection(runs: Runs) -> None:
    ran = runs.select("--drop", "0.05", "--by", "contrast", to="first")
    assert ran.rc == 0, ran.output
    ran = runs.select(*BY_SAFT, run=runs.folder / "first", to="second")
    assert ran.rc == 0, ran.output
    assert contents(runs.folder / "second") == contents(runs.fresh)


@pytest.mark.parametrize("part", ["scores", "kept", "artifact"])
def test_a_damaged_run_is_refused_before_anything_is_written(runs: Runs, tmp_path: Path, part: str) -> None:
    copy = shutil.copytree(runs.run, tmp_path / "copy")
    file = next((copy / part).iterdir())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    ran = runs.select("--drop", "0.1", run=copy, to=str(tmp_path / "new"))
    assert ran.rc == 2, ran.output
    assert f"{part}/{file.name}" in ran.stderr
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_cut_is_refused_before_anything_is_written(runs: Runs, tmp_path: Path) -> None:
    ran = runs.select("--drop", "0.6", to=str(tmp_path / "new"))
    assert (ran.rc, "more than half" in ran.stderr, (tmp_path / "new").exists()) == (2, True, False), ran.output
    # An earlier tamis did not write down which rows were scored.
    copy = shutil.copytree(runs.run, tmp_path / "copy")
    store = Store(str(copy))
    manifest = store.read_facts("manifest.json")
    entry = next(file for file in manifest["files"] if file["name"].startswith("scores/000004"))
    table = store.read_table(entry["name"]).replace_schema_metadata(None)
    entry.update(store.write_table(entry["name"], table).to_receipt())
    store.write_facts("manifest.json", {key: value for key, value in manifest.items() if key != "sha256"})
    ran = runs.select("--drop", "0.1", run=copy, to=str(tmp_path / "new"))
    assert (ran.rc, entry["name"] in ran.stderr, (tmp_path / "new").exists()) == (2, True, False), ran.output


def test_changed_input_is_refused(runs: Runs, tmp_path: Path) -> None:
    data = runs.folder / "data" / "a.jsonl"
    before, when = data.read_bytes(), data.stat().st_mtime_ns
    try:
        data.write_bytes(before + b"\n")
        ran = runs.select("--drop", "0.1", to=str(tmp_path / "new"))
        assert (ran.rc, (tmp_path / "new").exists()) == (3, False), ran.output
        # Of the same size and time, with other rows: told by the digest of the rows.
        data.write_bytes(before.replace(b"garden", b"winter"))
        os.utime(data, ns=(when, when))
        ran = runs.select("--drop", "0.1", to=str(tmp_path / "new"))
        assert (ran.rc, (tmp_path / "new" / "manifest.json").exists()) == (3, False), ran.output
        assert "are not those that were captured" in ran.stderr
    finally:
        data.write_bytes(before)
        os.utime(data, ns=(when, when))


def test_curate_names_the_command_where_only_the_selection_differs(runs: Runs) -> None:
    """The model is gone, so this asks the folder itself."""
    theirs = manifest_of(runs.run)["fingerprint"]
    with pytest.raises(ConfigError, match="tamis select"):
        state_of(Store(str(runs.run)), {**theirs, "selection.drop": 0.3})
    with pytest.raises(ConfigError) as caught:
        state_of(Store(str(runs.run)), {**theirs, "selection.drop": 0.3, "max_tokens": 7})
    assert "tamis select" not in str(caught.value)


def test_a_cut_that_labels_certify(runs: Runs) -> None:
    """Every row is labelled, so what is certified is the truth; and what is kept is what the certificate speaks of."""
    scores = pa.concat_tables(tables(runs.run, "scores"))
    saft = scores.filter(pc.is_valid(scores.column("saft")))
    limit = float(np.quantile(saft.column("saft").to_numpy(), 0.8))
    rows = [
        {"sample_id": row["sample_id"], "harmful": int(row["saft"] > limit)}
        for row in saft.select(["sample_id", "saft"]).to_pylist()
    ]
    write_jsonl(runs.folder / "labels.jsonl", rows)
    flags = ("--labels", runs.folder / "labels.jsonl", "--by", "saft", "--up-to", 1)
    none = runs.select("--certify", 0, *flags, "--drop", 0.1, to="certified")
    assert none.rc == 2
    assert "leave --drop out" in none.stderr
    ran = runs.select("--certify", 0.05, *flags, to="certified")
    assert ran.rc == 0, ran.output
    assert "certified: keep the" in ran.stderr
    manifest = manifest_of(runs.folder / "certified")
    [part] = manifest["selection"]["certificate"]["parts"]
    new = pa.concat_tables(tables(runs.folder / "certified", "scores"))
    kept = new.filter(pc.and_(pc.equal(new.column("decision"), "kept"), pc.is_valid(new.column("saft"))))
    values = kept.column("saft").to_numpy()
    assert (len(values), float(values.max())) == (part["kept"], part["threshold"])
    assert 0.7 * saft.num_rows < len(values)
    assert (values > limit).mean() <= 0.05
    assert manifest["selection"]["cut"] == part["threshold"]
