"""CSA's further models: each captured in turn on the same cluster, over the same shards, and then the mean over all.

Under each: the references, the fit, and the corpus as scores of 4 bytes a row, with tokens and a template of its own.
Every one of these stages has its own receipts, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tamis.operators.methods.csa import MODELS
from tamis.operators.methods.protocol import Artifact
from tamis.pipeline.capture.scored import scored_key, scoring
from tamis.pipeline.capture.spec import SCORED, STAGE, Captured
from tamis.pipeline.capture.stage import Timings, check_quarantine, run_capture
from tamis.pipeline.capture.totals import CaptureTotals
from tamis.pipeline.cluster.machines import Cluster
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.fit.consensus import ConsensusSpec, Gone, Tables, mean_over_models
from tamis.pipeline.fit.scores import ScoreSpec, ScoreSums, fit_methods, load_artifacts, save_artifacts
from tamis.pipeline.inputs.originals import changed
from tamis.pipeline.planning.further_models import MODELS as MODELS_KEY
from tamis.pipeline.planning.further_models import FurtherPlan, csa_of
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.recipes.fitting import sources_of
from tamis.pipeline.run import incomplete
from tamis.pipeline.run.folder import captures_key
from tamis.pipeline.run.paths import CONSENSUS_FACTS, artifact_under, stage_under
from tamis.pipeline.storage.store import Sealed, Store
from tamis.pipeline.terminal.progress import Progress, waiting
from tamis.pipeline.terminal.voice import say


@dataclass(frozen=True, eq=False)
class Further:
    """One further model when its corpus pass is done. files: of its artifact, as for a manifest. captured: by shard."""

    plan: FurtherPlan
    artifact: Artifact
    files: list[dict[str, Any]]
    captured: Mapping[str, Captured]

    @property
    def warnings(self) -> list[str]:
        return [f"{self.plan.name}: {said}" for said in self.plan.method.warnings(self.artifact, 0.0)]


def capture_further(plan: Plan, store: Store, cluster: Cluster, timings: Timings) -> tuple[Plan, list[Further]]:
    """Run every further model over the corpus. The plan without the shards that failed under one of them. Raises as
    `run_capture`."""
    done = []
    for number, each in enumerate(plan.further, 1):
        say(f"capture: model {number + 1} of {len(plan.further) + 1}, {each.name}", stage="capture")
        found, captured = _under(plan, each, number, store, cluster, timings)
        done.append(found)
        plan = plan.without(captured.failed)
        if not plan.shards:
            incomplete.refuse(plan.failed)
    if done:
        say(f"capture: model 1 of {len(done) + 1}, {plan.job.model.name}", stage="capture")
    return plan, done


def _under(
    plan: Plan, wanted: FurtherPlan, number: int, store: Store, cluster: Cluster, timings: Timings
) -> tuple[Further, CaptureTotals]:
    own, folder = plan.under(wanted), artifact_under(number)
    key = captures_key({**plan.fingerprint, "model of csa": number}, [request.column for request in own.requests])
    began, took = time.monotonic(), Timings()
    stage, called = stage_under(STAGE, number), f"model {number + 1}"
    references = run_capture(own, store, key, cluster, {}, own.fit_shards, stage, said=f"references, {called}")
    artifacts = load_artifacts(store, key, folder)
    if artifacts is None:
        progress = Progress("fit", len(own.fit_shards), unit="shards", brief=True)
        sources = sources_of(own, references)
        try:
            artifacts = fit_methods(store, own.methods, own.model_info.blocks, sources, progress.advance)
        except ConfigError as error:
            raise ConfigError(f"{MODELS_KEY}: {wanted.name}: {error}") from None
        progress.finish()
    facts = {"key": key, "fingerprint": dict(plan.fingerprint), "blocks": own.model_info.blocks}
    files = save_artifacts(store, artifacts, facts, folder)
    sealed = [Sealed(file["name"], file["sha256"]) for file in files]
    key = scored_key(key, sealed)
    start = scoring(own, store, key, sealed, number)
    captured = run_capture(
        own, store, key, cluster, took, own.shards, stage_under(SCORED, number), start, references,
        said=f"capture, {called}",
    )  # fmt: skip
    speed = took.get(f"capture, {called}", {}).get("tokens_per_second", 0.0)
    timings[f"capture, {called}"] = {"seconds": time.monotonic() - began, "tokens_per_second": speed}
    [artifact] = artifacts.values()
    return Further(wanted, artifact, files, captured.captured), captured


@dataclass(frozen=True, eq=False)
class Joint:
    """The scores when CSA's is the mean over its models. captured: totals with the rows that a further model could not
    score; what was captured of a shard is then its table of scores. facts: for CSA's artifact, as the manifest has it.
    files: what was written of it."""

    sums: ScoreSums
    captured: CaptureTotals
    facts: dict[str, Any]
    files: list[dict[str, Any]]


def joint(
    plan: Plan, spec: ScoreSpec, sums: ScoreSums, captured: CaptureTotals, own: Artifact, further: Sequence[Further]
) -> Joint:
    """The mean over the models. sums: of tables under the job's own model, of spec. own: CSA's artifact there.
    InputError if the models have not read the same rows, or if more rows than the job allows have no score in one."""
    csa, store = csa_of(plan.methods), spec.store
    assert csa is not None
    for shard in plan.shards:
        if len({of[shard.name].input for of in (captured.captured, *(each.captured for each in further))}) > 1:
            raise changed(shard)
    names = (plan.job.model.name, *(each.plan.name for each in further))
    wanted = ConsensusSpec(
        store, csa.name, tuple(plan.methods), spec.decided_by, spec.control_seed is not None, names, spec.longest
    )
    shards = [
        Tables(
            shard.name, shard.file.name, shard.span.start_row, file,
            tuple(each.captured[shard.name].file for each in further),
        )
        for shard, file in zip(plan.shards, sums.files, strict=True)
    ]  # fmt: skip
    with waiting("fit", f"the mean of {sums.count:,} scores over {len(names)} models"):
        found = mean_over_models(wanted, shards, scaled=csa.normalise == "clip_std")
    totals = _with_gone(captured, found.gone)
    check_quarantine(plan, totals, f"at least one of {', '.join(names)}")
    files = zip(plan.shards, found.sums.files, strict=True)
    tables = {shard.name: Captured(file, captured.captured[shard.name].input) for shard, file in files}
    totals.captured = {**captured.captured, **tables}
    kinds = [(plan.model_info, plan.model.revision, own)]
    kinds += [(each.plan.opened.info, each.plan.opened.source.revision, each.artifact) for each in further]
    models = {
        str(number): {
            **scale,
            "revision": revision,
            "architecture": info.architecture,
            **{key: artifact.facts[key] for key in ("blocks", "directions", "references", "overlap")},
        }
        for number, (scale, (info, revision, artifact)) in enumerate(zip(found.models, kinds, strict=True), 1)
    }
    facts = {MODELS: models, "normalise": csa.normalise}
    written = store.write_facts(CONSENSUS_FACTS, facts).to_receipt()
    return Joint(found.sums, totals, facts, [*(file for each in further for file in each.files), written])


def _with_gone(captured: CaptureTotals, gone: Gone) -> CaptureTotals:
    return replace(
        captured,
        codes=captured.codes + gone.codes,
        messages={**gone.messages, **captured.messages},
        examples={**gone.examples, **captured.examples},
    )
