"""The main job: the plan, then the stages of its methods (recipes/samples.py or recipes/tokens.py), in its own output
folder.

Only modules that every job needs are imported up here. So errors in a job or its input are reported at once, and Ray
starts while torch is imported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tamis.pipeline.cluster import metrics
from tamis.pipeline.cluster.machines import Cluster
from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.cluster.session import cluster_now, joins, ray_early
from tamis.pipeline.cluster.waiting import wait_for_room
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.inputs.files import Inputs, SourceFile
from tamis.pipeline.inputs.shards import Scanned
from tamis.pipeline.job.job_file import Job
from tamis.pipeline.job.methods import known
from tamis.pipeline.planning import plan_cache
from tamis.pipeline.planning.cluster_scan import scan_on_cluster, worth_it
from tamis.pipeline.planning.frozen_job import with_artifact
from tamis.pipeline.planning.plan import Plan, list_inputs, make_plan
from tamis.pipeline.planning.plan_cache import KnownRows
from tamis.pipeline.planning.scanning import scan_files
from tamis.pipeline.run import folder as run_folder
from tamis.pipeline.run import lease, paths
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import at_work, phase
from tamis.pipeline.terminal.voice import VOICE, say_workers

if TYPE_CHECKING:
    from tamis.pipeline.capture.stage import Timings

_LISTING, _LOOKING = "looking for the input files", "looking at the output folder"


@dataclass(frozen=True)
class Outcome:
    """manifest: of the finished run. did_nothing: it was finished before this command."""

    manifest: Mapping[str, Any]
    did_nothing: bool


@at_work()
def train_references(
    job: Job, address: str | None = None, on_plan: Callable[[Plan, str], None] | None = None
) -> list[dict[str, Any]]:
    """Train TOSS's reference models and stop there: a run of the same job uses them. Returns their facts.

    Raises TamisError; ConfigError for a job whose method has no reference models.
    """
    if not job.masks_tokens:
        with_models = " or ".join(name for name, item in known().items() if item.kind.models)
        raise ConfigError(f"method: {', '.join(job.method)} needs no reference models; set method: {with_models}")
    with _opened(job, address, on_plan) as (store, plan, state):
        if state == "complete":
            found: list[dict[str, Any]] = run_folder.facts_in(store, paths.MANIFEST)["references"]
            return found
        from tamis.pipeline.recipes import tokens as toss

        with lease.held(store):
            try:
                found = [item.facts for item in toss.train_references(plan, store, address)]
            except Exception:
                if run_folder.finished(store, plan.fingerprint) is None:
                    raise
    theirs = run_folder.finished(store, plan.fingerprint)
    if theirs is not None:  # another driver has finished the whole run meanwhile
        found = theirs["references"]
        run_folder.clear_work(store, job.keep_captures, shared=True)
    return found


@at_work()
def curate(
    job: Job,
    address: str | None = None,
    on_plan: Callable[[Plan, str], None] | None = None,
    inputs: Inputs | None = None,
) -> Outcome:
    """Run `job` to its end and return its manifest. Raises TamisError.

    on_plan: called with the plan and the state of the output folder before anything expensive starts. inputs: those of
    the job's input files that are meant; default: all.
    """
    began = time.monotonic()
    with _opened(job, address, on_plan, inputs) as (store, plan, state):
        if state == "complete":
            _remove_leftovers(store)
            return Outcome(run_folder.facts_in(store, paths.MANIFEST), did_nothing=True)
        from tamis.pipeline.emit import lineage

        timings: Timings = {"plan": {"seconds": time.monotonic() - began}}
        run = run_folder.run_id(store, plan.fingerprint) or ""
        with lease.held(store) as held, metrics.counting(run), lineage.events(plan, store, run) as ended:
            try:
                found = run_folder.finished(store, plan.fingerprint)
                manifest = found or _run(plan, store, address, held, timings, began)
            except Exception:
                # Another driver may have finished this run, and removed the files that this one was reading.
                theirs = run_folder.finished(store, plan.fingerprint)
                if theirs is None:
                    raise
                manifest = theirs
            ended(manifest)
    if held.contested and manifest["complete"]:
        from tamis.pipeline.emit import rivals

        phase("publish", "settling with the other tamis whose report stays")
        manifest = rivals.agree(store)
    if manifest["complete"] and job.keep_captures != "vectors":
        phase("publish", "removing what the stages left for each other")
        run_folder.clear_work(store, job.keep_captures, shared=held.contested)
    return Outcome(manifest, did_nothing=False)


@at_work()
def dry_run(
    job: Job,
    address: str | None = None,
    show: int = 0,
    *,
    with_texts: bool = False,
    inputs: Inputs | None = None,
    rate: str | None = None,
) -> tuple[Plan, run_folder.State]:
    """The plan and the state of the output folder; nothing is written. If there is a cluster to join, a large input is
    scanned on it, and the plan says where the workers would run on it; otherwise where they would run on this machine,
    or on a cluster that is not here (planning/elsewhere.py). show, with_texts: as for make_plan. inputs: as for curate.
    rate: as for rate_of. Raises TamisError."""
    _refuse_all_nights(job, inputs)
    store = Store(job.output, job.storage_options)
    artifact = with_artifact(job)
    job = job if artifact is None else artifact.job
    _check_lineage(job)
    phase("plan", _LISTING)
    listed, known = inputs or list_inputs(job), plan_cache.load(job)
    files = listed.files
    # Errors in the job are reported before a cluster is joined, unless the input is large.
    with ray_early(address, needed=joins(address) and worth_it(files, known)):
        scanned = _scan(files, job, known, cluster_now(address))
        plan = make_plan(job, scanned, show, found=listed, with_texts=with_texts, artifact=artifact)
        from tamis.pipeline.layers import find as layers
        from tamis.pipeline.planning.elsewhere import placed_without_cluster
        from tamis.pipeline.planning.forecast import foretold
        from tamis.pipeline.planning.placement import placed
        from tamis.pipeline.recipes import from_command

        phase("plan", _LOOKING)
        with from_command.naming_it(store, plan.job, plan.fingerprint):
            state = run_folder.state_of(store, plan.fingerprint, plan.changed)
        plan = layers.settled(store, plan)
        if state == "complete":
            return plan, state
        with ray_early(address, needed=joins(address)):
            cluster = cluster_now(address)
            plan = placed_without_cluster(plan) if cluster is None else placed(plan, cluster)
            return foretold(plan, rate, begun=state == "started"), state


def _check_lineage(job: Job) -> None:
    if job.lineage is not None:
        from tamis.pipeline.emit import lineage

        lineage.ready(job)


def _scan(
    files: Sequence[SourceFile], job: Job, known: Mapping[SourceFile, KnownRows], cluster: Cluster | None
) -> list[Scanned]:
    """Scan the input: on the cluster if it exists, has CPUs, and is worth it."""
    if cluster is None or not cluster.cpus or not worth_it(files, known):
        return scan_files(files, job, known)
    wait_for_room(Pool(1, min(1.0, cluster.cpus), 0.0, None, 1.0), job.cluster_patience, say_workers)
    return scan_on_cluster(files, job, known)


def _refuse_all_nights(job: Job, chosen: Inputs | None) -> None:
    """ConfigError for a job with a schedule whose files were not chosen: the files of all nights would be curated."""
    if job.schedule is not None and chosen is None:
        raise ConfigError(
            "schedule: `tamis curate` and `tamis plan` choose the files of a night, nothing else does; leave schedule "
            "out and set output"
        )


@contextmanager
def _opened(
    job: Job, address: str | None, on_plan: Callable[[Plan, str], None] | None, chosen: Inputs | None = None
) -> Iterator[tuple[Store, Plan, run_folder.State]]:
    """The output folder, claimed for this job; the plan; and the state that an earlier command left. Ray starts
    early."""
    _refuse_all_nights(job, chosen)
    store = Store(job.output, job.storage_options)
    artifact = with_artifact(job)
    job = job if artifact is None else artifact.job
    _check_lineage(job)
    phase("plan", _LISTING)
    listed, known = chosen or list_inputs(job), plan_cache.load(job)
    files = listed.files
    needed = not store.exists(paths.MANIFEST)
    spread = needed and worth_it(files, known)
    # Errors in a small input are reported before Ray starts, and errors in the job before a cluster is joined. A large
    # input is scanned by Ray.
    inputs = None if spread else scan_files(files, job, known)
    with ray_early(address, needed=spread or (needed and not joins(address))):
        if inputs is None:
            inputs = _scan(files, job, known, cluster_now(address))
        plan = make_plan(job, inputs, found=listed, artifact=artifact)
        from tamis.pipeline.layers import find as layers
        from tamis.pipeline.planning.placement import placed
        from tamis.pipeline.recipes import from_command

        phase("plan", _LOOKING)
        with from_command.naming_it(store, plan.job, plan.fingerprint):
            state = run_folder.state_of(store, plan.fingerprint, plan.changed)
        plan = layers.settled(store, plan)
        if job.masks_tokens and state != "complete":
            from tamis.pipeline.references.prepare import check_given

            phase("plan", "looking at the reference models that the job names")
            check_given(plan)
        with ray_early(address, needed=needed and joins(address)):
            cluster = cluster_now(address)
            # In a run that was begun, all work of the model may be done already. If not, workers that do not fit are
            # refused when that work starts.
            if cluster is not None:
                plan = placed(plan, cluster, refuse=state == "new")
            if state == "complete":
                VOICE.of_run(run_folder.facts_in(store, paths.MANIFEST).get("run_id"))
            if on_plan is not None:
                on_plan(plan, state)
            if state != "complete":
                sizes = {
                    "shards": len(plan.shards),
                    "reference_shards": len(plan.fit_shards),
                    "drawn_shards": len(plan.fit_shards) - len(plan.reference_shards),
                    "rows": plan.rows,
                    "masks_tokens": job.masks_tokens,
                }
                VOICE.of_run(run_folder.begin(store, {"fingerprint": dict(plan.fingerprint), **sizes}))
            if state != "complete":
                plan_cache.keep(store, job, plan.shards)
                plan.opened.keep(store)
            yield store, plan, state


def _run(
    plan: Plan, store: Store, address: str | None, held: lease.Held, timings: Timings, began: float
) -> dict[str, Any]:
    if plan.job.masks_tokens:
        from tamis.pipeline.recipes.tokens import curate_tokens

        return curate_tokens(plan, store, address, held, timings, began)
    from tamis.pipeline.recipes.samples import curate_samples

    return curate_samples(plan, store, address, held, timings, began)


def _remove_leftovers(store: Store) -> None:
    """Remove the leftovers of a run that was killed after its manifest; captures stay if the job keeps them."""
    store.remove(paths.INCOMPLETE)
    run_folder.clear_work(store, run_folder.facts_in(store, paths.MANIFEST)["job"]["keep_captures"])
