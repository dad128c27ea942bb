"""How to find LARF's block where the job names none: all that this needs, checked before anything expensive starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tamis.operators.methods import BlockSearch, Larf
from tamis.operators.statistics.sensitivity import NEW_TOKENS
from tamis.operators.tokens.questions import QuestionTokenizer
from tamis.pipeline.cluster.pools import Placement
from tamis.pipeline.errors import InputError
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.job.job_file import LayersJob
from tamis.pipeline.job.methods import settings_of
from tamis.pipeline.models.checks import OpenedModel, check_files, open_model
from tamis.pipeline.models.fetch import chat_template
from tamis.pipeline.models.render_process import BoundedRenderer
from tamis.pipeline.planning.fingerprint import FISHER_FORMAT, captured_keys_of, search_keys_of
from tamis.pipeline.planning.prompts import Prompts, read_prompts
from tamis.pipeline.planning.reference_sets import plan_references
from tamis.pipeline.terminal.progress import waiting

NO_TEMPLATE = (
    "the tokenizer has no chat template, so this may not be a chat model; conversations are rendered as "
    "User: ... Assistant: ... (set model.template for another form)"
)


@dataclass(frozen=True)
class LayerPlan:
    """wanted: what the method says of the search. prompts: the prompts of the search; None where only the Fisher ratios
    are wanted. search_keys, fisher_keys: the settings on which the numbers of each depend. placement: where the workers
    will run, once that is known. parameters: of the model that a worker loads, where its files are at hand."""

    job: LayersJob
    wanted: BlockSearch
    model: OpenedModel
    max_tokens: int
    prompts: Prompts | None
    references: tuple[Shard, ...]
    search_keys: Mapping[str, Any]
    fisher_keys: Mapping[str, Any]
    warnings: tuple[str, ...]
    placement: Placement | None = None
    parameters: int | None = None

    @property
    def keys(self) -> Mapping[str, Any]:
        """The settings that decide the block: the Fisher ratios choose where the search finds none."""
        return {**self.fisher_keys, **self.search_keys}


def plan_layers(job: LayersJob) -> LayerPlan:
    """The plan for `tamis layers`, which always does both: the search and the Fisher ratios. Raises ConfigError or
    InputError."""
    with waiting("plan", "opening the model"):
        model = open_model(job.model, job.storage_options)
    parameters = check_files(model, model.info.blocks, head=True)
    max_tokens = longest_of(job, model)
    larf = Larf(**settings_of(Larf, job.of(Larf.name)))
    references = plan_references(job, {Larf.name: larf}, model.tokenizer, max_tokens, 0, [])
    plan = layer_plan(job, larf.block_search(), model, max_tokens, references, search=True)
    return replace(plan, parameters=parameters)


def layer_plan(
    job: LayersJob,
    wanted: BlockSearch,
    model: OpenedModel,
    max_tokens: int,
    references: tuple[Shard, ...],
    *,
    search: bool,
) -> LayerPlan:
    """references: shards of the two reference sets. search: whether refusals are counted. InputError if the prompts
    cannot be used."""
    prompts = None
    if search:
        prompts = read_prompts(wanted.prompts, job.storage_options)
        if not model.known:  # else they were checked before: prompts are part of a run's fingerprint
            _check_prompts(job, model, prompts)
    return LayerPlan(
        job=job,
        wanted=wanted,
        model=model,
        max_tokens=max_tokens,
        prompts=prompts,
        references=references,
        search_keys={**model.keys, **search_keys_of(wanted, prompts)} if prompts else {},
        fisher_keys={"fisher format": FISHER_FORMAT, **model.keys, **captured_keys_of(job, references, max_tokens)},
        warnings=() if model.tokenizer.has_template else (NO_TEMPLATE,),
    )


def longest_of(job: LayersJob, model: OpenedModel) -> int:
    """job.max_tokens, or the model's limit if that is less."""
    return min(job.max_tokens, model.info.max_positions or job.max_tokens)


def _check_prompts(job: LayersJob, model: OpenedModel, prompts: Prompts) -> None:
    """InputError for the first prompt that cannot be put to the model; it names the prompt, not its text."""
    remote, template = job.model.trust_remote_code, chat_template(job.model.template, job.storage_options)
    tokenizer = QuestionTokenizer.load(
        model.source.path, trust_remote_code=remote, template=template, renderer=BoundedRenderer
    )
    assert isinstance(tokenizer, QuestionTokenizer)
    try:
        lengths = [len(ids) for ids in tokenizer.questions(prompts.texts)]
    except ValueError as error:
        raise InputError(f"larf.over_rejection_prompts: {prompts.name}: {error}") from None
    limit = model.info.max_positions
    if limit is not None and max(lengths) + NEW_TOKENS > limit:
        raise InputError(
            f"larf.over_rejection_prompts: {prompts.name}: prompt {lengths.index(max(lengths))} (counted from 0) has "
            f"{max(lengths):,} tokens, with {NEW_TOKENS} of an answer more than the {limit:,} that the model takes"
        )
