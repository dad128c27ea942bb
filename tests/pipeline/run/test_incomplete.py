"""A result without some shards: it says so, and gives way to the complete one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tamis.pipeline.errors import IncompleteError
from tamis.pipeline.run import incomplete, set_aside
from tamis.pipeline.run.paths import INCOMPLETE, MANIFEST
from tamis.pipeline.run.set_aside import SetAside
from tamis.pipeline.storage.store import Store

FAILED = [SetAside(f"{n:06d}-ab", "a.jsonl", 5 * n, 5 * n + 5, 5, "it died") for n in range(30)]
FACTS = {"fingerprint": {"a": 1}, "files": []}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


def test_what_is_missing_is_part_of_the_key() -> None:
    assert incomplete.key_without("k", []) == "k"
    one, other = (incomplete.key_without("k", failed) for failed in (FAILED[:1], FAILED[:2]))
    assert len({"k", one, other}) == 3
    assert incomplete.key_without("k", FAILED[:2][::-1]) == other


def test_a_complete_result_takes_the_place_of_an_incomplete_one(store: Store) -> None:
    written = incomplete.write_manifest(store, FACTS, FAILED, "k1")
    assert written == store.read_facts(INCOMPLETE)
    assert not written["complete"]
    assert [SetAside(**item) for item in written["failed"]] == FAILED
    assert incomplete.write_manifest(store, FACTS, [], "k2")["complete"]
    assert store.list("") == [MANIFEST]


def test_the_rows_of_another_cut_are_removed_first(store: Store) -> None:
    for name in ("kept/a", "dropped/a", "quarantine/a", "scores/a", "artifact/a", "_work/a"):
        store.write(name, b"")
    make_room = partial(incomplete.make_room, store, failed=FAILED[:1], fingerprint={}, contested=False)
    make_room("k1")  # the first to write here
    assert len(store.list("")) == 6
    make_room("k1")  # the same shards are missing: what there is goes on
    incomplete.write_manifest(store, FACTS, FAILED[:1], "k1")
    make_room("k1")
    assert len(store.list("")) == 7
    make_room("k2")
    assert store.list("") == ["_work", "artifact"]


def test_nothing_of_another_driver_gives_way_to_an_incomplete_result(store: Store) -> None:
    store.write("kept/a", b"")
    incomplete.make_room(store, "k1", [], fingerprint={}, contested=True)
    with pytest.raises(IncompleteError, match="another tamis is at work on this output") as caught:
        incomplete.make_room(store, "k2", FAILED[:1], fingerprint={}, contested=True)
    assert "  - a.jsonl rows 0 to 4: it died" in str(caught.value)
    assert store.list("kept") == ["a"]


def test_nothing_gives_way_where_another_driver_has_finished(store: Store) -> None:
    store.write("kept/a", b"")
    incomplete.make_room(store, "k1", [], fingerprint={"a": 1}, contested=False)
    incomplete.write_manifest(store, FACTS, [], "k1")
    with pytest.raises(IncompleteError, match="another tamis has finished this run meanwhile"):
        incomplete.make_room(store, "k2", [], fingerprint={"a": 1}, contested=False)
    assert store.list("kept") == ["a"]


@pytest.mark.parametrize("contested", [False, True])
def test_what_killed_workers_have_half_written_goes(store: Store, tmp_path: Path, contested: bool) -> None:
    names = ["000000-ab.parquet", "000000-ab.parquet.0123abcd.tmp", "mine.tmp"]
    for name in names:
        store.write(f"kept/{name}", b"half")
    incomplete.make_room(store, "k1", [], fingerprint={}, contested=contested)
    left = {path.name for path in (tmp_path / "out" / "kept").iterdir()}
    assert left == {*names} - (set() if contested else {names[1]})


def test_a_damaged_claim_removes_nothing(store: Store) -> None:
    """What lies there is held against the receipts before it is published."""
    make_room = partial(incomplete.make_room, store, failed=[], fingerprint={}, contested=False)
    make_room("k1")
    store.write("kept/a", b"")
    store.write("_work/emit.json", store.read("_work/emit.json").replace(b"k1", b"k3"))
    make_room("k1")
    assert store.list("kept") == ["a"]
    make_room("k2")
    assert store.list("kept") == []


def test_a_person_is_told_all_that_matters() -> None:
    incomplete.refuse([])
    with pytest.raises(IncompleteError, match="150 rows in 30 shards were set aside") as caught:
        incomplete.refuse(FAILED)
    lines = str(caught.value).splitlines()
    assert lines[1] == "  - a.jsonl rows 0 to 4: it died"
    assert lines[21] == "  - ... and 10 more"
    assert lines[-1].endswith("run the same command again to retry them alone")
    assert caught.value.exit_code == 4
    assert incomplete.warning([]) == []


def test_what_is_tried_again_is_no_longer_on_record(store: Store) -> None:
    class Named:
        name = FAILED[0].shard

    for item in FAILED[:2]:
        set_aside.record(store, "capture", item)
    set_aside.forget(store, "capture", [Named()])  # type: ignore[list-item]
    assert store.list("_work/set_aside/capture") == [f"{FAILED[1].shard}.json"]
    assert SetAside(**store.read_json(f"_work/set_aside/capture/{FAILED[1].shard}.json")) == FAILED[1]
