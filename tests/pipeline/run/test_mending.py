"""Which receipts go when files are damaged, and what may lie in the folders of an output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from object_store import S3

from tamis.pipeline.cluster.session import ray_session
from tamis.pipeline.errors import ConfigError, DamagedError, StorageError
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.inputs.shards import CORPUS, Shard
from tamis.pipeline.inputs.spans import Span
from tamis.pipeline.run import mending, receipts
from tamis.pipeline.run.mending import _told_md5, check_output, damaged, mend, until_whole
from tamis.pipeline.storage.store import Sealed, Store, Written

FILE = SourceFile("nowhere/a.jsonl", "a.jsonl", "jsonl", None, 9, "1.2")
SHARDS = [Shard(number, CORPUS, FILE, (), Span(number, number + 1, 0, 0), {}, f"{number:04x}") for number in range(40)]


@pytest.fixture(autouse=True, scope="module")
def joined(ray_address: str) -> Iterator[None]:
    with ray_session(ray_address):
        yield


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


def done(store: Store) -> list[str]:
    return [receipt["shard"] for receipt in receipts.done(store, "capture", SHARDS, "k")]


def captured(store: Store) -> list[Written]:
    """A file and a receipt for each shard, compacted."""
    files = [store.write(f"_work/capture/{shard.name}.parquet", shard.name.encode() * 5) for shard in SHARDS]
    made = (
        receipts.write(store, "capture", shard, "k", {"file": file.to_receipt()})
        for shard, file in zip(SHARDS, files, strict=True)
    )
    assert len(list(receipts.compacted(store, "capture", "k", made))) == len(SHARDS)
    return files


def spoil(store: Store, name: str, how: str) -> None:
    data = store.read(name)
    if how == "gone":
        store.remove(name)
    else:
        store.write(name, {"empty": b"", "cut": data[:-1], "flipped": data[:-1] + b"?"}[how])


def test_all_that_is_damaged_in_a_stage_is_done_again(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    files = captured(store)
    bad = {3: "gone", 7: "empty", 20: "cut", 39: "flipped"}
    for number, how in bad.items():
        spoil(store, files[number].name, how)
    with pytest.raises(DamagedError) as caught:
        store.read(files[20].sealed)
    mend(store, caught.value)
    assert sorted(done(store)) == [shard.name for number, shard in enumerate(SHARDS) if number not in bad]
    said = capsys.readouterr().err
    assert all(said.count(files[number].name) == 1 for number in bad)
    assert said.count("\n") == len(bad)


def test_a_receipt_that_is_not_as_it_was_written_counts_for_nothing(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    captured(store)
    receipts.forget(store, "capture", [])  # the compact file has a digest of its own
    name = f"{receipts.folder('capture')}/{SHARDS[5].name}.json"
    store.write(name, store.read(name).replace(b'"rows": 1', b'"rows": 2'))
    assert SHARDS[5].name not in done(store)
    assert (
        capsys.readouterr().err == f"capture: the receipt {SHARDS[5].name}.json is damaged, so its work is done again\n"
    )


def test_what_is_made_anew_each_time_needs_no_receipt(store: Store) -> None:
    captured(store)
    for name in ("_work/scores/x.parquet", "artifact/larf.safetensors", "artifact/references/utility/adapter.json"):
        mend(store, DamagedError(f"{name}: is missing"))
    assert len(done(store)) == len(SHARDS)


def test_it_is_tried_until_it_is_whole(store: Store) -> None:
    [file] = [store.write("_work/capture/a.parquet", b"whole")]
    tries = []

    def attempt() -> bytes:
        tries.append(1)
        if len(tries) == 3:
            store.write(file.name, b"whole")
        return store.read(file.sealed)

    store.write(file.name, b"other")
    assert until_whole(store, attempt, over=lambda: False) == b"whole"
    assert len(tries) == 3


def test_a_storage_that_does_not_keep_what_it_is_given(store: Store) -> None:
    file = store.write("_work/capture/a.parquet", b"whole")
    store.write(file.name, b"other")
    with pytest.raises(StorageError, match=r"a\.parquet: is not as it was written, although it was made anew 3 times"):
        until_whole(store, lambda: store.read(file.sealed), over=lambda: False)


def test_what_another_driver_has_finished_and_removed_is_not_made_again(store: Store) -> None:
    files = captured(store)
    store.remove(files[2].name)
    with pytest.raises(DamagedError, match="is missing"):
        until_whole(store, lambda: store.read(files[2].sealed), over=lambda: True)
    assert len(done(store)) == len(SHARDS)


# --- the output ---------------------------------------------------------------------------------------------------


def output(store: Store) -> list[dict[str, Any]]:
    names = [f"{part}/{shard.name}.parquet" for part in ("kept", "scores") for shard in SHARDS[:3]]
    return [store.write(name, name.encode()).to_receipt() for name in [*names, "artifact/larf.safetensors"]]


NAMES = [shard.name for shard in SHARDS[:3]]


@pytest.mark.parametrize("how", ["gone", "empty", "cut", "flipped"])
@pytest.mark.parametrize("which", [0, 5, 6])
def test_no_damaged_file_is_published(store: Store, how: str, which: int) -> None:
    files = output(store)
    check_output(store, files, NAMES)
    spoil(store, files[which]["name"], how)
    with pytest.raises(DamagedError) as caught:
        check_output(store, files, NAMES)
    assert caught.value.name == files[which]["name"]


@pytest.mark.parametrize("name", ["kept/other.parquet", "scores/x.txt", "dropped/deep/a.parquet", "kept/.x.parquet"])
def test_what_others_put_there_is_refused_and_stays(store: Store, name: str) -> None:
    files = output(store)
    store.write(name, b"precious")
    with pytest.raises(ConfigError, match="holds what this run has not written"):
        check_output(store, files, NAMES)
    assert store.read(name) == b"precious"


def test_what_the_run_itself_has_left_goes(store: Store) -> None:
    files = output(store)
    left, empty = f"dropped/{NAMES[1]}.parquet", "dropped/000000-none.parquet"
    for name in (left, empty):
        store.write(name, b"of another cut")
    store.write("kept/.nfs000123", b"what a file system leaves")
    check_output(store, files, NAMES)
    assert not store.exists(left)
    assert store.exists(empty), "another driver may have published it"
    assert store.exists("kept/.nfs000123")


# --- what a storage tells -----------------------------------------------------------------------------------------


@pytest.fixture
def bucket(moto: S3, storage_environment: dict[str, str]) -> Store:
    made = Store("s3://mending", dict(moto.storage_options))
    moto.make_bucket("mending")
    return made


def test_an_object_s_own_digest_is_believed_and_others_are_read(bucket: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """By sizes and etags first: an output of terabytes is not read again."""
    files = [bucket.write(f"kept/{number}.parquet", b"%d" % number).to_receipt() for number in range(4)]
    asked: list[str] = []

    def here(task: Any, groups: Sequence[Any], store: Store, **_: Any) -> Iterator[tuple[int, Any]]:
        """In this process, which has the credentials."""
        asked.extend(name for group in groups for name, _ in group)
        return enumerate([task(group, store) for group in groups])

    monkeypatch.setattr(mending, "stream", here)
    assert damaged(bucket, files) == set()
    assert asked == [], "all by one listing"
    bucket.write("kept/1.parquet", b"9")  # of the same size
    # A receipt whose md5 the store does not tell, as of an upload in parts: the object is read.
    files[2] = {**files[2], "md5": "0" * 32}
    assert damaged(bucket, files) == {"kept/1.parquet"}
    assert asked == ["kept/1.parquet", "kept/2.parquet"]


@pytest.mark.parametrize(
    ("info", "md5"),
    [
        ({"ETag": '"5d41402abc4b2a76b9719d911017c592"'}, "5d41402abc4b2a76b9719d911017c592"),
        ({"ETag": '"5d41402abc4b2a76b9719d911017c592-2"'}, None),
        ({"etag": "CAEQAQ==", "md5Hash": "XUFAKrxLKna5cZ2REBfFkg=="}, "5d41402abc4b2a76b9719d911017c592"),
        ({"etag": "0x8DBF"}, None),
        ({"size": 5}, None),
    ],
)
def test_digests_as_stores_tell_them(info: dict[str, Any], md5: str | None) -> None:
    assert _told_md5(info) == md5


def test_a_sealed_file_is_read_or_refused(store: Store) -> None:
    file = store.write("a/b", b"hello")
    assert store.read(file.sealed) == b"hello"
    for sealed, what in ((Sealed("a/b", "00"), "is not as it was written"), (Sealed("a/c", "00"), "is missing")):
        with pytest.raises(DamagedError) as caught:
            store.read(sealed)
        assert (caught.value.name, str(caught.value)) == (sealed.name, f"{sealed.name}: {what}")
