"""The results of reading every byte of the input for the plan, kept in the output folder for the next command.

The positions of rows in a text file are known only after all of it was read. For a large corpus that takes hours, too
long for a run that was stopped for a minute. The cache holds byte ranges and column names, never text. A file whose
size or identity has changed is scanned again; everything is scanned again if the cache is damaged or from another
version. (A Parquet file needs no cache: its footer has the same facts.)
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from typing import Any

from tamis.pipeline.errors import InputError
from tamis.pipeline.inputs.files import TEXT_FORMATS, SourceFile
from tamis.pipeline.inputs.layouts import AS_NAMED, Layout, remark
from tamis.pipeline.inputs.shards import CORPUS, HEAD_ROWS, SHARD_BYTES, Scanned, Shard, read, sort_out, text_schema
from tamis.pipeline.inputs.spans import Span
from tamis.pipeline.job.job_file import LayersJob
from tamis.pipeline.run.paths import PLANNED_ROWS, RUN
from tamis.pipeline.storage.store import Store


@dataclass(frozen=True)
class KnownRows:
    """Where the rows of one text file lie. header: the header of a CSV file. layout: how its rows lie in it."""

    header: tuple[str, ...]
    spans: tuple[Span, ...]
    layout: Layout = AS_NAMED


def load(job: LayersJob) -> dict[SourceFile, KnownRows]:
    """The cached rows from an earlier command of the run in the job's output folder; empty if there are none.

    Raises TamisError if the folder cannot be accessed.
    """
    store = Store(job.output, job.storage_options)
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        if not store.exists(RUN):
            return {}
        tree = json.loads(store.read(PLANNED_ROWS))
        if tree["stamp"] != _stamp(job, tree["files"]):
            return {}
        return {
            SourceFile(**entry["file"]): KnownRows(
                tuple(entry["header"]), tuple(Span(*span) for span in entry["spans"]), Layout(**entry["layout"])
            )
            for entry in tree["files"]
        }
    return {}


def keep(store: Store, job: LayersJob, shards: Iterable[Shard]) -> None:
    """Cache where the rows of the files lie, unless that is cached already. shards: all shards of the corpus."""
    entries: dict[SourceFile, dict[str, Any]] = {}
    for shard in shards:
        # Where the storage gives a file no identity, a change of the file would go unnoticed.
        if shard.file.format in TEXT_FORMATS and shard.file.identity:
            new = {"file": asdict(shard.file), "header": shard.header, "layout": asdict(shard.layout), "spans": []}
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


def scanned_before(file: SourceFile, rows: KnownRows, options: Mapping[str, Any]) -> Scanned | None:
    """The result of scanning `file`, from its first rows only; None if these rows cannot be read where they were."""
    first = Shard(0, CORPUS, file, rows.header, rows.spans[0], {}, layout=rows.layout)
    try:
        values = [row.value for row in read(first, options)[:HEAD_ROWS]]
    except InputError:
        return None
    notes = tuple(filter(None, [remark(rows.layout, file.format, file.delimiter, file.quoting)]))
    schema = text_schema(file, rows.header)
    return Scanned(file, rows.header, rows.spans, schema, *sort_out(values), layout=rows.layout, notes=notes)


def _stamp(job: LayersJob, files: Any) -> dict[str, Any]:
    """What must agree for the cache to be valid: how the input was split, the version of tamis, and the content."""
    return {
        "tamis": importlib.metadata.version("tamis"),
        "shard_rows": job.shard_rows,
        "shard_bytes": SHARD_BYTES,
        "sha256": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
    }
