"""The plan: inputs -> shards, and everything that can be known to fail before anything expensive starts."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tamis.operators.conversation import Dialect, normalise
from tamis.operators.forward import ModelInfo, check_model, describe_model
from tamis.operators.methods import METHODS, Method
from tamis.operators.problems import RowProblem
from tamis.operators.requests import Request
from tamis.operators.tokens import ChatTokenizer
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.files import SourceFile, resolve
from tamis.pipeline.fingerprint import fingerprint_of
from tamis.pipeline.job import Job
from tamis.pipeline.models import ModelSource, chat_template, fetch
from tamis.pipeline.reference_sets import plan_references
from tamis.pipeline.scanning import dialect_of, scan_files
from tamis.pipeline.sources import CORPUS, Scanned, Shard, make_shards
from tamis.pipeline.store import is_local_url

_SAMPLED_FILES = 8


@dataclass(frozen=True)
class PlannedFile:
    file: SourceFile
    dialect: Dialect
    rows: int


@dataclass(frozen=True)
class Estimate:
    """From a sample of rows off the head of the first files. Shares are of the sampled rows."""

    sampled: int
    tokens_per_row: float
    overlong: float
    bad: float


@dataclass(frozen=True)
class Plan:
    """All that a run needs to know. schema: None when it is known only after the rows were read (JSON)."""

    job: Job
    files: tuple[PlannedFile, ...]
    shards: tuple[Shard, ...]
    reference_shards: tuple[Shard, ...]
    schema: pa.Schema | None
    methods: Mapping[str, Method]
    requests: tuple[Request, ...]
    model: ModelSource
    model_info: ModelInfo
    max_tokens: int
    estimate: Estimate
    fingerprint: Mapping[str, Any]
    warnings: tuple[str, ...]
    will_fail: bool

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(planned.file.bytes for planned in self.files)


def make_plan(job: Job) -> Plan:
    """Raises ConfigError or InputError with everything that is wrong, not only the first thing."""
    _keep_apart(job)
    found = resolve(job.input.path, job.input.format, job.storage_options)
    own = [file.name for file in found if _place(file.url).startswith(_place(job.output))]
    if own:
        raise ConfigError(f"output: {job.output} holds {own[0]}, which input names; choose another output folder")
    files = scan_files(found, job)
    methods = methods_of(job)
    model = fetch(job.model.name, job.model.revision, weights=False, remote_code=job.model.trust_remote_code)
    info, tokenizer = _open_model(job, model)
    requests = requests_of(methods, info)
    if model.revision == "local":
        _check_weights(job, model, requests)
    notes: list[str] = []
    max_tokens = job.max_tokens
    if info.max_positions is not None and info.max_positions < max_tokens:
        max_tokens = info.max_positions
        if "max_tokens" in job.model_fields_set:
            notes.append(f"the model takes at most {max_tokens:,} tokens; max_tokens is lowered to that")

    planned: list[PlannedFile] = []
    shards: list[Shard] = []
    head: list[tuple[Mapping[str, Any] | RowProblem, Dialect]] = []
    problems: list[str] = []
    for scanned in files:
        try:
            dialect = dialect_of(scanned, job.input.dialect, job.input.columns)
        except ValueError as error:
            problems.append(f"{scanned.file.name}: {error}")
            continue
        planned.append(PlannedFile(scanned.file, dialect, scanned.rows))
        shards.extend(make_shards(scanned, CORPUS, dialect.to_dict(), len(shards)))
        if len(planned) <= _SAMPLED_FILES:
            rows: list[Mapping[str, Any] | RowProblem] = [*scanned.head, *scanned.head_problems]
            head.extend((row, dialect) for row in rows)
    if problems:
        raise InputError(f"the conversations of {len(problems)} file(s) are not understood:", problems)
    schema = _typed_schema(files)
    estimate = _estimate(head, tokenizer, max_tokens)
    references = plan_references(job, methods, tokenizer, max_tokens, len(shards))
    _check_amounts(job, sum(shard.rows for shard in shards), info)
    if not tokenizer.has_template:
        notes.append(
            "the tokenizer has no chat template, so this may not be a chat model; conversations are rendered as "
            "User: ... Assistant: ... (set model.template for another form)"
        )
    fatal = _foresee_failure(job, estimate)
    notes.extend(fatal)
    if estimate.bad and not fatal:
        notes.append(f"{round(estimate.bad * estimate.sampled)} of {estimate.sampled} sampled rows cannot be used")
    if len({item.dialect.name for item in planned}) > 1:
        notes.append("the files hold conversations in more than one dialect")
    if sum(shard.rows for shard in references if shard.role == "unsafe") > sum(shard.rows for shard in shards):
        notes.append("there are fewer rows than references; a share of so few says little")
    return Plan(
        job=job,
        files=tuple(planned),
        shards=tuple(shards),
        reference_shards=references,
        schema=schema,
        methods=methods,
        requests=requests,
        model=model,
        model_info=info,
        max_tokens=max_tokens,
        estimate=estimate,
        fingerprint=fingerprint_of(job, shards, references, model, tokenizer, max_tokens),
        warnings=tuple(notes),
        will_fail=bool(fatal),
    )


def methods_of(job: Job) -> dict[str, Method]:
    """The job's methods with their settings, in the job's order."""
    made: dict[str, Method] = {}
    for name in job.method:
        settings = getattr(job, name).model_dump()
        references = {f"{source}_references" for source in METHODS[name].sources()}
        made[name] = METHODS[name](**{key: value for key, value in settings.items() if key not in references})
    return made


def requests_of(methods: Mapping[str, Method], info: ModelInfo) -> tuple[Request, ...]:
    """What to capture for all methods together. ConfigError if a layer is not in the model."""
    wanted: set[Request] = set()
    for name, method in methods.items():
        try:
            wanted.update(method.requests(info.blocks))
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from None
    return tuple(sorted(wanted))


def _keep_apart(job: Job) -> None:
    """An output inside an input folder would be read as input by the next run."""
    for path in job.input.path:
        if _place(job.output).startswith(_place(path)):
            raise ConfigError(f"output: {job.output} lies inside the input folder {path}; choose a folder beside it")


def _place(url: str) -> str:
    """The address, ending in a slash, in a form in which one folder lies in another if it begins like it."""
    path = os.path.realpath(os.path.expanduser(url.removeprefix("file://"))) if is_local_url(url) else url
    return path.rstrip("/") + "/"


def _open_model(job: Job, model: ModelSource) -> tuple[ModelInfo, ChatTokenizer]:
    remote = job.model.trust_remote_code
    try:
        info = describe_model(model.path, trust_remote_code=remote)
        template = chat_template(job.model.template)
        tokenizer = ChatTokenizer.load(model.path, trust_remote_code=remote, template=template)
    except (ValueError, OSError) as error:
        raise ConfigError(f"model {job.model.name}: {error}") from None
    return info, tokenizer


def _check_weights(job: Job, model: ModelSource, requests: Sequence[Request]) -> None:
    """Whether the weights are there and fit, without reading them; a name on the hub is checked when it is fetched."""
    try:
        check_model(
            model.path,
            requests,
            trust_remote_code=job.model.trust_remote_code,
            allow_pickle_weights=job.model.allow_pickle_weights,
        )
    except (ValueError, OSError) as error:
        raise ConfigError(f"model {job.model.name}: {error}") from None


def _typed_schema(files: Sequence[Scanned]) -> pa.Schema | None:
    """One schema for all typed files, columns in first-seen order, metadata of the first. None if all are JSON."""
    typed = {scanned.file.name: scanned.schema for scanned in files if scanned.schema is not None}
    if not typed:
        return None
    first = next(iter(typed.values()))
    try:
        unified = pa.unify_schemas(list(typed.values()))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        odd = [f"{name}: {_first_difference(first, schema)}" for name, schema in typed.items() if schema != first]
        raise InputError(
            f"the files do not share one schema ({' '.join(str(error).split())[:160]}):", odd[:20]
        ) from None
    everywhere = set.intersection(*(set(schema.names) for schema in typed.values()))
    # A column that some file has not is null there.
    fields = [field if field.name in everywhere else field.with_nullable(True) for field in unified]
    return pa.schema(fields, metadata=first.metadata)


def _first_difference(first: pa.Schema, other: pa.Schema) -> str:
    for column in other:
        index = first.get_field_index(column.name)
        if index >= 0 and first.field(index).type != column.type:
            return f"column {column.name} is {column.type}, in the first file {first.field(index).type}"
    return "its columns differ"


def _estimate(
    head: Sequence[tuple[Mapping[str, Any] | RowProblem, Dialect]], tokenizer: ChatTokenizer, max_tokens: int
) -> Estimate:
    conversations, bad, overlong = [], 0, 0
    for row, dialect in head:
        try:
            if isinstance(row, RowProblem):
                raise row
            conversations.append(normalise(row, dialect))
        except RowProblem:
            bad += 1
    lengths = []
    for encoded in tokenizer.encode(conversations, max_tokens=2**30, overlong="quarantine"):
        if isinstance(encoded, RowProblem):
            bad += 1
        else:
            lengths.append(len(encoded.input_ids))
            overlong += len(encoded.input_ids) > max_tokens
    sampled = max(len(head), 1)
    return Estimate(len(head), sum(lengths) / max(len(lengths), 1), overlong / sampled, bad / sampled)


def _check_amounts(job: Job, rows: int, info: ModelInfo) -> None:
    count = job.selection.drop_count
    if count is not None and count > rows:
        raise ConfigError(f"selection.drop_count: {count:,} is more than the {rows:,} rows there are")
    if count is not None and count * 2 > rows and not job.selection.allow_majority:
        raise ConfigError(
            f"selection.drop_count: {count:,} of {rows:,} rows is more than half; set selection.allow_majority: true "
            "if that is meant"
        )
    if "saft" in job.method and job.saft.k > info.width:
        raise ConfigError(f"saft.k: {job.saft.k} directions where the representation has {info.width} dimensions")


def _foresee_failure(job: Job, estimate: Estimate) -> list[str]:
    """Why the run would end above max_quarantined, if the sampled rows are like the rest.

    A share above the limit that the luck of the sample explains is no reason.
    """
    reasons = []
    if _surely_above(estimate.bad, estimate.sampled, job.max_quarantined):
        reasons.append(
            f"{estimate.bad:.0%} of {estimate.sampled} sampled rows cannot be used; above max_quarantined "
            f"({job.max_quarantined:.1%}) the run will fail"
        )
    if job.overlong == "quarantine" and _surely_above(estimate.overlong, estimate.sampled, job.max_quarantined):
        reasons.append(
            f"{estimate.overlong:.0%} of {estimate.sampled} sampled rows are longer than max_tokens; set overlong to "
            "keep_end or keep_start, or the run will fail"
        )
    return reasons


def _surely_above(share: float, sampled: int, limit: float) -> bool:
    """Whether so many of the sampled rows would be a chance of less than 1 % if `limit` were the true share."""
    found = round(share * sampled)
    fewer = sum(math.comb(sampled, k) * limit**k * (1 - limit) ** (sampled - k) for k in range(found))
    return share > limit and 1 - fewer < 0.01
