"""The stage that writes the output, as a run calls it: finished shards are skipped, the others are watched."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from tamis.pipeline.capture.stage import Timings
from tamis.pipeline.cluster import metrics
from tamis.pipeline.emit.shard import STAGE, EmitSpec, emit
from tamis.pipeline.emit.totals import Emitted
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.run import receipts, set_aside
from tamis.pipeline.run.paths import PARTS, table_of
from tamis.pipeline.run.set_aside import SetAside
from tamis.pipeline.terminal.progress import Progress, phase


def run_emit(
    spec: EmitSpec,
    shards: Sequence[Shard],
    quotas: Sequence[int],
    made: Mapping[str, Any],
    totals: Emitted,
    timings: Timings,
    *,
    cpus: float,
    timeout: float,
) -> None:
    """Emit those of `shards` that have no receipt under the spec's key yet; all receipts are added to `totals`.

    made: by the shard's name, what the stages before have made of it. cpus: of one task at most.
    """
    store = spec.store
    began = time.monotonic()
    phase("emit", f"looking for what is done of {len(shards):,} shards")
    finished = set()
    for receipt in receipts.done(store, STAGE, shards, spec.key):
        totals.add(receipt)
        finished.add(receipt["shard"])
    pairs = [(shard, quota) for shard, quota in zip(shards, quotas, strict=True) if shard.name not in finished]
    left = [shard for shard, _ in pairs]
    progress = Progress("emit", sum(shard.rows for shard in shards), skipped=totals.rows)
    set_aside.forget(store, STAGE, left)

    def note(item: SetAside) -> None:
        set_aside.record(store, STAGE, item)
        for folder in PARTS:  # what its workers wrote before they died
            store.remove(table_of(folder, item.shard))
        totals.failed.append(item)
        progress.advance(item.rows, note=f"{len(totals.failed)} shards set aside")

    left_quotas = [quota for _, quota in pairs]
    with closing(emit(spec, left, left_quotas, made, min(1.0, cpus), note, timeout)) as new:
        for receipt in receipts.compacted(store, STAGE, spec.key, new):
            totals.add(receipt)
            metrics.ledger().emitted(receipt, STAGE)
            progress.advance(receipt["rows"])
    progress.finish()
    seconds = time.monotonic() - began
    timings["emit"] = {"seconds": seconds, "rows_per_second": sum(s.rows for s in left) / max(seconds, 1e-9)}
