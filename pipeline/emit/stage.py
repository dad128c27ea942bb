"""The stage that writes the output, as a run calls it: finished shards are skipped, the others are watched."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing

from tamis.pipeline.capture.stage import Timings
from tamis.pipeline.emit.totals import EmitTotals, TokenTotals
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.run import receipts, set_aside
from tamis.pipeline.run.paths import PARTS, table_of
from tamis.pipeline.run.receipts import Receipt
from tamis.pipeline.run.set_aside import SetAside
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import Progress

Start = Callable[[Sequence[Shard], Sequence[int], Callable[[SetAside], None]], Generator[Receipt]]
"""Emits shards, each with its quota of ties; calls back with failed shards."""


def run_emit(
    store: Store,
    stage: str,
    key: str,
    shards: Sequence[Shard],
    quotas: Sequence[int],
    totals: EmitTotals | TokenTotals,
    timings: Timings,
    start: Start,
) -> None:
    """Emit the shards that have no receipt under `key` yet; all receipts are added to `totals`."""
    began = time.monotonic()
    finished = set()
    for receipt in receipts.done(store, stage, shards, key):
        totals.add(receipt)
        finished.add(receipt["shard"])
    pairs = [(shard, quota) for shard, quota in zip(shards, quotas, strict=True) if shard.name not in finished]
    left = [shard for shard, _ in pairs]
    progress = Progress("emit", sum(shard.rows for shard in shards), skipped=totals.rows)
    set_aside.forget(store, stage, left)

    def note(item: SetAside) -> None:
        set_aside.record(store, stage, item)
        for folder in PARTS:  # its workers may have written files before they died
            store.remove(table_of(folder, item.shard))
        totals.failed.append(item)
        progress.advance(item.rows, note=f"{len(totals.failed)} shards set aside")

    with closing(start(left, [quota for _, quota in pairs], note)) as new:
        for receipt in receipts.compacted(store, stage, key, new):
            totals.add(receipt)
            progress.advance(receipt["rows"])
    progress.finish()
    seconds = time.monotonic() - began
    timings["emit"] = {"seconds": seconds, "rows_per_second": sum(s.rows for s in left) / max(seconds, 1e-9)}
