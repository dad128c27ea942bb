"""The plan: inputs -> shards, and everything that can be known to fail before anything expensive starts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tamis.operators.conversation import Dialect, detect, dialect_by_hand, normalise
from tamis.operators.forward import ModelInfo, check_model, describe_model
from tamis.operators.methods import METHODS, Method
from tamis.operators.problems import RowProblem
from tamis.operators.references import safe_path, unsafe_path
from tamis.operators.requests import Request
from tamis.operators.tokens import ChatTokenizer
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.files import SourceFile, resolve
from tamis.pipeline.job import Job
from tamis.pipeline.models import ModelSource, chat_template, fetch, identity
from tamis.pipeline.sources import CORPUS, Scanned, Shard, make_shards, read, scan
from tamis.pipeline.store import is_local_url, open_filesystem

_SAMPLED_FILES = 8
FINGERPRINT_FORMAT = 1
"""Raised when the same settings begin to give other numbers."""


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
    references = _plan_references(job, methods, tokenizer, max_tokens, len(shards))
    fatal = _foresee_failure(job, estimate)
    notes.extend(fatal)
    if len({item.dialect for item in planned}) > 1:
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
        fingerprint=_fingerprint(job, shards, references, model, tokenizer, max_tokens),
        warnings=tuple(notes),
        will_fail=bool(fatal),
    )


def scan_files(files: Sequence[SourceFile], job: Job) -> list[Scanned]:
    """Scan in parallel; InputError lists every broken file."""

    def attempt(file: SourceFile) -> Scanned | str:
        try:
            return scan(file, job.shard_rows, job.storage_options)
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(max(os.cpu_count() or 1, 4)) as pool:
        outcomes = list(pool.map(attempt, files))
    problems = [outcome for outcome in outcomes if isinstance(outcome, str)]
    if problems:
        raise InputError(f"{len(problems)} of the {len(files)} input files cannot be read:", problems)
    return [outcome for outcome in outcomes if isinstance(outcome, Scanned)]


def dialect_of(scanned: Scanned, name: str | None, columns: Mapping[str, str]) -> Dialect:
    """Detected from the head of the file, or set by hand. ValueError says how to set it."""
    if scanned.head_problems and not scanned.head:
        raise ValueError(
            f"none of its first {len(scanned.head_problems)} rows can be read ({scanned.head_problems[0]})"
        )
    available = list(scanned.schema.names) if scanned.schema is not None else _keys(scanned.head)
    if name is not None or columns:
        return dialect_by_hand(name, columns, available)
    return detect(available, scanned.head)


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


def reference_paths(job: Job, methods: Mapping[str, Method]) -> dict[str, str]:
    """role -> file, for every reference set that the methods need; the shipped ones where the job names none."""
    shipped = {"unsafe": unsafe_path, "safe": safe_path}
    paths: dict[str, str] = {}
    for name, method in methods.items():
        for source in method.sources():
            paths[source] = getattr(getattr(job, name), f"{source}_references") or str(shipped[source]())
    return paths


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


def _keys(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


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


def _foresee_failure(job: Job, estimate: Estimate) -> list[str]:
    """Why the run would end above max_quarantined, if the sampled rows are like the rest."""
    reasons = []
    if estimate.bad > job.max_quarantined:
        reasons.append(
            f"{estimate.bad:.0%} of {estimate.sampled} sampled rows cannot be used; above max_quarantined "
            f"({job.max_quarantined:.1%}) the run will fail"
        )
    if estimate.overlong > job.max_quarantined and job.overlong == "quarantine":
        reasons.append(
            f"{estimate.overlong:.0%} of {estimate.sampled} sampled rows are longer than max_tokens; set overlong to "
            "keep_end or keep_start, or the run will fail"
        )
    return reasons


def _plan_references(
    job: Job, methods: Mapping[str, Method], tokenizer: ChatTokenizer, max_tokens: int, first_index: int
) -> tuple[Shard, ...]:
    shards: list[Shard] = []
    problems: list[str] = []
    for role, path in reference_paths(job, methods).items():
        for scanned in scan_files(resolve([path], "auto", job.storage_options), job):
            try:
                dialect = dialect_of(scanned, None, {})
            except ValueError as error:
                problems.append(f"{role}: {path}: {error}")
                continue
            made = make_shards(scanned, role, dialect.to_dict(), first_index + len(shards))
            problems.extend(
                f"{role}: {path}: row {number}: {problem}"
                for number, problem in _bad_references(made, dialect, tokenizer, max_tokens, job)
            )
            shards.extend(made)
    if problems:
        raise InputError(f"{len(problems)} reference row(s) cannot be used:", problems[:20])
    return tuple(shards)


def _bad_references(
    shards: Sequence[Shard], dialect: Dialect, tokenizer: ChatTokenizer, max_tokens: int, job: Job
) -> Iterable[tuple[int, RowProblem]]:
    """References are few and weigh much: each must be usable."""
    for shard in shards:
        for row in read(shard, job.storage_options):
            if isinstance(row.value, RowProblem):
                yield row.number, row.value
                continue
            try:
                conversation = normalise(row.value, dialect)
            except RowProblem as problem:
                yield row.number, problem
                continue
            [encoded] = tokenizer.encode([conversation], max_tokens=max_tokens, overlong=job.overlong)
            if isinstance(encoded, RowProblem):
                yield row.number, encoded


def _fingerprint(
    job: Job,
    shards: Sequence[Shard],
    references: Sequence[Shard],
    model: ModelSource,
    tokenizer: ChatTokenizer,
    max_tokens: int,
) -> dict[str, Any]:
    """Every setting that changes results, and only those, by a name that a person understands."""
    keys: dict[str, Any] = {
        "format": FINGERPRINT_FORMAT,
        "input": _hash([[shard.id, shard.dialect] for shard in shards]),
        "model": identity(model.path) if model.revision == "local" else f"{job.model.name}@{model.revision}",
        "tokenizer and template": tokenizer.fingerprint,
        "model.dtype": job.model.dtype,
        "model.device": job.model.device,
        "model.token_budget": job.model.token_budget,
        "max_tokens": max_tokens,
        "overlong": job.overlong,
        "method": job.method,
    }
    for role in sorted({shard.role for shard in references}):
        urls = dict.fromkeys(shard.file.url for shard in references if shard.role == role)
        keys[f"references.{role}"] = _hash([_content(url, job.storage_options) for url in urls])
    for section in job.method:
        for key, value in getattr(job, section).model_dump().items():
            if not key.endswith("_references"):
                keys[f"{section}.{key}"] = value
    rule, amount = job.selection.rule
    keys[f"selection.{rule}"] = amount
    keys["selection.by"] = job.selected_by
    keys["selection.control"] = job.selection.control
    if job.selection.control is not None:
        keys["seed"] = job.seed
    return keys


def _content(url: str, options: Mapping[str, Any]) -> str:
    filesystem, path = open_filesystem(url, options)
    return hashlib.sha256(filesystem.cat_file(path)).hexdigest()


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
