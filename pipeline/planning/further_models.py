"""The further models of `csa.models`: each opened and checked like the job's own, with its own tokens and template.

They share everything else of the job: the corpus, the references, and the settings of the forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tamis.operators.conversation.dialects import Dialect
from tamis.operators.methods import Csa, Method
from tamis.operators.problems import RowProblem
from tamis.operators.requests import Request
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.inputs.shards import Scanned, Shard, role_of
from tamis.pipeline.job.job_file import Job
from tamis.pipeline.models.checks import OpenedModel, check_files, open_model, vocabulary_note
from tamis.pipeline.planning.layer_plan import NO_TEMPLATE, longest_of
from tamis.pipeline.planning.reference_sets import reference_rows
from tamis.pipeline.planning.sampling import Estimate, sampled

MODELS, NORMALISE = "csa.models", "csa.normalise"
"""Settings, and keys of a fingerprint where there are further models."""


@dataclass(frozen=True, eq=False)
class FurtherPlan:
    """One further model as it will run. method: CSA of this model alone. job: with this model for its own. parameters:
    of what a worker loads, where the files are at hand. estimate: of the corpus in its tokens."""

    method: Csa
    job: Job
    opened: OpenedModel
    requests: tuple[Request, ...]
    max_tokens: int
    parameters: int | None
    estimate: Estimate

    @property
    def name(self) -> str:
        return self.job.model.name

    @property
    def in_words(self) -> str:
        """Model and blocks, for the plan."""
        info, blocks = self.opened.info, [str(request.block) for request in self.requests]
        return (
            f"{self.name}: {info.architecture}, {info.blocks} blocks x {info.width}; blocks {', '.join(blocks)}; "
            f"longest {self.max_tokens:,} tokens"
        )


def csa_of(methods: Mapping[str, Method]) -> Csa | None:
    """CSA with its settings, where it reads further models."""
    csa = methods.get(Csa.name)
    return csa if isinstance(csa, Csa) and csa.models else None


def plan_further(
    job: Job,
    methods: Mapping[str, Method],
    own: OpenedModel,
    references: Sequence[Shard],
    read: Sequence[tuple[Scanned, Dialect]],
) -> tuple[FurtherPlan, ...]:
    """Every further model, checked. own: the job's. ConfigError or InputError, which name the model, where one cannot
    be used, has not the blocks, or cannot read a reference."""
    csa = csa_of(methods)
    if csa is None:
        return ()
    found: list[FurtherPlan] = []
    contents = {own.content: "model.name"}
    for wanted in csa.models:
        given = {"name": wanted.name, "revision": wanted.revision, "template": wanted.template}
        theirs = job.model_copy(update={"model": job.model.model_copy(update=given)})
        method = csa.under(wanted)
        try:
            opened = open_model(theirs.model, job.storage_options)
            requests = method.requests(opened.info.blocks)
            parameters = check_files(opened, requests[-1].block + 1, head=False)
        except (ConfigError, ValueError) as error:
            # of the blocks of this model, and not of those in csa.blocks
            said = str(error).replace("csa.blocks", "blocks", 1).removeprefix("model.")
            raise ConfigError(f"{MODELS}: {wanted.name}: {said}") from None
        if (same := contents.get(opened.content)) is not None:
            raise ConfigError(f"{MODELS}: {wanted.name} is the model of {same}, too; it would count twice in the mean")
        contents[opened.content] = wanted.name
        longest = longest_of(theirs, opened)
        _check_references(wanted.name, references, opened, longest, theirs)
        estimate, _ = sampled(
            read, opened.tokenizer, longest, overlong_is_bad=job.overlong == "quarantine", every_answer=False
        )
        found.append(FurtherPlan(method, theirs, opened, requests, longest, parameters, estimate))
    return tuple(found)


def _check_references(name: str, references: Sequence[Shard], model: OpenedModel, longest: int, job: Job) -> None:
    for source in Csa.sources():
        shards = [shard for shard in references if shard.role == role_of(Csa.name, source)]
        bad = [
            f"{source}_references: row {number}: {outcome}"
            for number, outcome in reference_rows(shards, model.tokenizer, longest, job)
            if isinstance(outcome, RowProblem)
        ]
        if bad:
            raise InputError(f"{MODELS}: {len(bad)} reference row(s) cannot be used with {name}:", bad[:20])


def further_keys(methods: Mapping[str, Method], further: Sequence[FurtherPlan]) -> dict[str, Any]:
    """The part of a fingerprint that says which further models count, and how; empty without."""
    csa = csa_of(methods)
    if csa is None:
        return {}
    models = [
        {
            **{key: each.opened.keys[key] for key in ("model", "tokenizer and template")},
            "blocks": [request.block for request in each.requests],
            "max_tokens": each.max_tokens,
        }
        for each in further
    ]
    return {MODELS: models, NORMALISE: csa.normalise}


def further_notes(further: Sequence[FurtherPlan]) -> Iterator[str]:
    """What the plan warns of."""
    for each in further:
        if not each.opened.tokenizer.has_template:
            yield f"{MODELS}: {each.name}: {NO_TEMPLATE.replace('model.template', 'its template')}"
        if (beyond := vocabulary_note(each.opened.tokenizer, each.opened.info)) is not None:
            yield f"{MODELS}: {each.name}: {beyond}"
        if each.estimate.bad:
            bad = round(each.estimate.bad * each.estimate.sampled)
            yield f"{MODELS}: {bad} of {each.estimate.sampled} sampled rows cannot be used with {each.name}"
