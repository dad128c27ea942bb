"""`tamis curate --from OUT`, from top to bottom: methods fitted to the vectors that a finished run has kept, every row
of it scored, and a whole output of that.

No model is opened. The fit, the scores, the cut and the output are made by the stages that a fresh run has, over the
same shards and the same tree, so the scores are those of a fresh run whose forward passes give the same vectors. The
vectors are read a shard at a time; the driver holds none.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tamis.operators.methods import Larf, Method
from tamis.operators.methods.protocol import CORPUS, Artifact
from tamis.operators.methods.request_side import UNSAFE, read_of
from tamis.operators.requests import Request
from tamis.pipeline.capture.kept import Kept, kept_by
from tamis.pipeline.emit.reselected import Anew, publish_again
from tamis.pipeline.emit.trust_figures import trust_figures
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.fit.demonstrations import NO_REFERENCES, NOT_CAPTURED, sealed_in, write_demonstrations
from tamis.pipeline.fit.drift import statistics_of
from tamis.pipeline.fit.grouped_cut import cut
from tamis.pipeline.fit.reference_tests import Capture, reference_tests
from tamis.pipeline.fit.scores import ScoreSpec, ScoreSums, Selection, fit_methods, save_artifacts, score_shards
from tamis.pipeline.inputs.shards import role_of
from tamis.pipeline.job.methods import known
from tamis.pipeline.planning.frozen_job import without_input
from tamis.pipeline.planning.plan import methods_of
from tamis.pipeline.planning.refitting import (
    Read,
    Refitting,
    fingerprint_of,
    job_of_run,
    methods_given,
    reads_of,
    refitting_of,
    settings_like_fresh,
)
from tamis.pipeline.planning.reselection import files_of
from tamis.pipeline.recipes.derived import Derived, Work, derive, emit_again, kept_schema, looked_at
from tamis.pipeline.recipes.samples import frozen_cut, ranked, rough, scored_by, seed_of
from tamis.pipeline.run import folder as run_folder
from tamis.pipeline.run.folder import key_of
from tamis.pipeline.run.frozen import FrozenFacts, freeze
from tamis.pipeline.run.parent import Parent, named_damage, read_parent
from tamis.pipeline.run.paths import LAYERS, LAYERS_PAGE
from tamis.pipeline.storage.store import Sealed, Store
from tamis.pipeline.terminal.progress import Progress, at_work, phase, waiting
from tamis.pipeline.terminal.voice import say, warn_once

_BESIDE = ("code", "message", "n_tokens", "truncated")
"""Columns of the captures that the output needs of each row, besides the scores."""


@at_work()
def curate_kept(run: str, given: Mapping[str, Any], address: str | None = None) -> Derived:
    """Fit and cut anew what the finished run has captured, into another output folder. Raises TamisError.

    given: settings of the job that are not as the run had them, and output. Nothing is written before every file of the
    run, and every capture, was compared with what the run wrote.
    """
    began = time.monotonic()
    phase("plan", "reading the finished run")
    parent = read_parent(Store(run, given.get("storage_options") or {}), said="--from")
    kept = kept_by(parent)
    wanted = refitting_of(parent, given, kept.requests, kept.without)
    _say(parent, kept, wanted)
    return derive(
        parent,
        wanted.job,
        fingerprint_of(parent, wanted, kept.digest),
        lambda work: _make(work, wanted, kept),
        address=address,
        began=began,
        notes={"vectors_of": parent.store.path()},
        captures=kept.entries,
    )


@dataclass(frozen=True, eq=False)
class KeptPlan:
    """What `curate_kept` would do. rows: of the corpus. bytes: of the captures, which are compared and read. captured:
    of each row. reads: what the methods read of it, captured or not. wanted, state (of the output folder): None where
    `refused` says why it would fail."""

    parent: Parent
    rows: int
    bytes: int
    captured: tuple[Request, ...]
    reads: tuple[Read, ...]
    wanted: Refitting | None
    state: run_folder.State | None
    refused: ConfigError | None = None


@at_work()
def plan_kept(run: str, given: Mapping[str, Any]) -> KeptPlan:
    """What `curate_kept` would do with these settings, and which captured vectors it would read; nothing is written,
    and no vector is read. Raises TamisError for what is no run with kept vectors, or no job.

    A capture that is damaged is found by `curate_kept` alone.
    """
    phase("plan", "reading the finished run")
    parent = read_parent(Store(run, given.get("storage_options") or {}), said="--from")
    kept = kept_by(parent)
    size = sum(int(entry["bytes"]) for entry in kept.entries)
    found = KeptPlan(parent, kept.totals.rows, size, kept.requests, (), None, None)
    try:
        wanted = refitting_of(parent, given, kept.requests, kept.without)
        reads = reads_of(parent, wanted.methods, kept.requests)
        store = Store(wanted.job.output, wanted.job.storage_options)
        state = looked_at(parent, wanted.job, store, fingerprint_of(parent, wanted, kept.digest))
    except ConfigError as error:
        methods = methods_given(parent, given)
        return replace(found, reads=tuple(reads_of(parent, methods, kept.requests)), refused=error)
    if state != "complete":
        files_of(parent, wanted.job)
    return replace(found, reads=tuple(reads), wanted=wanted, state=state)


def _say(parent: Parent, kept: Kept, wanted: Refitting) -> None:
    """What will be done; all of it is known before anything is read or written."""
    blocks = int(parent.manifest["model"]["blocks"])
    reads = [
        f"{name} ({', '.join(f'block {each.block} at {each.position}' for each in method.requests(blocks))})"
        for name, method in wanted.methods.items()
    ]
    say(
        f"fitting {', '.join(reads)} to the vectors of {kept.totals.rows:,} rows that {parent.store.path()} has kept; "
        f"no model is opened; {wanted.job.selection.in_words}, by {wanted.job.selected_by}",
        stage="plan",
    )
    for note in wanted.notes:
        warn_once(note)


def _make(work: Work, wanted: Refitting, kept: Kept) -> dict[str, Any]:
    """Artifacts, scores, cut, output. DamagedError if a file of the output is not as it was written."""
    parent, store = work.parent, work.store
    began = time.monotonic()
    artifacts, sums = _fit(work, wanted, kept)
    with waiting("fit", f"finding the exact cut of {sums.count:,} scores"):
        selection, groups = cut(work.job, store, sums, work.shards)
    seconds = time.monotonic() - began
    work.timings["fit"] = {"seconds": seconds, "rows_per_second": sums.count / max(seconds, 1e-9)}
    tests = _tests(work, wanted, kept, artifacts)
    with named_damage(parent):
        beside, schema = _beside(work, wanted, kept, artifacts, selection, tests), kept_schema(parent)
        beside += _demonstrations(work, wanted, kept)
    inputs = [kept.totals.captured[shard.name].input for shard in work.shards]
    spec, resolved, emitted = emit_again(work, list(wanted.methods), selection, inputs, schema, beside)
    phase("publish", "gathering what the report says")
    missing = NO_REFERENCES if _requests_read(work, wanted) is None else NOT_CAPTURED
    found = sealed_in(beside)
    trust = trust_figures(store, list(wanted.methods), tests, selection, emitted, found, missing)
    work.timings["total"] = {"seconds": time.monotonic() - work.began}
    if (theirs := work.theirs()) is not None:
        return theirs
    anew = Anew(artifacts, _methods_of_run(parent), wanted.searched)
    return publish_again(
        store, parent, work.job, work.fingerprint, wanted.methods, list(work.shards), selection, spec,
        emitted, beside, work.timings, [*wanted.notes, *rough(resolved)], groups, trust, anew=anew,
    )  # fmt: skip


def _fit(work: Work, wanted: Refitting, kept: Kept) -> tuple[dict[str, Artifact], ScoreSums]:
    phase("fit", "reading the vectors of the finished run")
    parent, job, methods = work.parent, work.job, wanted.methods
    sources = {CORPUS: kept.files(CORPUS)} | {role: kept.files(there) for role, there in wanted.roles.items()}
    steps = sum(
        len(sources[role])
        for name, method in methods.items()
        for role in [role_of(name, source) for source in method.sources()] or [CORPUS]
    )
    control, longest = seed_of(job), int(parent.manifest["fingerprint"]["max_tokens"])
    progress = Progress("fit", len(work.shards) + steps, unit="shards")
    blocks = int(parent.manifest["model"]["blocks"])
    # The run may have captured much more, of many blocks, for its own methods.
    vectors = {request.column for method in methods.values() for request in method.requests(blocks)}
    with named_damage(parent):
        artifacts = fit_methods(parent.store, methods, blocks, sources, progress.advance)
        spec = ScoreSpec(
            work.store, methods, artifacts, scored_by(job.selected_by, methods), control, longest,
            captures=parent.store, carried=_BESIDE, vectors=tuple(sorted(vectors)),
        )  # fmt: skip
        sums = score_shards(spec, work.shards, sources[CORPUS], progress.advance)
    progress.finish()
    return artifacts, ranked(work.store, job.selected_by, methods, sums, control)


def _tests(work: Work, wanted: Refitting, kept: Kept, artifacts: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """The methods on references that their fit has not seen."""
    began = time.monotonic()
    roles = {CORPUS: CORPUS, **wanted.roles}
    captures = {
        role: [Capture(table.file, table.rows) for table in kept.tables[there]] for role, there in roles.items()
    }
    blocks = int(work.parent.manifest["model"]["blocks"])
    with waiting("fit", "testing the methods on references that they have not seen"), named_damage(work.parent):
        found = reference_tests(work.parent.store, wanted.methods, blocks, artifacts, captures, work.job.seed)
    work.timings["trust"] = {"seconds": time.monotonic() - began}
    return found


def _demonstrations(work: Work, wanted: Refitting, kept: Kept) -> list[dict[str, Any]]:
    """Write which rows are safety demonstrations; the file's entry. None without references to compare with, or where
    the run has captured no requests."""
    read = _requests_read(work, wanted)
    if read is None or kept.aside is None:
        return []
    unsafe = kept.files(wanted.roles[role_of(read[0], UNSAFE)])
    corpus = [(table.shard, table.file) for table in kept.tables[CORPUS]]
    with waiting("fit", "looking for refusals of requests that look harmful"):
        written = write_demonstrations(work.store, work.parent.store, (read[0], kept.aside), unsafe, corpus)
    return [written.to_receipt()]


def _requests_read(work: Work, wanted: Refitting) -> tuple[str, Request] | None:
    return read_of(wanted.methods, int(work.parent.manifest["model"]["blocks"]))


def _beside(
    work: Work,
    wanted: Refitting,
    kept: Kept,
    artifacts: Mapping[str, Artifact],
    selection: Selection,
    tests: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Write the artifact with its cut, and the search for LARF's block where it is theirs; the entries of the files."""
    store, parent, job = work.store, work.parent, work.job
    fresh = settings_like_fresh(parent, wanted)
    facts = {"key": key_of(work.fingerprint), "fingerprint": fresh, "blocks": int(parent.manifest["model"]["blocks"])}
    files = save_artifacts(store, artifacts, facts)
    dtype, _, device = kept.precision.partition(" on ")
    totals = kept.totals
    files.append(
        freeze(
            store,
            FrozenFacts(
                methods=tuple(artifacts),
                selected_by=job.selected_by,
                how=job.selection.in_words,
                cut=frozen_cut(job, selection),
                settings=without_input(fresh),
                dtype=dtype,
                device=device,
                model={name: parent.manifest["model"][name] for name in ("name", "revision")},
                template=parent.frozen.facts.template,
                statistics=statistics_of(store, artifacts, selection, totals.rows, totals.codes),
                tests=tests,
            ),
            files,
        )
    )
    of_search = [parent.files[name] for name in (LAYERS, LAYERS_PAGE) if wanted.searched and name in parent.files]
    for file in of_search:
        data = parent.store.read(Sealed(str(file["name"]), str(file["sha256"])))
        files.append(store.write(str(file["name"]), data).to_receipt())
    return files


def _methods_of_run(parent: Parent) -> dict[str, Method]:
    """The methods of the run, as they ran; without those that are not installed any more."""
    methods = methods_of(job_of_run(parent, [name for name in parent.methods if name in known()]))
    if isinstance(larf := methods.get("larf"), Larf):
        found = parent.frozen.artifacts["larf"].facts
        methods["larf"] = replace(larf, layer=found["layer"], layer_chosen=found["layer_chosen"])
    return methods
