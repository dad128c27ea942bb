"""A job with `artifact:`: what it does not set is taken from the artifact, and what it sets must be as it was there.

Scores can be compared with a cut only if they are computed in the same way. So everything in the artifact's fingerprint
must agree but the input, and model.device, which changes the last digits of a score only. Reference sets have no part
in a run with an artifact; where the job names some, they must be those of the artifact.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tamis.operators.methods import METHODS
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.inputs.shards import role_of
from tamis.pipeline.job.job_file import Job
from tamis.pipeline.job.methods import distributions, known
from tamis.pipeline.job.sections import RANKS
from tamis.pipeline.models.checks import OpenedModel, open_model
from tamis.pipeline.models.fetch import chat_template
from tamis.pipeline.planning.fingerprint import FINGERPRINT_FORMAT, FORM_KEYS, reference_digest, settings_of
from tamis.pipeline.planning.layer_plan import longest_of
from tamis.pipeline.planning.prompts import read_prompts
from tamis.pipeline.planning.reference_sets import scan_set
from tamis.pipeline.run.folder import MEANING, SAMPLE_SEED
from tamis.pipeline.run.frozen import Frozen, FrozenFacts, read_frozen
from tamis.pipeline.storage.store import Store

_RULES = ("drop", "drop_count", "threshold")
_ELSEWHERE = frozenset(
    {
        "format",
        "method",
        "model",
        "tokenizer and template",
        "model.device",
        "max_tokens",
        "selection.by",
        "selection.within",
        "seed",
        SAMPLE_SEED,
    }
    | {"search format", "fisher format", "larf.over_rejection_prompts", "larf.refusal_markers"}
    | {f"selection.{rule}" for rule in _RULES}
)
"""Keys of a fingerprint that are compared in another way than by their value in the job, or not at all."""

OTHER_DEVICE = "scores were computed on"
"""The begin of the warning about scores on another device than the artifact's."""

Differing = tuple[str, str]
"""A key, and what differs, for people."""


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenJob:
    """job: with all settings of the artifact. taken: what it did not set, for the plan."""

    job: Job
    frozen: Frozen
    taken: tuple[str, ...]


def frozen_facts(
    fingerprint: Mapping[str, Any], job: Job, revision: str, methods: tuple[str, ...], precision: str, **more: Any
) -> FrozenFacts:
    """The facts of an artifact that a run of `job` has made. revision: of its model. precision: of its forward passes,
    e.g. "float32 on cpu". more: cut and statistics."""
    dtype, _, device = precision.partition(" on ")
    return FrozenFacts(
        methods=methods,
        selected_by=job.selected_by,
        how=job.selection.in_words,
        settings=without_input(fingerprint),
        dtype=dtype,
        device=device,
        model={"name": job.model.name, "revision": revision},
        template=chat_template(job.model.template, job.storage_options),
        **more,
    )


def without_input(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an artifact, of the fingerprint of the run that makes it."""
    return {name: value for name, value in fingerprint.items() if not _of_input(name) and name not in FORM_KEYS}


def other_device(precisions: Iterable[str], theirs: str) -> list[str]:
    """What the run says where its scores were computed on another kind of device than those of the artifact."""
    ours = sorted({precision.partition(" on ")[2] for precision in precisions} - {theirs})
    return [f"{OTHER_DEVICE} {ours[0]}, the artifact's on {theirs}: they agree to rounding only"] if ours else []


def _of_input(key: str) -> bool:
    """Whether the key says where rows are and how to read them, which differs from corpus to corpus."""
    return key == "input" or (key.startswith("input.") and key != "input.join")


def with_artifact(job: Job) -> FrozenJob | None:
    """The job as it runs with its artifact; None for a job without. ConfigError, in one line, for an artifact that
    cannot be used, or with every setting that differs."""
    if job.artifact is None:
        return None
    if Store(job.artifact, job.storage_options).path() == Store(job.output, job.storage_options).path():
        raise ConfigError(f"artifact: {job.artifact} is the output, too; choose another output folder")
    frozen = read_frozen(job.artifact, job.storage_options)
    if "csa.models" in frozen.facts.settings:
        raise ConfigError(
            f"artifact: {frozen.where} was made with csa.models, whose scores are scaled by the corpus of their own "
            "run and cannot be applied to other data; curate without artifact, or make one with csa.models left out"
        )
    settled, taken, differing = _settle(job, frozen)
    if differing:
        # The model's differences, too, so that the message is complete.
        model = open_model(settled.model, settled.storage_options)
        _refuse(frozen, [*differing, *model_differences(settled, frozen, model)])
    return FrozenJob(settled, frozen, tuple(taken))


def check_model(job: Job, frozen: Frozen, model: OpenedModel) -> None:
    """ConfigError, in one line, if the model is not that of the artifact."""
    _refuse(frozen, list(model_differences(job, frozen, model)))


def model_differences(job: Job, frozen: Frozen, model: OpenedModel) -> Iterator[Differing]:
    """What of the model, its tokenizer and its limit is not as in the artifact."""
    theirs = frozen.facts.settings
    for key in ("model", "tokenizer and template"):
        if model.keys[key] != theirs.get(key):
            named = frozen.facts.model
            old = f" ({named.get('name')} {named.get('revision')} there, {job.model.name} {model.source.revision} now)"
            yield key, f"{MEANING[key]} changed{old if key == 'model' else ''}"
    longest = longest_of(job, model)
    if longest != theirs.get("max_tokens"):
        yield "max_tokens", _there_and_now(theirs.get("max_tokens"), longest)


def _refuse(frozen: Frozen, differing: list[Differing]) -> None:
    if differing:
        said = "; ".join(f"{key}: {what}" for key, what in differing)
        raise ConfigError(
            f"artifact: {frozen.where} was made with other settings, so its cut says nothing about these scores: "
            f"{said}; leave these settings out, set them as they were, or fit anew without artifact"
        )


def _there_and_now(theirs: Any, ours: Any) -> str:
    return f"{theirs!s:.80} there, {ours!s:.80} now"


# --- the settings ---------------------------------------------------------------------------------------------------


def _settle(job: Job, frozen: Frozen) -> tuple[Job, list[str], list[Differing]]:
    facts, theirs = frozen.facts, frozen.facts.settings
    differing: list[Differing] = []
    taken: list[str] = []
    if theirs.get("format") != FINGERPRINT_FORMAT:
        differing.append(("numbers of tamis", _there_and_now(theirs.get("format"), FINGERPRINT_FORMAT)))
    changes: dict[str, Any] = {}
    for take in (_longest, _template, _revision):
        take(job, facts, changes, taken)
    if sorted(job.method) != sorted(facts.methods):
        differing.append(("method", _there_and_now(", ".join(facts.methods), ", ".join(job.method))))
        return _changed(job, changes), taken, differing
    changes["method"] = list(facts.methods)
    if theirs.get("selection.control") is not None:
        differing.append(("selection.control", "the cut there was made by chance, and says nothing about other rows"))
    if theirs.get("selection.within") is not None:
        differing.append(("selection.within", "the cuts there are of groups of its own rows, not of other rows"))
    if facts.selected_by == RANKS:
        differing.append(
            ("selection.by", "the cut there is of ranks among its own rows, and says nothing about others")
        )
    installed = distributions(job.method)
    for name in facts.methods:
        key = f"{name} distribution"
        if theirs.get(key) != installed.get(name):
            differing.append((key, _there_and_now(theirs.get(key), installed.get(name))))
    for key, value in _compared(theirs).items():
        try:
            given, ours = _of(job, key)
        except AttributeError:
            differing.append((key, f"{value!s:.80} there, and this tamis knows no such setting"))
            continue
        accepted = _accepted(key, value, frozen)
        if given and ours not in accepted:
            differing.append((key, _there_and_now(value, ours)))
        elif ours != accepted[-1]:
            changes[key] = accepted[-1]
            if not given:
                taken.append(f"{key} {accepted[-1]!s:.40}")
    for key, ours in settings_of(job).items():
        if key not in {*theirs, *_ELSEWHERE} and not _of_input(key) and _of(job, key)[0]:
            differing.append((key, f"not set there, {ours!s:.80} now"))
    _rule(job, facts, changes, taken, differing)
    differing += _searched(job, theirs)
    differing += _references(job, facts)
    if "contrast" in facts.methods and "contrast.sample" not in theirs:
        given, ours = _of(job, "contrast.sample")
        # As many rows as were there, or more, is all of them.
        there = int(frozen.artifacts["contrast"].facts.get("count", 0))
        if given and isinstance(ours, int) and 0 < ours < there:
            differing.append(("contrast.sample", _there_and_now("all", ours)))
    return _changed(job, changes), taken, differing


def _compared(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the fingerprint that are compared by their value in the job."""
    return {
        key: value
        for key, value in theirs.items()
        if key not in _ELSEWHERE and not key.startswith("references.") and not key.endswith(" distribution")
    }


def _accepted(key: str, value: Any, frozen: Frozen) -> list[Any]:
    """What the job may say, the last of these being what it runs with: an `auto` of the artifact was settled there."""
    section, _, name = key.partition(".")
    if key == "model.dtype":
        return [value, frozen.facts.dtype]
    if name == "sample" and section in frozen.artifacts:
        return ["auto", value]
    found = frozen.artifacts[section].facts.get(name) if section in frozen.artifacts else None
    if name in {"layer", "blocks"} and section in METHODS and found is not None:
        return [value, found]
    return [value]


def _of(job: Job, key: str) -> tuple[bool, Any]:
    """Whether the job sets the key, and its value. AttributeError if there is no such key."""
    section, dot, name = key.partition(".")
    holder: Any = getattr(job, section) if dot else job
    value = getattr(holder, name or section)
    return (name or section) in holder.model_fields_set, json.loads(json.dumps(value, default=str))


def _longest(job: Job, facts: FrozenFacts, changes: dict[str, Any], taken: list[str]) -> None:
    """Where the job sets max_tokens, the model's limit counts, too: see `model_differences`."""
    theirs = facts.settings.get("max_tokens")
    if "max_tokens" not in job.model_fields_set and job.max_tokens != theirs:
        changes["max_tokens"] = theirs
        taken.append(f"max_tokens {theirs}")


def _rule(job: Job, facts: FrozenFacts, changes: dict[str, Any], taken: list[str], differing: list[Differing]) -> None:
    theirs = facts.settings
    [rule] = [rule for rule in _RULES if f"selection.{rule}" in theirs] or ["drop"]
    amount = theirs.get(f"selection.{rule}")
    if any(getattr(job.selection, name) is not None for name in _RULES) and job.selection.rule != (rule, amount):
        ours = job.selection.rule
        differing.append((f"selection.{ours[0]}", f"{rule} {amount} there, {ours[0]} {ours[1]:g} now"))
    else:
        changes |= {f"selection.{name}": amount if name == rule else None for name in _RULES}
    if job.selection.by is not None and job.selection.by != facts.selected_by:
        differing.append(("selection.by", _there_and_now(facts.selected_by, job.selection.by)))
    else:
        changes["selection.by"] = facts.selected_by
        if len(facts.methods) > 1 and job.selected_by != facts.selected_by:
            taken.append(f"selection.by {facts.selected_by}")


def _template(job: Job, facts: FrozenFacts, changes: dict[str, Any], taken: list[str]) -> None:
    if facts.template is not None and "template" not in job.model.model_fields_set:
        changes["model.template"] = facts.template
        taken.append("model.template")


def _revision(job: Job, facts: FrozenFacts, changes: dict[str, Any], taken: list[str]) -> None:
    """A model of the hub: the same commit, though its main branch may have moved."""
    same = job.model.name == facts.model.get("name") and "://" not in job.model.name
    revision = facts.model.get("revision")
    if same and revision != "local" and "revision" not in job.model.model_fields_set:
        changes["model.revision"] = revision
        taken.append(f"model.revision {revision}")


def _searched(job: Job, theirs: Mapping[str, Any]) -> Iterator[Differing]:
    """Settings of the layer search, where the artifact's layer was found by one."""
    if "larf" not in job.method or "larf.over_rejection_prompts" not in theirs:
        return
    given, markers = _of(job, "larf.refusal_markers")
    if given and markers != theirs["larf.refusal_markers"]:
        yield "larf.refusal_markers", _there_and_now(theirs["larf.refusal_markers"], markers)
    prompts = job.of("larf").over_rejection_prompts
    if (
        prompts is not None
        and read_prompts(prompts, job.storage_options).digest != theirs["larf.over_rejection_prompts"]
    ):
        yield "larf.over_rejection_prompts", MEANING["larf.over_rejection_prompts"] + " changed"


def _references(job: Job, facts: FrozenFacts) -> Iterator[Differing]:
    for name in facts.methods:
        for source in known()[name].kind.references:
            role = role_of(name, source)
            path = getattr(job.of(name), f"{source}_references")
            if path is None:
                continue
            files = [scanned.file for scanned in scan_set(role, path, job)]
            if reference_digest(files, job.storage_options) != facts.settings.get(f"references.{role}"):
                yield f"{role}_references", "the content of the file changed"


def _changed(job: Job, changes: Mapping[str, Any]) -> Job:
    """The job with these values, by dotted key; all of them count as set."""
    sections: dict[str, dict[str, Any]] = {}
    update: dict[str, Any] = {}
    for key, value in changes.items():
        section, dot, name = key.partition(".")
        if dot:
            sections.setdefault(section, {})[name] = value
        else:
            update[key] = value
    update |= {name: getattr(job, name).model_copy(update=values) for name, values in sections.items()}
    return job.model_copy(update=update)
