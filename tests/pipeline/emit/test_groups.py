"""Shards that share their files: which ones do, and that nothing else of the output depends on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.conversation.schema import infer_rows, settle
from tamis.pipeline.emit.groups import TEXT_BYTES, expected_bytes, groups_of, larger_share
from tamis.pipeline.emit.shard import STAGE, Decided, EmitSpec, write_group
from tamis.pipeline.emit.stage import _of_whole_groups
from tamis.pipeline.inputs.files import SourceFile, resolve
from tamis.pipeline.inputs.shards import Shard, make_shards, read, rows_digest, scan
from tamis.pipeline.inputs.spans import Span
from tamis.pipeline.run import receipts
from tamis.pipeline.run.row_places import RowPlaces, shards_of
from tamis.pipeline.storage.store import Store

# --- which shards -------------------------------------------------------------------------------------------------


def text_shard(index: int, size: int) -> Shard:
    file = SourceFile(url="/in/a.jsonl", name="a.jsonl", format="jsonl", compression=None, bytes=10**9, identity="1")
    return Shard(index, "corpus", file, (), Span(index, index + 1, 0, size), {}, id="x")


def columnar_shard(index: int, rows: int, file: str, size: int) -> Shard:
    source = SourceFile(url=f"/in/{file}", name=file, format="parquet", compression=None, bytes=size, identity="1")
    return Shard(index, "corpus", source, (), Span(0, rows, 0, 0), {}, id="x")


@given(st.lists(st.integers(0, 5000), max_size=40), st.integers(1, 3000), st.sampled_from([1.0, 0.9]))
def test_groups_are_the_shards_in_order_and_of_about_the_size(sizes: list[int], size: int, share: float) -> None:
    shards = [text_shard(number, each) for number, each in enumerate(sizes)]
    groups = groups_of(shards, size, share=share)
    assert [shard for group in groups for shard in group] == shards
    assert all(groups)
    expected = [TEXT_BYTES * share * each for each in sizes]
    for group in groups:
        parts = [expected[shard.index] for shard in group]
        assert len(group) == 1 or sum(parts) <= size + parts[-1] / 2 + 1e-6
        following = group[-1].index + 1
        if following < len(shards):  # the next one would have been more over it than the group is under it
            assert sum(parts) + expected[following] / 2 > size - 1e-6


def test_each_shard_by_itself() -> None:
    shards = [text_shard(number, 10) for number in range(3)]
    assert groups_of(shards, 0) == [[shard] for shard in shards]
    assert groups_of(shards, 1) == [[shard] for shard in shards]
    assert groups_of(shards, 10**9) == [shards]
    assert groups_of([], 10**9) == []
    assert groups_of(shards, 9) == [shards[:2], shards[2:]]
    assert groups_of(shards, 9, swell=2.0) == [[shard] for shard in shards]


def test_a_file_in_columns_is_taken_as_large_as_it_is() -> None:
    shards = [columnar_shard(0, 30, "a", 400), columnar_shard(1, 10, "a", 400), columnar_shard(2, 5, "b", 70)]
    assert expected_bytes(shards) == [300, 100, 70]
    assert [larger_share(10, 100), larger_share(90, 100), larger_share(0, 0)] == [0.9, 0.9, 0.0]


# --- what is written ----------------------------------------------------------------------------------------------


class EveryThird(EmitSpec):
    """Drops every third row of a shard, and what holds "bad" is in quarantine."""

    def decide(self, shard: Shard, quota: int, made: Any) -> Decided:
        rows = read(shard, {})
        bad = ["bad" in str(row.value) for row in rows]
        fell = np.array([number % 3 == quota and not bad[number] for number in range(len(rows))])
        captured = pa.table(
            {
                "code": pa.array(["odd" if each else None for each in bad], pa.string()),
                "message": pa.nulls(len(rows), pa.string()),
                **{name: pa.nulls(len(rows), pa.int32()) for name in ("n_tokens", "n_response_tokens")},
                "truncated": [False] * len(rows),
            }
        )
        reasons = {"reason": pa.array(["third"] * int(fell.sum()), pa.string())}
        return Decided(captured, rows_digest(rows), fell, reasons, {}, {"index": shard.index})


ROWS = [{"prompt": f"bad {n}" if n in (4, 9, 10, 11) else f"ask {n}", "response": f"tell {n}"} for n in range(20)]
QUOTAS = (2, 7, 2, 0, 2, 2, 1)
"""Of each shard of three rows, which place falls; 7: none."""


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        [file] = resolve([str(folder / "in.jsonl")], "auto", {})
        self.shards = make_shards(scan(file, 3, {}), "corpus", {}, 0)

    def spec(self, name: str) -> EveryThird:
        schema = settle(infer_rows(ROWS)).serialize().to_pybytes()
        return EveryThird(store=Store(str(self.folder / name)), options={}, key="k", schema=schema)

    def write(self, name: str, *sizes: int) -> list[dict[str, Any]]:
        """The receipts of groups of so many shards."""
        items = [(shard, quota, None) for shard, quota in zip(self.shards, QUOTAS, strict=True)]
        found: list[dict[str, Any]] = []
        for size in sizes:
            found += write_group(items[:size], self.spec(name))
            items = items[size:]
        assert not items
        return found

    def groups(self, *sizes: int) -> list[list[Shard]]:
        stops = np.cumsum(sizes).tolist()
        return [self.shards[stop - size : stop] for stop, size in zip(stops, sizes, strict=True)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def entries_of(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [file for receipt in found for file in receipt["files"]]


@pytest.mark.parametrize("sizes", [(7,), (3, 4), (1, 2, 1, 3)])
def test_grouped_files_hold_the_rows_of_the_shards_own_files(bench: Bench, sizes: tuple[int, ...]) -> None:
    apart, grouped = bench.write("apart", *[1] * 7), bench.write("grouped", *sizes)
    alone = {"seconds", "files", "group"}
    assert [{k: v for k, v in one.items() if k not in alone} for one in apart] == [
        {k: v for k, v in one.items() if k not in alone} for one in grouped
    ]
    ours, theirs = (
        RowPlaces(bench.spec(name).store, entries_of(found)) for name, found in (("grouped", grouped), ("apart", apart))
    )
    for shard in bench.shards:
        for part in ("kept", "dropped"):
            one, other = ours.read(part, shard.name), theirs.read(part, shard.name)
            rows = 0 if other is None else other.num_rows
            assert (0 if one is None else one.num_rows) == rows
            assert not rows or one.equals(other)
    # Whoever reads the files in the order of their names reads the rows of the input in their order.
    for part, names in (("kept", [group[0].name for group in bench.groups(*sizes)]), ("dropped", None)):
        paths = sorted((bench.folder / "grouped" / part).iterdir())
        assert names is None or [path.stem for path in paths] == names
        numbers = [int(each.split()[1]) for path in paths for each in pq.read_table(path)["response"].to_pylist()]
        assert numbers == sorted(numbers)
        whole = sum(receipt["counts"][part] for receipt in grouped)
        assert len(numbers) == whole > 0
    # What is not shared is the same to the byte.
    for part in ("scores", "quarantine"):
        own = [{path.name: path.read_bytes() for path in (bench.folder / name / part).iterdir()}
               for name in ("apart", "grouped")]  # fmt: skip
        assert own[0] == own[1]


def test_the_entries_say_what_the_row_groups_hold(bench: Bench) -> None:
    found = bench.write("out", 4, 3)
    for entry in entries_of(found):
        if entry["name"].startswith(("kept/", "dropped/")):
            footer = pq.read_metadata(bench.folder / "out" / entry["name"])
            held = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
            assert held == [rows for _, rows in shards_of(entry) if rows], entry["name"]
    assert [receipt.get("group") for receipt in found] == [
        *[[bench.shards[0].name, 4]] * 4, *[[bench.shards[4].name, 3]] * 3
    ]  # fmt: skip


def test_a_group_is_the_same_to_the_byte_whenever_it_is_written(bench: Bench) -> None:
    bench.write("one", 4, 3)
    bench.write("two", 4, 3)
    bench.write("two", 4, 3)
    one, two = (
        {str(path.relative_to(bench.folder / name)): path.read_bytes()
         for part in ("kept", "dropped", "quarantine", "scores") for path in (bench.folder / name / part).iterdir()}
        for name in ("one", "two")
    )  # fmt: skip
    assert one == two


# --- what is done already -----------------------------------------------------------------------------------------


def done(bench: Bench, *sizes: int) -> list[int]:
    """The numbers of the shards that a command finds done."""
    return sorted(receipt["index"] for receipt in _of_whole_groups(bench.spec("out").store, bench.groups(*sizes), "k"))


def test_a_group_counts_when_all_of_its_shards_have_receipts(bench: Bench) -> None:
    bench.write("out", 4, 3)
    store = bench.spec("out").store
    assert done(bench, 4, 3) == list(range(7))
    # As after a kill between two receipts.
    store.remove(f"_work/receipts/{STAGE}/{bench.shards[5].name}.json")
    assert done(bench, 4, 3) == [0, 1, 2, 3]
    assert receipts.count(store, STAGE) == 4, "the others are forgotten, and written again with the group"
    bench.write("out", 4, 3)
    assert done(bench, 4, 3) == list(range(7))


def test_shards_of_other_groups_are_done_again(bench: Bench) -> None:
    """As where one of a group has harmed its workers, and the rest was written apart."""
    bench.write("out", 1, 1, 1, 1, 3)
    assert done(bench, 4, 3) == [4, 5, 6]
    assert receipts.count(bench.spec("out").store, STAGE) == 3


def test_what_an_earlier_tamis_has_done_counts_where_shards_have_their_own_files(bench: Bench) -> None:
    found = bench.write("out", *[1] * 7)
    assert all("group" not in receipt for receipt in found)
    assert all("shards" not in entry for entry in entries_of(found))
    assert done(bench, *[1] * 7) == list(range(7))
