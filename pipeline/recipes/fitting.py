"""The fit of a run: which captured tables each method reads, what was drawn for it, and what is written of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from tamis.operators.methods.protocol import CORPUS, Artifact
from tamis.pipeline.capture.totals import CaptureTotals
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.fit.scores import fit_methods, save_artifacts
from tamis.pipeline.inputs.shards import Shard, role_of
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.run.paths import CORPUS_SAMPLE
from tamis.pipeline.storage.store import Sealed, Store
from tamis.pipeline.terminal.progress import Progress


def sources_of(plan: Plan, captured: CaptureTotals, corpus: Iterable[Shard] = ()) -> dict[str, list[Sealed]]:
    """The captured tables by role: of these shards of the corpus, and of all that the fit reads besides. Of rows that
    were drawn, those whose shard has failed are missing."""
    drawn = {role_of(name, CORPUS): list[Sealed]() for name in plan.corpus_samples}
    sources: dict[str, list[Sealed]] = {CORPUS: [], **drawn}
    for shard in [*corpus, *plan.fit_shards]:
        if shard.role not in drawn or shard.name in captured.captured:
            sources.setdefault(shard.role, []).append(captured.captured[shard.name].file)
    return sources


def fit_plan(
    plan: Plan, store: Store, sources: Mapping[str, list[Sealed]], captured: CaptureTotals, progress: Progress
) -> dict[str, Artifact]:
    """The artifacts. Of a method that rows were drawn for, the facts have `corpus_sample`: drawn, of, seed, sha256,
    usable (rows that it was fitted to) and set_aside (rows whose shard has failed). ConfigError as `fit_methods`."""
    gone = {item.shard: item.rows for item in captured.drawn_failed}
    facts = {}
    for name, drawn in plan.corpus_samples.items():
        set_aside = sum(gone.get(shard.name, 0) for shard in drawn.shards)
        usable = drawn.count - set_aside - captured.drawn_bad[role_of(name, CORPUS)]
        if not usable:
            raise ConfigError(
                f"{name}: none of the {drawn.count:,} rows that were drawn to stand for the corpus can be used; raise "
                f"{name}.sample"
            )
        facts[name] = {"corpus_sample": {**drawn.facts, "usable": usable, "set_aside": set_aside}}
    found = fit_methods(store, plan.methods, plan.model_info.blocks, sources, progress.advance)
    return {name: replace(made, facts={**made.facts, **facts.get(name, {})}) for name, made in found.items()}


def save(plan: Plan, store: Store, key: str, artifacts: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Write the artifacts, and beside them the numbers of the rows that were drawn for them. The files' entries for a
    manifest."""
    facts = {"key": key, "fingerprint": dict(plan.fingerprint), "blocks": plan.model_info.blocks}
    files = save_artifacts(store, artifacts, facts)
    if plan.corpus_samples:
        drawn = {name: {**found.facts, "files": found.files} for name, found in plan.corpus_samples.items()}
        files.append(store.write_facts(CORPUS_SAMPLE, {"methods": drawn}).to_receipt())
    return files
