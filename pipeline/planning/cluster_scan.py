"""The scan of the input as Ray tasks: over groups of files, and over byte ranges of large JSON Lines files.

The result is exactly that of `scan_files`. Only the workers read the bytes of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from tamis.pipeline.cluster.tasks import stream
from tamis.pipeline.inputs.files import TEXT_FORMATS, SourceFile
from tamis.pipeline.inputs.line_ranges import RANGE_BYTES, FileSpans, is_large, lines_of, ranges_of
from tamis.pipeline.inputs.shards import SHARD_BYTES, Scanned
from tamis.pipeline.job.job_file import LayersJob
from tamis.pipeline.planning.plan_cache import KnownRows, scanned_before
from tamis.pipeline.planning.scan_progress import scan_progress
from tamis.pipeline.planning.scanning import all_of, scanned_or_broken

GROUP_BYTES = 128 << 20
"""The most bytes of small files in one task: the work that is lost when its worker dies."""

_TASKS_PER_CPU = 4
_THREADS = 4
"""Threads in one task, for files that take a few requests each: most of their time is waiting."""

_LOOK_BYTES = 1 << 20
"""The cost of opening a file, counted as this many extra bytes."""

_SLOWEST = 10**6
"""The lowest scan speed in bytes per second, also for compressed files; a worker that is slower counts as hung."""

_WORTH_BYTES, _WORTH_FILES = 10**9, 1000
"""One process scans about this much in the time that workers take to start."""


def worth_it(files: Sequence[SourceFile], known: Mapping[SourceFile, KnownRows] | None = None) -> bool:
    """Whether a scan on a cluster is likely to be quicker than one in the driver."""
    new = [file.bytes for file in files if file.format in TEXT_FORMATS and file not in (known or {})]
    return sum(new) >= _WORTH_BYTES or len(files) >= _WORTH_FILES


def scan_on_cluster(
    files: Sequence[SourceFile],
    job: LayersJob,
    known: Mapping[SourceFile, KnownRows] | None = None,
    range_bytes: int = RANGE_BYTES,
) -> list[Scanned]:
    """The result of `scan_files` for the same arguments, from tasks on a running Ray.

    range_bytes: files larger than twice this are split. Raises InputError, StorageError and ConfigError as `scan_files`
    does; ClusterError if a task hangs, or if all workers that had it died.
    """
    known = known or {}
    with scan_progress(files) as tell:
        found: dict[SourceFile, Scanned | str] = {}
        for file, scanned in _still_so({file: known[file] for file in files if file in known}, job):
            found[file] = scanned
            tell(file.bytes)
        large = {file: None for file in files if file not in found and is_large(file, range_bytes)}
        found |= _still_so(_rows_of(list(large), job, range_bytes, tell), job)
        for file, outcome in _scanned_whole([file for file in files if file not in found], job):
            found[file] = outcome
            tell(0 if file in large else file.bytes)
        return all_of([found[file] for file in files])


def _still_so(rows: Mapping[SourceFile, KnownRows], job: LayersJob) -> Iterator[tuple[SourceFile, Scanned]]:
    """The files whose rows were found before and that have not changed. Only their first rows are read."""
    files = list(rows)
    groups = _grouped([_LOOK_BYTES] * len(files), _cpus())
    # A long file has many spans, and a task needs only one.
    work = [[(files[i], replace(rows[files[i]], spans=rows[files[i]].spans[:1])) for i in group] for group in groups]
    for index, outcomes in stream(_look_at, work, job.storage_options, timeout=_timeout(job, GROUP_BYTES)):
        for (file, _), scanned in zip(work[index], outcomes, strict=True):
            if scanned is not None:
                yield file, replace(scanned, spans=rows[file].spans)


def _rows_of(
    files: Sequence[SourceFile], job: LayersJob, size: int, tell: Callable[[int], None]
) -> dict[SourceFile, KnownRows]:
    """Where the rows of large files lie. An unreadable file is left out: the scan of the whole file says why."""
    ranges = [part for file in files for part in ranges_of(file, size)]
    cutting: dict[SourceFile, FileSpans] = {}
    found: dict[SourceFile, KnownRows] = {}
    ahead, timeout = 4 * _TASKS_PER_CPU * _cpus(), _timeout(job, 2 * size)
    for index, lines in stream(lines_of, ranges, job.storage_options, ahead=ahead, timeout=timeout):
        part = ranges[index]
        spans = cutting.setdefault(part.file, FileSpans(job.shard_rows, SHARD_BYTES)).add(part, lines)
        tell(part.stop - part.start)
        if spans is None:
            continue
        del cutting[part.file]
        if spans:
            found[part.file] = KnownRows((), tuple(spans))
    return found


def _scanned_whole(files: Sequence[SourceFile], job: LayersJob) -> Iterator[tuple[SourceFile, Scanned | str]]:
    """Scan each file as a whole: the result, or what is wrong with the file."""
    costs = [_LOOK_BYTES + (file.bytes if file.format in TEXT_FORMATS else 0) for file in files]
    work = [[files[place] for place in group] for group in _grouped(costs, _cpus())]
    timeout = _timeout(job, max([GROUP_BYTES, *costs]))
    for index, outcomes in stream(_look_over, work, job.shard_rows, job.storage_options, timeout=timeout):
        yield from zip(work[index], outcomes, strict=True)


def _grouped(costs: Sequence[int], cpus: int) -> list[list[int]]:
    """Places in `costs`, in groups for one task each. The longest work comes first, so that it does not run alone at
    the end."""
    most = min(sum(costs) // (_TASKS_PER_CPU * cpus), GROUP_BYTES)
    groups: list[list[int]] = []
    filled = most
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        if filled + costs[place] > most:
            groups.append([])
            filled = 0
        groups[-1].append(place)
        filled += costs[place]
    return groups


def _look_at(group: Sequence[tuple[SourceFile, KnownRows]], options: Mapping[str, Any]) -> list[Scanned | None]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda pair: scanned_before(pair[0], pair[1], options), group))


def _look_over(group: Sequence[SourceFile], shard_rows: int, options: Mapping[str, Any]) -> list[Scanned | str]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda file: scanned_or_broken(file, shard_rows, options), group))


def _timeout(job: LayersJob, cost: int) -> float:
    return job.worker_timeout + cost / _SLOWEST


def _cpus() -> int:
    import ray

    return max(int(ray.cluster_resources().get("CPU", 1.0)), 1)
