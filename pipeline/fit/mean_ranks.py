"""`selection.by: ranks`: the mean of the methods' mid-ranks as one more score, exact over any number of shards.

For each method, ranges of its scores are counted one after another: the driver holds the distinct values of one range
(at most 4 million). So the scores are read once for every 4 million rows and method. Each range's table is written
beside the scores, and every shard then looks its ranks up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.operators.methods.protocol import tree_reduce
from tamis.operators.statistics.rank_means import (
    ValueCounts,
    mean_ranks,
    midranks_of,
    ranges_of,
    ranks_in,
    value_counts,
)
from tamis.operators.statistics.ranking import coarse_histogram
from tamis.pipeline.cluster.tasks import map_reduce
from tamis.pipeline.fit.exact_cut import GROUP, coarse_of, grouped, plus
from tamis.pipeline.fit.scores import DECIDING, ScoreSums, read_scores
from tamis.pipeline.job.sections import RANKS
from tamis.pipeline.run.paths import RANK_TABLES, RANKED
from tamis.pipeline.storage.store import Sealed, Store

RANGE_ROWS = 1 << 22
_TABLES_WORTH = 256
"""Shards in one task at most: each task reads all tables once."""


@dataclass(frozen=True)
class RankSpec:
    """tables: of each method, in the order of its scores. count: scored rows. by_chance: random scores decide."""

    store: Store
    tables: dict[str, tuple[Sealed, ...]]
    count: int
    by_chance: bool


def with_ranks(
    store: Store, methods: Sequence[str], sums: ScoreSums, *, by_chance: bool, range_rows: int = RANGE_ROWS
) -> ScoreSums:
    """The same tables of scores with the column RANKS, which decides unless chance does; and the sums over them.

    sums: of tables that have a column for each of `methods`. range_rows: the most rows that are counted at a time.
    """
    tables = {name: _tables(store, name, sums.files, range_rows) for name in methods}
    spec = RankSpec(store, tables, sums.count, by_chance)
    size = min(max(GROUP, len(sums.files) // 64), _TABLES_WORTH)
    groups = [sums.files[start : start + size] for start in range(0, len(sums.files), size)]
    found: _Ranked = map_reduce(_rank_group, plus, groups, spec)
    return ScoreSums(found.coarse, sums.lengths, found.low, found.high, found.files)


def _tables(store: Store, method: str, files: Sequence[Sealed], range_rows: int) -> tuple[Sealed, ...]:
    """Write the rank tables of one method."""
    coarse = coarse_of(store, files, partial(read_scores, column=method))
    written = []
    for number, (first, last, below) in enumerate(ranges_of(coarse, range_rows)):
        counted: ValueCounts = map_reduce(_count_group, plus, grouped(files), store, method, first, last)
        table = pa.table({"image": counted.images, "rank": midranks_of(counted, below)})
        written.append(store.write_table(f"{RANK_TABLES}/{method}-{number:04d}.parquet", table).sealed)
    return tuple(written)


def _count_group(group: Sequence[Sealed], store: Store, method: str, first: int, last: int) -> ValueCounts:
    return tree_reduce((value_counts(read_scores(store, file, method), first, last) for file in group), plus)


@dataclass(frozen=True, eq=False)
class _Ranked:
    coarse: np.ndarray[Any, Any]
    low: float
    high: float
    files: tuple[Sealed, ...]

    def __add__(self, other: _Ranked) -> _Ranked:
        return _Ranked(
            self.coarse + other.coarse,
            min(self.low, other.low),
            max(self.high, other.high),
            self.files + other.files,
        )


def _rank_group(group: Sequence[Sealed], spec: RankSpec) -> _Ranked:
    read = [spec.store.read_table(file) for file in group]
    valid = [table.column(DECIDING).combine_chunks().is_valid().to_numpy(zero_copy_only=False) for table in read]
    of_methods = [
        _ranks_of([table.column(name).combine_chunks().drop_null() for table in read], tables, spec.store)
        for name, tables in spec.tables.items()
    ]
    parts = []
    for place, (file, table) in enumerate(zip(group, read, strict=True)):
        ranked = mean_ranks([ranks[place] for ranks in of_methods], spec.count)
        full = np.zeros(len(valid[place]), dtype=np.float32)
        full[valid[place]] = ranked
        column = pa.array(full, mask=~valid[place])
        table = table.append_column(RANKS, column)
        if not spec.by_chance:
            table = table.set_column(table.schema.get_field_index(DECIDING), DECIDING, column)
        deciding = table.column(DECIDING).combine_chunks().drop_null().to_numpy(zero_copy_only=False)
        written = spec.store.write_table(f"{RANKED}/{file.name.rpartition('/')[2]}", table)
        low, high = float(ranked.min(initial=np.inf)), float(ranked.max(initial=-np.inf))
        parts.append(_Ranked(coarse_histogram(deciding), low, high, (written.sealed,)))
    return tree_reduce(parts, plus)


def _ranks_of(columns: Sequence[pa.Array], tables: Sequence[Sealed], store: Store) -> list[np.ndarray[Any, Any]]:
    """The mid-ranks of one method's scores, by shard. One table is held at a time."""
    scores = [column.to_numpy(zero_copy_only=False).astype(np.float32) for column in columns]
    ranks = [np.full(len(own), np.nan) for own in scores]
    for file in tables:
        table = store.read_table(file)
        images, midranks = table.column("image").to_numpy(), table.column("rank").to_numpy()
        for own, found in zip(scores, ranks, strict=True):
            ranks_in(own, images, midranks, found)
    return ranks
