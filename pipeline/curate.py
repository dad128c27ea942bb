"""The main job, from top to bottom: plan, choose LARF's layer, capture, fit, emit, publish.

Every stage skips what an earlier, interrupted run of the same job has done, so resuming is running again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis.operators.lengths import length_deciles
from tamis.operators.methods.protocol import CORPUS, Artifact
from tamis.operators.schema import conflicts
from tamis.operators.spearman import midranks, rank_edges, resolved_share
from tamis.pipeline import layers, receipts, run_folder
from tamis.pipeline.capture import capture, capture_spec
from tamis.pipeline.emit import EmitSpec, emit, output_schema
from tamis.pipeline.engine import Cluster, ray_session, size_pool
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.fit import (
    ScoreSpec,
    Selection,
    fit_methods,
    load_artifacts,
    rank_histogram,
    save_artifacts,
    score_shards,
    select,
)
from tamis.pipeline.job import Job
from tamis.pipeline.plan import Plan, make_plan
from tamis.pipeline.progress import Progress
from tamis.pipeline.publish import publish
from tamis.pipeline.receipts import WORK
from tamis.pipeline.sources import Shard
from tamis.pipeline.store import Store
from tamis.pipeline.totals import CaptureTotals, EmitTotals

HISTOGRAM_BINS = 80
RESOLVED_ENOUGH = 0.95
Timings = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Outcome:
    """manifest: of the finished run. did_nothing: it was finished before this command."""

    manifest: Mapping[str, Any]
    did_nothing: bool


def curate(job: Job, address: str | None = None, on_plan: Callable[[Plan, str], None] | None = None) -> Outcome:
    """Run `job` to its end and return its manifest. Raises TamisError.

    on_plan: called with the plan and the state of the output folder before anything expensive starts.
    """
    began = time.monotonic()
    store = Store(job.output, job.storage_options)
    plan = make_plan(job)
    state = run_folder.state_of(store, plan.fingerprint)
    plan = layers.settled(store, plan)
    if on_plan is not None:
        on_plan(plan, state)
    if state == "complete":
        _remove_leftovers(store)
        return Outcome(store.read_json(run_folder.MANIFEST), did_nothing=True)
    if state == "new":
        sizes = {
            "shards": len(plan.shards),
            "reference_shards": len(plan.reference_shards),
            "rows": plan.rows,
        }
        run_folder.begin(store, {"fingerprint": dict(plan.fingerprint), **sizes})
    timings: Timings = {"plan": {"seconds": time.monotonic() - began}}

    with ray_session(address) as cluster:
        timings["ray_start"] = {"seconds": cluster.seconds_to_start}
        plan = _choose_layer(plan, store, cluster, timings)
        # What is captured depends on the block, wherever it comes from.
        key = run_folder.key_of({**plan.fingerprint, "requests": [request.column for request in plan.requests]})
        captured = _capture(plan, store, key, cluster, timings)
        artifacts, artifact_files, selection = _fit(plan, store, key, timings)
        spec, resolved = _emit_spec(plan, store, key, captured, selection)
        emitted = _emit(plan, spec, selection, cluster, timings)

    timings["total"] = {"seconds": time.monotonic() - began}
    notes = [*plan.warnings, *_schema_notes(captured)]
    if resolved < RESOLVED_ENOUGH:
        notes.append(f"the scores lie so close together that ranks and quantiles are rough ({resolved:.0%} resolved)")
    searched = layers.beside(store, plan)
    if searched is not None:
        artifact_files += layers.publish(store, searched)
        notes += searched["warnings"] if plan.layers is not None else []
    manifest = publish(
        store, plan, artifacts, artifact_files, selection, spec, captured, emitted, timings, notes, searched
    )
    if not job.keep_captures:
        store.remove(WORK)
    return Outcome(manifest, did_nothing=False)


def _remove_leftovers(store: Store) -> None:
    """Of a run that was killed between its manifest and the end; captures that it was asked to keep stay."""
    if not store.read_json(run_folder.MANIFEST)["job"]["keep_captures"]:
        store.remove(WORK)


# --- LARF's layer -------------------------------------------------------------------------------------------------


def _choose_layer(plan: Plan, store: Store, cluster: Cluster, timings: Timings) -> Plan:
    if plan.layers is None or not plan.unsettled:
        return plan
    began = time.monotonic()
    layers.publish(store, layers.find(store, plan.layers, cluster))
    timings["layers"] = {"seconds": time.monotonic() - began}
    return layers.settled(store, plan)


# --- capture ------------------------------------------------------------------------------------------------------


def _capture(plan: Plan, store: Store, key: str, cluster: Cluster, timings: Timings) -> CaptureTotals:
    shards = [*plan.reference_shards, *plan.shards]
    totals = CaptureTotals()
    finished = set()
    for receipt in receipts.done(store, "capture", shards, key):
        totals.add(receipt, new=False)
        finished.add(receipt["shard"])
    left = [shard for shard in shards if shard.name not in finished]
    _check_quarantine(plan, totals)
    if left:
        pool = size_pool(cluster, plan.job.workers, plan.job.model.device, plan.job.model.gpus_per_worker)
        spec = capture_spec(plan.job, plan.model, store, key, pool, plan.max_tokens, plan.requests)
        rows = sum(shard.rows for shard in shards)
        progress = Progress("capture", rows, skipped=rows - sum(shard.rows for shard in left))
        began = time.monotonic()
        for receipt in capture(spec, left, pool):
            totals.add(receipt, new=True)
            progress.advance(receipt["rows"], receipt["tokens"])
            _check_precision(store, totals)
            _check_quarantine(plan, totals)
        progress.finish()
        timings["model_load"] = {"seconds": totals.load_seconds}
        timings["capture"] = {
            "seconds": totals.seconds,
            "rows_per_second": totals.new_rows / max(totals.seconds, 1e-9),
            "tokens_per_second": totals.new_tokens / max(totals.seconds, 1e-9),
            "forward_seconds": totals.forward_seconds,
            "wall_seconds": time.monotonic() - began,
        }
    if totals.rows != plan.rows:
        raise InputError(f"{totals.rows:,} rows were captured of {plan.rows:,}; run the same command again")
    return totals


def _check_precision(store: Store, totals: CaptureTotals) -> None:
    """`auto` may mean another number format on another machine; vectors of two formats are not to be compared."""
    if len(totals.precisions) > 1:
        raise ConfigError(
            f"output: {store.path()} was begun in another precision ({' and '.join(sorted(totals.precisions))}); go on "
            "where it was begun, set model.dtype and model.device alike, or choose another output folder"
        )


def _check_quarantine(plan: Plan, totals: CaptureTotals) -> None:
    """Fail as soon as it is certain, not at the end of the night."""
    if totals.bad_references:
        lines = [f"{rows} × {code}" for code, rows in totals.bad_references.most_common()]
        raise InputError("reference rows could not be captured:", lines)
    if totals.quarantined > plan.job.max_quarantined * plan.rows:
        lines = [
            f"{rows:,} × {code}: {totals.messages[code]} (e.g. {', '.join(totals.examples[code])})"
            for code, rows in totals.codes.most_common()
        ]
        raise InputError(
            f"{totals.quarantined:,} of {plan.rows:,} rows ({totals.quarantined / plan.rows:.1%}) cannot be used, "
            f"above max_quarantined ({plan.job.max_quarantined:.1%}); mend them, "
            "or raise max_quarantined and run again:",
            lines,
        )


# --- fit ----------------------------------------------------------------------------------------------------------


def _fit(
    plan: Plan, store: Store, key: str, timings: Timings
) -> tuple[dict[str, Artifact], list[dict[str, Any]], Selection]:
    began = time.monotonic()
    sources: dict[str, Sequence[Shard]] = {CORPUS: plan.shards}
    for role in {shard.role for shard in plan.reference_shards}:
        sources[role] = [shard for shard in plan.reference_shards if shard.role == role]
    steps = sum(len(sources[source]) for method in plan.methods.values() for source in method.sources() or (CORPUS,))
    # An interrupted run's artifact is used again: part of its output was written with it.
    artifacts = load_artifacts(store, key)
    progress = Progress("fit", len(plan.shards) + (steps if artifacts is None else 0), unit="shards")
    if artifacts is None:
        artifacts = fit_methods(store, plan.methods, plan.model_info.blocks, sources, progress.advance)
    facts = {"key": key, "fingerprint": dict(plan.fingerprint), "blocks": plan.model_info.blocks}
    files = save_artifacts(store, artifacts, facts)
    control = plan.job.seed if plan.job.selection.control is not None else None
    spec = ScoreSpec(store, plan.methods, artifacts, plan.job.selected_by, control, plan.max_tokens)
    sums = score_shards(spec, plan.shards, progress.advance)
    selection = select(plan.job, store, plan.shards, sums)
    progress.finish()
    seconds = time.monotonic() - began
    timings["fit"] = {"seconds": seconds, "rows_per_second": sums.count / max(seconds, 1e-9)}
    return artifacts, files, selection


# --- emit ---------------------------------------------------------------------------------------------------------


def _emit_spec(
    plan: Plan, store: Store, key: str, captured: CaptureTotals, selection: Selection
) -> tuple[EmitSpec, float]:
    """The spec, and how much of the scores' order their bins preserve (0..1)."""
    sums = selection.sums
    bin_edges = rank_edges(sums.low, sums.high)
    ranked = rank_histogram(store, plan.shards, plan.job.selected_by, bin_edges)
    low, high = sums.low, max(sums.high, np.nextafter(np.float32(sums.low), np.float32(np.inf)))
    spec = EmitSpec(
        store=store,
        options=plan.job.storage_options,
        key=key,
        schema=output_schema(plan.schema, captured.seen_schema()).serialize().to_pybytes(),
        methods=tuple(plan.methods),
        decided_by=plan.job.selected_by,
        control=plan.job.selection.control,
        threshold=selection.threshold,
        scored=sums.count,
        edges=np.linspace(float(low), float(high), HISTOGRAM_BINS + 1),
        rank_edges=bin_edges,
        score_ranks=midranks(ranked),
        length_ranks=midranks(sums.lengths),
        decile_edges=length_deciles(sums.lengths),
    )
    return spec, resolved_share(ranked) if sums.count > 1 else 1.0


def _emit(plan: Plan, spec: EmitSpec, selection: Selection, cluster: Cluster, timings: Timings) -> EmitTotals:
    began = time.monotonic()
    totals = EmitTotals(HISTOGRAM_BINS)
    finished = set()
    for receipt in receipts.done(spec.store, "emit", plan.shards, spec.key):
        totals.add(receipt)
        finished.add(receipt["shard"])
    left = [(s, q) for s, q in zip(plan.shards, selection.quotas, strict=True) if s.name not in finished]
    progress = Progress("emit", plan.rows, skipped=totals.rows)
    for receipt in emit(spec, [s for s, _ in left], [q for _, q in left], min(1.0, cluster.cpus)):
        totals.add(receipt)
        progress.advance(receipt["rows"])
    progress.finish()
    seconds = time.monotonic() - began
    timings["emit"] = {
        "seconds": seconds,
        "rows_per_second": sum(s.rows for s, _ in left) / max(seconds, 1e-9),
    }
    return totals


def _schema_notes(captured: CaptureTotals) -> list[str]:
    schema = captured.seen_schema()
    mixed = conflicts(schema) if schema is not None else ()
    return [
        f"column {path} holds values of different types; in kept/ each is text (strings as they are, the rest as JSON)"
        for path in mixed
    ]
