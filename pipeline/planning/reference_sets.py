"""Reference sets as small sources: read, checked row by row, and split into shards like the corpus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from tamis.operators.conversation.messages import Conversation, Dialect, normalise
from tamis.operators.methods import Method
from tamis.operators.problems import RowProblem
from tamis.operators.tokens.tokenised import Tokenised
from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.inputs.files import resolve
from tamis.pipeline.inputs.shards import SHIPPED, Scanned, Shard, make_shards, read, role_of, shipped_file
from tamis.pipeline.job.job_file import Job, LayersJob
from tamis.pipeline.planning.scanning import dialect_of, scan_files


def training_role(job: Job, name: str) -> str:
    """The role of the set that the job's reference model `name` is trained on."""
    return role_of(job.masking.section_name(), name)


def reference_paths(job: LayersJob, methods: Mapping[str, Method]) -> dict[str, str | None]:
    """role -> file, for every reference set that the methods need; None stands for the shipped file."""
    if isinstance(job, Job) and job.masks_tokens:
        [name] = job.method
        files = job.references_of(name)
        return {training_role(job, needed): files[needed] for needed in job.masking.trained(job.models_of(name))}
    return {role_of(name, source): file for name in methods for source, file in job.references_of(name).items()}


def scan_set(role: str, path: str | None, job: LayersJob) -> list[Scanned]:
    """The files of one reference set that hold rows; None stands for the shipped one."""
    if path is not None:
        return [scanned for scanned in scan_files(resolve([path], "auto", job.storage_options), job) if scanned.rows]
    if role not in SHIPPED:
        raise ConfigError(f"{role}_references is missing; set it to a file")
    [scanned] = scan_files(resolve([str(SHIPPED[role]())], "auto", {}), job)
    return [replace(scanned, file=shipped_file(role, scanned.file))]


def plan_references(
    job: LayersJob,
    methods: Mapping[str, Method],
    tokenizer: ChatTokenizer,
    max_tokens: int,
    first_index: int,
    notes: list[str],
) -> tuple[Shard, ...]:
    """The shards of every reference set, numbered from first_index on. InputError if rows cannot be used.

    LARF's references are few, and they are pairs: each must be usable. TOSS may train on an instruction set of
    thousands of rows. There, bad rows are left out, with a message in `notes`, up to the share that the job allows for
    the corpus (max_quarantined).
    """
    shards: list[Shard] = []
    problems: list[str] = []
    trains = isinstance(job, Job) and job.masks_tokens
    for role, path in reference_paths(job, methods).items():
        shown = f"{role}_references: {path or 'those of tamis'}"
        found: list[Shard] = []
        for scanned in scan_set(role, path, job):
            try:
                dialect = dialect_of(scanned, None, {}, job.join)
            except ValueError as error:
                problems.append(f"{shown}: {error}")
                continue
            found.extend(make_shards(scanned, role, dialect.to_dict(), first_index + len(shards) + len(found)))
        outcomes = reference_rows(found, tokenizer, max_tokens, job)
        bad = [f"row {number}: {outcome}" for number, outcome in outcomes if isinstance(outcome, RowProblem)]
        rows = sum(shard.rows for shard in found)
        if trains and 0 < len(bad) <= job.max_quarantined * rows:
            notes.append(f"{len(bad):,} of {rows:,} {role} references cannot be used and are left out ({bad[0]})")
        else:
            problems.extend(f"{shown}: {problem}" for problem in bad)
        shards.extend(found)
    if problems:
        raise InputError(f"{len(problems)} reference row(s) cannot be used:", problems[:20])
    return tuple(shards)


def reference_rows(
    shards: Sequence[Shard], tokenizer: ChatTokenizer, max_tokens: int, job: LayersJob
) -> Iterator[tuple[int, Tokenised | RowProblem]]:
    """Each row's number in its file, and its tokens or what is wrong with it."""
    for shard in shards:
        dialect = Dialect.from_dict(dict(shard.dialect))
        outcomes: dict[int, Tokenised | RowProblem] = {}
        conversations: dict[int, Conversation] = {}
        for row in read(shard, job.storage_options):
            try:
                if isinstance(row.value, RowProblem):
                    raise row.value
                conversations[row.number] = normalise(row.value, dialect)
            except RowProblem as problem:
                outcomes[row.number] = problem
        encoded = tokenizer.encode(list(conversations.values()), max_tokens=max_tokens, overlong=job.overlong)
        outcomes.update(zip(conversations, encoded, strict=True))
        yield from sorted(outcomes.items())
