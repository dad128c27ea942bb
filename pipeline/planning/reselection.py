"""What `tamis select` takes of a finished run instead of a plan: the job with another selection, and the same shards.

The files are those of the run's manifest, by their full addresses, so it does not matter where the command is started,
nor what has come into an input folder since.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.inputs.shards import CORPUS, Scanned, Shard, check_unchanged, make_shards
from tamis.pipeline.inputs.spans import Span
from tamis.pipeline.job.job_file import Job, load_job
from tamis.pipeline.job.methods import known
from tamis.pipeline.job.sections import RANKS
from tamis.pipeline.planning.fingerprint import FORM_KEYS, form_keys_of, selection_keys_of
from tamis.pipeline.run.folder import CERTIFICATE, SELECTED_FROM, of_selection
from tamis.pipeline.run.parent import Parent

_RULES = ("drop", "drop_count", "threshold")
_FORMAT = re.compile(r"(\w+)(?: \((\w+)\))?")
_THREADS = 16


@dataclass(frozen=True)
class Choice:
    """What is to fall of the scores of a run. Keys as in the job file's `selection`; None: as the run had it, but for
    `control` and `within`, which are never taken over. seed: of a control."""

    drop: float | None = None
    drop_count: int | None = None
    threshold: float | None = None
    by: str | None = None
    control: str | None = None
    within: str | None = None
    seed: int | None = None
    allow_majority: bool = False


def job_of(parent: Parent, choice: Choice, output: str) -> Job:
    """The run's job with this selection and output. ConfigError for a choice that its scores do not allow."""
    tree = dict(parent.manifest["job"])
    theirs = tree["selection"]
    by = choice.by or theirs.get("by")
    if choice.by is not None and choice.by not in {RANKS, *parent.methods}:
        raise ConfigError(
            f"--by {choice.by}: {parent.store.path()} has no scores of it; there are those of "
            f"{', '.join(parent.methods)}"
        )
    rule = {name: getattr(choice, name) for name in _RULES}
    allowed = choice.allow_majority
    if all(amount is None for amount in rule.values()):
        if parent.manifest.get("drift") is not None:
            raise ConfigError(
                "select: the run was cut at the score that its artifact brought, not by a rule of its own; add --drop, "
                f"--drop-count (there {parent.manifest['counts']['dropped']} rows fell) or --threshold"
            )
        rule = {name: theirs.get(name) for name in _RULES}
        allowed = allowed or bool(theirs.get("allow_majority"))
        if rule["threshold"] is not None and (by or parent.methods[0]) != parent.manifest["selected_by"]:
            raise ConfigError(
                f"--by {choice.by}: the run was cut at a threshold, which fits the scores of "
                f"{parent.manifest['selected_by']} only; add --drop, --drop-count or --threshold"
            )
    selection = {**rule, "by": by, "control": choice.control, "within": choice.within, "allow_majority": allowed}
    changed = {"output": output, "selection": selection, "keep_captures": False}
    # The cut is not that of an artifact that the run may have applied, and no night and no event belongs to it.
    changed |= dict.fromkeys(("artifact", "schedule", "lineage"))
    seed = tree["seed"] if choice.seed is None else choice.seed
    gone = [name for name in parent.methods if name not in known()]
    if gone:
        raise ConfigError(f"select: {parent.store.path()} used {gone[0]}, which is not installed here; install it")
    return load_job(None, {**tree, **changed, "seed": seed})


def fingerprint_of(parent: Parent, job: Job, certificate: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """That of the run, with the new selection, and with what the scores are. certificate: of the cut, as it is in the
    manifest: with other labels, the same threshold has another certificate."""
    of_run = parent.manifest["fingerprint"]
    theirs = {key: value for key, value in of_run.items() if not of_selection(key) and key not in FORM_KEYS}
    keys = {**theirs, **form_keys_of(job), **selection_keys_of(job), SELECTED_FROM: parent.digest}
    if certificate is not None:
        keys[CERTIFICATE] = hashlib.sha256(json.dumps(certificate, sort_keys=True).encode()).hexdigest()
    return keys


def frozen_settings(parent: Parent, job: Job) -> dict[str, Any]:
    """The settings of the artifact with the new cut: those that a fresh run would write."""
    theirs = {key: value for key, value in parent.frozen.facts.settings.items() if not of_selection(key)}
    return {**theirs, **selection_keys_of(job)}


def files_of(parent: Parent, job: Job) -> list[SourceFile]:
    """The run's input files. InputError, which names them, for those that are not as they were."""
    found = [_file(entry, job) for entry in parent.manifest["input"]["files"]]

    def problem(file: SourceFile) -> str | None:
        try:
            check_unchanged(Shard(0, CORPUS, file, (), Span(0, 0, 0, 0), {}), job.storage_options)
        except InputError as error:
            return error.problems[0] if error.problems else f"{file.name}: its size or its time has changed"
        return None

    with ThreadPoolExecutor(_THREADS) as pool:
        problems = [said for said in pool.map(problem, found) if said is not None]
    if problems:
        raise InputError(
            f"{parent.said}: {len(problems):,} of the input files of {parent.store.path()} are not as it has read "
            "them; put them back, or curate what is there now in a new output folder:",
            problems,
        )
    return found


def shards_of(
    parent: Parent, files: Sequence[SourceFile], job: Job, scan: Callable[[Sequence[SourceFile], Job], list[Scanned]]
) -> list[Shard]:
    """The run's shards, found again in its input. InputError if the rows do not lie as they did. scan: `scan_files`, or
    `scan_on_cluster` where Ray is running."""
    entries = {str(entry["path"]): entry for entry in parent.manifest["input"]["files"]}
    shards: list[Shard] = []
    for each in scan(files, job):
        shards.extend(make_shards(each, CORPUS, entries[each.file.name]["columns"], len(shards)))
    if tuple(shard.name for shard in shards) != parent.shards:
        raise InputError(
            f"{parent.said}: the rows of the input do not lie as {parent.store.path()} has found them (an input file "
            "has changed, or this is another version of tamis); curate them in a new output folder"
        )
    return shards


def _file(entry: Mapping[str, Any], job: Job) -> SourceFile:
    kind = _FORMAT.fullmatch(str(entry["format"]))
    if kind is None:
        raise ConfigError(f"select: the manifest names a file of the format {entry['format']!s:.20}, which is unknown")
    spec = job.input
    return SourceFile(
        url=str(entry["url"]),
        name=str(entry["path"]),
        format=kind[1],
        compression=kind[2],
        bytes=int(entry["bytes"]),
        identity=str(entry["identity"]),
        partition=str(entry.get("partition", "")),
        delimiter=spec.delimiter or "",
        quoting="" if spec.quoting == "auto" else spec.quoting,
        field=spec.field or "",
        encoding=spec.encoding or "",
        sha256=str(entry.get("sha256", "")),
    )
