"""The scan of the input as tasks of Ray: over groups of files, and over byte ranges of large JSON Lines files.

It finds what `scan_files` finds, to the byte. The bytes of the input are read by the workers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from tamis.pipeline.engine import stream
from tamis.pipeline.files import TEXT_FORMATS, SourceFile
from tamis.pipeline.job import LayersJob
from tamis.pipeline.line_ranges import RANGE_BYTES, FileSpans, is_large, lines_of, ranges_of
from tamis.pipeline.plan_cache import Rows
from tamis.pipeline.scan_progress import scan_progress
from tamis.pipeline.scanning import all_of, look_over
from tamis.pipeline.sources import SHARD_BYTES, Scanned

GROUP_BYTES = 128 << 20
"""Of small files that one task scans, at most: what is lost when its worker dies."""

_TASKS_PER_CPU = 4
_THREADS = 4
"""In one task, for files that are a few requests each: what they take is waiting."""

_LOOK_BYTES = 1 << 20
"""What opening a file costs, as if it were so much longer."""

_SLOWEST = 10**6
"""Bytes a second that a worker scans at least, however packed they are; one that takes longer hangs."""


@dataclass(frozen=True)
class _Unit:
    """One file to look over. rows: what was found before, of which the first span tells whether it still holds."""

    file: SourceFile
    rows: Rows | None

    @property
    def cost(self) -> int:
        """About how many bytes must be read."""
        whole = self.rows is None and self.file.format in TEXT_FORMATS
        return _LOOK_BYTES + (self.file.bytes if whole else 0)

    def with_one_span(self) -> _Unit:
        """As a task needs it: the spans of a long file are many."""
        return self if self.rows is None else replace(self, rows=replace(self.rows, spans=self.rows.spans[:1]))


def scan_on_cluster(
    files: Sequence[SourceFile],
    job: LayersJob,
    known: Mapping[SourceFile, Rows] | None = None,
    range_bytes: int = RANGE_BYTES,
) -> list[Scanned]:
    """What `scan_files` gives for the same arguments, found by the tasks of a Ray that is up; as long as nobody changes
    the files.

    range_bytes: files of more than two times this are cut. Raises InputError, StorageError and ConfigError as
    `scan_files`; ClusterError if a task hangs, or all workers that had it died.
    """
    before = dict(known or {})
    with scan_progress(files) as tell:
        large = [file for file in files if file not in before and is_large(file, range_bytes)]
        before |= _rows_of(large, job, range_bytes, tell)
        units = [_Unit(file, before.get(file)) for file in files]
        told = set(large)
        groups = _grouped([unit.cost for unit in units], _cpus())
        work = [[units[place].with_one_span() for place in group] for group in groups]
        longest = max((sum(units[place].cost for place in group) for group in groups), default=0)
        outcomes: dict[int, Scanned | str] = {}
        for index, found in stream(
            _look_over, work, job.shard_rows, job.storage_options, timeout=_timeout(job, longest)
        ):
            for place, (same, outcome) in zip(groups[index], found, strict=True):
                unit = units[place]
                if same and unit.rows is not None and isinstance(outcome, Scanned):
                    outcome = replace(outcome, spans=unit.rows.spans)
                outcomes[place] = outcome
                tell(0 if unit.file in told else unit.file.bytes)
        return all_of([outcomes[place] for place in range(len(files))])


def _rows_of(
    files: Sequence[SourceFile], job: LayersJob, size: int, tell: Callable[[int], None]
) -> dict[SourceFile, Rows]:
    """Where the rows of large files lie. A file that cannot be read is left out: a look over all of it says why."""
    ranges = [part for file in files for part in ranges_of(file, size)]
    cutting: dict[SourceFile, FileSpans] = {}
    found: dict[SourceFile, Rows] = {}
    ahead, timeout = 4 * _TASKS_PER_CPU * _cpus(), _timeout(job, 2 * size)
    for index, lines in stream(lines_of, ranges, job.storage_options, ahead=ahead, timeout=timeout):
        part = ranges[index]
        spans = cutting.setdefault(part.file, FileSpans(job.shard_rows, SHARD_BYTES)).add(part, lines)
        tell(part.stop - part.start)
        if spans is None:
            continue
        del cutting[part.file]
        if spans:
            found[part.file] = Rows((), tuple(spans))
    return found


def _grouped(costs: Sequence[int], cpus: int) -> list[list[int]]:
    """Places in `costs`, in groups for one task each. What takes longest comes first, so that it is not alone at the
    end."""
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


def _look_over(group: Sequence[_Unit], shard_rows: int, options: Mapping[str, Any]) -> list[tuple[bool, Scanned | str]]:
    """`look_over` of each file."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda unit: look_over(unit.file, unit.rows, shard_rows, options), group))


def _timeout(job: LayersJob, cost: int) -> float:
    return job.worker_timeout + cost / _SLOWEST


def _cpus() -> int:
    import ray

    return max(int(ray.cluster_resources().get("CPU", 1.0)), 1)
