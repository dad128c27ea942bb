"""The command that makes what a job wants of a finished run, where the folder that the job names holds that run, and
the vectors that it has kept suffice."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from pydantic import ValidationError

from tamis.pipeline.capture.kept import kept_by
from tamis.pipeline.errors import ConfigError, TamisError
from tamis.pipeline.job import strict_yaml
from tamis.pipeline.job.job_file import Job, load_job
from tamis.pipeline.job.methods import known, sections
from tamis.pipeline.job.sections import SelectionSpec
from tamis.pipeline.planning.fingerprint import NO_MATTER
from tamis.pipeline.planning.refitting import reads_the_same, refitting_of, settings_like_fresh
from tamis.pipeline.run.parent import Parent, read_parent
from tamis.pipeline.run.paths import MANIFEST
from tamis.pipeline.storage.store import Store

_NEW = "NEW"
_ELSEWHERE = (NO_MATTER - {"artifact", "schedule"}) | {"output", "selection"}
"""Settings that need not be the run's, or that are looked at by themselves."""
_NOT_TAKEN = {"by", "control", "within"}
"""Of the run's selection, what `curate --from` does not take over."""


@contextmanager
def naming_it(store: Store, job: Job, fingerprint: Mapping[str, Any]) -> Iterator[None]:
    """Around the look at the job's output folder: where it is refused because a finished run of other settings lies
    there, the error names the command that needs no model, if there is one. fingerprint: of the job, as a fresh run."""
    try:
        yield
    except ConfigError as error:
        command = None if job.masks_tokens or not store.exists(MANIFEST) else command_for(store, job, fingerprint)
        if command is None:
            raise
        # They may hold what must not be printed.
        also = ", with the storage_options of this job" if job.storage_options else ""
        said = f"its vectors suffice for this job, without the model: `{command}`{also}"
        raise ConfigError(*str(error).split("\n"), said) from None


def command_for(store: Store, job: Job, fingerprint: Mapping[str, Any]) -> str | None:
    """`tamis curate --from ... --output NEW`, ready to be run; None if the finished run in the folder, or what it has
    kept, does not allow that, or where rows, references or model are not what they were. fingerprint: of the job."""
    try:
        parent = read_parent(store, said="--from")
        kept = kept_by(parent)
        given = _differing(parent, job)
        wanted = refitting_of(parent, {**given, "output": _beside(store)}, kept.requests, kept.without)
    except (TamisError, ValidationError):  # a selection of another version; what is refused is said as ever
        return None
    fresh = settings_like_fresh(parent, wanted)
    if fingerprint == parent.manifest["fingerprint"] or not reads_the_same(fresh, fingerprint):
        return None
    return command_of(store.path(), given)


def command_of(run: str, given: Mapping[str, Any]) -> str:
    """The command that gives these settings, which are a tree of JSON values."""
    words = ["tamis", "curate", "--from", run, "--output", _NEW]
    for key, value in given.items():
        if key == "method":
            words += ["--method", ",".join(value)]
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                words += ["--set", f"{key}.{name}={_as_set(inner)}"]
        else:
            words += ["--set", f"{key}={_as_set(value)}"]
    return shlex.join(words)


def _differing(parent: Parent, job: Job) -> dict[str, Any]:
    """What this job has otherwise than the run, of all that its result depends on."""
    ours, theirs = job.model_dump(mode="json"), parent.manifest["job"]
    defaults = load_job(None, {name: ours[name] for name in ("input", "output", "model", "method")})
    usual = defaults.model_dump(mode="json")
    others = sections().keys() - {known()[name].kind.section_name() for name in job.method}
    found: dict[str, Any] = {}
    for key, value in ours.items():
        before = theirs.get(key, usual.get(key))
        if key in _ELSEWHERE or key in others or value == before:
            continue
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            found[key] = {name: inner for name, inner in value.items() if inner != before.get(name)}
        else:
            found[key] = value
    # All of it or nothing: a control or groups of the run are not taken over, and a rule replaces its rule.
    selection, before = _selected(job.selection), _selected(SelectionSpec(**theirs["selection"]))
    return found if selection == before and not before.keys() & _NOT_TAKEN else {**found, "selection": selection}


def _selected(spec: SelectionSpec) -> dict[str, Any]:
    rule, amount = spec.rule
    others = {name: value for name, value in spec.model_dump(mode="json").items() if value not in (None, False)}
    return {**others, rule: amount}


def _beside(store: Store) -> str:
    """An output that is not the run's; nothing is written there."""
    return f"{store.url.rstrip('/')}-{_NEW.lower()}"


def _as_set(value: Any) -> str:
    """The value as `--set` reads it back."""
    if isinstance(value, str):
        with suppress(ValueError):
            if strict_yaml.parse(value) == value:
                return value
    return json.dumps(value, ensure_ascii=False)
