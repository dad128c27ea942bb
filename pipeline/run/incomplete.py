"""A run that ended without some shards: its result is whole but for them, says so, and gives way to the complete one.

The cut of an incomplete run is over the rows that there are. When the missing shards are done after all, everything
after the capture is done anew: rows of two cuts never lie side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tamis.pipeline.errors import IncompleteError
from tamis.pipeline.run.folder import finished, key_of
from tamis.pipeline.run.paths import EMIT_CLAIM, INCOMPLETE, MANIFEST, PARTS
from tamis.pipeline.run.set_aside import SetAside, lines
from tamis.pipeline.storage.store import Store


def key_without(key: str, failed: Sequence[SetAside]) -> str:
    """`key` of what is captured -> of what is made from it without the shards that failed."""
    return key_of({"captured": key, "without": sorted(item.shard for item in failed)}) if failed else key


def make_room(
    store: Store, key: str, failed: Sequence[SetAside], *, fingerprint: Mapping[str, Any], contested: bool
) -> None:
    """Claim the output's folders for what is made under `key`; what was made from other shards, or by another cut,
    there is removed.

    fingerprint: of the run. contested: another driver is at work there. It may lack nothing, so that what it makes
    must not give way to a result without some shards: that is an IncompleteError. So is that it has finished.
    """
    if failed and contested:
        raise IncompleteError(
            "another tamis is at work on this output, so nothing is published without these shards:",
            *(f"  - {line}" for line in lines(failed)),
            "run the same command again when the other one has ended",
        )
    if finished(store, fingerprint) is not None:
        raise IncompleteError(f"{store.path()}: another tamis has finished this run meanwhile")
    if _claimed(store) not in (None, key):
        for folder in PARTS:
            store.remove(folder)
        store.remove(INCOMPLETE)
    store.write_facts(EMIT_CLAIM, {"key": key})  # last: a removal that is interrupted goes on


def _claimed(store: Store) -> str | None:
    """None where nobody has claimed the folders, or the claim is damaged: what lies in them is held against the
    receipts before it is published, whoever wrote it."""
    try:
        return str(store.read_facts(EMIT_CLAIM)["key"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


def write_manifest(store: Store, manifest: Mapping[str, Any], failed: Sequence[SetAside], key: str) -> dict[str, Any]:
    """The last file of a run: manifest.json, or incomplete.json when shards are missing; what was written."""
    if failed:
        whole = {"complete": False, **manifest, "key": key, "failed": [item.to_dict() for item in failed]}
        store.write_facts(INCOMPLETE, whole)
        return whole
    whole = {"complete": True, **manifest}
    store.write_facts(MANIFEST, whole)
    store.remove(INCOMPLETE)
    return whole


def warning(failed: Sequence[SetAside]) -> list[str]:
    """What the report says of it."""
    rows = sum(item.rows for item in failed)
    return (
        [f"INCOMPLETE: {rows:,} rows in {len(failed)} shards were set aside and are in no output; run again to retry"]
        if failed
        else []
    )


def refuse(failed: Sequence[SetAside]) -> None:
    """IncompleteError if there are any."""
    if failed:
        rows = sum(item.rows for item in failed)
        raise IncompleteError(
            f"{rows:,} rows in {len(failed)} shards were set aside:",
            *(f"  - {line}" for line in lines(failed)),
            "everything else is done; run the same command again to retry them alone",
        )
