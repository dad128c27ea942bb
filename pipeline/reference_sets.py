"""Reference sets as small sources: read, checked row by row, and cut into shards like the corpus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tamis.operators.conversation import Dialect, normalise
from tamis.operators.methods import Method
from tamis.operators.problems import RowProblem
from tamis.operators.tokens import ChatTokenizer
from tamis.pipeline.errors import InputError
from tamis.pipeline.files import resolve
from tamis.pipeline.job import Job, LayersJob
from tamis.pipeline.scanning import dialect_of, scan_files
from tamis.pipeline.sources import SHIPPED, Scanned, Shard, make_shards, read, shipped_file


def reference_paths(job: LayersJob, methods: Mapping[str, Method]) -> dict[str, str | None]:
    """role -> file, for every reference set that the methods need; None where the shipped one is meant."""
    if isinstance(job, Job) and job.masks_tokens:
        # A model that is given needs no data, unless it is trained anew in rounds.
        toss, rounds = job.toss, job.method == ["toss-pro"]
        needed = {"utility": toss.utility_model is None, "harmful": toss.harmful_model is None or rounds}
        return {role: getattr(toss, f"{role}_references") for role, needs in needed.items() if needs}
    return {
        source: getattr(getattr(job, name), f"{source}_references")
        for name, method in methods.items()
        for source in method.sources()
    }


def _scan(role: str, path: str | None, job: LayersJob) -> list[Scanned]:
    if path is not None:
        return scan_files(resolve([path], "auto", job.storage_options), job)
    [scanned] = scan_files(resolve([str(SHIPPED[role]())], "auto", {}), job)
    return [replace(scanned, file=shipped_file(role, scanned.file))]


def plan_references(
    job: LayersJob, methods: Mapping[str, Method], tokenizer: ChatTokenizer, max_tokens: int, first_index: int
) -> tuple[Shard, ...]:
    shards: list[Shard] = []
    problems: list[str] = []
    for role, path in reference_paths(job, methods).items():
        shown = path or f"the {role} references of tamis"
        for scanned in _scan(role, path, job):
            try:
                dialect = dialect_of(scanned, None, {})
            except ValueError as error:
                problems.append(f"{role}: {shown}: {error}")
                continue
            made = make_shards(scanned, role, dialect.to_dict(), first_index + len(shards))
            problems.extend(
                f"{role}: {shown}: row {number}: {problem}"
                for number, problem in _bad_references(made, dialect, tokenizer, max_tokens, job)
            )
            shards.extend(made)
    if problems:
        raise InputError(f"{len(problems)} reference row(s) cannot be used:", problems[:20])
    return tuple(shards)


def _bad_references(
    shards: Sequence[Shard], dialect: Dialect, tokenizer: ChatTokenizer, max_tokens: int, job: LayersJob
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
