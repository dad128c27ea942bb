"""Scan input files: where their rows lie, and which dialect their conversations are in."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from tamis.operators.conversation.detection import detect, with_encoded, with_layout, with_media, with_seen
from tamis.operators.conversation.dialects import JOIN, Dialect, dialect_by_hand
from tamis.pipeline.errors import InputError
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.inputs.shards import HEAD_ROWS, Scanned, scan
from tamis.pipeline.job.job_file import LayersJob
from tamis.pipeline.planning.plan_cache import KnownRows, scanned_before
from tamis.pipeline.planning.scan_progress import scan_progress


def scan_files(
    files: Sequence[SourceFile], job: LayersJob, known: Mapping[SourceFile, KnownRows] | None = None
) -> list[Scanned]:
    """Scan in parallel; InputError lists every broken file. known: the results of an earlier command, by file."""
    known = known or {}
    with scan_progress(files) as tell, ThreadPoolExecutor(max(os.cpu_count() or 1, 4)) as pool:

        def attempt(file: SourceFile) -> Scanned | str:
            told = 0

            def tell_part(count: int) -> None:
                nonlocal told
                told += count
                tell(count)

            before = scanned_before(file, known[file], job.storage_options) if file in known else None
            outcome = before or scanned_or_broken(file, job.shard_rows, job.storage_options, tell_part)
            tell(file.bytes - told)
            return outcome

        return all_of(list(pool.map(attempt, files)))


def scanned_or_broken(
    file: SourceFile, shard_rows: int, options: Mapping[str, Any], tell: Callable[[int], None] | None = None
) -> Scanned | str:
    """The result of `scan`, or its message about a broken file. tell: called with the number of bytes read."""
    try:
        return scan(file, shard_rows, options, HEAD_ROWS, tell)
    except InputError as error:
        return str(error)


def all_of(outcomes: Sequence[Scanned | str]) -> list[Scanned]:
    """The outcomes, if no file is broken and there are rows. InputError lists the broken files, or all without rows."""
    problems = [outcome for outcome in outcomes if isinstance(outcome, str)]
    if problems:
        raise InputError(f"{len(problems)} of the {len(outcomes)} input files cannot be read:", problems)
    found = [outcome for outcome in outcomes if isinstance(outcome, Scanned)]
    if found and not any(scanned.rows for scanned in found):
        raise InputError("the input holds no rows:", [f"{scanned.file.name}: holds no rows" for scanned in found])
    return found


def dialect_of(scanned: Scanned, name: str | None, columns: Mapping[str, str], join: str = JOIN) -> Dialect:
    """The dialect, detected from the head of the file or set by hand. ValueError says how to set it.

    The head of a JSON file may not show all of its columns: a key may appear first in any later row.
    """
    if scanned.head_problems and not scanned.head:
        raise ValueError(
            f"none of its first {len(scanned.head_problems)} rows can be read ({scanned.head_problems[0]})"
        )
    complete = scanned.schema is not None
    available = scanned.columns
    if name is not None or columns:
        found = dialect_by_hand(name, columns, available, complete)
        found = with_encoded(with_layout(found, scanned.head) if name is None else found, scanned.head)
        found = with_media(found, available)
        if not columns and not complete:
            found = with_seen(found, available)
    else:
        found = detect(available, scanned.head, complete)
    return found if found.column("input") is None else replace(found, join=join)
