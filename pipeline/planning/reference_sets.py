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

TRAINED_ON = (role_of("toss", "harmful"), role_of("toss", "utility"))
"""Roles of the sets that TOSS's reference models are trained on."""


def reference_paths(job: LayersJob, methods: Mapping[str, Method]) -> dict[str, str | None]:
    """role -> file, for every reference set that the methods need; None stands for the shipped file."""
    if isinstance(job, Job) and job.masks_tokens:
        # A reference model that the job names needs no data, unless it is trained again in rounds.
        toss, rounds = job.toss, job.method == ["toss-pro"]
        needed = {"utility": toss.utility_model is None, "harmful": toss.harmful_model is None or rounds}
        return {role_of("toss", name): getattr(toss, f"{name}_references") for name, needs in needed.items() if needs}
    return {
        role_of(name, source): getattr(job.of(name), f"{source}_references")
        for name, method in methods.items()
        for source in method.sources()
    }


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
        if role in TRAINED_ON and 0 < len(bad) <= job.max_quarantined * rows:
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
