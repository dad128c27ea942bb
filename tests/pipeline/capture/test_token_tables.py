"""What the scoring rounds wrote of a shard, put together again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from token_shards import Scored, scored, write_round, write_shards

from tamis.pipeline.capture.token_losses import ragged
from tamis.pipeline.capture.token_tables import Ragged, read_tokens, stage_of
from tamis.pipeline.storage.store import Store

SAMPLES = [None, Scored((0.5, -0.0), first=20), Scored((1.0, 2.0, 0.25), answers=(1, 2), first=40), None]


def lists(found: Ragged | None) -> list[list[float]]:
    assert found is not None
    return [found.values[start:stop].tolist() for start, stop in zip(found.offsets, found.offsets[1:], strict=False)]


def test_the_first_round(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    [shard] = write_shards(store, SAMPLES, 1)
    read = read_tokens(store, *scored(store, [shard], 0), tokens=True)
    assert read.valid.tolist() == [False, True, True, False]
    assert lists(read.risk) == [[0.5, 0.0], [1.0, 2.0, 0.25]]
    assert read.risk.values.dtype == np.float32
    assert np.signbit(read.risk.values).tolist() == [False, True, False, False, False]
    assert lists(read.input_ids) == [list(range(20, 24)), list(range(40, 47))]
    assert (lists(read.starts), lists(read.stops)) == ([[2], [2, 5]], [[4], [3, 7]])
    assert read.facts.column("code").to_pylist() == ["overlong", None, None, "overlong"]
    assert read.facts.column("n_response_tokens").to_pylist() == [0, 2, 3, 0]
    plain = read_tokens(store, *scored(store, [shard], 0))
    assert (plain.input_ids, plain.starts, plain.stops) == (None, None, None)


def test_a_later_round_brings_its_losses_and_its_refusals(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    [shard] = write_shards(store, SAMPLES, 1)
    write_round(store, shard, [None, None, Scored((4.0, 0.0, -1.0)), None], 1)
    read = read_tokens(store, *scored(store, [shard], 1), tokens=True)
    assert read.valid.tolist() == [False, False, True, False]
    assert lists(read.risk) == [[4.0, 0.0, -1.0]]
    assert lists(read.input_ids) == [list(range(40, 47))]
    # What the first round said of a row stands.
    assert read.facts.column("code").to_pylist() == ["overlong", "non_finite", None, "overlong"]
    assert read.facts.column("message").to_pylist() == ["too long", "no number", None, "too long"]
    assert read_tokens(store, *scored(store, [shard], 0)).valid.tolist() == [False, True, True, False]


def test_rounds_of_other_tokens_are_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    [shard] = write_shards(store, [Scored((1.0, 2.0))], 1)
    table = pa.table({"code": pa.nulls(1, pa.string()), "message": pa.nulls(1, pa.string()), "harmful": [[1.0]]})
    schema = pa.schema([("code", pa.string()), ("message", pa.string()), ("harmful", pa.large_list(pa.float32()))])
    store.write_table(f"_work/{stage_of(1)}/{shard.name}.parquet", table.cast(schema))
    with pytest.raises(AssertionError, match="different tokens"):
        read_tokens(store, *scored(store, [shard], 1))


def test_rounds_have_folders_of_their_own() -> None:
    assert [stage_of(round) for round in range(3)] == ["losses", "losses-1", "losses-2"]


@given(st.lists(st.lists(st.integers(-5, 5), max_size=4), max_size=8), st.integers(0, 8))
def test_lists_of_any_lengths_come_back(rows: list[list[int]], cut: int) -> None:
    column = ragged([np.array(row, dtype=np.int32) for row in rows], pa.int32())
    chunks = pa.chunked_array([column.slice(0, cut), column.slice(cut)], type=column.type)
    found = Ragged.of(chunks)
    assert lists(found) == rows
    assert found.lengths.tolist() == [len(row) for row in rows]
