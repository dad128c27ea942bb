"""The stage that writes the output, as a run calls it: finished shards are skipped, the others are watched."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from tamis.pipeline.capture.stage import Timings
from tamis.pipeline.cluster import metrics
from tamis.pipeline.emit.shard import STAGE, EmitSpec, emit
from tamis.pipeline.emit.totals import Emitted
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.run import receipts, set_aside
from tamis.pipeline.run.paths import PARTS, table_of
from tamis.pipeline.run.receipts import Receipt
from tamis.pipeline.run.set_aside import SetAside
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import Progress, phase


def run_emit(
    spec: EmitSpec,
    groups: Sequence[Sequence[Shard]],
    quotas: Mapping[str, int],
    made: Mapping[str, Any],
    totals: Emitted,
    timings: Timings,
    *,
    cpus: float,
    timeout: float,
) -> None:
    """Emit those of the groups whose shards have no receipts under the spec's key yet; all receipts are added to
    `totals`.

    quotas, made: by the shard's name, how many ties at the cut fall in it, and what the stages before have made of it.
    cpus: of one task at most.
    """
    store = spec.store
    began = time.monotonic()
    count, rows = sum(map(len, groups)), sum(shard.rows for group in groups for shard in group)
    phase("emit", f"looking for what is done of {count:,} shards")
    finished = set()
    for receipt in _of_whole_groups(store, groups, spec.key):
        totals.add(receipt)
        finished.add(receipt["shard"])
    left = [group for group in groups if group[0].name not in finished]
    progress = Progress("emit", rows, skipped=totals.rows)
    set_aside.forget(store, STAGE, [shard for group in left for shard in group])

    def note(item: SetAside) -> None:
        set_aside.record(store, STAGE, item)
        for folder in PARTS:  # what its workers wrote before they died
            store.remove(table_of(folder, item.shard))
        totals.failed.append(item)
        progress.advance(item.rows, note=f"{len(totals.failed)} shards set aside")

    items = [[(shard, quotas[shard.name], made[shard.name]) for shard in group] for group in left]
    with closing(emit(spec, items, min(1.0, cpus), note, timeout)) as new:
        for receipt in receipts.compacted(store, STAGE, spec.key, new):
            totals.add(receipt)
            metrics.ledger().emitted(receipt, STAGE)
            progress.advance(receipt["rows"])
    progress.finish()
    seconds = time.monotonic() - began
    emitted = sum(shard.rows for group in left for shard in group)
    timings["emit"] = {"seconds": seconds, "rows_per_second": emitted / max(seconds, 1e-9)}


def _of_whole_groups(store: Store, groups: Sequence[Sequence[Shard]], key: str) -> Iterator[Receipt]:
    """The receipts of the groups that are done. Those of others are forgotten: the files of a group are written as a
    whole, and a shard that was written apart, because another one of its group failed, has files of its own."""
    group_of = {shard.name: (group[0].name, len(group)) for group in groups for shard in group}
    held: dict[str, list[Receipt]] = {}
    others = []
    for receipt in receipts.done(store, STAGE, [shard for group in groups for shard in group], key):
        name = receipt["shard"]
        first, size = group_of[name]
        if (first, size) != tuple(receipt.get("group", (name, 1))):
            others.append(name)
            continue
        held.setdefault(first, []).append(receipt)
        if len(held[first]) == size:
            yield from held.pop(first)
    others += [receipt["shard"] for rest in held.values() for receipt in rest]
    if others:
        receipts.forget(store, STAGE, others)
