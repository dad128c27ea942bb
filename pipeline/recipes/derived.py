"""What is made of a finished run without a model, from top to bottom: another cut (select.py), or other methods on its
vectors (from_kept.py). Here is what both do around their own work.

Nothing is written before every file of the run was compared with its manifest. An interrupted command goes on when it
is run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tamis.pipeline.capture.spec import Captured
from tamis.pipeline.capture.stage import Timings
from tamis.pipeline.cluster import metrics
from tamis.pipeline.cluster.machines import Cluster
from tamis.pipeline.cluster.session import ray_early, ray_session
from tamis.pipeline.emit import rivals
from tamis.pipeline.emit.samples import Made, SampleSpec
from tamis.pipeline.emit.stage import run_emit
from tamis.pipeline.emit.totals import EmitTotals
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.fit.scores import Selection, count_to_drop
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.job.job_file import Job
from tamis.pipeline.planning.cluster_scan import scan_on_cluster, worth_it
from tamis.pipeline.planning.plan import keep_apart, place_of
from tamis.pipeline.planning.reselection import files_of, shards_of
from tamis.pipeline.planning.scanning import scan_files
from tamis.pipeline.recipes.samples import HISTOGRAM_BINS, emit_spec, output_groups
from tamis.pipeline.run import folder as run_folder
from tamis.pipeline.run import incomplete, lease
from tamis.pipeline.run.mending import check_output, until_whole
from tamis.pipeline.run.parent import Parent, check_whole
from tamis.pipeline.run.paths import INCOMPLETE, MANIFEST
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import phase
from tamis.pipeline.terminal.voice import VOICE


@dataclass(frozen=True)
class Derived:
    """manifest: of the new output, which lies in `store`. did_nothing: it was there before this command."""

    manifest: Mapping[str, Any]
    store: Store
    did_nothing: bool


@dataclass(frozen=True, eq=False)
class Work:
    """One command's work on a new output. shards: those of the run. began: when the command did."""

    parent: Parent
    job: Job
    store: Store
    fingerprint: Mapping[str, Any]
    shards: Sequence[Shard]
    cluster: Cluster
    held: lease.Held
    timings: Timings
    began: float

    def theirs(self) -> dict[str, Any] | None:
        """The manifest, if another command has made this output meanwhile."""
        return run_folder.finished(self.store, self.fingerprint)


def derive(
    parent: Parent,
    job: Job,
    fingerprint: Mapping[str, Any],
    make: Callable[[Work], dict[str, Any]],
    *,
    address: str | None,
    began: float,
    notes: Mapping[str, str],
    captures: Sequence[Mapping[str, Any]] = (),
    check: Callable[[], None] = lambda: None,
) -> Derived:
    """Check the run and its input, then let `make` write the output and return its manifest. Raises TamisError.

    make: raises DamagedError where a file of the output is not as it was written; it is called again then. notes: what
    `tamis status` says of an unfinished output. captures: entries of the further files of the run that are read.
    """
    store = Store(job.output, job.storage_options)
    state = looked_at(parent, job, store, fingerprint)
    if state == "complete":
        store.remove(INCOMPLETE)  # what one that was killed after its manifest has left
        run_folder.remove_work(store)
        return Derived(run_folder.facts_in(store, MANIFEST), store, did_nothing=True)
    files = files_of(parent, job)
    spread = worth_it(files)
    with ray_early(address):
        # Ray starts while a small input is scanned; a large one is scanned by Ray.
        shards = [] if spread else shards_of(parent, files, job, scan_files)
        with ray_session(address) as cluster:
            shards = shards or shards_of(parent, files, job, scan_on_cluster)
            many = len(parent.files) + len(captures)
            phase(_stage(parent), f"comparing {many:,} files of the finished run with what it wrote")
            check_whole(parent, captures)
            check()
            timings: Timings = {
                "plan": {"seconds": time.monotonic() - began},
                "ray_start": {"seconds": cluster.seconds_to_start},
            }
            sizes = {"shards": len(shards), "reference_shards": 0, "rows": sum(shard.rows for shard in shards)}
            known = run_folder.begin(store, {"fingerprint": dict(fingerprint), **sizes, "masks_tokens": False, **notes})
            VOICE.of_run(known)
            with lease.held(store) as held, metrics.counting(known):
                work = Work(parent, job, store, fingerprint, shards, cluster, held, timings, began)
                try:
                    manifest = work.theirs() or until_whole(
                        store, lambda: make(work), over=lambda: work.theirs() is not None
                    )
                except Exception:
                    # Another driver may have finished this output, and removed the files that this one was reading.
                    theirs = work.theirs()
                    if theirs is None:
                        raise
                    manifest = theirs
    if manifest["complete"]:
        if held.contested:
            phase("publish", "settling with the other tamis whose report stays")
            manifest = rivals.agree(store)
        phase("publish", "removing what the stages left for each other")
        run_folder.remove_work(store, shared=held.contested)
    return Derived(manifest, store, did_nothing=False)


def looked_at(parent: Parent, job: Job, store: Store, fingerprint: Mapping[str, Any]) -> run_folder.State:
    """The state of the output folder. ConfigError for one that this output may not be written to, and for a cut that
    would drop too many of the run's rows."""
    _keep_apart(parent, job, store)
    phase(_stage(parent), "looking at the output folder and the input files")
    state = run_folder.state_of(store, fingerprint)
    if state != "complete" and job.selection.within is None and job.selection.rule[0] != "threshold":
        count_to_drop(job.selection, parent.scored)
    return state


def emit_again(
    work: Work,
    methods: Sequence[str],
    selection: Selection,
    inputs: Sequence[str],
    schema: bytes,
    beside: Sequence[Mapping[str, Any]],
) -> tuple[SampleSpec, float, EmitTotals]:
    """Write kept/, dropped/, quarantine/ and scores/ of a new cut: the spec, how much of the scores' order its bins
    preserve (0..1), and the totals. DamagedError if a file of the output is not as it was written.

    inputs: of each shard, the digest of the rows that were scored. schema: of kept/, serialised. beside: entries of
    what was written already.
    """
    store, job = work.store, work.job
    key = run_folder.key_of({**work.fingerprint, "decided": selection.digest})
    phase("emit", "making room for the output, and ranking the scores")
    incomplete.make_room(store, key, (), fingerprint=work.fingerprint, contested=work.held.contested)
    spec, resolved = emit_spec(job, store, key, tuple(methods), selection, schema)
    totals = EmitTotals(bins=HISTOGRAM_BINS)
    each = zip(work.shards, selection.sums.files, inputs, strict=True)
    made = {shard.name: Made(Captured(file, digest), file) for shard, file, digest in each}
    cpus, timeout = work.cluster.cpus, job.worker_timeout
    groups, quotas = output_groups(job, work.shards, selection)
    run_emit(spec, groups, quotas, made, totals, work.timings, cpus=cpus, timeout=timeout)
    phase("publish", "comparing every written file with its receipt")
    check_output(store, [*totals.files, *beside], [shard.name for shard in work.shards])
    return spec, resolved, totals


def kept_schema(parent: Parent) -> bytes:
    """The schema of kept/, serialised: that of the run, whatever falls."""
    found: bytes = parent.schema().serialize().to_pybytes()
    return found


def _stage(parent: Parent) -> str:
    return "select" if parent.said == "select" else "plan"


def _keep_apart(parent: Parent, job: Job, store: Store) -> None:
    """ConfigError for an output inside the run or the other way round, or where the input lies."""
    ours, theirs = place_of(store.url), place_of(parent.store.url)
    if ours == theirs:
        raise ConfigError(f"--output {job.output} is the finished run itself; choose another folder")
    if ours.startswith(theirs) or theirs.startswith(ours):
        raise ConfigError(f"--output {job.output} and {parent.store.path()} lie in each other; choose another folder")
    keep_apart(job)
    for entry in parent.manifest["input"]["files"]:
        if place_of(str(entry["url"])).startswith(ours):
            raise ConfigError(f"--output {job.output} holds {entry['path']}, which is input; choose another folder")
