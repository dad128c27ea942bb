"""`tamis select`, from top to bottom: a finished run, its scores cut anew, and a whole output of that cut.

No model is opened. The cut and the output are made by the stages that a fresh run has, so the same rows fall as in a
fresh run with these settings. Every step skips the work that an interrupted command has done; to resume, run it again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tamis.operators.methods import Larf, Method
from tamis.pipeline.capture.spec import Captured
from tamis.pipeline.capture.stage import Timings
from tamis.pipeline.cluster import metrics
from tamis.pipeline.cluster.machines import Cluster
from tamis.pipeline.cluster.session import ray_early, ray_session
from tamis.pipeline.emit import rivals
from tamis.pipeline.emit.reselected import publish_again
from tamis.pipeline.emit.samples import Made, SampleSpec
from tamis.pipeline.emit.stage import run_emit
from tamis.pipeline.emit.totals import EmitTotals
from tamis.pipeline.emit.trust_figures import trust_figures
from tamis.pipeline.errors import ConfigError, InternalError
from tamis.pipeline.fit.drift import statistics_of
from tamis.pipeline.fit.grouped_cut import cut
from tamis.pipeline.fit.rescored import Rescored, RescoreSpec, Scored, rescore
from tamis.pipeline.fit.scores import Selection
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.job.job_file import Job
from tamis.pipeline.labels.certified import Certificate
from tamis.pipeline.planning.cluster_scan import scan_on_cluster, worth_it
from tamis.pipeline.planning.plan import keep_apart, methods_of, place_of
from tamis.pipeline.planning.reselection import Choice, files_of, fingerprint_of, frozen_settings, job_of, shards_of
from tamis.pipeline.planning.scanning import scan_files
from tamis.pipeline.recipes.samples import HISTOGRAM_BINS, emit_spec, frozen_cut, ranked, rough, scored_by, seed_of
from tamis.pipeline.run import folder as run_folder
from tamis.pipeline.run import incomplete, lease
from tamis.pipeline.run.frozen import freeze
from tamis.pipeline.run.mending import check_output, until_whole
from tamis.pipeline.run.parent import Parent, check_whole, named_damage, read_parent
from tamis.pipeline.run.paths import ARTIFACT, INCOMPLETE, MANIFEST, QUARANTINE, SCORES
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import Progress, at_work, phase, waiting
from tamis.pipeline.terminal.voice import VOICE


@dataclass(frozen=True)
class Selected:
    """manifest: of the new output, which lies in `store`. did_nothing: it was there before this command."""

    manifest: Mapping[str, Any]
    store: Store
    did_nothing: bool


@at_work()
def select(
    run: Store, choice: Choice, output: str, address: str | None = None, certificate: Certificate | None = None
) -> Selected:
    """Cut the scores of the finished run anew, into another output folder. Raises TamisError.

    Nothing is written before every file of the run was compared with its manifest. certificate: that the choice's
    threshold comes from, for the manifest.
    """
    began = time.monotonic()
    phase("select", "reading the finished run")
    parent = read_parent(run)
    job = job_of(parent, choice, output)
    job = job.model_copy(update={"storage_options": {**job.storage_options, **run.options}})
    store = Store(output, job.storage_options)
    _keep_apart(parent, job, store)
    fingerprint = fingerprint_of(parent, job, None if certificate is None else certificate.to_dict())
    phase("select", "looking at the output folder and the input files")
    state = run_folder.state_of(store, fingerprint)
    if state == "complete":
        store.remove(INCOMPLETE)  # what one that was killed after its manifest has left
        run_folder.remove_work(store)
        return Selected(run_folder.facts_in(store, MANIFEST), store, did_nothing=True)
    files = files_of(parent, job)
    spread = worth_it(files)
    with ray_early(address):
        # Ray starts while a small input is scanned; a large one is scanned by Ray.
        shards = [] if spread else shards_of(parent, files, job, scan_files)
        with ray_session(address) as cluster:
            shards = shards or shards_of(parent, files, job, scan_on_cluster)
            phase("select", f"comparing {len(parent.files):,} files of the finished run with its manifest")
            check_whole(parent)
            timings: Timings = {
                "plan": {"seconds": time.monotonic() - began},
                "ray_start": {"seconds": cluster.seconds_to_start},
            }
            sizes = {"shards": len(shards), "reference_shards": 0, "rows": sum(shard.rows for shard in shards)}
            begun = {"fingerprint": fingerprint, **sizes, "masks_tokens": False, "selected_from": run.path()}
            known = run_folder.begin(store, begun)
            VOICE.of_run(known)
            with lease.held(store) as held, metrics.counting(known):
                work = _Work(parent, job, store, fingerprint, shards, cluster, held, timings, began, certificate)
                try:
                    manifest = run_folder.finished(store, fingerprint) or work.run()
                except Exception:
                    # Another driver may have finished this selection, and removed the files that this one was reading.
                    theirs = run_folder.finished(store, fingerprint)
                    if theirs is None:
                        raise
                    manifest = theirs
    if manifest["complete"]:
        if held.contested:
            phase("publish", "settling with the other tamis whose report stays")
            manifest = rivals.agree(store)
        phase("publish", "removing what the stages left for each other")
        run_folder.remove_work(store, shared=held.contested)
    return Selected(manifest, store, did_nothing=False)


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


@dataclass(frozen=True, eq=False)
class _Work:
    """One command's work on a new selection. began: when the command did."""

    parent: Parent
    job: Job
    store: Store
    fingerprint: Mapping[str, Any]
    shards: Sequence[Shard]
    cluster: Cluster
    held: lease.Held
    timings: Timings
    began: float
    certificate: Certificate | None = None

    def run(self) -> dict[str, Any]:
        return until_whole(self.store, self._make, over=lambda: self._theirs() is not None)

    def _theirs(self) -> dict[str, Any] | None:
        return run_folder.finished(self.store, self.fingerprint)

    def _make(self) -> dict[str, Any]:
        """Scores, cut, output. DamagedError if a file of the output is not as it was written."""
        began = time.monotonic()
        rescored = self._rescore()
        with waiting("fit", f"finding the exact cut of {rescored.sums.count:,} scores"):
            selection, groups = cut(self.job, self.store, rescored.sums, self.shards)
        self._compare(selection)
        statistics = statistics_of(
            self.store, self.parent.methods, selection, self.parent.manifest["counts"]["rows_in"], self.parent.codes()
        )
        with named_damage(self.parent):
            beside, schema = self._beside(selection, statistics)
        self.timings["fit"] = {"seconds": time.monotonic() - began}
        key = run_folder.key_of({**self.fingerprint, "decided": selection.digest})
        phase("emit", "making room for the output, and ranking the scores")
        contested = self.held.contested
        incomplete.make_room(self.store, key, (), fingerprint=self.fingerprint, contested=contested)
        spec, resolved = emit_spec(self.job, self.store, key, self.parent.methods, selection, schema)
        emitted = self._emit(spec, selection, rescored)
        phase("publish", "comparing every written file with its receipt")
        check_output(self.store, [*emitted.files, *beside], [shard.name for shard in self.shards])
        phase("publish", "gathering what the report says")
        # As the run has them, with where they were made: its own frozen facts do not say that an artifact brought them.
        tests = (self.parent.manifest.get("trust") or {}).get("tests") or []
        trust = trust_figures(self.store, self.parent.methods, tests, selection, emitted)
        self.timings["total"] = {"seconds": time.monotonic() - self.began}
        if (theirs := self._theirs()) is not None:
            return theirs
        return publish_again(
            self.store, self.parent, self.job, self.fingerprint, self._methods(), list(self.shards), selection, spec,
            emitted, beside, self.timings, rough(resolved), groups, trust, self.certificate,
        )  # fmt: skip

    def _compare(self, selection: Selection) -> None:
        """InternalError if what falls is not what the certificate speaks of."""
        for part in self.certificate.parts if self.certificate is not None else ():
            kept = selection.sums.count - selection.dropped
            if part.best is None or part.best.kept.size != kept:
                raise InternalError(
                    f"{kept:,} rows would be kept, and the certificate is of others; please report this"
                )

    def _rescore(self) -> Rescored:
        phase("fit", "reading the scores of the finished run")
        control, methods = seed_of(self.job), self.parent.methods
        longest = int(self.parent.frozen.facts.settings["max_tokens"])
        spec = RescoreSpec(
            self.store, self.parent.store, methods, scored_by(self.job.selected_by, methods), control, longest
        )  # fmt: skip
        scored = []
        for shard in self.shards:
            scores = self.parent.table(SCORES, shard.name)
            assert scores is not None, "the shards are those that have scores"
            set_aside = self.parent.table(QUARANTINE, shard.name)
            scored.append(Scored(shard.name, shard.file.name, shard.span.start_row, shard.rows, scores, set_aside))
        progress = Progress("fit", len(scored), unit="shards")
        with named_damage(self.parent):
            found = rescore(spec, scored, progress.advance)
        progress.finish()
        if not found.sums.count:
            raise ConfigError(f"select: no row of {self.parent.store.path()} has a score")
        return replace(found, sums=ranked(self.store, self.job.selected_by, methods, found.sums, control))

    def _beside(self, selection: Selection, statistics: dict[str, Any]) -> tuple[list[dict[str, Any]], bytes]:
        """Write the artifact with the new cut, and what else does not depend on it; the entries of these files, and the
        schema of kept/."""
        store, parent, theirs = self.store, self.parent, self.parent.frozen.facts
        written = [store.write(file.name, parent.store.read(file)).to_receipt() for file in parent.beside()]
        names = {f"{ARTIFACT}/{name}" for name in parent.frozen.files}
        facts = replace(
            theirs,
            selected_by=self.job.selected_by,
            how=self.job.selection.in_words,
            cut=frozen_cut(self.job, selection),
            settings=frozen_settings(parent, self.job),
            statistics=statistics,
        )
        written.append(freeze(store, facts, [file for file in written if file["name"] in names]))
        return written, parent.schema().serialize().to_pybytes()

    def _emit(self, spec: SampleSpec, selection: Selection, rescored: Rescored) -> EmitTotals:
        totals = EmitTotals(bins=HISTOGRAM_BINS)
        each = zip(self.shards, selection.sums.files, rescored.inputs, strict=True)
        made = {shard.name: Made(Captured(file, digest), file) for shard, file, digest in each}
        cpus, timeout = self.cluster.cpus, self.job.worker_timeout
        run_emit(spec, self.shards, selection.quotas, made, totals, self.timings, cpus=cpus, timeout=timeout)
        return totals

    def _methods(self) -> dict[str, Method]:
        """As they ran, for what they say of their artifacts."""
        methods = methods_of(self.job)
        if isinstance(larf := methods.get("larf"), Larf):
            found = self.parent.frozen.artifacts["larf"].facts
            methods["larf"] = replace(larf, layer=found["layer"], layer_chosen=found["layer_chosen"])
        return methods
