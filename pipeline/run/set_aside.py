"""Failed shards: a stage gives up a shard that kills every worker or is too large, and keeps it on record until it is
done after all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.run.paths import SET_ASIDE
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.voice import say


@dataclass(frozen=True)
class SetAside:
    """A failed shard, and why it was given up. start_row, stop_row: half-open, in the file `source`."""

    shard: str
    source: str
    start_row: int
    stop_row: int
    rows: int
    reason: str

    def describe(self) -> str:
        return f"{self.source} rows {self.start_row:,} to {self.stop_row - 1:,}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def set_aside(shard: Shard, reason: str) -> SetAside:
    span = shard.span
    return SetAside(shard.name, shard.file.name, span.start_row, span.stop_row, shard.rows, reason)


def record(store: Store, stage: str, item: SetAside) -> None:
    store.write_json(f"{SET_ASIDE}/{stage}/{item.shard}.json", item.to_dict())
    words, source = f"set aside in {stage}: {item.describe()}", item.source
    say(words, "set_aside", "warning", stage=stage, shard=item.shard, source=source, rows=item.rows)


def forget(store: Store, stage: str, shards: Iterable[Shard]) -> None:
    """Remove the records of these shards, because they are tried again."""
    present = set(store.list(f"{SET_ASIDE}/{stage}"))
    for shard in shards:
        if f"{shard.name}.json" in present:
            store.remove(f"{SET_ASIDE}/{stage}/{shard.name}.json")


def lines(items: Sequence[SetAside], shown: int = 20) -> list[str]:
    """Lines for a message: one per shard, and a count of the rest."""
    rest = [f"... and {len(items) - shown:,} more"] if len(items) > shown else []
    return [*(item.describe() for item in items[:shown]), *rest]
