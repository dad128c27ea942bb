"""Finds the block that LARF reads where the job names none: by the search, or by the Fisher ratios of the references.

Both results stand side by side in OUT/artifact/layers.json and OUT/layers.html. The results of an earlier command with
the same settings are used again, even single cells.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from tamis.operators.generation.refusals import MARKERS
from tamis.operators.requests import Request
from tamis.operators.statistics.fisher import fisher_ratios
from tamis.operators.statistics.sensitivity import FACTORS, NEW_TOKENS
from tamis.pipeline.capture.driver import capture
from tamis.pipeline.capture.spec import capture_spec
from tamis.pipeline.capture.stage import shown_on
from tamis.pipeline.cluster.machines import Cluster
from tamis.pipeline.cluster.pools import Pool, pool_of, refit
from tamis.pipeline.cluster.session import cluster_now, joins, ray_early, ray_session
from tamis.pipeline.emit.publish import versions
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.fit.scores import read_features
from tamis.pipeline.inputs.shards import role_of
from tamis.pipeline.job.job_file import LayersJob
from tamis.pipeline.layers import result as layer_result
from tamis.pipeline.layers.result import Part
from tamis.pipeline.layers.search import STAGE, all_cells, search, search_spec
from tamis.pipeline.models.checks import check_files
from tamis.pipeline.planning.layer_plan import LayerPlan, plan_layers
from tamis.pipeline.planning.placement import placement_of
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.report import render_layers
from tamis.pipeline.run import folder as run_folder
from tamis.pipeline.run import lease, paths, receipts
from tamis.pipeline.run.mending import until_whole
from tamis.pipeline.storage.store import Sealed, Store
from tamis.pipeline.terminal.progress import Progress, at_work, phase
from tamis.pipeline.terminal.voice import VOICE, warn_once

FISHER = "fisher"
POSITIONS = ("last_token", "response_mean")


@dataclass(frozen=True)
class LayersOutcome:
    """result: the content of layers.json. did_nothing: the result existed before this command."""

    result: Mapping[str, Any]
    did_nothing: bool


@at_work()
def find_layers(
    job: LayersJob,
    address: str | None = None,
    on_plan: Callable[[LayerPlan, str], None] | None = None,
) -> LayersOutcome:
    """`tamis layers`: the search and the Fisher ratios. Raises TamisError.

    on_plan: called with the plan and the state of the output folder before anything expensive starts.
    """
    store = Store(job.output, job.storage_options)
    unknown = not store.exists(paths.LAYERS)
    # Errors in the job are reported before a cluster is joined; Ray on this machine starts meanwhile.
    with ray_early(address, needed=unknown and not joins(address)):
        phase("plan", "reading the references and the prompts")
        plan = plan_layers(job)
        phase("plan", "looking at the output folder")
        state = run_folder.layers_state_of(store, plan.search_keys, plan.fisher_keys)
        with ray_early(address, needed=joins(address) and known(store, plan) is None):
            return _find_layers(store, plan, state, address, on_plan)


def _find_layers(
    store: Store,
    plan: LayerPlan,
    state: run_folder.State,
    address: str | None,
    on_plan: Callable[[LayerPlan, str], None] | None,
) -> LayersOutcome:
    found, shared = known(store, plan), False
    if found is None and (cluster := cluster_now(address)) is not None:
        plan = replace(plan, placement=placement_of(plan.job, cluster, plan.parameters))
    if on_plan is not None:
        on_plan(plan, state)
    if found is None:
        if store.exists(paths.MANIFEST):
            raise ConfigError(
                f"output: {store.path()} holds a finished run; choose another output folder for other settings"
            )
        if state != "complete":
            VOICE.of_run(run_folder.begin(store, {"fingerprint": dict(plan.search_keys)}, paths.LAYERS_RUN))
        with lease.held(store) as held:
            result = _found_by_one(store, plan, address)
        shared = held.contested
    # Keep the work folder if a run in this folder still needs it.
    if not store.exists(paths.RUN) and not store.exists(paths.MANIFEST):
        run_folder.remove_work(store, shared=shared)
    return LayersOutcome(result if found is None else found, did_nothing=found is not None)


def _found_by_one(store: Store, plan: LayerPlan, address: str | None) -> dict[str, Any]:
    """The result, published. If two drivers work on it, the result of the driver that finishes first."""
    try:
        with ray_session(address) as cluster:
            result = find(store, plan, cluster)
    except Exception:
        theirs = known(store, plan)
        if theirs is None:
            raise
        return theirs
    theirs = known(store, plan)
    if theirs is None:
        publish(store, result)
    return theirs or result


def settled(store: Store, plan: Plan) -> Plan:
    """The plan of a run with LARF's block filled in, if the block is known by now."""
    if plan.layers is None or (result := known(store, plan.layers)) is None:
        return plan
    settled = plan.with_layer(result["chosen"]["block"], result["chosen"]["how"])
    if settled.parameters is None:
        return settled
    # The search loads the whole model; the later stages load fewer blocks.
    blocks = max(request.block for request in settled.requests) + 1
    return replace(settled, parameters=check_files(plan.opened, blocks, head=False))


def beside(store: Store, plan: Plan) -> dict[str, Any] | None:
    """The search that a finished run shows: its own, or one that is in the folder although the job names a block."""
    if plan.layers is not None:
        return known(store, plan.layers)
    return run_folder.read_layers(store)


def known(store: Store, plan: LayerPlan) -> dict[str, Any] | None:
    """The result for `plan`, if the folder holds all parts of it."""
    searched, ratios = _parts(store, plan)
    if ratios is None or (plan.prompts is not None and searched is None):
        return None
    return {**run_folder.layers_in(store), **_combined(plan, searched, ratios)}


def find(store: Store, plan: LayerPlan, cluster: Cluster) -> dict[str, Any]:
    """Compute the parts that are not known yet. The result is not written."""
    searched, ratios = _parts(store, plan)
    pool = pool_of(cluster, plan.job)
    # The faster method first, so that errors of the model show early.
    if ratios is None:
        ratios = until_whole(store, partial(_fisher, store, plan, pool), over=lambda: known(store, plan) is not None)
    if searched is None and plan.prompts is not None:
        searched = _search(store, plan, pool)
    model, spec = plan.model, plan.job.model
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {
            "name": spec.name,
            "revision": model.source.revision,
            "architecture": model.info.architecture,
            "blocks": model.info.blocks,
            "width": model.info.width,
            "dtype": spec.dtype,
            "device": spec.device,
            "chat_template": model.tokenizer.has_template,
        },
        **_combined(plan, searched, ratios),
        "versions": versions(),
    }


def _combined(plan: LayerPlan, searched: Part | None, ratios: Part | None) -> dict[str, Any]:
    result = layer_result.combine(plan.wanted.layer, searched, ratios)
    return {**result, "warnings": [*plan.warnings, *result["warnings"]]}


def publish(store: Store, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Write the page, then the JSON file, whose presence means that the search is finished. Returns their entries for
    the manifest."""
    page = store.write(paths.LAYERS_PAGE, render_layers(result).encode())
    return [page.to_dict(), store.write_facts(paths.LAYERS, result).to_dict()]


def _parts(store: Store, plan: LayerPlan) -> tuple[Part | None, Part | None]:
    """The parts of an earlier result (search, Fisher ratios) that were found with the settings of this plan."""
    result = run_folder.read_layers(store)
    if result is None:
        return None, None
    searched, ratios = layer_result.part_of(result, "search"), layer_result.part_of(result, "fisher")
    # If only Fisher ratios are wanted, a search is shown for comparison: the folder has checked that the model agrees.
    if searched is not None and plan.prompts is not None and searched.facts["fingerprint"] != dict(plan.search_keys):
        searched = None
    if ratios is not None and ratios.facts["fingerprint"] != dict(plan.fisher_keys):
        ratios = None
    return searched, ratios


# --- the search ---------------------------------------------------------------------------------------------------


def _search(store: Store, plan: LayerPlan, pool: Pool) -> Part:
    assert plan.prompts is not None
    began = time.monotonic()
    phase(STAGE, "looking for what is done already")
    key = run_folder.key_of(plan.search_keys)
    blocks = plan.model.info.blocks
    cells = all_cells(blocks)
    done = {receipt["cell"]: receipt for receipt in receipts.done(store, STAGE, cells, key)}
    left = [cell for cell in cells if cell.name not in done]
    if left:
        progress = Progress(STAGE, len(cells), unit="cells", skipped=len(done))
        spec = search_spec(plan.job, plan.wanted.markers, plan.model.source, pool)
        for receipt in search(
            spec,
            plan.prompts.texts,
            left,
            pool,
            store,
            key,
            resize=partial(refit, pool, plan.job),
            patience=plan.job.cluster_patience,
            on_wait=lambda what: progress.within(0.0, 0, what),
        ):
            done[receipt["cell"]] = receipt
            _check_precision(store, done.values())
            progress.advance(1)
        progress.finish()
    counts = {
        (cell.block, cell.factor): int(done[cell.name]["refusals"])
        for cell in cells
        if cell.block is not None and cell.factor is not None
    }
    facts = {
        "fingerprint": dict(plan.search_keys),
        "prompts": {"name": plan.prompts.name, "count": len(plan.prompts.texts), "sha256": plan.prompts.digest},
        "markers": [*MARKERS, *plan.wanted.markers],
        "factors": list(FACTORS),
        "new_tokens": NEW_TOKENS,
        "unscaled": done["unscaled"]["refusals"],
        "unscaled_counts": sorted({receipt["unscaled"] for receipt in done.values()}),
        "precision": done["unscaled"]["precision"],
        "seconds": {
            "wall": time.monotonic() - began,
            "cells": sum(receipt["seconds"] for receipt in done.values()),
            "load": max(receipt["load_seconds"] for receipt in done.values()),
        },
    }
    return layer_result.search_part(counts, blocks, facts)


def _check_precision(store: Store, done: Iterable[Mapping[str, Any]]) -> None:
    """`auto` may mean another number format on another machine; a table must not mix two formats."""
    precisions = sorted({receipt["precision"] for receipt in done})
    if len(precisions) > 1:
        raise ConfigError(
            f"output: {store.path()} holds a layer search begun in another precision ({' and '.join(precisions)}); go "
            "on where it was begun, set model.dtype and model.device alike, or choose another output folder"
        )


# --- the Fisher ratios --------------------------------------------------------------------------------------------


def _fisher(store: Store, plan: LayerPlan, pool: Pool) -> Part:
    began = time.monotonic()
    phase(FISHER, "looking for what is done already")
    key = run_folder.key_of(plan.fisher_keys)
    # With their own numbering, so that a run can use the captures of `tamis layers`.
    shards = [replace(shard, index=number) for number, shard in enumerate(plan.references)]
    requests = [Request(block, position) for block in range(plan.model.info.blocks) for position in POSITIONS]
    done = list(receipts.done(store, FISHER, shards, key))
    left = [shard for shard in shards if shard.name not in {receipt["shard"] for receipt in done}]
    if left:
        rows = sum(shard.rows for shard in shards)
        progress = Progress(FISHER, rows, skipped=rows - sum(shard.rows for shard in left))
        spec = capture_spec(plan.job, plan.model.source, store, key, pool, plan.max_tokens, requests, FISHER)
        watched: dict[str, Any] = {"resize": partial(refit, pool, plan.job), "timeout": plan.job.worker_timeout}
        watched |= {"patience": plan.job.cluster_patience, "on_signs": shown_on(progress)}
        for receipt in capture(spec, plan.model.tokenizer, left, pool, **watched):
            done.append(receipt)
            if receipt.get("fallback") is not None:
                warn_once(receipt["fallback"])
            _check_precision(store, done)
            progress.advance(receipt["rows"], receipt["tokens"])
        progress.finish()
    lost = sum((Counter(receipt["quarantined"]) for receipt in done), Counter[str]())
    if lost and plan.prompts is None:
        lines = [f"{rows} × {code}" for code, rows in lost.most_common()]
        raise InputError("reference rows could not be captured:", lines)
    phase(FISHER, f"computing the ratios of {plan.model.info.blocks} blocks")
    files = {receipt["shard"]: Sealed(receipt["file"]["name"], receipt["file"]["sha256"]) for receipt in done}
    sets = plan.wanted.sets
    pieces = {
        name: [dict(read_features(store, files[shard.name])) for shard in shards if shard.role == role]
        for name in sets
        for role in [role_of(plan.wanted.method, name)]
    }
    # Popped, so that nothing is in memory twice: all blocks of a large model take a gigabyte.
    features = {}
    for request in requests:
        unsafe, safe = (np.concatenate([piece.pop(request.column) for piece in pieces[name]]) for name in sets)
        features[request.column] = (unsafe, safe)
    counts = dict(zip(sets, map(len, features[requests[0].column]), strict=True))
    ratios = fisher_ratios(features, plan.model.info.blocks)
    facts = {
        "fingerprint": dict(plan.fisher_keys),
        "references": counts,
        "left_out": lost.total(),
        "precision": done[0]["precision"],
        "seconds": {"wall": time.monotonic() - began},
    }
    return layer_result.fisher_part(ratios, facts)
