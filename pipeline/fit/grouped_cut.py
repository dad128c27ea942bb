"""Cuts that look at one group of rows at a time: the same share inside every group (`selection.within`), and a control
that drops as many rows of each length as the cut would (`selection.control: length_matched`).

Each group has an exact cut of its own. What falls is then written beside the scores as 0 and 1, which decides from
there on, so the stages that follow know one cut as ever.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from tamis.operators.methods.protocol import tree_reduce
from tamis.operators.statistics.lengths import decile_of, length_deciles
from tamis.operators.statistics.ranking import coarse_histogram
from tamis.operators.statistics.selection import Threshold, decide, drop_count_of
from tamis.pipeline.cluster.tasks import map_reduce
from tamis.pipeline.fit.exact_cut import coarse_of, exact_cut, grouped, plus
from tamis.pipeline.fit.scores import DECIDING, LENGTHS, ScoreSums, Selection, deciding_scores, select_by, shown_cut
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.job.job_file import Job
from tamis.pipeline.run.paths import GROUPED
from tamis.pipeline.storage.store import Sealed, Store

_FALLS = Threshold(0.5)
"""Of 0 and 1."""


class Rows(NamedTuple):
    """The scores of one shard, and where its rows lie."""

    file: Sealed
    source: str
    start_row: int


class _Part(NamedTuple):
    """Of one shard, the rows of one group: their decile of length (None: all rows), and what of them falls."""

    decile: int | None
    threshold: Threshold
    quota: int


@dataclass(frozen=True)
class _Values:
    """edges: of the deciles of length, if they are the groups. seed: of the random scores that decide, if they do."""

    edges: tuple[int, ...] | None
    seed: int | None

    def of(self, store: Store, rows: Rows) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """float32 scores that decide, and the decile of each row (0 where there are none)."""
        table = store.read_table(rows.file, [DECIDING, LENGTHS])
        column = table.column(DECIDING).combine_chunks()
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        own = column.drop_null().to_numpy(zero_copy_only=False).astype(np.float32)
        scores = deciding_scores(own, rows.source, rows.start_row, valid, self.seed)
        lengths = table.column(LENGTHS).to_numpy()[valid]
        if self.edges is None:
            return scores, np.zeros(len(scores), dtype=np.int64)
        return scores, decile_of(lengths, np.array(self.edges, dtype=np.int64))

    def inside(self, store: Store, rows: Rows, decile: int | None) -> np.ndarray[Any, Any]:
        scores, deciles = self.of(store, rows)
        return scores if decile is None else scores[deciles == decile]


def cut(job: Job, store: Store, sums: ScoreSums, shards: Sequence[Shard]) -> tuple[Selection, list[dict[str, Any]]]:
    """The cut that the job requests, and the groups it was made in: name, rows, dropped rows and cut of each; empty
    where there is one cut for all. sums: of the shards, in their order. Raises as `select_by`."""
    spec = job.selection
    matched = spec.control == "length_matched"
    if spec.within is None and not matched:
        return select_by(spec, store, sums), []
    members = [
        Rows(file, shard.file.name, shard.span.start_row) for shard, file in zip(shards, sums.files, strict=True)
    ]
    by_length = matched or spec.within == "length_decile"
    edges = tuple(length_deciles(sums.lengths).tolist()) if by_length else None
    values = _Values(edges, job.seed if matched else None)
    wanted = _dropped_by_decile(store, members, select_by(spec, store, sums), edges) if matched and edges else None
    parts: list[list[_Part]] = [[] for _ in members]
    facts: list[dict[str, Any]] = []
    for name, decile, places in _groups(members, by_length=by_length):
        own = [members[place] for place in places]
        inside = partial(values.inside, decile=decile)
        coarse = coarse_of(store, own, inside)
        rows = int(coarse.sum())
        count = drop_count_of(spec.rule[1], rows) if wanted is None else int(wanted[decile or 0])
        if not rows:
            continue
        found = exact_cut(store, own, inside, count, coarse)
        for place, quota in zip(places, found.quotas, strict=True):
            parts[place].append(_Part(decile, found.threshold, quota))
        by_score = spec.control is None and count > 0
        facts.append(
            {"group": name, "rows": rows, "dropped": count, "cut": shown_cut(found.threshold) if by_score else None}
        )
    settled = _settle(store, members, parts, values, sums)
    dropped = sum(fact["dropped"] for fact in facts)
    return Selection(_FALLS, (0,) * len(members), dropped, 0, settled), facts


def _groups(members: Sequence[Rows], *, by_length: bool) -> list[tuple[str, int | None, Sequence[int]]]:
    """Name, decile, and the places of the shards that may hold rows of it."""
    if by_length:
        return [(f"length decile {decile + 1}", decile, range(len(members))) for decile in range(10)]
    places = defaultdict(list)
    for place, rows in enumerate(members):
        places[rows.source].append(place)
    return [(source, None, found) for source, found in places.items()]


# --- how many rows of each length a cut drops ------------------------------------------------------------------------


def _dropped_by_decile(
    store: Store, members: Sequence[Rows], selection: Selection, edges: Sequence[int]
) -> np.ndarray[Any, Any]:
    """int64 (10,)"""
    items = list(zip(members, selection.quotas, strict=True))
    found: np.ndarray[Any, Any] = map_reduce(
        _count_group, plus, grouped(items), store, selection.threshold, _Values(tuple(edges), None)
    )
    return found


def _count_group(
    group: Sequence[tuple[Rows, int]], store: Store, threshold: Threshold, values: _Values
) -> np.ndarray[Any, Any]:
    total = np.zeros(10, dtype=np.int64)
    for rows, quota in group:
        scores, deciles = values.of(store, rows)
        total += np.bincount(deciles[decide(scores, threshold, quota)], minlength=10)
    return total


# --- what falls, beside the scores ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Settled:
    coarse: np.ndarray[Any, Any]
    files: tuple[Sealed, ...]

    def __add__(self, other: _Settled) -> _Settled:
        return _Settled(self.coarse + other.coarse, self.files + other.files)


def _settle(
    store: Store, members: Sequence[Rows], parts: Sequence[list[_Part]], values: _Values, sums: ScoreSums
) -> ScoreSums:
    items = list(zip(members, parts, strict=True))
    found: _Settled = map_reduce(_settle_group, plus, grouped(items), store, values)
    return replace(sums, coarse=found.coarse, files=found.files)


def _settle_group(group: Sequence[tuple[Rows, list[_Part]]], store: Store, values: _Values) -> _Settled:
    return tree_reduce((_settle_one(rows, parts, store, values) for rows, parts in group), plus)


def _settle_one(rows: Rows, parts: Sequence[_Part], store: Store, values: _Values) -> _Settled:
    scores, deciles = values.of(store, rows)
    falls = np.zeros(len(scores), dtype=np.float32)
    for part in parts:
        inside = np.ones(len(scores), dtype=bool) if part.decile is None else deciles == part.decile
        falls[inside] = decide(scores[inside], part.threshold, part.quota)
    table = store.read_table(rows.file)
    place = table.schema.get_field_index(DECIDING)
    valid = table.column(place).combine_chunks().is_valid().to_numpy(zero_copy_only=False)
    full = np.zeros(len(valid), dtype=np.float32)
    full[valid] = falls
    table = table.set_column(place, DECIDING, pa.array(full, mask=~valid))
    written = store.write_table(f"{GROUPED}/{rows.file.name.rpartition('/')[2]}", table)
    return _Settled(coarse_histogram(falls), (written.sealed,))
