"""Repair: files that are damaged between two stages are made again.

Every file that one stage writes and another reads has its digest in a receipt, and every reader checks it. If a digest
does not match, all receipts of the stage are checked against their files, the receipts of damaged files are removed,
and the run goes through its stages again: work with a receipt is skipped, the rest is done again.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, TypeVar

from tamis.pipeline.cluster.tasks import stream
from tamis.pipeline.errors import ConfigError, DamagedError, StorageError
from tamis.pipeline.run import receipts
from tamis.pipeline.run.paths import EMPTY_DROPPED, FITTED, PARTS, WORK
from tamis.pipeline.run.receipts import Receipt
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import phase
from tamis.pipeline.terminal.voice import say_damaged

T = TypeVar("T")

ATTEMPTS = 4
EMIT = "emit"
"""The stage whose receipts list the files of the output."""

_GROUP = 16
_PLAIN_MD5 = re.compile(r"[0-9a-f]{32}")

_File = Mapping[str, Any]
"""name, bytes and sha256 of a file; md5 of an object in a store."""


def until_whole(store: Store, attempt: Callable[[], T], over: Callable[[], bool]) -> T:
    """Call attempt(), and again after each DamagedError once the named file is repaired. Ray must be running.

    over: whether another driver has finished the work and removed the files that this one was reading; then the
    DamagedError is raised. Raises StorageError if the repair does not help.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return attempt()
        except DamagedError as damage:
            if over():
                raise
            mend(store, damage)
    try:
        return attempt()
    except DamagedError as damage:
        raise StorageError(
            f"output: {store.path()}: {damage}, although it was made anew {ATTEMPTS - 1} times; the storage does not "
            "keep what is written to it. See to it, or choose another output folder"
        ) from None


def mend(store: Store, damage: DamagedError) -> None:
    """Find all damaged files in the stage of the file that `damage` names, and let them be made again."""
    say_damaged(f"damaged: {damage}; it is made again")
    phase("mending", "looking for what else is damaged")
    stage = _stage_of(damage.name)
    if stage is None:
        return  # these files are made again in every run
    found: list[tuple[str, _File]] = [
        (_name_of(receipt), file) for receipt in receipts.whole(store, stage) for file in _files_of(receipt)
    ]
    bad = damaged(store, [file for _, file in found])
    names = dict.fromkeys(name for name, file in found if file["name"] in bad)
    for file in bad - {damage.name}:
        say_damaged(f"damaged: {file}, too")
    receipts.forget(store, stage, names)


def damaged(store: Store, files: Iterable[_File]) -> set[str]:
    """The names of the files that are missing or not as they were written. Ray must be running.

    Checks sizes first, then the digests that the storage reports; only the remaining files are read.
    """
    bad, unsure = set(), []
    ordered = sorted(files, key=lambda file: str(file["name"]))
    for folder, members in groupby(ordered, lambda file: str(file["name"]).rpartition("/")[0]):
        told = store.details(folder)
        for file in members:
            info = told.get(str(file["name"]).rpartition("/")[2])
            if info is None or info.get("type") == "directory" or info.get("size") != file["bytes"]:
                bad.add(str(file["name"]))
            elif not (file.get("md5") is not None and _told_md5(info) == file["md5"]):
                unsure.append((file["name"], file["sha256"]))
    groups = [unsure[start : start + _GROUP] for start in range(0, len(unsure), _GROUP)]
    for _, found in stream(_unlike, groups, store, cpus=_cpus()):
        bad.update(found)
    return bad


def check_output(store: Store, files: Sequence[_File], shards: Iterable[str]) -> None:
    """DamagedError if a file of the output is not as it was written. ConfigError if its folders hold other files.

    shards: the names of all shards of the run. An unlisted file with such a name is a leftover of this run and is
    removed.
    """
    # Only the publisher, which may be another driver, writes or removes the empty table.
    listed = {EMPTY_DROPPED, *(str(file["name"]) for file in files)}
    ours = {f"{name}.parquet" for name in shards}
    strangers = []
    for folder in PARTS:
        for name in store.list(folder):
            path = f"{folder}/{name}"
            if path in listed or (name.startswith(".") and not name.endswith(".parquet")):
                continue
            if name in ours:
                store.remove(path)
            else:
                strangers.append(path)
    if strangers:
        raise ConfigError(
            f"output: {store.path()} holds what this run has not written: {', '.join(strangers[:3])}"
            f"{', ...' if len(strangers) > 3 else ''}; whoever reads the output would take it for a part of it. Take "
            "it away and run the same command again: everything else is done"
        )
    for name in sorted(damaged(store, files)):
        raise DamagedError(f"{name}: is missing, or not as it was written")


def _stage_of(name: str) -> str | None:
    folder, _, rest = name.partition("/")
    if folder in PARTS:
        return EMIT
    stage = rest.partition("/")[0]
    return stage if folder == WORK and not name.startswith(f"{FITTED}/") else None


def _name_of(receipt: Receipt) -> str:
    return str(receipt["shard"])


def _files_of(receipt: Receipt) -> list[_File]:
    return receipt["files"] if "files" in receipt else [receipt["file"]]


def _told_md5(info: Mapping[str, Any]) -> str | None:
    """The md5 that the storage reports: a digest of that name, or the etag, except for a multipart upload."""
    if "md5Hash" in info:
        return base64.b64decode(info["md5Hash"]).hex()
    etag = str(info.get("ETag") or info.get("etag") or "").strip('"')
    return etag if _PLAIN_MD5.fullmatch(etag) else None


def _unlike(group: Sequence[tuple[str, str]], store: Store) -> list[str]:
    found = []
    for name, sha256 in group:
        try:
            same = hashlib.sha256(store.read(name)).hexdigest() == sha256
        except FileNotFoundError:
            same = False
        if not same:
            found.append(name)
    return found


def _cpus() -> float:
    import ray

    return min(1.0, float(ray.cluster_resources().get("CPU", 0.0)))
