"""Which shards share their files of kept/ and dropped/, so that these have about the size that the job wants.

A shard is the unit of work and of memory, and often a megabyte; a hub or an object store wants files of a hundred. So
shards that follow each other are written into one file, a row group for each. Which ones is a function of the plan and
the cut alone: every command and every driver finds the same groups, whatever the workers.

The size is an estimate: how many bytes a row takes in Parquet is known only when it is written. A shard that is larger
than a file by itself has files of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from tamis.pipeline.inputs.files import TEXT_FORMATS
from tamis.pipeline.inputs.shards import Shard

TEXT_BYTES = 0.4
"""Bytes in Parquet, compressed, for a byte of JSON or CSV."""
TOKEN_BYTES = 2.0
"""The same for a byte of kept/ where it has the tokens, too: their ids, labels and risks beside the text."""


def groups_of(shards: Sequence[Shard], file_size: int, *, share: float = 1.0, swell: float = 1.0) -> list[list[Shard]]:
    """The shards, in their order, in groups. file_size: bytes of a file; 0: each shard has files of its own. share: of
    the rows that go to the larger of kept/ and dropped/. swell: bytes of output for a byte of the rows as they are."""
    if not file_size:
        return [[shard] for shard in shards]
    groups: list[list[Shard]] = []
    filled = 0.0
    for shard, size in zip(shards, expected_bytes(shards), strict=True):
        size *= share * swell
        # So that the files are of this size on average: half of a shard over it, or under it.
        if groups and filled + size / 2 <= file_size:
            groups[-1].append(shard)
            filled += size
        else:
            groups.append([shard])
            filled = size
    return groups


def expected_bytes(shards: Iterable[Shard]) -> list[float]:
    """About how many bytes the rows of each shard take in Parquet, compressed."""
    shards = list(shards)
    rows = Counter[str]()
    for shard in shards:
        rows[shard.file.name] += shard.rows
    return [
        TEXT_BYTES * (shard.span.stop_byte - shard.span.start_byte)
        if shard.file.format in TEXT_FORMATS
        else shard.file.bytes * shard.rows / rows[shard.file.name]
        for shard in shards
    ]


def larger_share(dropped: int, rows: int) -> float:
    """The share of the rows that go to the larger of kept/ and dropped/."""
    return max(dropped, rows - dropped) / max(rows, 1)
