"""One night of a schedule: which files it curates, and the run over them.

One tamis at a time works under a root: it holds the lease on the root from the first look at the earlier nights to the
manifest. So no two nights can take the same file, and a claim that is found is of a night that has stopped.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tamis.pipeline.curate import Outcome, curate, dry_run
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.inputs.files import NOTHING_UNREAD, Inputs, SourceFile
from tamis.pipeline.job.job_file import Job
from tamis.pipeline.job.schedule import ScheduleSpec
from tamis.pipeline.nights.artifacts import Choice, choose_artifact
from tamis.pipeline.nights.content import hashed, sha256_of
from tamis.pipeline.nights.coverage import Entry, Sorted, Twin, sort_files, worth_hashing
from tamis.pipeline.nights.runs import Claim, Run, below, read_refits, read_runs, write_claim
from tamis.pipeline.planning.plan import Plan, list_inputs
from tamis.pipeline.run import folder as run_folder
from tamis.pipeline.run import lease
from tamis.pipeline.run.paths import ARTIFACTS, MANIFEST, RUN, WORK
from tamis.pipeline.storage.addresses import is_local_url, open_filesystem
from tamis.pipeline.storage.store import Store

_NAMED = 5
"""The most files that one line names."""


@dataclass(frozen=True)
class Night:
    """What a night is about to do.

    name: of its folder. state: finished if its manifest is there; resumed if it goes on with what it took before.
    inputs: the files to curate, in the order of the corpus, and what to say of them. listing: how all files were
    sorted; None if it is finished. waiting: of a resumed night, the new files that it leaves to the next one. facts:
    for the manifest.
    """

    name: str
    state: str
    inputs: Inputs
    listing: Sorted | None
    artifact: Choice
    facts: Mapping[str, Any]
    waiting: tuple[SourceFile, ...] = ()


def curate_night(
    job: Job,
    address: str | None,
    on_night: Callable[[Night], None],
    on_plan: Callable[[Plan, str], None] | None = None,
) -> Outcome | None:
    """Curate what is new tonight. None if nothing is.

    on_night: called before anything expensive starts. Raises TamisError; ConfigError if another tamis is at work under
    the root, or if this night's files were taken by another one; InputError for a file that has changed.
    """
    spec = _schedule_of(job)
    with lease.held(Store(spec.root, job.storage_options)):
        night = look(job)
        on_night(night)
        store = Store(job.output, job.storage_options)
        if night.state == "finished":
            return Outcome(run_folder.facts_in(store, MANIFEST), did_nothing=True)
        _refuse(spec, night)
        if not night.inputs.files:
            return None
        if night.state == "new":
            night = _with_refit(job, night, address)
            night = replace(night, inputs=replace(night.inputs, files=hashed(night.inputs.files, job.storage_options)))
        entries = [Entry.of(file, night.name) for file in night.inputs.files]

        def claim(plan: Plan, state: str) -> None:
            if on_plan is not None:
                on_plan(plan, state)
            if state != "complete":
                store.check_writable(WORK)
                write_claim(store, entries, night.facts)

        return curate(_job_of(job, night), address, claim, _with_facts(night))


def plan_night(
    job: Job,
    address: str | None,
    on_night: Callable[[Night], None],
    show: int = 0,
    *,
    with_texts: bool = False,
    rate: str | None = None,
) -> tuple[Plan, run_folder.State] | None:
    """What `curate_night` would do; nothing is written. None if there is nothing to plan. Raises as it does."""
    spec = _schedule_of(job)
    night = look(job)
    on_night(night)
    if night.state == "finished":
        return None
    _refuse(spec, night)
    if not night.inputs.files:
        return None
    if night.artifact.refit:
        from tamis.pipeline.nights.refit import gather

        gather(*_nights_to_fit(job, night))  # what would be missing is said now
    mine, inputs = _job_of(job, night), _with_facts(night)
    return dry_run(mine, address, show, with_texts=with_texts, inputs=inputs, rate=rate)


def look(job: Job) -> Night:
    """What there is to do tonight. Writes nothing. Raises ConfigError or InputError."""
    spec = _schedule_of(job)
    root = Store(spec.root, job.storage_options)
    if root.exists(MANIFEST) or root.exists(RUN):
        raise ConfigError(f"schedule.root: {root.path()} is itself the output of a run; name a folder above it")
    runs = read_runs(root, spec.name.count("/") + 1)
    mine = next((run for run in runs if run.name == spec.night), None)
    others = [run for run in runs if run.name != spec.night]
    if mine is not None and mine.finished:
        return Night(spec.night, "finished", Inputs([], NOTHING_UNREAD, ()), None, Choice(None), {})
    listed = list_inputs(job)
    listed = replace(listed, files=named(listed.files, job.input.path, job.storage_options))
    finished = sorted((run for run in others if run.finished), key=lambda run: (run.created, run.name))
    curated = [entry for run in finished for entry in run.curated]

    def sha256(file: SourceFile) -> str:
        return sha256_of(file, job.storage_options)

    if mine is not None and mine.claim is not None:
        return _resumed(mine, mine.claim, others, listed, curated, sha256, job.storage_options)
    listed = replace(listed, files=_hashed_where_needed(listed.files, curated, job.storage_options))
    found = sort_files(listed.files, curated, sha256, spec.night)
    again = found.changed if spec.changed == "again" else ()
    wanted = {twin.file for twin in again} | set(found.new)
    files = [file for file in listed.files if file in wanted]
    unfinished = [run for run in others if not run.finished]
    taken_over = _taken_over(files, unfinished)
    artifact = choose_artifact(spec, others, read_refits(root))
    said = _notes(found, again, unfinished, taken_over)
    facts = {
        "date": spec.date.isoformat(),
        "name": spec.night,
        "artifact": job.artifact or artifact.name,
        "covered": len(found.covered),
        "touched": [_said(twin) for twin in found.touched],
        "duplicates": [_said(twin) for twin in found.duplicates],
        "again": [{**_said(twin), "sha256": ""} for twin in again],
        "taken_over": list(taken_over),
        "not_counted": {run.name: run.why for run in unfinished},
        "notes": said,
    }
    inputs = replace(listed, files=files, notes=(*listed.notes, *said))
    return Night(spec.night, "new", inputs, found, artifact, facts)


def _hashed_where_needed(
    files: Sequence[SourceFile], curated: Sequence[Entry], options: Mapping[str, Any]
) -> list[SourceFile]:
    """The files, with a hash where only that tells whether they are new."""
    wanted = worth_hashing(files, curated)
    known = dict(zip(wanted, hashed(wanted, options), strict=True))
    return [known.get(file, file) for file in files]


def superseded(mine: Run, others: Iterable[Run]) -> str | None:
    """The night that has taken the files which this unfinished one had taken; None if there is none."""
    claimed = {(e.url, e.bytes, e.identity) for e in mine.claim.entries} if mine.claim is not None else set()
    for run in others:
        if mine.name in run.taken_over:
            return run.name
        if run.finished and claimed & {(e.url, e.bytes, e.identity) for e in run.curated}:
            return run.name
    return None


def _resumed(
    mine: Run,
    claim: Claim,
    others: Sequence[Run],
    listed: Inputs,
    curated: Sequence[Entry],
    sha256: Callable[[SourceFile], str],
    options: Mapping[str, Any],
) -> Night:
    """The night goes on with the files that it has taken. ConfigError if another night has them by now, or if one is
    gone or has changed."""
    taken_by = superseded(mine, others)
    if taken_by is not None:
        raise ConfigError(
            f"night {mine.name} did not end, and night {taken_by} has taken its files; nothing is curated twice. "
            f"Delete the folder {mine.name}, which counts for nothing"
        )
    claimed = {entry.url: entry for entry in claim.entries}
    files = [
        replace(file, sha256=claimed[file.url].sha256)
        for file in listed.files
        if file.url in claimed and _is_still(file, claimed[file.url], sha256)
    ]
    missing = sorted(claimed.keys() - {file.url for file in files})
    if missing:
        raise ConfigError(
            f"night {mine.name} was begun with files that are gone or have changed since: {_names(missing)}. The next "
            f"night takes what is there as it is; or delete the folder {mine.name} and run this one again"
        )
    rest = [file for file in listed.files if file.url not in claimed]
    rest = _hashed_where_needed(rest, [*curated, *claim.entries], options)
    found = sort_files(rest, [*curated, *claim.entries], sha256, mine.name)
    waiting = (*found.new, *(twin.file for twin in found.changed))
    facts = dict(claim.night)
    name = facts.get("artifact")
    inputs = replace(listed, files=files, notes=(*listed.notes, *facts.get("notes", ())))
    return Night(
        mine.name, "resumed", inputs, replace(found, new=tuple(files), changed=()), Choice(name), facts, waiting
    )


def _is_still(file: SourceFile, entry: Entry, sha256: Callable[[SourceFile], str]) -> bool:
    if entry.is_same(file):
        return True
    return not file.identity and file.bytes == entry.bytes and sha256(file) == entry.sha256


# --- the job of the night -----------------------------------------------------------------------------------------


def _schedule_of(job: Job) -> ScheduleSpec:
    if job.schedule is None:
        raise ConfigError("schedule: the job has none")
    return job.schedule


def _job_of(job: Job, night: Night) -> Job:
    """The job with the night's artifact."""
    if night.artifact.name is None or job.artifact is not None:
        return job
    root = Store(_schedule_of(job).root, job.storage_options)
    return job.model_copy(update={"artifact": below(root, night.artifact.name).path()})


def _with_facts(night: Night) -> Inputs:
    return replace(night.inputs, night=night.facts)


def _with_refit(job: Job, night: Night, address: str | None) -> Night:
    """The night with a new artifact, if one is due."""
    if not night.artifact.refit:
        return night
    from tamis.pipeline.nights.refit import refit

    root = Store(_schedule_of(job).root, job.storage_options)
    name = f"{ARTIFACTS}/{night.name.replace('/', '-')}"
    refit(*_nights_to_fit(job, night), below(root, name), address)
    return replace(night, artifact=Choice(name), facts={**night.facts, "artifact": name})


def _nights_to_fit(job: Job, night: Night) -> tuple[list[Store], list[Store]]:
    """The nights that a new artifact is fitted from, and all finished ones, which may have the references."""
    spec = _schedule_of(job)
    root = Store(spec.root, job.storage_options)
    finished = [run.name for run in read_runs(root, spec.name.count("/") + 1) if run.finished and run.drops]
    return [below(root, name) for name in night.artifact.used_by], [below(root, name) for name in finished]


def _refuse(spec: ScheduleSpec, night: Night) -> None:
    """InputError for files that have changed since a night curated them, unless they are curated again."""
    if night.state != "new" or night.listing is None or spec.changed == "again" or not night.listing.changed:
        return
    raise InputError(
        f"{len(night.listing.changed):,} of the input files have changed since a night curated them, and their rows "
        "would be there twice. Put new rows into new files, or set schedule.changed: again to curate these whole once "
        "more, and leave the earlier night's rows of them out yourself:",
        [f"{twin.file.name}: curated by night {twin.entry.run}" for twin in night.listing.changed],
    )


def named(files: Sequence[SourceFile], paths: Sequence[str], options: Mapping[str, Any]) -> list[SourceFile]:
    """The files with names that are the same every night: below the folders that `paths` name, whatever else lies
    there; whole addresses where these have no folder in common. The names in a listing depend on what it holds, and
    sample ids on the names."""
    places = [_place(path, options) for path in paths]
    whole = {_address(file.url) for file in files}
    folders = [posixpath.dirname(place) if place in whole else _fixed(place) for place in places]
    try:
        base = posixpath.commonpath(folders)
    except ValueError:  # a folder of this machine and a bucket
        base = ""
    if not base or not all(_address(file.url).startswith(f"{base.rstrip('/')}/") for file in files):
        return [replace(file, name=_address(file.url)) for file in files]
    return [replace(file, name=posixpath.relpath(_address(file.url), base)) for file in files]


def _place(path: str, options: Mapping[str, Any]) -> str:
    return str(open_filesystem(path, options)[1]).rstrip("/")


def _address(url: str) -> str:
    """The address without its scheme, as the drivers of object stores have paths."""
    return url.removeprefix("file://") if is_local_url(url) else url.partition("://")[2]


def _fixed(place: str) -> str:
    """The folder before the first part with a wildcard; a folder itself."""
    parts = place.split("/")
    wild = next((number for number, part in enumerate(parts) if set("*?[") & set(part)), None)
    return place if wild is None else "/".join(parts[:wild]) or "/"


# --- what is said of it -------------------------------------------------------------------------------------------


def _taken_over(files: Sequence[SourceFile], unfinished: Sequence[Run]) -> tuple[str, ...]:
    """The nights that were begun, have not ended, and lose files to this one."""
    mine = {file.url for file in files}
    return tuple(
        run.name for run in unfinished if run.claim is not None and mine & {entry.url for entry in run.claim.entries}
    )


def _said(twin: Twin) -> dict[str, Any]:
    """A file that was compared with a curated one, for the manifest."""
    file = Entry.of(twin.file, "", twin.entry.sha256)
    return {"path": twin.file.name, **file.to_dict(), "run": twin.entry.run, "of": twin.entry.url}


def _notes(found: Sorted, again: Sequence[Twin], unfinished: Sequence[Run], taken_over: Sequence[str]) -> list[str]:
    """What a person should know about why just these files are curated."""
    notes = []
    if found.duplicates:
        pairs = [f"{twin.file.name} (as {posixpath.basename(twin.entry.url)})" for twin in found.duplicates]
        notes.append(f"delivered twice, with the same bytes, and not curated again: {_names(pairs)}")
    if again:
        pairs = [f"{twin.file.name} (night {twin.entry.run})" for twin in again]
        notes.append(
            f"changed since a night curated them, and curated whole once more: {_names(pairs)}; the kept/ of that "
            "night still holds the rows that they had"
        )
    if found.unsure:
        names = list(dict.fromkeys(twin.file.name for twin in found.unsure))
        notes.append(
            f"as large as a file that was curated without a hash, so that a second delivery would not be seen: "
            f"{_names(names)}"
        )
    for run in unfinished:
        what = "its files are taken by this night" if run.name in taken_over else "it counts for nothing"
        notes.append(f"{run.name}: {run.why}; {what}")
    return notes


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"
