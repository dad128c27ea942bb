"""Whole runs in both orders: with vectors, and with the references first. The output is the same to the byte, also
where the run is killed and its files are damaged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from outputs import alpaca_rows, write_jsonl
from token_outputs import reference_rows

from tamis.pipeline.commands.verify import verify
from tamis.pipeline.curate import curate
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.job.job_file import load_job
from tamis.pipeline.nights.refit import captures_in
from tamis.pipeline.storage.store import Store

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("driver")]


@dataclass
class Runs:
    """Runs of one job below a folder."""

    folder: Path
    model: Path
    address: str

    def run(self, name: str, **more: Any) -> dict[str, Any]:
        settings = {
            "input.path": [str(self.folder / "data.jsonl")], "model.name": str(self.model), "shard_rows": 12,
            "workers": 1, "max_quarantined": 0.5, "method": ["larf", "compliance", "csa"], "larf.layer": 2,
            "selection.drop": 0.2, "output": str(self.folder / name), **self.roles(), **more,
        }  # fmt: skip
        return dict(curate(load_job(None, settings), self.address).manifest)

    def roles(self) -> dict[str, str]:
        kinds = [(name, role) for name in ("larf", "compliance", "csa") for role in ("unsafe", "safe")]
        return {f"{name}.{role}_references": str(self.folder / f"{role}.jsonl") for name, role in kinds}


def results(out: Path) -> dict[str, bytes]:
    """All rows, and the artifact."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for part in ("kept", "dropped", "quarantine", "scores", "artifact")
        for path in sorted((out / part).rglob("*"))
        if path.is_file()
    }


def tables(out: Path, stage: str) -> list[Path]:
    return sorted((out / "_work" / stage).glob("*.parquet"))


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])


@pytest.fixture
def runs(tiny_model: Path, ray_address: str, tmp_path: Path) -> Runs:
    write_jsonl(tmp_path / "data.jsonl", [*alpaca_rows(30, seed=1), {"instruction": "no answer"}])
    for seed, role in enumerate(("unsafe", "safe")):
        write_jsonl(tmp_path / f"{role}.jsonl", reference_rows(5, seed=3 + seed))
    return Runs(tmp_path, tiny_model, ray_address)


def test_both_orders_give_the_same_output(runs: Runs) -> None:
    told = runs.run("vectors", keep_captures="vectors")["trust"]["demonstrations"]
    assert told == {"missing": "only 5 unsafe references have a request that could be read, and 16 are needed"}
    vectors, scores = runs.folder / "vectors", runs.folder / "scores"
    whole = results(vectors)
    assert len(tables(vectors, "capture")) == 3 + 6
    assert len(captures_in(Store(str(vectors))).corpus) == 3

    manifest = runs.run("scores", keep_captures="scores")
    assert results(scores) == whole
    assert manifest["trust"]["demonstrations"] == told
    assert verify(Store(str(scores))).problems == []
    assert manifest["timings"]["references"]["seconds"] > 0
    assert len(tables(scores, "scored")) == 3
    assert not (scores / "_work/capture").exists()
    with pytest.raises(ConfigError, match="captures of 0 of its 3 shards; only runs with keep_captures: v"):
        captures_in(Store(str(scores)))

    # Killed before the manifest, with a table of scores and the artifact damaged: the vectors of the references are
    # gone, too, and the other scores still count.
    for each in ("manifest.json", "report.html", "README.md"):
        (scores / each).unlink()
    first, *others = tables(scores, "scored")
    flip(first)
    flip(scores / "artifact/larf.safetensors")
    written = [path.stat().st_mtime_ns for path in others]
    runs.run("scores", keep_captures="scores")
    assert results(scores) == whole
    assert [path.stat().st_mtime_ns for path in others] == written
