"""Checks an output against its manifest: every file is read and hashed again, every row counted.

Files that the manifest does not list are reported, too: every file in kept/ will be trained on.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tamis.pipeline.errors import ConfigError, InputError, error_text
from tamis.pipeline.run.paths import (
    DROPPED,
    INCOMPLETE,
    KEPT,
    LAYERS,
    MANIFEST,
    PARTS,
    QUARANTINE,
    RUN,
    SCORES,
    table_of,
)
from tamis.pipeline.run.row_places import shard_of, shards_of
from tamis.pipeline.storage.addresses import open_filesystem
from tamis.pipeline.storage.ranged import ObjectFile, info_of, open_stream
from tamis.pipeline.storage.retrying import retrying
from tamis.pipeline.storage.safe_names import safe_name
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import Progress, at_work, phase

_COUNTED = {KEPT: "kept", DROPPED: "dropped", QUARANTINE: "quarantined"}
_BLOCK = 4 << 20
_THREADS = 8
_AT_A_TIME = 1000


@dataclass
class Verified:
    """The result of a check. rows: by part. leftovers: files of killed writes, which nothing reads."""

    name: str
    complete: bool
    counts: Mapping[str, int]
    files: int = 0
    bytes: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    leftovers: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """A sentence for a person about what was checked."""
        rows = " + ".join(f"{self.rows[part]:,} {name}" for part, name in _COUNTED.items())
        lines = [
            f"{self.files:,} files ({self.bytes / 1e6:,.1f} MB) are as {self.name} says: size, sha256, footer",
            f"{sum(self.rows[part] for part in _COUNTED):,} rows = {rows}; {self.rows[SCORES]:,} rows of scores",
        ]
        if self.leftovers:
            lines.append(f"{self.leftovers:,} leftovers of killed writes (*.tmp), which nothing reads")
        return "\n".join(lines)


@dataclass(frozen=True)
class _File:
    """One entry of the manifest, and the number of rows found in its file (None if it is not Parquet). shards: those
    whose rows it should hold, and how many of each; empty where it says nothing of them."""

    name: str
    bytes: int
    sha256: str
    shards: tuple[tuple[str, int], ...] = ()
    rows: int | None = None


@at_work()
def verify(store: Store) -> Verified:
    """Check the output of a run that has ended. Errors are in `problems` of the result.

    Raises InputError if the run has not ended yet, or for a manifest that cannot be read; ConfigError if the folder
    holds no run.
    """
    phase("verify", "reading the manifest")
    name = _manifest_name(store)
    manifest = _manifest(store, name)
    found = Verified(name, name == MANIFEST, manifest["counts"])
    files = _listed(manifest["files"], found.problems)
    shards: dict[str, Counter[str]] = defaultdict(Counter)
    progress = Progress("verify", len(files), unit="files")
    with ThreadPoolExecutor(_THREADS) as pool:
        for file, problem in _checked(pool, store, files):
            progress.advance(1)
            if problem is not None:
                found.problems.append(f"{file.name}: {problem}")
                continue
            found.files += 1
            found.bytes += file.bytes
            part = file.name.partition("/")[0]
            if part in PARTS and file.rows is not None:
                found.rows[part] += file.rows
                for shard, rows in file.shards or [(shard_of(file.name), file.rows)]:
                    shards[shard][part] += rows
    progress.finish()
    phase("verify", "looking for files that the manifest does not list")
    # Damaged files are not counted; rows that are missing only for that reason are not a further problem.
    whole = not found.problems
    _strangers(store, {file.name for file in files}, found)
    if whole:
        found.problems.extend(_uncounted(found, manifest))
        found.problems.extend(_uneven(shards))
    found.problems.sort()
    return found


# --- the manifest -------------------------------------------------------------------------------------------------


def _manifest_name(store: Store) -> str:
    for name in (MANIFEST, INCOMPLETE):
        if store.exists(name):
            return name
    if store.exists(RUN):
        raise InputError(
            f"{store.path()}: the run here has not ended, so there is no {MANIFEST} to verify it by; run the same "
            "`tamis curate` command again to go on (`tamis status` says how far it is)"
        )
    if store.exists(LAYERS):
        raise InputError(f"{store.path()}: holds a layer search alone; there is a manifest to verify after a run")
    raise ConfigError(f"{store.path()}: no run of tamis has been here")


def _manifest(store: Store, name: str) -> dict[str, Any]:
    """The manifest, with counts and files of the right types."""
    try:
        manifest = store.read_facts(name)
        counts, files = manifest["counts"], manifest["files"]
        if not isinstance(files, list) or not isinstance(manifest["fingerprint"], dict):
            raise TypeError
        for count in ("rows_in", "kept", "dropped", "quarantined"):
            if type(counts[count]) is not int:
                raise TypeError
        return {"counts": counts, "files": files}
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{store.path(name)} is damaged, or was not written by tamis; put it back from a copy, or delete the "
            "output and run again"
        ) from None


def _listed(entries: Iterable[Any], problems: list[str]) -> list[_File]:
    files: dict[str, _File] = {}
    for number, entry in enumerate(entries):
        try:
            said = shards_of(entry)
            shards = tuple((shard, rows) for shard, rows in said if rows is not None)
            file = _File(entry["name"], entry["bytes"], entry["sha256"], shards)
            if not (isinstance(file.name, str) and type(file.bytes) is int and isinstance(file.sha256, str)):
                raise TypeError
        except (AttributeError, KeyError, TypeError, ValueError):
            problems.append(f"entry {number} of the manifest's files has not the form of one")
            continue
        try:
            safe_name(file.name, f"entry {number} of the manifest's files")
        except ConfigError as error:
            problems.append(str(error))
            continue
        if file.name in files:
            problems.append(f"{file.name}: listed twice")
        files[file.name] = file
    return list(files.values())


# --- one file -----------------------------------------------------------------------------------------------------


def _checked(pool: ThreadPoolExecutor, store: Store, files: Sequence[_File]) -> Iterator[tuple[_File, str | None]]:
    """`_check` of every file, some at a time: what waits for a thread takes more memory than the file's entry."""
    for start in range(0, len(files), _AT_A_TIME):
        asked = [pool.submit(_check, store, file) for file in files[start : start + _AT_A_TIME]]
        for future in as_completed(asked):
            yield future.result()


def _check(store: Store, file: _File) -> tuple[_File, str | None]:
    """The file with its rows, or what is wrong with it. StorageError when an object store does not answer."""
    filesystem, root = open_filesystem(store.url, store.options)
    path = f"{root.rstrip('/')}/{file.name}"
    try:
        info = info_of(filesystem, path)
        if info["type"] == "directory":
            return file, "is no file"
        if info["size"] != file.bytes:
            return file, f"has {info['size']:,} bytes, the manifest says {file.bytes:,}"
        digest = hashlib.sha256()
        with closing(open_stream(filesystem, path)) as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
        if digest.hexdigest() != file.sha256:
            return file, "its content has changed (another sha256 than the manifest says)"
        if not file.name.endswith(".parquet"):
            return file, None
        opened = filesystem.open(path, "rb") if store.is_local else ObjectFile(filesystem, path, file.bytes)
        with closing(opened) as stream:
            footer = pq.ParquetFile(stream).metadata
        groups = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
        if file.shards and groups != [rows for _, rows in file.shards if rows]:
            return file, "its row groups have not the rows that the manifest says of its shards"
        return replace(file, rows=footer.num_rows), None
    except FileNotFoundError:
        return file, "is missing"
    except (pa.ArrowException, io.UnsupportedOperation) as error:
        return file, f"is no Parquet file ({error_text(error)})"
    except OSError as error:
        if not store.is_local and not isinstance(error, PermissionError):
            raise
        return file, f"cannot be read ({error_text(error)})"


# --- all of them --------------------------------------------------------------------------------------------------


def _strangers(store: Store, listed: set[str], found: Verified) -> None:
    filesystem, root = open_filesystem(store.url, store.options)
    root = root.rstrip("/")

    def below(part: str) -> list[str]:
        paths: list[str] = filesystem.find(f"{root}/{part}")
        return paths

    for part in PARTS:
        for path in retrying(partial(below, part), store.path(part)):
            name = path[len(root) + 1 :]
            base = os.path.basename(name)
            if name in listed or not base:
                continue
            if base.endswith(".tmp"):
                found.leftovers += 1
            elif not base.startswith(".") or base.endswith(".parquet"):
                found.problems.append(f"{name}: is not in the manifest; take it away, or it will be read as output")


def _uncounted(found: Verified, manifest: Mapping[str, Any]) -> list[str]:
    counts = found.counts
    problems = [
        f"{part}/ holds {found.rows[part]:,} rows, the manifest says {counts[name]:,}"
        for part, name in _COUNTED.items()
        if found.rows[part] != counts[name]
    ]
    written = sum(counts[name] for name in _COUNTED.values())
    failed = counts.get("failed", 0)
    if counts["rows_in"] != written + failed:
        parts = " + ".join(f"{counts[name]:,} {name}" for name in _COUNTED.values())
        also = f" + {failed:,} failed" if failed else ""
        problems.append(f"the manifest's counts do not add up: {counts['rows_in']:,} rows read, {parts}{also}")
    if found.rows[SCORES] != written:
        problems.append(f"{SCORES}/ holds {found.rows[SCORES]:,} rows for {written:,} rows of input")
    return problems


def _uneven(shards: Mapping[str, Counter[str]]) -> list[str]:
    """Problems with the number of rows per shard: scores/ has one row per input row, so each of its files must have as
    many rows as the other folders have of that shard together."""
    problems = []
    for shard, rows in shards.items():
        together = sum(rows[part] for part in _COUNTED)
        if rows[SCORES] != together:
            problems.append(
                f"{table_of(SCORES, shard)}: has {rows[SCORES]:,} rows, the other folders {together:,} of its shard"
            )
    return problems
