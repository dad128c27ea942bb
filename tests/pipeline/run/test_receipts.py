"""Receipts: what is done stays done, under its own settings only, and ten thousand are found with few reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.inputs.text_files import Span
from tamis.pipeline.run import receipts
from tamis.pipeline.storage.store import Store


def shard(index: int) -> Shard:
    file = SourceFile("/x/a.jsonl", "a.jsonl", "jsonl", None, 10, "1")
    return Shard(index, "corpus", file, (), Span(10 * index, 10 * index + 7, 0, 5), {}, f"{index:04x}")


SHARDS = [shard(index) for index in range(5)]
MANY = [shard(index) for index in range(3 * receipts.COMPACT)]


class Counted(Store):
    """A store that knows what was read from it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        object.__setattr__(self, "reads", [])

    def read(self, name: str) -> bytes:
        self.reads.append(name)  # type: ignore[attr-defined]
        return super().read(name)


def found(store: Store, work: Sequence[Shard] = SHARDS, key: str = "key") -> list[int]:
    return sorted(receipt["index"] for receipt in receipts.done(store, "capture", work, key))


def written(store: Store, work: Sequence[Shard], key: str = "key") -> Iterator[dict[str, Any]]:
    return (receipts.write(store, "capture", item, key, {"tokens": item.index}) for item in work)


def run(store: Store, work: Sequence[Shard], key: str = "key") -> None:
    """What a driver does with the receipts of a stage."""
    for _ in receipts.compacted(store, "capture", key, written(store, work, key)):
        pass


def compact_files(store: Store) -> list[str]:
    return [name for name in store.list(receipts.folder("capture")) if name.startswith("compact-")]


def test_only_finished_shards_under_this_key_are_done(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert found(store) == []
    for index in (3, 0, 4):
        receipts.write(store, "capture", SHARDS[index], "key", {"tokens": index})
    receipts.write(store, "capture", SHARDS[1], "another key", {"tokens": 1})
    receipts.write(store, "emit", SHARDS[2], "key", {"tokens": 2})
    assert found(store) == [0, 3, 4]
    [third] = receipts.done(store, "capture", SHARDS[3:4], "key")
    assert third == {"shard": "000003-0003", "index": 3, "rows": 7, "key": "key", "tokens": 3}
    # A receipt of a shard that is not in this plan is not ours.
    assert found(store, SHARDS[3:]) == [3, 4]
    assert receipts.count(store, "capture") == 4


def test_what_is_returned_is_what_is_read_back(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    first = receipts.write(store, "emit", SHARDS[0], "key", {"riskiest": [[0.5, 1, 2]], "text": "é\ud800"})
    assert list(receipts.done(store, "emit", SHARDS, "key")) == [first]


def test_cells_have_receipts_too(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    cell = receipts.write_cell(store, "capture", SHARDS[2].name, "key", {"refusals": 3})
    assert list(receipts.done(store, "capture", SHARDS, "key")) == [cell]


@pytest.mark.parametrize("rest", [b"", b'{"shard": "000001-0001", "ke', b"null", b"[]", b"\xff\xfe", b'{"key": "key"}'])
def test_a_receipt_that_was_cut_off_does_not_count(tmp_path: Path, rest: bytes) -> None:
    store = Store(str(tmp_path))
    receipts.write(store, "capture", SHARDS[0], "key", {})
    store.write(f"{receipts.folder('capture')}/{SHARDS[1].name}.json", rest)
    assert found(store) == [0]


def test_numbers_that_json_has_not_are_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(ValueError):
        receipts.write(store, "capture", SHARDS[0], "key", {"score": float("nan")})
    assert found(store) == []


def test_on_another_file_system() -> None:
    store = Store("memory://receipts-test")
    try:
        run(store, MANY)
        assert found(store, MANY) == list(range(len(MANY)))
        assert len(compact_files(store)) == 3
    finally:
        fsspec.filesystem("memory").rm("/receipts-test", recursive=True)


# --- compact files ------------------------------------------------------------------------------------------------


def test_a_resume_opens_compact_files_and_the_few_singles_that_are_in_none(tmp_path: Path) -> None:
    store = Counted(str(tmp_path))
    run(store, MANY[: 2 * receipts.COMPACT + 5])
    assert found(store, MANY) == list(range(2 * receipts.COMPACT + 5))
    reads: list[str] = store.reads  # type: ignore[attr-defined]
    assert len(reads) == 2 + 5
    assert sum("compact-" in name for name in reads) == 2
    assert receipts.count(store, "capture") == 2 * receipts.COMPACT + 5


def test_singles_that_had_to_be_opened_are_compacted_for_the_next_time(tmp_path: Path) -> None:
    store = Counted(str(tmp_path))
    for _ in written(store, MANY):  # as workers write them whose driver was killed
        pass
    for expected in (len(MANY), 3):
        store.reads.clear()  # type: ignore[attr-defined]
        assert found(store, MANY) == list(range(len(MANY)))
        assert len(store.reads) == expected  # type: ignore[attr-defined]


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"\xff\n", None])
def test_a_damaged_compact_file_counts_nothing(tmp_path: Path, damage: bytes | None) -> None:
    store = Store(str(tmp_path))
    run(store, MANY)
    name = f"{receipts.folder('capture')}/{compact_files(store)[1]}"
    data = store.read(name)
    store.write(name, data.replace(b'"tokens": 300', b'"tokens": 301') + b"" if damage is None else damage)
    tokens = {r["index"]: r["tokens"] for r in receipts.done(store, "capture", MANY, "key")}
    assert tokens == {index: index for index in range(len(MANY))}


def test_a_single_receipt_that_is_gone_is_not_done(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    run(store, MANY)
    store.remove(f"{receipts.folder('capture')}/{MANY[7].name}.json")
    assert 7 not in found(store, MANY)


def test_two_drivers_of_one_stage_count_every_shard_once(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    run(store, MANY[:400])
    run(store, list(reversed(MANY[100:])))
    assert found(store, MANY) == list(range(len(MANY)))


def test_compact_files_of_another_key_go(tmp_path: Path) -> None:
    # Else A's receipts would count again after B has overwritten what A captured.
    store = Store(str(tmp_path))
    run(store, MANY, "a")
    assert found(store, MANY, "b") == []
    assert compact_files(store) == []
    run(store, MANY[:40], "b")
    assert found(store, MANY, "a") == list(range(40, len(MANY)))


def test_a_small_stage_writes_no_compact_file(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    run(store, SHARDS)
    assert compact_files(store) == []
    assert found(store) == [0, 1, 2, 3, 4]
