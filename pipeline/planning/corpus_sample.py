"""Rows of the corpus that are drawn for a fit: how many, for which methods, and where they lie.

A row is drawn by its number in the whole corpus, and the plan knows how many rows each file has. So which rows are
drawn depends on the input's files and the seed alone: not on shard_rows, on workers, or on what is captured first. They
are captured with the references, as the corpus is: with the same template, cut, blocks and positions. Those that cannot
be used are left out, as they are in the corpus.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tamis.operators.methods import Method
from tamis.operators.methods.protocol import CORPUS
from tamis.operators.statistics.drawing import drawn_rows
from tamis.pipeline.inputs.shards import Shard, choose, role_of
from tamis.pipeline.run.folder import SAMPLE_SEED

LARGE = 1 << 30
"""Bytes of vectors above which a second start of the workers is the smaller cost."""


def without_vectors(keep_captures: str, vectors: int) -> bool:
    """Whether a job whose methods allow it writes scores in place of so many bytes of vectors."""
    return keep_captures == "scores" or (keep_captures != "vectors" and vectors > LARGE)


@dataclass(frozen=True)
class DrawnRows:
    """of: rows of the corpus. seed: of the draw. shards: that hold the rows, with their own role."""

    of: int
    seed: int
    shards: tuple[Shard, ...]

    @property
    def count(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def files(self) -> list[dict[str, Any]]:
        """The numbers of the rows in each file."""
        parts = groupby(self.shards, key=lambda shard: (shard.file.name, shard.file.url))
        return [{"path": name, "rows": [row for each in found for row in each.chosen]} for (name, _), found in parts]

    @property
    def facts(self) -> dict[str, Any]:
        """For the artifact. sha256: of `files` as JSON."""
        digest = hashlib.sha256(json.dumps(self.files).encode()).hexdigest()
        return {"drawn": self.count, "of": self.of, "seed": self.seed, "sha256": digest}


def sizes(methods: Mapping[str, Method], rows: int, vectors: int, keep_captures: str) -> dict[str, int]:
    """Method -> how many rows are drawn for it; methods that read the whole corpus, or none of it, are not named.
    vectors: bytes of those of the whole corpus."""
    wanted = {name: method.corpus_sample() for name, method in methods.items() if method.reads_corpus}
    found = {name: each.rows for name, each in wanted.items() if each is not None and 0 < each.rows < rows}
    # Where one method keeps the vectors of the corpus, they are there for the others, too.
    if found.keys() == wanted.keys() and without_vectors(keep_captures, vectors):
        return found
    return {name: count for name, count in found.items() if (each := wanted[name]) is not None and each.always}


def draw(sizes: Mapping[str, int], shards: Sequence[Shard], first_index: int, seed: int) -> dict[str, DrawnRows]:
    """Draw so many rows for each method. shards: of the whole corpus. first_index: of the new shards."""
    ends = []
    rows = 0
    for shard in shards:
        rows += shard.rows
        ends.append(rows)
    found = {}
    for name, count in sizes.items():
        by_shard: dict[int, list[int]] = {}
        for row in drawn_rows(rows, count, seed):
            place = bisect_right(ends, row)
            within = row - (ends[place] - shards[place].rows)
            by_shard.setdefault(place, []).append(shards[place].span.start_row + within)
        role = role_of(name, CORPUS)
        chosen = [choose(shards[at], role, each, first_index + n) for n, (at, each) in enumerate(by_shard.items())]
        found[name] = DrawnRows(rows, seed, tuple(chosen))
        first_index += len(chosen)
    return found


def sample_keys(samples: Mapping[str, DrawnRows], seed: int) -> dict[str, Any]:
    """The part of a fingerprint that says which rows were drawn; empty where none were."""
    counts = {f"{name}.sample": found.count for name, found in samples.items()}
    return {**counts, SAMPLE_SEED: seed} if counts else {}


def corpus_sides(
    methods: Mapping[str, Method], samples: Mapping[str, DrawnRows], rows: int, vectors: str, keep_captures: str
) -> list[str]:
    """What stands for the corpus in each method that can do with a sample, and why. vectors: what those of the whole
    corpus take, in words."""
    readers = [name for name, method in methods.items() if method.reads_corpus and method.corpus_sample() is None]
    said = []
    for name, method in methods.items():
        wanted = method.corpus_sample()
        if wanted is None:
            continue
        if name in samples:
            found = samples[name]
            if wanted.always:
                why = f"as {name}.sample says"
            elif keep_captures == "scores":
                why = "as keep_captures is scores"
            else:
                why = f"as the vectors of all would take {vectors}"
            said.append(
                f"{name}: {found.count:,} of the {found.of:,} rows, drawn by seed {found.seed} and captured with the "
                f"references, {why}"
            )
            continue
        if not wanted.rows:
            why = f"as {name}.sample says"
        elif wanted.rows >= rows:
            why = f"no more than the {wanted.rows:,} that would be drawn"
        elif keep_captures == "vectors":
            why = "as keep_captures is vectors"
        elif readers:
            why = f"whose vectors {' and '.join(readers)} must read anyway"
        else:
            why = f"whose vectors take {vectors} only"
        said.append(f"{name}: all {rows:,} rows, {why}")
    return said
