"""Receipts: what is done stays done, under its own settings only."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from tamis.pipeline import receipts
from tamis.pipeline.files import SourceFile
from tamis.pipeline.sources import Shard
from tamis.pipeline.store import Store
from tamis.pipeline.text_files import Span


def shard(index: int) -> Shard:
    file = SourceFile("/x/a.jsonl", "a.jsonl", "jsonl", None, 10, "1")
    return Shard(index, "corpus", file, (), Span(10 * index, 10 * index + 7, 0, 5), {}, f"{index:04x}")


SHARDS = [shard(index) for index in range(5)]


def test_only_finished_shards_under_this_key_are_done_in_plan_order(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert list(receipts.done(store, "capture", SHARDS, "key")) == []
    for index in (3, 0, 4):
        receipts.write(store, "capture", SHARDS[index], "key", {"tokens": index})
    receipts.write(store, "capture", SHARDS[1], "another key", {"tokens": 1})
    receipts.write(store, "emit", SHARDS[2], "key", {"tokens": 2})
    found = list(receipts.done(store, "capture", SHARDS, "key"))
    assert [receipt["index"] for receipt in found] == [0, 3, 4]
    assert found[1] == {"shard": "000003-0003", "index": 3, "rows": 7, "key": "key", "tokens": 3}
    # A receipt of a shard that is not in this plan is not ours.
    assert [r["index"] for r in receipts.done(store, "capture", SHARDS[3:], "key")] == [3, 4]


def test_what_is_returned_is_what_is_read_back(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    written = receipts.write(store, "emit", SHARDS[0], "key", {"riskiest": [[0.5, 1, 2]], "text": "é\ud800"})
    assert list(receipts.done(store, "emit", SHARDS, "key")) == [written]


@pytest.mark.parametrize("rest", [b"", b'{"shard": "000001-0001", "ke', b"null", b"[]", b"\xff\xfe", b'{"key": "key"}'])
def test_a_receipt_that_was_cut_off_does_not_count(tmp_path: Path, rest: bytes) -> None:
    store = Store(str(tmp_path))
    receipts.write(store, "capture", SHARDS[0], "key", {})
    store.write(f"{receipts.folder('capture')}/{SHARDS[1].name}.json", rest)
    assert [receipt["index"] for receipt in receipts.done(store, "capture", SHARDS, "key")] == [0]


def test_numbers_that_json_has_not_are_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(ValueError):
        receipts.write(store, "capture", SHARDS[0], "key", {"score": float("nan")})
    assert list(receipts.done(store, "capture", SHARDS, "key")) == []


def test_on_another_file_system() -> None:
    store = Store("memory://receipts-test")
    try:
        receipts.write(store, "capture", SHARDS[2], "key", {})
        assert [receipt["index"] for receipt in receipts.done(store, "capture", SHARDS, "key")] == [2]
    finally:
        fsspec.filesystem("memory").rm("/receipts-test", recursive=True)
