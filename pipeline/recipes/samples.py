"""LARF and SAFT, from top to bottom: LARF's layer, the vectors, the fit, the output.

Every stage skips the work that an earlier, interrupted run of the same job has done. To resume, run again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tamis.operators.methods.protocol import CORPUS, Artifact
from tamis.operators.statistics.lengths import length_deciles
from tamis.operators.statistics.ranks import midranks, rank_edges, resolved_share
from tamis.pipeline.capture.stage import Timings, run_capture
from tamis.pipeline.capture.totals import CaptureTotals
from tamis.pipeline.cluster.machines import Cluster
from tamis.pipeline.cluster.session import ray_session
from tamis.pipeline.emit.publish import publish
from tamis.pipeline.emit.samples import Made, SampleSpec
from tamis.pipeline.emit.stage import run_emit
from tamis.pipeline.emit.totals import EmitTotals
from tamis.pipeline.fit.drift import check_majority, drift_of, select_at, statistics_of
from tamis.pipeline.fit.grouped_cut import cut
from tamis.pipeline.fit.mean_ranks import with_ranks
from tamis.pipeline.fit.scores import (
    ScoreSpec,
    ScoreSums,
    Selection,
    fit_methods,
    load_artifacts,
    rank_histogram,
    save_artifacts,
    score_shards,
)
from tamis.pipeline.inputs.originals import output_schema
from tamis.pipeline.inputs.shards import role_of
from tamis.pipeline.job.job_file import Job
from tamis.pipeline.job.sections import RANKS
from tamis.pipeline.layers import find as layers
from tamis.pipeline.planning.frozen_job import frozen_facts, other_device
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.run import folder as run_folder
from tamis.pipeline.run import incomplete
from tamis.pipeline.run.frozen import Frozen, FrozenCut, freeze
from tamis.pipeline.run.lease import Held
from tamis.pipeline.run.mending import check_output, until_whole
from tamis.pipeline.storage.store import Sealed, Store
from tamis.pipeline.terminal.progress import Progress, phase, waiting

HISTOGRAM_BINS = 80
RESOLVED_ENOUGH = 0.95


def curate_samples(
    plan: Plan, store: Store, address: str | None, held: Held, timings: Timings, began: float
) -> dict[str, Any]:
    """Run the plan to its end and return its manifest. Raises TamisError."""
    with ray_session(address) as cluster:
        timings["ray_start"] = {"seconds": cluster.seconds_to_start}
        plan = _choose_layer(plan, store, cluster, timings)
        made = until_whole(
            store,
            partial(_make, plan, store, cluster, held, timings),
            over=lambda: run_folder.finished(store, plan.fingerprint) is not None,
        )

    if (theirs := run_folder.finished(store, plan.fingerprint)) is not None:
        return theirs  # another driver's manifest
    phase("publish", "gathering what the report says")
    timings["total"] = {"seconds": time.monotonic() - began}
    plan, captured = made.plan, made.captured
    notes = [*plan.warnings, *sorted(captured.fallbacks)[:1], *rough(made.resolved)]
    if plan.artifact is not None:
        notes += other_device(captured.precisions, plan.artifact.frozen.facts.device)
    files = [*made.artifact_files]
    searched = layers.beside(store, plan)
    if searched is not None:
        files += layers.publish(store, searched)
        notes += searched["warnings"] if plan.layers is not None else []
    return publish(
        store, plan, made.artifacts, files, made.selection, made.spec, captured, made.emitted, timings, notes, searched,
        made.drift, made.groups,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Made:
    """The results of a run when its output is written. plan: without the failed shards. resolved: how much of the
    scores' order their bins preserve (0..1). drift: from the corpus of the job's artifact, if it names one. groups: of
    rows that have cuts of their own."""

    plan: Plan
    captured: CaptureTotals
    artifacts: dict[str, Artifact]
    artifact_files: list[dict[str, Any]]
    selection: Selection
    spec: SampleSpec
    resolved: float
    emitted: EmitTotals
    drift: dict[str, Any] | None
    groups: list[dict[str, Any]]


def _make(plan: Plan, store: Store, cluster: Cluster, held: Held, timings: Timings) -> _Made:
    """The vectors, the fit, the output. DamagedError if a file is not as an earlier stage or command wrote it."""
    # The captured vectors depend on the block, however it was chosen.
    key = run_folder.key_of({**plan.fingerprint, "requests": [request.column for request in plan.requests]})
    captured = run_capture(plan, store, key, cluster, timings, [*plan.reference_shards, *plan.shards])
    plan = plan.without(captured.failed)
    if not plan.shards:
        incomplete.refuse(plan.failed)
    key = incomplete.key_without(key, captured.failed)
    artifacts, files, selection, drift, groups = _fit(plan, store, key, captured, timings)
    # The key covers which row goes where, not only the capture settings: if a capture was made again on another
    # machine, the whole output is made again.
    key = run_folder.key_of({"captured": key, "decided": selection.digest})
    phase("emit", "making room for the output, and ranking the scores")
    incomplete.make_room(store, key, plan.failed, fingerprint=plan.fingerprint, contested=held.contested)
    schema = output_schema(plan.schema, captured.seen_schema()).serialize().to_pybytes()
    spec, resolved = emit_spec(plan.job, store, key, tuple(plan.methods), selection, schema)
    emitted = _emit(plan, spec, selection, captured, cluster, timings)
    phase("publish", "comparing every written file with its receipt")
    check_output(store, [*emitted.files, *files], [shard.name for shard in plan.shards])
    return _Made(plan, captured, artifacts, files, selection, spec, resolved, emitted, drift, groups)


# --- LARF's layer -------------------------------------------------------------------------------------------------


def _choose_layer(plan: Plan, store: Store, cluster: Cluster, timings: Timings) -> Plan:
    if plan.layers is None or not plan.unsettled:
        return plan
    began = time.monotonic()
    found = layers.find(store, plan.layers, cluster)
    if layers.known(store, plan.layers) is None:  # else another driver has searched, and its manifest has the result
        layers.publish(store, found)
    timings["layers"] = {"seconds": time.monotonic() - began}
    return layers.settled(store, plan)


# --- fit ----------------------------------------------------------------------------------------------------------


def _fit(
    plan: Plan, store: Store, key: str, captured: CaptureTotals, timings: Timings
) -> tuple[dict[str, Artifact], list[dict[str, Any]], Selection, dict[str, Any] | None, list[dict[str, Any]]]:
    began = time.monotonic()
    phase("fit", "looking for what is done already")
    sources: dict[str, list[Sealed]] = {CORPUS: []}  # by role
    for shard in [*plan.shards, *plan.reference_shards]:
        sources.setdefault(shard.role, []).append(captured.captured[shard.name].file)
    steps = sum(
        len(sources.get(role, ()))
        for name, method in plan.methods.items()
        for role in [role_of(name, source) for source in method.sources()] or [CORPUS]
    )
    frozen = plan.artifact.frozen if plan.artifact is not None else None
    # The artifact of an interrupted run is used again, because part of its output was written with it.
    artifacts = load_artifacts(store, key) if frozen is None else dict(frozen.artifacts)
    progress = Progress("fit", len(plan.shards) + (steps if artifacts is None else 0), unit="shards")
    if artifacts is None:
        artifacts = fit_methods(store, plan.methods, plan.model_info.blocks, sources, progress.advance)
    facts = {"key": key, "fingerprint": dict(plan.fingerprint), "blocks": plan.model_info.blocks}
    files = save_artifacts(store, artifacts, facts) if frozen is None else frozen.copy_to(store)
    control = seed_of(plan.job)
    by = plan.job.selected_by
    spec = ScoreSpec(store, plan.methods, artifacts, scored_by(by, plan.methods), control, plan.max_tokens)
    sums = ranked(store, by, plan.methods, score_shards(spec, plan.shards, sources[CORPUS], progress.advance), control)
    drift, groups = None, list[dict[str, Any]]()
    if frozen is None:
        with waiting("fit", f"finding the exact cut of {sums.count:,} scores"):
            selection, groups = cut(plan.job, store, sums, plan.shards)
        if not plan.failed:  # else the cut is not that of the whole corpus
            files.append(_freeze(plan, store, artifacts, files, captured, selection))
    else:
        selection = select_at(frozen.facts.cut, store, sums)
        drift = _drift(plan, store, frozen, captured, selection)
    progress.finish()
    seconds = time.monotonic() - began
    timings["fit"] = {"seconds": seconds, "rows_per_second": sums.count / max(seconds, 1e-9)}
    return artifacts, files, selection, drift, groups


def _freeze(
    plan: Plan,
    store: Store,
    artifacts: Mapping[str, Artifact],
    files: Sequence[Mapping[str, Any]],
    captured: CaptureTotals,
    selection: Selection,
) -> dict[str, Any]:
    """Write what makes the artifact complete: the cut, how it was made, and the statistics of this corpus."""
    [precision] = captured.precisions
    facts = frozen_facts(
        plan.fingerprint,
        plan.job,
        plan.model.revision,
        tuple(artifacts),
        precision,
        cut=frozen_cut(plan.job, selection),
        statistics=statistics_of(store, artifacts, selection, captured.rows, captured.codes),
    )
    return freeze(store, facts, files)


def seed_of(job: Job) -> int | None:
    """The seed of the random scores that decide instead of a method's from the start; None if they do not."""
    return job.seed if job.selection.control == "random" else None


def frozen_cut(job: Job, selection: Selection) -> FrozenCut:
    """The cut for new data; where groups have cuts of their own, there is none."""
    return FrozenCut(None, 0) if job.selection.has_groups else FrozenCut.of(selection.threshold, selection.at_cut)


def _drift(plan: Plan, store: Store, frozen: Frozen, captured: CaptureTotals, selection: Selection) -> dict[str, Any]:
    job, majority = plan.job, plan.job.selection.allow_majority
    check_majority(selection, job.drift_limit, allow_majority=majority)
    return drift_of(store, frozen, selection, captured.rows, captured.codes, job.drift_limit, allow_majority=majority)


def scored_by(by: str, methods: Iterable[str]) -> str:
    """The method that the first pass over the scores goes by. by: who decides, a method or RANKS."""
    return next(iter(methods)) if by == RANKS else by


def ranked(store: Store, by: str, methods: Iterable[str], sums: ScoreSums, control: int | None) -> ScoreSums:
    """The same scores with the mean of the methods' ranks, if that decides."""
    if by != RANKS:
        return sums
    with waiting("fit", f"ranking {sums.count:,} rows by each method"):
        return with_ranks(store, list(methods), sums, by_chance=control is not None)


# --- emit ---------------------------------------------------------------------------------------------------------


def emit_spec(
    job: Job, store: Store, key: str, methods: tuple[str, ...], selection: Selection, schema: bytes
) -> tuple[SampleSpec, float]:
    """The spec, and how much of the scores' order their bins preserve (0..1). key: of the receipts. methods: that
    scored the rows. schema: of kept/, serialised."""
    sums = selection.sums
    columns = methods if job.selected_by in methods else (*methods, job.selected_by)
    bin_edges = rank_edges(sums.low, sums.high)
    ranked = rank_histogram(store, sums.files, job.selected_by, bin_edges)
    low, high = sums.low, max(sums.high, np.nextafter(np.float32(sums.low), np.float32(np.inf)))
    spec = SampleSpec(
        store=store,
        options=job.storage_options,
        key=key,
        schema=schema,
        methods=columns,
        decided_by=job.selected_by,
        control=job.selection.control,
        within=job.selection.within,
        threshold=selection.threshold,
        scored=sums.count,
        edges=np.linspace(float(low), float(high), HISTOGRAM_BINS + 1),
        rank_edges=bin_edges,
        score_ranks=midranks(ranked),
        length_ranks=midranks(sums.lengths),
        decile_edges=length_deciles(sums.lengths),
    )
    return spec, resolved_share(ranked) if sums.count > 1 else 1.0


def rough(resolved: float) -> list[str]:
    """The report's warning about scores that are too close together for their bins."""
    if resolved >= RESOLVED_ENOUGH:
        return []
    return [f"the scores lie so close together that ranks and quantiles are rough ({resolved:.0%} resolved)"]


def _emit(
    plan: Plan, spec: SampleSpec, selection: Selection, captured: CaptureTotals, cluster: Cluster, timings: Timings
) -> EmitTotals:
    totals = EmitTotals(bins=HISTOGRAM_BINS)
    scores = zip(plan.shards, selection.sums.files, strict=True)
    made = {shard.name: Made(captured.captured[shard.name], file) for shard, file in scores}
    timeout = plan.job.worker_timeout
    run_emit(spec, plan.shards, selection.quotas, made, totals, timings, cpus=cluster.cpus, timeout=timeout)
    return totals
