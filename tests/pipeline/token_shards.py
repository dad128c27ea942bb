"""Scored shards as the workers leave them: losses of single tokens in real Parquet files of a real store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.pipeline.capture.token_losses import ragged
from tamis.pipeline.capture.token_tables import HARMFUL, UTILITY, LossFiles, stage_of
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.inputs.shards import CORPUS, Shard
from tamis.pipeline.inputs.text_files import Span
from tamis.pipeline.run.paths import WORK
from tamis.pipeline.storage.store import Sealed, Store


@dataclass(frozen=True)
class Scored:
    """A sample: the risk of its response tokens, in answers of the given lengths (default: one answer), each after two
    prompt tokens. first: the id of its first token; the others count up from there."""

    risk: tuple[float, ...]
    answers: tuple[int, ...] = ()
    first: int = 10

    @property
    def ranges(self) -> list[tuple[int, int]]:
        found, place = [], 0
        for length in self.answers or (len(self.risk),):
            found.append((place + 2, place + 2 + length))
            place += 2 + length
        return found

    @property
    def input_ids(self) -> list[int]:
        return list(range(self.first, self.first + self.ranges[-1][1]))


Samples = Sequence[Scored | None]
"""None: a row in quarantine."""


def write_shards(store: Store, samples: Samples, count: int) -> list[Shard]:
    """The first scoring round of `samples`, in `count` shards of nearly even size, of one file."""
    edges = [round(len(samples) * part / count) for part in range(count + 1)]
    shards = []
    for number, (start, stop) in enumerate(pairwise(edges)):
        shards.append(shard_of(number, start, stop))
        write_losses(store, shards[-1], samples[start:stop])
    return shards


def scored(store: Store, shards: Sequence[Shard], round: int = 0) -> list[LossFiles]:
    """What that scoring round has written of them."""

    def file(shard: Shard, round: int) -> Sealed:
        name = f"{WORK}/{stage_of(round)}/{shard.name}.parquet"
        return Sealed(name, hashlib.sha256(store.read(name)).hexdigest())

    return [LossFiles(shard.name, file(shard, 0), file(shard, round) if round else None) for shard in shards]


def shard_of(number: int, start: int, stop: int, name: str = "a.jsonl") -> Shard:
    file = SourceFile(f"nowhere/{name}", name, "jsonl", None, 0, "")
    return Shard(number, CORPUS, file, (), Span(start, stop, 0, 0), {}, f"{stop:016x}")


def write_losses(store: Store, shard: Shard, samples: Samples) -> None:
    good = [row for row in samples if row is not None]
    risks = [np.array(row.risk, dtype=np.float32) for row in good]
    harmful = [_harmful(risk) for risk in risks]
    # Zero and minus zero add up to zero.
    utility = [np.where(base == 0, risk, base + risk) for base, risk in zip(harmful, risks, strict=True)]
    columns = {UTILITY: ragged(utility, pa.float32()), HARMFUL: ragged(harmful, pa.float32())}
    columns["input_ids"] = ragged([np.array(row.input_ids, dtype=np.int32) for row in good], pa.int32())
    for edge, name in enumerate(("starts", "stops")):
        columns[name] = ragged([np.array([span[edge] for span in row.ranges], np.int32) for row in good], pa.int32())
    valid = np.array([row is not None for row in samples], dtype=bool)
    places = np.where(valid, np.cumsum(valid) - 1, 0)
    taken = pa.array(places, pa.int64(), mask=~valid)
    codes = [None if row is not None else "overlong" for row in samples]
    lengths = [0 if row is None else len(row.input_ids) for row in samples]
    facts = {
        "code": pa.array(codes, pa.string()),
        "message": pa.array([None if code is None else "too long" for code in codes], pa.string()),
        "n_tokens": pa.array(lengths, pa.int32()),
        "n_response_tokens": pa.array([0 if row is None else len(row.risk) for row in samples], pa.int32()),
        "truncated": pa.array([False] * len(samples), pa.bool_()),
    }
    table = pa.table({**facts, **{name: column.take(taken) for name, column in columns.items()}})
    store.write_table(f"{WORK}/{stage_of(0)}/{shard.name}.parquet", table)


def _harmful(risk: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """2 where adding the risk rounds nothing, so that both losses have a say; else 0, which leaves it as it is."""
    exact = (risk != 0) & (abs(risk) < 64) & (risk % np.float32(2**-6) == 0)
    return np.where(exact, 2.0, 0.0).astype(np.float32)


def write_round(store: Store, shard: Shard, samples: Samples, round: int) -> None:
    """A later round, after which the risk is that of `samples`: the utility losses are those of round 0."""
    known = store.read_table(f"{WORK}/{stage_of(0)}/{shard.name}.parquet", [UTILITY]).column(UTILITY).to_pylist()
    harmful = [
        None if row is None or losses is None else np.array(losses, np.float32) - np.array(row.risk, np.float32)
        for row, losses in zip(samples, known, strict=True)
    ]
    codes = [None if row is not None else "non_finite" for row in samples]
    table = pa.table(
        {
            "code": pa.array(codes, pa.string()),
            "message": pa.array([None if code is None else "no number" for code in codes], pa.string()),
            HARMFUL: pa.array(harmful, pa.large_list(pa.float32())),
        }
    )
    store.write_table(f"{WORK}/{stage_of(round)}/{shard.name}.parquet", table)
