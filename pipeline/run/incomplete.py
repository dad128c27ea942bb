"""A run that ended with failed shards. Its result is whole except for them, says so, and is replaced by the complete
result later.

The cut of an incomplete run is over the rows of the other shards. When the failed shards are done after all, everything
after the capture is done again, so that one output never mixes the rows of two cuts.
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
    """The key of the captures -> the key of the results made from them without the failed shards."""
    return key_of({"captured": key, "without": sorted(item.shard for item in failed)}) if failed else key


def make_room(
    store: Store, key: str, failed: Sequence[SetAside], *, fingerprint: Mapping[str, Any], contested: bool
) -> None:
    """Claim the output's folders for results under `key`. Results from other shards or of another cut are removed,
    and what killed workers have half written.

    fingerprint: of the run. contested: another driver is at work there. IncompleteError if shards have failed here and
    the run is contested, because the other driver may have all shards and its result must not be replaced by one
    without some. IncompleteError also if another driver has finished the run.
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
    if not contested:
        for folder in PARTS:  # a file of many shards may be large
            store.remove_leftovers(folder)
    store.write_facts(EMIT_CLAIM, {"key": key})  # last, so that an interrupted removal continues in the next run


def _claimed(store: Store) -> str | None:
    """The key of the claim; None where nobody has claimed the folders or the claim is damaged. That is safe: all files
    in them are checked against the receipts before they are published, whoever wrote them."""
    try:
        return str(store.read_facts(EMIT_CLAIM)["key"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


def write_manifest(store: Store, manifest: Mapping[str, Any], failed: Sequence[SetAside], key: str) -> dict[str, Any]:
    """Write the last file of a run: manifest.json, or incomplete.json when shards have failed. Returns its content."""
    if failed:
        whole = {"complete": False, **manifest, "key": key, "failed": [item.to_dict() for item in failed]}
        store.write_facts(INCOMPLETE, whole)
        return whole
    whole = {"complete": True, **manifest}
    store.write_facts(MANIFEST, whole)
    store.remove(INCOMPLETE)
    return whole


def warning(failed: Sequence[SetAside]) -> list[str]:
    """The report's warning about failed shards."""
    rows = sum(item.rows for item in failed)
    return (
        [f"INCOMPLETE: {rows:,} rows in {len(failed)} shards were set aside and are in no output; run again to retry"]
        if failed
        else []
    )


def refuse(failed: Sequence[SetAside]) -> None:
    """IncompleteError if there are failed shards."""
    if failed:
        rows = sum(item.rows for item in failed)
        raise IncompleteError(
            f"{rows:,} rows in {len(failed)} shards were set aside:",
            *(f"  - {line}" for line in lines(failed)),
            "everything else is done; run the same command again to retry them alone",
        )
