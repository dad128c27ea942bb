"""An artifact as a finished run of a plan leaves it, without the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tamis.operators.methods import Artifact
from tamis.pipeline.fit.scores import save_artifacts
from tamis.pipeline.planning.frozen_job import frozen_facts
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.run.frozen import FrozenCut, freeze
from tamis.pipeline.storage.store import Store

STATISTICS: dict[str, Any] = {
    "rows": 50,
    "scored": 48,
    "fell": 5,
    "scores": {"larf": {"edges": [0.0, 0.5], "counts": [10, 20, 18]}},
    "lengths": {"edges": [7.0], "counts": [40, 8]},
    "quarantine": {"empty_response": 2},
}
CUT = FrozenCut(0.5, None)


def artifacts_of(plan: Plan, layer: int = 1) -> dict[str, Artifact]:
    """A made-up fit of each method of the plan."""
    random = np.random.default_rng(3)
    return {
        name: Artifact(
            {"direction": random.normal(size=plan.model_info.width).astype(np.float32)},
            {"layer": layer, "position": "last_token", "columns": [f"block_{layer:02d}.last_token"]},
        )
        for name in plan.methods
    }


def freeze_plan(
    folder: Path,
    plan: Plan,
    *,
    layer: int = 1,
    cut: FrozenCut = CUT,
    statistics: Mapping[str, Any] = STATISTICS,
    settings: Mapping[str, Any] | None = None,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Write folder/artifact, and return the entries of its files. settings: in place of some of the plan's. facts: more
    of each method's."""
    store = Store(str(folder))
    artifacts = artifacts_of(plan, layer)
    for name, more in (facts or {}).items():
        artifacts[name].facts.update(more)
    files = save_artifacts(store, artifacts, {"key": "k", "fingerprint": {}, "blocks": plan.model_info.blocks})
    frozen = frozen_facts(
        {**plan.fingerprint, **(settings or {})},
        plan.job,
        plan.model.revision,
        tuple(artifacts),
        "float32 on cpu",
        cut=cut,
        statistics=statistics,
    )
    return [*files, freeze(store, frozen, files)]


def finish(folder: Path, files: list[dict[str, Any]], **facts: Any) -> None:
    """Write the manifest of a finished run that lists these files."""
    listed = [{key: file[key] for key in ("name", "bytes", "sha256")} for file in files]
    Store(str(folder)).write_facts("manifest.json", {"complete": True, "fingerprint": {}, "files": listed, **facts})
