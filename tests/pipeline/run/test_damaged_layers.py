"""As test_damage.py, of a layer search."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from damaging import DAMAGES, Damage, Killed, settings, write_sources

from tamis.pipeline.curate import curate
from tamis.pipeline.job.job_file import load_job, load_layers_job
from tamis.pipeline.layers.find import find_layers

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("driver")]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sources(tmp_path_factory.mktemp("damage"))


def test_layers(sources: Path, tiny_model: Path, ray_address: str, tmp_path: Path) -> None:
    """A layer search in a folder where a run is under way, so that what it has done stays."""
    roles = {f"larf.{role}_references": str(sources / f"{role}.jsonl") for role in ("unsafe", "safe")}
    shared = {"model.name": str(tiny_model), "shard_rows": 12, "workers": 1, **roles}
    shared["larf.over_rejection_prompts"] = str(sources / "prompts.jsonl")
    shared["larf.refusal_markers"] = ["qu", "ox"]

    def search(out: Path) -> dict[str, Any]:
        found = find_layers(load_layers_job(None, {**shared, "output": str(out)}), ray_address).result
        return {name: found[name] for name in ("chosen", "blocks")}

    out = tmp_path / "calm"
    run = settings(sources, tiny_model, method=["larf"], **{"larf.layer": 2})
    curate(load_job(None, {**run, **shared, "output": str(out)}), ray_address)
    for name in ("manifest.json", "report.html", "README.md"):
        (out / name).unlink()
    calm = search(out)
    (out / "layers.html").unlink()
    (out / "artifact/layers.json").unlink()
    work = Killed(out, search, {})
    names = [name for name in work.files() if name.startswith("_work/") and ("layers" in name or "fisher" in name)]
    cells = [name for name in names if "/block_" in name]
    assert len(cells) == 24
    some = [name for name in names if name not in cells[len(DAMAGES) :]]  # cells are all alike

    def heals(name: str, damage: Damage) -> None:
        place = work.damaged(name, damage, tmp_path / "out")
        assert search(place) == calm, name
        shutil.rmtree(place)

    for number, name in enumerate(some):
        heals(name, DAMAGES[number % len(DAMAGES)])
    search(out)
    for damage in DAMAGES:
        heals("artifact/layers.json", damage)
