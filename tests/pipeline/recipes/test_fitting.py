"""Which captured tables a fit reads where rows of the corpus were drawn for it, and what it says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from plan_jobs import Planner

from tamis.pipeline.capture.spec import Captured
from tamis.pipeline.capture.totals import CaptureTotals
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.planning.frozen_job import frozen_facts
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.recipes.fitting import fit_plan, save, sources_of
from tamis.pipeline.run.frozen import FrozenCut, freeze, read_frozen
from tamis.pipeline.run.set_aside import set_aside
from tamis.pipeline.storage.store import Sealed, Store
from tamis.pipeline.terminal.progress import Progress


@pytest.fixture
def plan(tmp_path: Path, tiny_model: Path) -> Plan:
    """12 rows are drawn of 50, from several shards."""
    overlay = {"method": "contrast", "contrast.unsafe_references": str(tmp_path / "unsafe.jsonl")}
    return Planner(tmp_path, tiny_model)("contrast.sample=12", "shard_rows=10", **overlay)


def captured(plan: Plan, *, without: tuple[str, ...] = ()) -> CaptureTotals:
    totals = CaptureTotals()
    for shard in [*plan.fit_shards, *plan.shards]:
        if shard.name not in without:
            totals.captured[shard.name] = Captured(Sealed(f"{shard.name}.parquet", "f" * 64), "")
    return totals


def names(files: list[Sealed]) -> list[str]:
    return [file.name.removesuffix(".parquet") for file in files]


def test_the_rows_that_are_drawn_are_a_source_of_their_own(plan: Plan) -> None:
    drawn = [shard.name for shard in plan.corpus_samples["contrast"].shards]
    found = sources_of(plan, captured(plan), plan.shards)
    assert {role: names(files) for role, files in found.items()} == {
        "corpus": [shard.name for shard in plan.shards],
        "contrast.corpus": drawn,
        "contrast.unsafe": [shard.name for shard in plan.reference_shards],
    }
    assert sources_of(plan, captured(plan))["corpus"] == []
    assert names(sources_of(plan, captured(plan, without=(drawn[1],)))["contrast.corpus"]) == [drawn[0], *drawn[2:]]
    # Without one of them, the whole corpus must not come in their place.
    assert sources_of(plan, captured(plan, without=tuple(drawn)), plan.shards)["contrast.corpus"] == []
    with pytest.raises(KeyError):
        sources_of(plan, captured(plan, without=(plan.reference_shards[0].name,)))


@pytest.mark.parametrize("failed", [0, 2, 99])
def test_drawn_rows_of_which_none_can_be_used_are_refused(plan: Plan, tmp_path: Path, failed: int) -> None:
    """All of them quarantined, or in shards that have failed."""
    totals = captured(plan)
    gone = plan.corpus_samples["contrast"].shards[:failed]
    totals.drawn_failed = [set_aside(shard, "it kills every worker") for shard in gone]
    totals.drawn_bad["contrast.corpus"] = 12 - sum(shard.rows for shard in gone)
    progress = Progress("fit", 1, brief=True)
    with pytest.raises(ConfigError, match=r"contrast: none of the 12 rows that were drawn .*; raise contrast\.sample"):
        fit_plan(plan, Store(str(tmp_path / "out")), sources_of(plan, totals), totals, progress)
    progress.finish()


def test_an_artifact_takes_the_numbers_of_its_rows_along(plan: Plan, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"))
    files = save(plan, store, "k", {})
    drawn = plan.corpus_samples["contrast"]
    told: dict[str, Any] = store.read_facts("artifact/corpus_sample.json")["methods"]["contrast"]
    assert told == json.loads(json.dumps({**drawn.facts, "files": drawn.files}))
    assert sum(len(file["rows"]) for file in told["files"]) == 12
    assert [file["name"] for file in files] == ["artifact/artifact.json", "artifact/corpus_sample.json"]
    made: dict[str, Any] = {"cut": FrozenCut(0.5, None), "statistics": {}}
    freeze(store, frozen_facts(plan.fingerprint, plan.job, "local", (), "float32 on cpu", **made), files)
    (tmp_path / "out/artifact").rename(tmp_path / "moved")
    assert "corpus_sample.json" in read_frozen(str(tmp_path / "moved"), {}).files
