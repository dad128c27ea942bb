"""Receipts: one small JSON file per finished shard and stage, written after everything else of that shard.

A receipt that is there means that the shard is done; resuming a run is skipping shards that have one. The cells of
the layer search have receipts, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from tamis.pipeline.sources import Shard
from tamis.pipeline.store import Store

WORK = "_work"
Receipt = dict[str, Any]


class Named(Protocol):
    """What a receipt is for. name: unlike that of all other work of its stage, and fit for a file."""

    @property
    def name(self) -> str: ...


def folder(stage: str) -> str:
    return f"{WORK}/receipts/{stage}"


def write(store: Store, stage: str, shard: Shard, key: str, facts: Mapping[str, Any]) -> Receipt:
    """Write the shard's receipt. key: digest of the settings under which it was done."""
    receipt = {"shard": shard.name, "index": shard.index, "rows": shard.rows, "key": key, **facts}
    store.write(f"{folder(stage)}/{shard.name}.json", json.dumps(receipt, allow_nan=False).encode())
    return receipt


def write_cell(store: Store, stage: str, name: str, key: str, facts: Mapping[str, Any]) -> Receipt:
    """The receipt of work that is not a shard, under a name of its own."""
    receipt = {"cell": name, "key": key, **facts}
    store.write(f"{folder(stage)}/{name}.json", json.dumps(receipt, allow_nan=False).encode())
    return receipt


def done(store: Store, stage: str, work: Sequence[Named], key: str) -> Iterator[Receipt]:
    """The receipts of those shards (or cells) of `work` that were finished under `key`, in its order."""
    present = set(store.list(folder(stage)))
    wanted = [item.name for item in work if f"{item.name}.json" in present]
    with ThreadPoolExecutor(16) as pool:
        for name, data in zip(wanted, pool.map(lambda n: store.read(f"{folder(stage)}/{n}.json"), wanted), strict=True):
            try:
                receipt = json.loads(data)
            except ValueError:
                continue  # cut off while it was written on a storage without atomic writes: not done
            if not isinstance(receipt, dict) or receipt.get("key") != key:
                continue
            if name in (receipt.get("shard"), receipt.get("cell")):
                yield receipt
