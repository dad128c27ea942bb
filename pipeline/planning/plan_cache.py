"""What the plan found out by reading every byte of the input, kept in the output folder for the next command.

Where rows lie in a text file is known only after all of it was read: hours of a large corpus, for a run that was
stopped for a minute. Kept are byte ranges and column names, never text. A file that has changed, by its size or its
identity, is scanned again, and so is everything if what is kept is damaged or of another version. (The footer of a
Parquet file says as much at once.)
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from typing import Any

import pyarrow as pa

from tamis.operators.problems import RowProblem
from tamis.pipeline.errors import InputError
from tamis.pipeline.inputs.files import TEXT_FORMATS, SourceFile
from tamis.pipeline.inputs.shards import CORPUS, HEAD_ROWS, SHARD_BYTES, Scanned, Shard, read
from tamis.pipeline.inputs.spans import Span
from tamis.pipeline.job.job_file import LayersJob
from tamis.pipeline.run.paths import PLANNED_ROWS, RUN
from tamis.pipeline.storage.store import Store


@dataclass(frozen=True)
class Rows:
    """Where the rows of one text file lie. header: of CSV."""

    header: tuple[str, ...]
    spans: tuple[Span, ...]


def load(job: LayersJob) -> dict[SourceFile, Rows]:
    """What an earlier command of the run in the job's output folder has found; empty if there is none.

    Raises TamisError if the folder cannot be looked into.
    """
    store = Store(job.output, job.storage_options)
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        if not store.exists(RUN):
            return {}
        tree = json.loads(store.read(PLANNED_ROWS))
        if tree["stamp"] != _stamp(job, tree["files"]):
            return {}
        return {
            SourceFile(**entry["file"]): Rows(tuple(entry["header"]), tuple(Span(*span) for span in entry["spans"]))
            for entry in tree["files"]
        }
    return {}


def keep(store: Store, job: LayersJob, shards: Iterable[Shard]) -> None:
    """Keep what `shards`, all of the corpus, say of their files, unless it is there already."""
    entries: dict[SourceFile, dict[str, Any]] = {}
    for shard in shards:
        # A storage that gives a file no identity would not tell that it has changed.
        if shard.file.format in TEXT_FORMATS and shard.file.identity:
            new = {"file": asdict(shard.file), "header": shard.header, "spans": []}
            entries.setdefault(shard.file, new)["spans"].append(astuple(shard.span))
    if not entries:
        return
    files = list(entries.values())
    data = json.dumps({"stamp": _stamp(job, files), "files": files}).encode()
    try:
        if store.read(PLANNED_ROWS) == data:
            return
    except FileNotFoundError:
        pass
    store.write(PLANNED_ROWS, data)


def scanned_before(file: SourceFile, rows: Rows, options: Mapping[str, Any]) -> Scanned | None:
    """What scanning `file` gives, from its first rows alone; None if they cannot be read as they were found."""
    first = Shard(0, CORPUS, file, rows.header, rows.spans[0], {})
    try:
        values = [row.value for row in read(first, options)[:HEAD_ROWS]]
    except InputError:
        return None
    schema = pa.schema([(name, pa.string()) for name in rows.header]) if rows.header else None
    good = tuple(value for value in values if not isinstance(value, RowProblem))
    bad = tuple(value for value in values if isinstance(value, RowProblem))
    return Scanned(file, rows.header, rows.spans, schema, good, bad)


def _stamp(job: LayersJob, files: Any) -> dict[str, Any]:
    """What must agree: how the input was cut, by which tamis, and the content itself."""
    return {
        "tamis": importlib.metadata.version("tamis"),
        "shard_rows": job.shard_rows,
        "shard_bytes": SHARD_BYTES,
        "sha256": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
    }
