"""The captures that a finished run has kept (keep_captures: vectors), as a later fit needs them: all, and of this run.

Read from the receipts, which are small, and of one table; whoever reads a vector compares its file's sha256.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from tamis.operators.requests import Request
from tamis.pipeline.capture.chosen_rows import aside_in
from tamis.pipeline.capture.spec import STAGE
from tamis.pipeline.capture.totals import CaptureTotals
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.inputs.shards import CORPUS, is_drawn
from tamis.pipeline.run import folder as run_folder
from tamis.pipeline.run import receipts
from tamis.pipeline.run.parent import Parent, named_damage
from tamis.pipeline.storage.store import Sealed


class Table(NamedTuple):
    """What was captured of one shard. place: its number among all. entry: name, bytes and sha256 of the file."""

    place: int
    shard: str
    rows: int
    entry: Mapping[str, Any]

    @property
    def file(self) -> Sealed:
        return Sealed(str(self.entry["name"]), str(self.entry["sha256"]))


@dataclass(frozen=True, eq=False)
class Kept:
    """tables: by role, in the order of the corpus, or of a reference set. requests: what was captured of each row;
    aside: of some (capture/chosen_rows.py), None where an earlier tamis has captured them. without: for each role, how
    many of its rows have no vectors, by code. precision: of the forward passes, e.g. "float32 on cpu". totals: of the
    corpus."""

    tables: Mapping[str, Sequence[Table]]
    requests: tuple[Request, ...]
    aside: Request | None
    without: Mapping[str, Mapping[str, int]]
    precision: str
    totals: CaptureTotals

    def files(self, role: str) -> list[Sealed]:
        """The tables of a role, one for each of its shards."""
        return [table.file for table in self.tables[role]]

    @property
    def entries(self) -> list[Mapping[str, Any]]:
        """Name, size and digest of every table."""
        return [table.entry for found in self.tables.values() for table in found]

    @property
    def digest(self) -> str:
        """Of all that was captured."""
        files = [(role, self.files(role)) for role in sorted(self.tables)]
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def kept_by(parent: Parent) -> Kept:
    """What the run has kept. ConfigError, in one line, where a shard of it is missing, or is of another run."""
    found = _read(parent)
    corpus = found.tables.get(CORPUS, [])
    if [table.shard for table in corpus] != list(parent.shards):
        raise ConfigError(
            f"{parent.said}: {parent.store.path()} has kept the vectors of {len(corpus):,} of its "
            f"{len(parent.shards):,} shards{_of_another(parent)}; run its job again, in another folder, with "
            "keep_captures: vectors"
        )
    begun = run_folder.begun_by(parent.store, parent.manifest["fingerprint"]) or {}
    # Rows that were drawn for a fit are not needed: here a fit reads all rows, and a shard of theirs may have failed.
    expected = int(begun.get("reference_shards", -1)) - int(begun.get("drawn_shards", 0))
    references = sum(len(tables) for role, tables in found.tables.items() if role != CORPUS and not is_drawn(role))
    if references != expected:
        raise _not_whole(parent, f"there are {references:,} shards of references, of {max(expected, 0):,}")
    with named_damage(parent):
        schema = parent.store.read_table(corpus[0].file).schema
    requests = tuple(Request.parse(column.name) for column in schema if pa.types.is_fixed_size_list(column.type))
    key = run_folder.captures_key(parent.manifest["fingerprint"], [request.column for request in requests])
    if strangers := found.keys.keys() - {key}:
        shard = min(found.keys[stranger] for stranger in strangers)
        raise _not_whole(parent, f"{shard} was captured with other settings than the run has")
    precisions = sorted(found.totals.precisions)
    if len(precisions) > 1:
        raise _not_whole(parent, f"they were captured in {' and '.join(precisions)}")
    if found.totals.rows != parent.manifest["counts"]["rows_in"]:
        raise _not_whole(parent, f"they are of {found.totals.rows:,} rows, of {parent.manifest['counts']['rows_in']:,}")
    return Kept(found.tables, requests, aside_in(schema.names), found.without, precisions[0], found.totals)


@dataclass(eq=False)
class _Found:
    """keys: of the receipts, with a shard that has it."""

    tables: dict[str, list[Table]] = field(default_factory=dict)
    without: dict[str, Counter[str]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    totals: CaptureTotals = field(default_factory=CaptureTotals)


def _read(parent: Parent) -> _Found:
    """What the whole receipts say. One at a time: they may hold the schemas of many JSON rows."""
    found, shards = _Found(), set(parent.shards)
    for receipt in receipts.whole(parent.store, STAGE):
        role, shard = str(receipt.get("role")), str(receipt.get("shard"))
        if role == CORPUS and shard not in shards:
            continue
        try:
            table = Table(int(receipt["index"]), shard, int(receipt["rows"]), receipt["file"])
            codes = {str(code): int(rows) for code, rows in receipt["quarantined"].items()}
            found.totals.add(receipt, new=False)
        except (AttributeError, LookupError, TypeError, ValueError):
            raise _not_whole(parent, f"{shard}: its receipt is of another version of tamis") from None
        found.tables.setdefault(role, []).append(table)
        found.without.setdefault(role, Counter()).update(codes)
        found.keys.setdefault(str(receipt["key"]), shard)
    for tables in found.tables.values():
        tables.sort(key=lambda table: table.place)
    return found


def _of_another(parent: Parent) -> str:
    """Where the vectors of a run that was made of another one are."""
    theirs = (parent.manifest.get("parent") or {}).get("path")
    return "" if theirs is None else f" (it was made of {theirs}: name that one, if it has kept its vectors)"


def _not_whole(parent: Parent, why: str) -> ConfigError:
    return ConfigError(
        f"{parent.said}: the vectors in {parent.store.path()} are not as its run left them: {why}; put its _work back "
        "from a copy, or run its job again in another folder"
    )
