"""Which rows of a file are which shard's: read shard by shard, a file of many shards is as good as a file of each."""

from __future__ import annotations

import errno
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.pipeline.errors import ConfigError, DamagedError
from tamis.pipeline.run.row_places import RowPlaces, said_of, shard_of, shards_of
from tamis.pipeline.storage.store import Store

NAMES = [f"{number:06d}-x" for number in range(8)]


def tables_of(rows: Sequence[int]) -> list[pa.Table]:
    numbers = itertools.count()
    schema = pa.schema([("n", pa.int64()), ("text", pa.string())], metadata={"a": "b"})
    return [
        pa.Table.from_pylist([{"n": next(numbers), "text": "y" * 9} for _ in range(count)], schema) for count in rows
    ]


def write(store: Store, part: str, groups: Sequence[Sequence[int]]) -> tuple[list[dict[str, Any]], list[pa.Table]]:
    """The entries of a file for each group of shards with so many rows, and the shards' tables."""
    tables = tables_of([rows for group in groups for rows in group])
    entries, first = [], 0
    for group in groups:
        names = NAMES[first : first + len(group)]
        with store.writing_table(f"{part}/{names[0]}.parquet", tables[0].schema) as writer:
            for table in tables[first : first + len(group)]:
                writer.add(table)
        entries.append({**writer.written.to_dict(), **said_of(list(zip(names, group, strict=True)))})
        first += len(group)
    return entries, tables


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "local":
        yield Store(str(tmp_path / "out"))
        return
    yield Store(f"memory://{tmp_path.name}/out")
    fsspec.filesystem("memory").store.clear()


def test_each_shard_has_its_rows(store: Store) -> None:
    entries, tables = write(store, "kept", [[3, 0, 2], [4], [0, 0], [0]])
    places = RowPlaces(store, [*entries, {"name": "README.md", "bytes": 1, "sha256": ""}])
    for name, table in zip(NAMES, tables, strict=False):
        for found in (places.read("kept", name), places.peek("kept", name)):
            assert found is not None
            assert found.equals(table)
            assert found.schema.equals(table.schema, check_metadata=True)
        assert places.peek("kept", name, ["n", "not there"]).column_names == ["n"]
    assert places.read("dropped", NAMES[0]) is None
    with pytest.raises(FileNotFoundError):
        places.peek("kept", NAMES[7])
    assert list(places.shards_in(entries[0]["name"])) == [(NAMES[0], [0]), (NAMES[2], [1])]
    assert list(places.shards_in(entries[1]["name"])) == [(NAMES[3], None)]
    assert list(places.shards_in(entries[2]["name"])) == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), min_size=1, max_size=2))
def test_shards_in_order_are_the_file(groups: list[list[int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        entries, tables = write(store, "dropped", groups)
        places = RowPlaces(store, entries)
        named = [(shard, rows) for entry in entries for shard, rows in shards_of(entry)]
        assert [name for name, _ in named] == NAMES[: len(tables)]
        found = [places.read("dropped", name) for name, _ in named]
        assert pa.concat_tables(found).equals(pa.concat_tables(tables))
        assert all(rows in (None, table.num_rows) for (_, rows), table in zip(named, tables, strict=True))


def test_a_file_of_one_shard_is_as_it_always_was(store: Store) -> None:
    """To the byte, whichever way it is written; and its entry says nothing more."""
    [table] = tables_of([5])
    entries, _ = write(store, "kept", [[5]])
    assert entries == [store.write_table(f"kept/{NAMES[0]}.parquet", table).to_dict()]
    assert shards_of(entries[0]) == [(NAMES[0], None)]
    assert shard_of(entries[0]["name"]) == NAMES[0]


def test_damage_is_found(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    entries, _ = write(store, "kept", [[40, 50]])
    path = tmp_path / entries[0]["name"]
    whole = path.read_bytes()
    chunk = pq.read_metadata(path).row_group(1).column(0)
    at = (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size - 1  # its last byte
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(DamagedError, match=r"kept/000000-x\.parquet: is not as it was written"):
        RowPlaces(store, entries).read("kept", NAMES[0])
    assert RowPlaces(store, entries).peek("kept", NAMES[0]).num_rows == 40
    with pytest.raises((OSError, pa.ArrowInvalid)):
        RowPlaces(store, entries).peek("kept", NAMES[1])


@pytest.mark.parametrize("said", [[[NAMES[0], 3], [NAMES[1], 4]], [[NAMES[0], 3], [NAMES[1], 5], [NAMES[2], 1]]])
def test_an_entry_that_does_not_fit_its_file(tmp_path: Path, said: list[list[Any]]) -> None:
    store = Store(str(tmp_path))
    entries, _ = write(store, "kept", [[3, 5]])
    places = RowPlaces(store, [{**entries[0], "shards": said}])
    with pytest.raises(DamagedError, match="has not the rows that the manifest says"):
        places.peek("kept", said[-1][0])


def test_a_name_that_leads_out_of_the_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        RowPlaces(Store(str(tmp_path)), [{"name": "kept/../../x.parquet", "bytes": 1, "sha256": ""}])


def test_a_file_that_was_not_finished_is_not_there(store: Store) -> None:
    [table] = tables_of([3])
    with pytest.raises(KeyError), store.writing_table("kept/a.parquet", table.schema) as writer:  # noqa: PT012
        writer.add(table)
        raise KeyError
    assert store.list("kept") == []
    assert not store.is_local or not list(Path(store.url, "kept").iterdir())


def test_a_full_disk_says_which_file_and_the_block_speaks_for_itself(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    (tmp_path / "kept").write_bytes(b"in the way")
    [table] = tables_of([3])
    with pytest.raises(OSError, match=r"kept/a\.parquet"), store.writing_table("kept/a.parquet", table.schema):
        pass
    with pytest.raises(OSError, match=r"input\.jsonl") as caught, store.writing_table("b.parquet", table.schema):
        raise OSError(errno.EIO, "Input/output error", "input.jsonl")
    assert caught.value.filename == "input.jsonl"
