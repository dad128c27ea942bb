"""The captures that a finished run has kept (keep_captures: vectors), as a later fit needs them: all, and of this run.

Read from the receipts, which are small, and of one table; whoever reads a vector compares its file's sha256.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tamis.operators.requests import Request
from tamis.pipeline.capture.spec import STAGE
from tamis.pipeline.capture.totals import CaptureTotals
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.inputs.shards import CORPUS
from tamis.pipeline.run import folder as run_folder
from tamis.pipeline.run import receipts
from tamis.pipeline.run.parent import Parent, named_damage
from tamis.pipeline.run.receipts import Receipt
from tamis.pipeline.storage.store import Sealed


@dataclass(frozen=True, eq=False)
class Kept:
    """receipts: by role, in the order of the corpus, or of a reference set. requests: what was captured of each row.
    precision: of the forward passes, e.g. "float32 on cpu". totals: of all of it."""

    receipts: Mapping[str, Sequence[Receipt]]
    requests: tuple[Request, ...]
    precision: str
    totals: CaptureTotals

    def files(self, role: str) -> list[Sealed]:
        """The tables of a role, one for each of its shards."""
        return [_sealed(receipt) for receipt in self.receipts[role]]

    def rows(self, role: str) -> list[int]:
        """The number of rows in each of them."""
        return [int(receipt["rows"]) for receipt in self.receipts[role]]

    @property
    def entries(self) -> list[Mapping[str, Any]]:
        """Name, size and digest of every table."""
        return [receipt["file"] for found in self.receipts.values() for receipt in found]

    @property
    def without(self) -> dict[str, Counter[str]]:
        """For each role, how many of its rows have no vectors, by code."""
        return {
            role: sum((Counter(receipt["quarantined"]) for receipt in found), Counter[str]())
            for role, found in self.receipts.items()
        }

    @property
    def digest(self) -> str:
        """Of all that was captured."""
        files = [(role, self.files(role)) for role in sorted(self.receipts)]
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def kept_by(parent: Parent) -> Kept:
    """What the run has kept. ConfigError, in one line, where a shard of it is missing, or is of another run."""
    found = sorted(receipts.whole(parent.store, STAGE), key=lambda receipt: int(receipt["index"]))
    shards = set(parent.shards)
    own = [each for each in found if each["role"] != CORPUS or each["shard"] in shards]
    corpus = [receipt for receipt in own if receipt["role"] == CORPUS]
    if [receipt["shard"] for receipt in corpus] != list(parent.shards):
        raise ConfigError(
            f"{parent.said}: {parent.store.path()} has kept the vectors of {len(corpus):,} of its "
            f"{len(parent.shards):,} shards{_of_another(parent)}; run its job again, in another folder, with "
            "keep_captures: vectors"
        )
    begun = run_folder.begun_by(parent.store, parent.manifest["fingerprint"]) or {}
    expected = int(begun.get("reference_shards", -1))
    if len(own) - len(corpus) != expected:
        raise _not_whole(parent, f"there are {len(own) - len(corpus):,} shards of references, of {max(expected, 0):,}")
    by_role: dict[str, list[Receipt]] = {}
    for receipt in own:
        by_role.setdefault(str(receipt["role"]), []).append(receipt)
    with named_damage(parent):
        schema = parent.store.read_table(_sealed(corpus[0])).schema
    requests = tuple(Request.parse(field.name) for field in schema if pa.types.is_fixed_size_list(field.type))
    key = run_folder.captures_key(parent.manifest["fingerprint"], [request.column for request in requests])
    if strangers := [receipt for receipt in own if receipt["key"] != key]:
        raise _not_whole(parent, f"{strangers[0]['shard']} was captured with other settings than the run has")
    precisions = sorted({str(receipt["precision"]) for receipt in own})
    if len(precisions) > 1:
        raise _not_whole(parent, f"they were captured in {' and '.join(precisions)}")
    totals = CaptureTotals()
    for receipt in own:
        totals.add(receipt, new=False)
    if totals.rows != parent.manifest["counts"]["rows_in"]:
        raise _not_whole(parent, f"they are of {totals.rows:,} rows, of {parent.manifest['counts']['rows_in']:,}")
    return Kept(by_role, requests, precisions[0], totals)


def _of_another(parent: Parent) -> str:
    """Where the vectors of a run that was made of another one are."""
    theirs = (parent.manifest.get("parent") or {}).get("path")
    return "" if theirs is None else f" (it was made of {theirs}: name that one, if it has kept its vectors)"


def _not_whole(parent: Parent, why: str) -> ConfigError:
    return ConfigError(
        f"{parent.said}: the vectors in {parent.store.path()} are not as its run left them: {why}; put its _work back "
        "from a copy, or run its job again in another folder"
    )


def _sealed(receipt: Mapping[str, Any]) -> Sealed:
    return Sealed(str(receipt["file"]["name"]), str(receipt["file"]["sha256"]))
