"""`tamis select`, from top to bottom: a finished run, its scores cut anew, and a whole output of that cut.

No model is opened. The cut and the output are made by the stages that a fresh run has, so the same rows fall as in a
fresh run with these settings. Every step skips the work that an interrupted command has done; to resume, run it again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tamis.operators.methods import Larf, Method
from tamis.pipeline.emit.reselected import publish_again
from tamis.pipeline.emit.trust_figures import trust_figures
from tamis.pipeline.errors import ConfigError, InternalError
from tamis.pipeline.fit.demonstrations import NOT_CAPTURED, sealed_in
from tamis.pipeline.fit.drift import statistics_of
from tamis.pipeline.fit.grouped_cut import cut
from tamis.pipeline.fit.rescored import Rescored, RescoreSpec, Scored, check_scores, rescore
from tamis.pipeline.fit.scores import Selection
from tamis.pipeline.labels.certified import Certificate
from tamis.pipeline.planning.plan import methods_of
from tamis.pipeline.planning.reselection import Choice, fingerprint_of, frozen_settings, job_of
from tamis.pipeline.recipes.derived import Derived, Work, derive, emit_again, kept_schema
from tamis.pipeline.recipes.samples import frozen_cut, ranked, rough, scored_by, seed_of
from tamis.pipeline.run.frozen import freeze
from tamis.pipeline.run.parent import Parent, named_damage, read_parent
from tamis.pipeline.run.paths import ARTIFACT, QUARANTINE, SCORES
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import Progress, at_work, phase, waiting


@at_work()
def select(
    run: Store, choice: Choice, output: str, address: str | None = None, certificate: Certificate | None = None
) -> Derived:
    """Cut the scores of the finished run anew, into another output folder. Raises TamisError.

    Nothing is written before every file of the run was compared with its manifest. certificate: that the choice's
    threshold comes from, for the manifest.
    """
    began = time.monotonic()
    phase("select", "reading the finished run")
    parent = read_parent(run)
    job = job_of(parent, choice, output)
    job = job.model_copy(update={"storage_options": {**job.storage_options, **run.options}})
    fingerprint = fingerprint_of(parent, job, None if certificate is None else certificate.to_dict())
    notes = {"selected_from": run.path()}
    return derive(
        parent,
        job,
        fingerprint,
        lambda work: _make(work, certificate),
        address=address,
        began=began,
        notes=notes,
        check=lambda: _check_scores(parent),
    )


def _check_scores(parent: Parent) -> None:
    tables = [parent.table(SCORES, shard) for shard in parent.shards]
    with named_damage(parent):
        check_scores(parent.store, [table for table in tables if table is not None])


def _make(work: Work, certificate: Certificate | None) -> dict[str, Any]:
    """Scores, cut, output. DamagedError if a file of the output is not as it was written."""
    began = time.monotonic()
    parent, job, store = work.parent, work.job, work.store
    rescored = _rescore(work)
    with waiting("fit", f"finding the exact cut of {rescored.sums.count:,} scores"):
        selection, groups = cut(job, store, rescored.sums, work.shards)
    _compare(selection, certificate)
    statistics = statistics_of(store, parent.methods, selection, parent.manifest["counts"]["rows_in"], parent.codes())
    with named_damage(parent):
        beside, schema = _beside(work, selection, statistics), kept_schema(parent)
    work.timings["fit"] = {"seconds": time.monotonic() - began}
    spec, resolved, emitted = emit_again(work, parent.methods, selection, rescored.inputs, schema, beside)
    phase("publish", "gathering what the report says")
    # As the run has them, with where they were made: its own frozen facts do not say that an artifact brought them.
    tests = (parent.manifest.get("trust") or {}).get("tests") or []
    missing = ((parent.manifest.get("trust") or {}).get("demonstrations") or {}).get("missing") or NOT_CAPTURED
    demonstrations = sealed_in(beside)
    trust = trust_figures(store, parent.methods, tests, selection, emitted, demonstrations, missing)
    work.timings["total"] = {"seconds": time.monotonic() - work.began}
    if (theirs := work.theirs()) is not None:
        return theirs
    return publish_again(
        store, parent, job, work.fingerprint, _methods(work), list(work.shards), selection, spec,
        emitted, beside, work.timings, rough(resolved), groups, trust, certificate,
    )  # fmt: skip


def _compare(selection: Selection, certificate: Certificate | None) -> None:
    """InternalError if what falls is not what the certificate speaks of."""
    for part in certificate.parts if certificate is not None else ():
        kept = selection.sums.count - selection.dropped
        if part.best is None or part.best.kept.size != kept:
            raise InternalError(f"{kept:,} rows would be kept, and the certificate is of others; please report this")


def _rescore(work: Work) -> Rescored:
    phase("fit", "reading the scores of the finished run")
    parent, job, store = work.parent, work.job, work.store
    control, methods = seed_of(job), parent.methods
    longest = int(parent.frozen.facts.settings["max_tokens"])
    spec = RescoreSpec(store, parent.store, methods, scored_by(job.selected_by, methods), control, longest)
    scored = []
    for shard in work.shards:
        scores = parent.table(SCORES, shard.name)
        assert scores is not None, "the shards are those that have scores"
        set_aside = parent.table(QUARANTINE, shard.name)
        scored.append(Scored(shard.name, shard.file.name, shard.span.start_row, shard.rows, scores, set_aside))
    progress = Progress("fit", len(scored), unit="shards")
    with named_damage(parent):
        found = rescore(spec, scored, progress.advance)
    progress.finish()
    if not found.sums.count:
        raise ConfigError(f"select: no row of {parent.store.path()} has a score")
    return replace(found, sums=ranked(store, job.selected_by, methods, found.sums, control))


def _beside(work: Work, selection: Selection, statistics: dict[str, Any]) -> list[dict[str, Any]]:
    """Write the artifact with the new cut, and what else does not depend on it; the entries of these files."""
    store, parent, theirs = work.store, work.parent, work.parent.frozen.facts
    written = [store.write(file.name, parent.store.read(file)).to_receipt() for file in parent.beside()]
    names = {f"{ARTIFACT}/{name}" for name in parent.frozen.files}
    facts = replace(
        theirs,
        selected_by=work.job.selected_by,
        how=work.job.selection.in_words,
        cut=frozen_cut(work.job, selection),
        settings=frozen_settings(parent, work.job),
        statistics=statistics,
    )
    written.append(freeze(store, facts, [file for file in written if file["name"] in names]))
    return written


def _methods(work: Work) -> Mapping[str, Method]:
    """As they ran, for what they say of their artifacts."""
    methods = methods_of(work.job)
    if isinstance(larf := methods.get("larf"), Larf):
        found = work.parent.frozen.artifacts["larf"].facts
        methods["larf"] = replace(larf, layer=found["layer"], layer_chosen=found["layer_chosen"])
    return methods
