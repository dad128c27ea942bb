"""The vectors that a finished run has kept (keep_captures): of its corpus and of its reference sets, shard by shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tamis.operators.methods import Method
from tamis.operators.methods.protocol import CORPUS, Features
from tamis.operators.requests import Request
from tamis.pipeline.capture.spec import STAGE
from tamis.pipeline.errors import ConfigError, DamagedError, InputError
from tamis.pipeline.fit.scores import read_features
from tamis.pipeline.inputs.shards import SHIPPED, role_of
from tamis.pipeline.run import receipts
from tamis.pipeline.run.paths import SCORES
from tamis.pipeline.run.row_places import shard_of
from tamis.pipeline.storage.store import Sealed, Store

_HELD_BYTES = 2 << 30
"""Vectors of up to this size are read once, and held."""


class Shards(Sequence[Features]):
    """The rows of one role that are not quarantined, a shard at a time; read when they are asked for."""

    def __init__(self, store: Store, files: Sequence[Sealed], hold: bool) -> None:
        self._store, self._files = store, files
        self._held: dict[int, Features] | None = {} if hold else None

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, place: int) -> Features: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Features]: ...
    def __getitem__(self, place: int | slice) -> Features | Sequence[Features]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        if self._held is not None and place in self._held:
            return self._held[place]
        found = read_features(self._store, self._files[place])  # IndexError ends an iteration
        if self._held is not None:
            self._held[place] = found
        return found


@dataclass(frozen=True, eq=False)
class KeptVectors:
    """corpus, sets: by role, what was captured. columns: the vectors of each role. starts: the number in the corpus of
    each corpus shard's first row, and at last the number of rows. valid: of each corpus shard, bool (rows,): the rows
    that have vectors."""

    store: Store
    corpus: Shards
    sets: Mapping[str, Shards]
    columns: Mapping[str, frozenset[str]]
    starts: npt.NDArray[np.int64]
    valid: tuple[npt.NDArray[np.bool_], ...]

    @property
    def requests(self) -> list[Request]:
        """What was captured of the corpus."""
        return sorted(Request.parse(column) for column in self.columns[CORPUS])

    def sources_of(self, method: Method, blocks: int, job: Mapping[str, Any]) -> dict[str, Shards] | None:
        """The shards of every source that the method needs, by source; None if one of its vectors was not captured.
        A reference set may have been captured for another method whose job names the same file. ValueError if the model
        has no such block."""
        wanted = {request.column for request in method.requests(blocks)}
        if not wanted <= self.columns[CORPUS]:
            return None
        found = {CORPUS: self.corpus}
        for source in method.sources():
            ours = _set_named(role_of(method.name, source), job)
            roles = [role for role in self.sets if _set_named(role, job) == ours and wanted <= self.columns[role]]
            if not roles:
                return None
            found[source] = self.sets[roles[0]]
        return found

    def of_rows(self, places: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """For each corpus shard, the rows of its vectors that are these rows of the corpus. places: ascending; all of
        them must have vectors."""
        found = []
        bounds = np.searchsorted(places, self.starts)
        for shard, valid in enumerate(self.valid):
            here = places[bounds[shard] : bounds[shard + 1]] - self.starts[shard]
            found.append((np.cumsum(valid) - 1)[here].astype(np.int64))
        return found

    def has_vectors(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """bool (n,): whether each of these rows of the corpus has vectors."""
        valid = np.concatenate([*self.valid, np.zeros(0, dtype=bool)])
        found: npt.NDArray[np.bool_] = valid[places]
        return found


def kept_vectors(store: Store, manifest: Mapping[str, Any]) -> KeptVectors:
    """What the run has kept. ConfigError if it has kept no vectors, InputError if a file is not as it was written."""
    wanted = [shard_of(entry["name"]) for entry in manifest["files"] if entry["name"].startswith(f"{SCORES}/")]
    kept = sorted(receipts.whole(store, STAGE), key=lambda receipt: int(receipt["index"]))
    corpus = [receipt for receipt in kept if receipt["role"] == CORPUS and receipt["shard"] in set(wanted)]
    if len(corpus) < len(wanted) or not wanted:
        raise ConfigError(
            f"{store.path()} has kept the vectors of {len(corpus):,} of its {len(wanted):,} shards, and tune needs "
            "them all: run the job again, in another folder, with its vectors kept (keep_captures)"
        )
    by_role: dict[str, list[Mapping[str, Any]]] = {}
    for receipt in kept:
        if receipt["role"] != CORPUS:
            by_role.setdefault(receipt["role"], []).append(receipt)
    try:
        valid = tuple(pc.is_null(_codes(store, receipt)).to_numpy(zero_copy_only=False) for receipt in corpus)
        columns = {CORPUS: _columns(store, corpus[0])}
        columns |= {role: _columns(store, shards[0]) for role, shards in by_role.items()}
    except DamagedError as error:
        raise InputError(f"{store.path()}: {error}; run the job again in another folder") from None
    if not columns[CORPUS]:
        raise ConfigError(
            f"{store.path()} has kept no vectors, only scores: run the job again, in another folder, with its vectors "
            "kept (keep_captures)"
        )
    size = sum(int(receipt["file"]["bytes"]) for receipt in kept)
    rows = [len(each) for each in valid]

    def shards(found: Sequence[Mapping[str, Any]]) -> Shards:
        return Shards(store, [_sealed(receipt) for receipt in found], size <= _HELD_BYTES)

    sets = {role: shards(found) for role, found in by_role.items()}
    starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
    if starts[-1] != manifest["counts"]["rows_in"]:
        raise InputError(
            f"{store.path()}: the captures hold {starts[-1]:,} rows, the manifest says "
            f"{manifest['counts']['rows_in']:,}; run the job again in another folder"
        )
    return KeptVectors(store, shards(corpus), sets, columns, starts, valid)


def _set_named(role: str, job: Mapping[str, Any]) -> tuple[str, str]:
    """Which references a job names for a role: a file, or the shipped ones."""
    name, _, source = role.partition(".")
    path = (job.get(name) or {}).get(f"{source}_references")
    if path is not None:
        return "file", str(path)
    return ("shipped", str(SHIPPED[role]())) if role in SHIPPED else ("none", role)


def _codes(store: Store, receipt: Mapping[str, Any]) -> pa.ChunkedArray:
    return store.read_table(_sealed(receipt), ["code"]).column("code")


def _columns(store: Store, receipt: Mapping[str, Any]) -> frozenset[str]:
    table = store.read_table(_sealed(receipt))
    return frozenset(field.name for field in table.schema if pa.types.is_fixed_size_list(field.type))


def _sealed(receipt: Mapping[str, Any]) -> Sealed:
    return Sealed(str(receipt["file"]["name"]), str(receipt["file"]["sha256"]))
