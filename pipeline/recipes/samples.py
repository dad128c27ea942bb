"""Methods that score samples, from top to bottom: LARF's layer, the vectors, the fit, the output. Where the methods
need none of the corpus to be fitted (planning/order.py): the references, the fit, the scores, the output.

Every stage skips the work that an earlier, interrupted run of the same job has done. To resume, run again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from tamis.operators.methods import Csa
from tamis.operators.methods.protocol import CORPUS, Artifact
from tamis.operators.methods.request_side import UNSAFE
from tamis.operators.statistics.lengths import length_deciles
from tamis.operators.statistics.ranks import midranks, rank_edges, resolved_share
from tamis.pipeline.capture.scored import scored_key, scoring
from tamis.pipeline.capture.spec import SCORED, STAGE
from tamis.pipeline.capture.stage import Timings, run_capture
from tamis.pipeline.capture.totals import CaptureTotals
from tamis.pipeline.cluster.machines import Cluster
from tamis.pipeline.cluster.session import ray_session
from tamis.pipeline.emit.groups import groups_of, larger_share
from tamis.pipeline.emit.publish import ROUGH, publish
from tamis.pipeline.emit.samples import Made, SampleSpec
from tamis.pipeline.emit.stage import run_emit
from tamis.pipeline.emit.totals import EmitTotals
from tamis.pipeline.emit.trust_figures import trust_figures
from tamis.pipeline.fit.consensus import CARRIED
from tamis.pipeline.fit.demonstrations import NO_REFERENCES, OF_ARTIFACT, sealed_in, write_demonstrations
from tamis.pipeline.fit.drift import check_majority, drift_of, select_at, statistics_of
from tamis.pipeline.fit.grouped_cut import cut
from tamis.pipeline.fit.mean_ranks import with_ranks
from tamis.pipeline.fit.reference_tests import FROZEN, Capture, reference_tests
from tamis.pipeline.fit.scores import (
    ScoreSpec,
    ScoreSums,
    Selection,
    load_artifacts,
    rank_histogram,
    score_shards,
)
from tamis.pipeline.inputs.originals import output_schema
from tamis.pipeline.inputs.shards import Shard, role_of
from tamis.pipeline.job.job_file import Job
from tamis.pipeline.job.sections import RANKS
from tamis.pipeline.layers import find as layers
from tamis.pipeline.planning.frozen_job import frozen_facts, other_device
from tamis.pipeline.planning.order import writes_scores
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.recipes.fitting import fit_plan, save, sources_of
from tamis.pipeline.recipes.further_models import Further, capture_further, joint
from tamis.pipeline.run import folder as run_folder
from tamis.pipeline.run import incomplete, receipts
from tamis.pipeline.run.frozen import Frozen, FrozenCut, freeze
from tamis.pipeline.run.lease import Held
from tamis.pipeline.run.mending import check_output, until_whole
from tamis.pipeline.storage.store import Sealed, Store
from tamis.pipeline.terminal.progress import Progress, phase, waiting
from tamis.pipeline.terminal.voice import say

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
    plan, captured, decided = made.plan, made.captured, made.decided
    notes = [*plan.warnings, *sorted(captured.fallbacks)[:1], *rough(made.resolved), *made.said]
    if plan.artifact is not None:
        notes += other_device(captured.precisions, plan.artifact.frozen.facts.device)
    files = [*decided.files]
    searched = layers.beside(store, plan)
    if searched is not None:
        files += layers.publish(store, searched)
        notes += searched["warnings"] if plan.layers is not None else []
    return publish(
        store, plan, decided.artifacts, files, decided.selection, made.spec, captured, made.emitted, timings, notes,
        searched, decided.drift, decided.groups, made.trust,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Decided:
    """captured: with the rows that CSA's further models could not score. artifacts, files: of the methods. drift: from
    the corpus of the job's artifact. groups: of rows that have cuts of their own. tests: of the methods, on references
    that their fit has not seen."""

    captured: CaptureTotals
    artifacts: dict[str, Artifact]
    files: list[dict[str, Any]]
    selection: Selection
    drift: dict[str, Any] | None
    groups: list[dict[str, Any]]
    tests: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class _Made:
    """The results of a run when its output is written. plan: without the failed shards. resolved: how much of the
    scores' order their bins preserve (0..1). trust: the figures that test the filter. said: by CSA of its further
    models."""

    plan: Plan
    captured: CaptureTotals
    decided: _Decided
    spec: SampleSpec
    resolved: float
    emitted: EmitTotals
    trust: dict[str, Any]
    said: list[str]


def _make(plan: Plan, store: Store, cluster: Cluster, held: Held, timings: Timings) -> _Made:
    """The captures, the fit, the output. DamagedError if a file is not as an earlier stage or command wrote it."""
    # The captured vectors depend on the block, however it was chosen.
    key = run_folder.captures_key(plan.fingerprint, [request.column for request in plan.requests])
    plan, further = capture_further(plan, store, cluster, timings)
    fitted = None
    if _scores_first(plan, store, key):
        fitted = _fit_references(plan, store, key, cluster, timings)
        key = scored_key(key, fitted.sealed)
        start = scoring(plan, store, key, fitted.sealed)
        captured = run_capture(plan, store, key, cluster, timings, plan.shards, SCORED, start, fitted.references)
    else:
        captured = run_capture(plan, store, key, cluster, timings, [*plan.fit_shards, *plan.shards])
    plan = plan.without(captured.failed)
    if not plan.shards:
        incomplete.refuse(plan.failed)
    key = incomplete.key_without(key, [*plan.failed, *captured.drawn_failed])
    decided = _fit(plan, store, key, captured, timings, fitted, further)
    captured = decided.captured
    selection = decided.selection
    # The key covers which row goes where, not only the capture settings: if a capture was made again on another
    # machine, the whole output is made again.
    key = run_folder.key_of({"captured": key, "decided": selection.digest})
    phase("emit", "making room for the output, and ranking the scores")
    incomplete.make_room(store, key, plan.failed, fingerprint=plan.fingerprint, contested=held.contested)
    schema = output_schema(plan.schema, captured.seen_schema()).serialize().to_pybytes()
    spec, resolved = emit_spec(plan.job, store, key, tuple(plan.methods), selection, schema)
    emitted = _emit(plan, spec, selection, captured, cluster, timings)
    phase("publish", "comparing every written file with its receipt")
    check_output(store, [*emitted.files, *decided.files], [shard.name for shard in plan.shards])
    trust = _figures(plan, store, decided.tests, selection, emitted, timings, sealed_in(decided.files))
    said = [warning for each in further for warning in each.warnings]
    return _Made(plan, captured, decided, spec, resolved, emitted, trust, said)


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


# --- the references first -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Fitted:
    """What is known before the corpus is captured. references: the totals of their capture. files: of the artifact, as
    for a manifest."""

    references: CaptureTotals
    artifacts: dict[str, Artifact]
    files: list[dict[str, Any]]

    @property
    def sealed(self) -> list[Sealed]:
        return [Sealed(file["name"], file["sha256"]) for file in self.files]


def _scores_first(plan: Plan, store: Store, key: str) -> bool:
    """Whether the corpus pass writes scores. A run whose vectors were begun goes on with them."""
    if not writes_scores(plan):
        return False
    begun = next(receipts.done(store, STAGE, plan.shards, key), None) is not None
    if begun:
        say("capture: goes on with vectors, as an earlier command has begun")
    return not begun


def _fit_references(plan: Plan, store: Store, key: str, cluster: Cluster, timings: Timings) -> _Fitted:
    """The artifacts of methods that need no more of the corpus than rows drawn from it: those of the job's artifact, or
    fitted to the references and these rows."""
    began = time.monotonic()
    if plan.artifact is not None:
        frozen = plan.artifact.frozen
        return _Fitted(CaptureTotals(), dict(frozen.artifacts), frozen.copy_to(store))
    references = run_capture(plan, store, key, cluster, {}, plan.fit_shards, said="references")
    # A fit without rows that could not be captured is not the one that a later command makes with them.
    key = incomplete.key_without(key, references.drawn_failed)
    artifacts = load_artifacts(store, key)
    if artifacts is None:
        progress = Progress("fit", len(plan.fit_shards), unit="shards", brief=True)
        artifacts = fit_plan(plan, store, sources_of(plan, references), references, progress)
        progress.finish()
    files = save(plan, store, key, artifacts)
    timings["references"] = {"seconds": time.monotonic() - began}
    return _Fitted(references, artifacts, files)


# --- fit ----------------------------------------------------------------------------------------------------------


def _fit(
    plan: Plan,
    store: Store,
    key: str,
    captured: CaptureTotals,
    timings: Timings,
    fitted: _Fitted | None,
    further: Sequence[Further],
) -> _Decided:
    """fitted: where the captured tables hold scores by it, in place of vectors. further: models besides, for CSA."""
    began = time.monotonic()
    phase("fit", "looking for what is done already")
    sources = sources_of(plan, captured, plan.shards)
    steps = sum(
        len(sources.get(role, ()))
        for name, method in plan.methods.items()
        for role in [role_of(name, source) for source in method.sources()] or [CORPUS]
    )
    frozen = plan.artifact.frozen if plan.artifact is not None else None
    # The artifact of an interrupted run is used again, because part of its output was written with it.
    if fitted is not None:
        artifacts: dict[str, Artifact] | None = fitted.artifacts
    else:
        artifacts = load_artifacts(store, key) if frozen is None else dict(frozen.artifacts)
    progress = Progress("fit", len(plan.shards) + (steps if artifacts is None else 0), unit="shards")
    if artifacts is None:
        artifacts = fit_plan(plan, store, sources, captured, progress)
    if fitted is not None:
        files = list(fitted.files)
    else:
        files = save(plan, store, key, artifacts) if frozen is None else frozen.copy_to(store)
    control, ready = seed_of(plan.job), fitted is not None
    by = plan.job.selected_by
    first = scored_by(by, plan.methods)
    carried = CARRIED if further else ()
    spec = ScoreSpec(store, plan.methods, artifacts, first, control, plan.max_tokens, ready=ready, carried=carried)
    sums = score_shards(spec, plan.shards, sources[CORPUS], progress.advance)
    tests = _tests(plan, store, captured, artifacts, timings, scored=ready)
    vectors = captured
    if further:
        own = artifacts[Csa.name]
        found = joint(plan, spec, sums, captured, own, further)
        sums, captured = found.sums, found.captured
        artifacts = {**artifacts, Csa.name: replace(own, facts={**own.facts, **found.facts})}
        files += found.files
    sums = ranked(store, by, plan.methods, sums, control)
    drift, groups = None, list[dict[str, Any]]()
    if frozen is None:
        with waiting("fit", f"finding the exact cut of {sums.count:,} scores"):
            selection, groups = cut(plan.job, store, sums, plan.shards)
        if not plan.failed:  # else the cut is not that of the whole corpus
            files.append(_freeze(plan, store, artifacts, files, captured, selection, tests))
        # Of the pass of the job's own model: the tables of a mean over several have no requests.
        files += _demonstrations(plan, store, vectors, timings)
    else:
        selection = select_at(frozen.facts.cut, store, sums)
        drift = _drift(plan, store, frozen, captured, selection)
    progress.finish()
    seconds = time.monotonic() - began - timings.get("trust", {"seconds": 0.0})["seconds"]
    timings["fit"] = {"seconds": seconds, "rows_per_second": sums.count / max(seconds, 1e-9)}
    return _Decided(captured, artifacts, files, selection, drift, groups, tests)


def _demonstrations(plan: Plan, store: Store, captured: CaptureTotals, timings: Timings) -> list[dict[str, Any]]:
    """Write which rows are safety demonstrations; the file's entry. None without references to compare with."""
    if plan.requests_read is None:
        return []
    began = time.monotonic()
    role = role_of(plan.requests_read[0], UNSAFE)
    unsafe = [captured.captured[shard.name].file for shard in plan.reference_shards if shard.role == role]
    corpus = [(shard.name, captured.captured[shard.name].file) for shard in plan.shards]
    with waiting("fit", "looking for refusals of requests that look harmful"):
        written = write_demonstrations(store, store, plan.requests_read, unsafe, corpus)
    seconds = timings.get("trust", {"seconds": 0.0})["seconds"] + time.monotonic() - began
    timings["trust"] = {"seconds": seconds}
    return [written.to_receipt()]


def _freeze(
    plan: Plan,
    store: Store,
    artifacts: Mapping[str, Artifact],
    files: Sequence[Mapping[str, Any]],
    captured: CaptureTotals,
    selection: Selection,
    tests: list[dict[str, Any]],
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
        tests=tests,
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
        with_ids=job.sample_id,
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


def output_groups(
    job: Job, shards: Sequence[Shard], selection: Selection
) -> tuple[list[list[Shard]], Mapping[str, int]]:
    """Which shards share their files, and by the shard's name how many ties at the cut fall in it."""
    share = larger_share(selection.dropped, sum(shard.rows for shard in shards))
    quotas = {shard.name: quota for shard, quota in zip(shards, selection.quotas, strict=True)}
    return groups_of(shards, job.file_size, share=share), quotas


def rough(resolved: float) -> list[str]:
    """The report's warning about scores that are too close together for their bins."""
    if resolved >= RESOLVED_ENOUGH:
        return []
    return [f"{ROUGH} ({resolved:.0%} resolved)"]


def _emit(
    plan: Plan, spec: SampleSpec, selection: Selection, captured: CaptureTotals, cluster: Cluster, timings: Timings
) -> EmitTotals:
    totals = EmitTotals(bins=HISTOGRAM_BINS)
    scores = zip(plan.shards, selection.sums.files, strict=True)
    made = {shard.name: Made(captured.captured[shard.name], file) for shard, file in scores}
    timeout = plan.job.worker_timeout
    groups, quotas = output_groups(plan.job, plan.shards, selection)
    run_emit(spec, groups, quotas, made, totals, timings, cpus=cluster.cpus, timeout=timeout)
    return totals


# --- the test of the filter -----------------------------------------------------------------------------------------


def _tests(
    plan: Plan,
    store: Store,
    captured: CaptureTotals,
    artifacts: Mapping[str, Artifact],
    timings: Timings,
    *,
    scored: bool,
) -> list[dict[str, Any]]:
    """The methods on references that their fit has not seen; of an artifact that is applied, as it brings them. scored:
    the corpus pass wrote scores."""
    if plan.artifact is not None:
        brought = plan.artifact.frozen.facts.tests or [{"method": name, "untested": FROZEN} for name in plan.methods]
        return [{**test, "of_artifact": True} for test in brought]
    began = time.monotonic()
    captures: dict[str, list[Capture]] = {}
    for shard in [*plan.shards, *plan.reference_shards]:
        captures.setdefault(shard.role, []).append(Capture(captured.captured[shard.name].file, shard.rows))
    blocks, seed = plan.model_info.blocks, plan.job.seed
    with waiting("fit", "testing the methods on references that they have not seen"):
        found = reference_tests(store, plan.methods, blocks, artifacts, captures, seed, scored=scored)
    timings["trust"] = {"seconds": time.monotonic() - began}
    return found


def _figures(
    plan: Plan,
    store: Store,
    tests: list[dict[str, Any]],
    selection: Selection,
    emitted: EmitTotals,
    timings: Timings,
    demonstrations: Sealed | None,
) -> dict[str, Any]:
    began = time.monotonic()
    with waiting("publish", f"comparing what {len(plan.methods)} methods would drop"):
        why = NO_REFERENCES if plan.artifact is None else OF_ARTIFACT
        found = trust_figures(store, tuple(plan.methods), tests, selection, emitted, demonstrations, why)
    seconds = timings.get("trust", {"seconds": 0.0})["seconds"] + time.monotonic() - began
    timings["trust"] = {"seconds": seconds}
    return found
