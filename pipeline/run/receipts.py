"""Receipts: one small JSON file per finished shard and stage, written after everything else of that shard.

A receipt means that its shard is done: a resumed run skips shards that have one. The cells of the layer search have
receipts, too. Each receipt has a seal: a receipt that is not as it was written does not count.

On an object store, opening ten thousand small files one by one takes minutes. So the driver also writes the receipts it
has seen into compact files beside them, a few hundred at a time. The single receipts stay the source of truth: an entry
of a compact file counts only if the single receipt exists, too, and a damaged compact file does not count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol

from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.run.paths import RECEIPTS
from tamis.pipeline.storage import seals
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.voice import say_damaged

COMPACT = 256
"""Receipts per compact file. A command that is killed leaves at most this many for the next one to open singly."""

_WORTH_A_FILE = 32
_AT_A_TIME = 64
_COMPACT_NAME = "compact-"

Receipt = dict[str, Any]


class Named(Protocol):
    """The work that a receipt is for. name: unique within its stage, and usable as a file name."""

    @property
    def name(self) -> str: ...


def folder(stage: str) -> str:
    return f"{RECEIPTS}/{stage}"


def write(store: Store, stage: str, shard: Shard, key: str, facts: Mapping[str, Any]) -> Receipt:
    """Write the shard's receipt. key: digest of the settings under which it was done."""
    receipt = {"shard": shard.name, "index": shard.index, "rows": shard.rows, "key": key, **facts}
    _write(store, stage, shard.name, receipt)
    return receipt


def write_cell(store: Store, stage: str, name: str, key: str, facts: Mapping[str, Any]) -> Receipt:
    """Write the receipt of work that is not a shard, under its own name."""
    receipt = {"cell": name, "key": key, **facts}
    _write(store, stage, name, receipt)
    return receipt


def _write(store: Store, stage: str, name: str, receipt: Receipt) -> None:
    store.write(f"{folder(stage)}/{name}.json", json.dumps(seals.sealed(receipt)).encode())


def count(store: Store, stage: str) -> int:
    """How many single receipts there are, under any key."""
    return sum(map(_is_single, store.list(folder(stage))))


def whole(store: Store, stage: str) -> Iterator[Receipt]:
    """Every undamaged receipt of the stage, under any key."""
    names = [name for name in store.list(folder(stage)) if _is_single(name)]
    for file, data in _read_all(store, stage, names):
        with suppress(ValueError, RecursionError):
            receipt = seals.opened(json.loads(data))
            if f"{_name_of(receipt)}.json" == file:
                yield receipt


def forget(store: Store, stage: str, names: Iterable[str]) -> None:
    """Remove the receipts of these names, so that their work is done again. All compact files are removed, too, because
    they may contain these receipts."""
    for name in store.list(folder(stage)):
        if name.startswith(_COMPACT_NAME):
            store.remove(f"{folder(stage)}/{name}")
    for name in names:
        store.remove(f"{folder(stage)}/{name}.json")


def done(store: Store, stage: str, work: Sequence[Named], key: str) -> Iterator[Receipt]:
    """The receipts of the shards (or cells) of `work` that were finished under `key`, each once, in any order.

    For the driver, before it starts on the remaining work. Compact files of another key are removed, because their
    shards are about to be done again. Single receipts that had to be opened are compacted for the next time.
    """
    present = store.list(folder(stage))
    singles = {name.removesuffix(".json") for name in present if _is_single(name)}
    wanted = {item.name for item in work} & singles
    compact = [name for name in present if name.startswith(_COMPACT_NAME)]
    for name in compact:
        if not name.startswith(f"{_COMPACT_NAME}{key}-"):
            store.remove(f"{folder(stage)}/{name}")
    ours = [name for name in compact if name.startswith(f"{_COMPACT_NAME}{key}-")]
    for file, data in _read_all(store, stage, ours):
        for receipt in _opened(file, data):
            if (name := _name_of(receipt)) in wanted:
                wanted.remove(name)
                yield receipt
    yield from compacted(store, stage, key, _singles(store, stage, [i.name for i in work if i.name in wanted], key))


def compacted(store: Store, stage: str, key: str, found: Iterable[Receipt]) -> Iterator[Receipt]:
    """Pass receipts on as they come, and also write them to compact files. All of them must be of `key`."""
    batch: list[Receipt] = []
    for receipt in found:
        batch.append(receipt)
        if len(batch) == COMPACT:
            _write_compact(store, stage, key, batch)
            batch = []
        yield receipt
    if len(batch) >= _WORTH_A_FILE:
        _write_compact(store, stage, key, batch)


def _write_compact(store: Store, stage: str, key: str, batch: Sequence[Receipt]) -> None:
    """Write a compact file, named by its content: an incomplete file is recognised, and two drivers cannot write
    different contents to one name."""
    data = b"".join(json.dumps(receipt, allow_nan=False).encode() + b"\n" for receipt in batch)
    store.write(f"{folder(stage)}/{_COMPACT_NAME}{key}-{_digest(data)}.jsonl", data)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _opened(file: str, data: bytes) -> list[Receipt]:
    if not file.endswith(f"-{_digest(data)}.jsonl"):
        return []
    return [json.loads(line) for line in data.splitlines()]


def _singles(store: Store, stage: str, names: Sequence[str], key: str) -> Iterator[Receipt]:
    for file, data in _read_all(store, stage, [f"{name}.json" for name in names]):
        try:
            receipt = seals.opened(json.loads(data))
        except (ValueError, RecursionError):
            # Or the file was cut off while it was written, on a storage without atomic writes.
            say_damaged(f"{stage}: the receipt {file} is damaged, so its work is done again")
            continue
        if receipt.get("key") == key and f"{_name_of(receipt)}.json" == file:
            yield receipt


def _read_all(store: Store, stage: str, files: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Read several files at a time, with a bounded number in memory. A file that vanishes meanwhile is skipped."""

    def read(file: str) -> bytes | None:
        try:
            return store.read(f"{folder(stage)}/{file}")
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(16) as pool:
        for start in range(0, len(files), _AT_A_TIME):
            some = files[start : start + _AT_A_TIME]
            for file, data in zip(some, pool.map(read, some), strict=True):
                if data is not None:
                    yield file, data


def _is_single(file: str) -> bool:
    return file.endswith(".json")


def _name_of(receipt: Mapping[str, Any]) -> Any:
    return receipt.get("shard", receipt.get("cell"))
