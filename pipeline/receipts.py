"""Receipts: one small JSON file per finished shard and stage, written after everything else of that shard.

A receipt that is there means that the shard is done; resuming a run is skipping shards that have one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tamis.pipeline.sources import Shard
from tamis.pipeline.store import Store

WORK = "_work"
Receipt = dict[str, Any]


def folder(stage: str) -> str:
    return f"{WORK}/receipts/{stage}"


def write(store: Store, stage: str, shard: Shard, key: str, facts: Mapping[str, Any]) -> Receipt:
    """Write the shard's receipt. key: digest of the settings under which it was done."""
    receipt = {"shard": shard.name, "index": shard.index, "rows": shard.rows, "key": key, **facts}
    store.write(f"{folder(stage)}/{shard.name}.json", json.dumps(receipt, allow_nan=False).encode())
    return receipt


def done(store: Store, stage: str, shards: Sequence[Shard], key: str) -> Iterator[Receipt]:
    """The receipts of those of `shards` that were finished under `key`, in plan order."""
    present = set(store.list(folder(stage)))
    wanted = [shard.name for shard in shards if f"{shard.name}.json" in present]
    with ThreadPoolExecutor(16) as pool:
        for name, data in zip(wanted, pool.map(lambda n: store.read(f"{folder(stage)}/{n}.json"), wanted), strict=True):
            try:
                receipt = json.loads(data)
            except ValueError:
                continue  # cut off while it was written on a storage without atomic writes: not done
            if isinstance(receipt, dict) and receipt.get("shard") == name and receipt.get("key") == key:
                yield receipt
