"""Shards as single rows: nothing of Ray Data splits one, and none meets another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pyarrow as pa
import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.pipeline.capture import parcels
from tamis.pipeline.capture.parcels import BATCH_SIZE, ONE_ROW, pack, portions, shards_of, unpack
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.inputs.shards import CORPUS, Shard
from tamis.pipeline.inputs.text_files import Span


def shard(number: int) -> Shard:
    file = SourceFile("/x/a.jsonl", "a.jsonl", "jsonl", None, 10, "1")
    return Shard(number, CORPUS, file, (), Span(number, number + 1, 0, 0), {}, f"{number:016d}")


@settings(deadline=None)
@given(count=st.integers(0, 60), most=st.integers(1, 70))
def test_portions_hold_every_shard_once_in_order(count: int, most: int) -> None:
    shards = [shard(number) for number in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parcels, "_PORTIONS", most)
        made = portions(shards)
    found = [shards_of(pa.table({"shards": [row["shards"]]})) for row in made]
    assert list(chain(*found)) == [item.to_json() for item in shards]
    assert len(made) == min(count, most)
    sizes = {len(part) for part in found}
    assert not sizes or max(sizes) - min(sizes) <= 1


def test_a_usual_run_has_a_portion_a_shard() -> None:
    assert len(portions([shard(number) for number in range(999)])) == 999
    assert len(portions([shard(number) for number in range(4100)])) == 1000


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_what_is_packed_comes_out_again(rows: int) -> None:
    table = pa.table(
        {
            "ids": pa.array([list(range(number)) for number in range(rows)], pa.large_list(pa.int32())),
            "code": pa.array([None] * rows, pa.string()),
        }
    )
    parcel = pack({"shard": "s", "seconds": 0.5}, pa.concat_tables([table.slice(0, 2), table.slice(2)]))
    assert parcel.num_rows == 1
    notes, found = unpack(parcel)
    assert notes == {"shard": "s", "seconds": 0.5}
    assert found is not None
    assert found.equals(table)
    assert all(column.num_chunks <= 1 for column in found.columns)


def test_a_parcel_may_hold_notes_alone() -> None:
    assert unpack(pack({"error": {"kind": ""}}, None)) == ({"error": {"kind": ""}}, None)


@pytest.mark.parametrize("rows", [0, 2])
def test_a_batch_that_is_not_one_shard_is_refused(rows: int) -> None:
    parcel = pa.concat_tables([pack({}, None)] * 2).slice(0, rows)
    with pytest.raises(AssertionError, match=f"a batch holds {rows} parcels; each must travel by itself"):
        unpack(parcel)
    portion = pa.table({"shards": ["[]"] * 2}).slice(0, rows)
    with pytest.raises(AssertionError, match=f"a batch holds {rows} portions"):
        shards_of(portion)


def spread(batch: pa.Table) -> Iterator[pa.Table]:
    for text in shards_of(batch):
        # Of very different sizes, as blocks are split and joined by their bytes.
        yield pack({"shard": text}, pa.table({"x": [0] * (int(text) % 7) * 30_000}))


class Together:
    """Says of every batch how many rows of it there were."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        notes, _ = unpack(batch)
        return pa.table({"said": [json.dumps([notes["shard"], batch.num_rows])]})


@pytest.mark.usefixtures("session")
@pytest.mark.parametrize("portion", [1, 9])
def test_shards_go_through_ray_data_one_by_one(portion: int) -> None:
    ray.cloudpickle.register_pickle_by_value(__import__(__name__))
    context = ray.data.DataContext.get_current()
    before, context.target_max_block_size = context.target_max_block_size, ONE_ROW
    names = [str(number) for number in range(45)]
    rows: list[Any] = [{"shards": json.dumps(names[at : at + portion])} for at in range(0, 45, portion)]
    try:
        found = (
            ray.data.from_items(rows, override_num_blocks=len(rows))
            .map_batches(spread, batch_size=BATCH_SIZE, batch_format="pyarrow", num_cpus=0.5)
            .map_batches(
                Together,
                batch_size=BATCH_SIZE,
                batch_format="pyarrow",
                num_cpus=0.5,
                compute=ray.data.ActorPoolStrategy(size=1),
            )
            .take_all()
        )
    finally:
        context.target_max_block_size = before
        ray.cloudpickle.unregister_pickle_by_value(__import__(__name__))
    said = [json.loads(row["said"]) for row in found]
    assert sorted(name for name, _ in said) == sorted(names)
    assert {count for _, count in said} == {1}
