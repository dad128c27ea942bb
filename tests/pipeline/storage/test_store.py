"""The store: writes that are whole or absent, Parquet that comes back as it was, and no secret in any message."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import fsspec
import pyarrow as pa
import pytest

from tamis.pipeline.errors import ConfigError, StorageError, as_facts, error_text
from tamis.pipeline.storage.addresses import has_credentials, is_local_url, open_filesystem
from tamis.pipeline.storage.store import Store, _in_one_piece


@pytest.fixture(params=["local", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "local":
        yield Store(str(tmp_path / "out"))
    elif request.param == "file":
        yield Store(f"file://{tmp_path}/out/")
    else:
        yield Store("memory://store-test/out")
        memory = fsspec.filesystem("memory")
        if memory.exists("/store-test"):
            memory.rm("/store-test", recursive=True)


def test_what_is_written_is_read(store: Store) -> None:
    assert not store.exists("a/b.bin")
    written = store.write("a/b.bin", b"hello")
    assert written.to_dict() == {"name": "a/b.bin", "bytes": 5, "sha256": hashlib.sha256(b"hello").hexdigest()}
    assert store.exists("a/b.bin")
    assert store.read("a/b.bin") == b"hello"
    store.write("a/b.bin", b"other")
    assert store.read("a/b.bin") == b"other"
    with pytest.raises(FileNotFoundError):
        store.read("a/c.bin")


def test_listing(store: Store) -> None:
    assert store.list("a") == []
    assert store.list("") == []
    for name in ("a/2.json", "a/1.json", "a/10.json", "b/x", "top"):
        store.write(name, b"")
    assert store.list("a") == ["1.json", "10.json", "2.json"]
    assert store.list("") == ["a", "b", "top"]


def test_a_listing_is_never_stale(store: Store) -> None:
    store.write("a/1", b"")
    other = Store(store.url, store.options)
    assert store.list("a") == ["1"]
    other.write("a/2", b"")
    assert store.list("a") == ["1", "2"]


def test_removing(store: Store) -> None:
    store.write("work/a/b", b"x")
    store.write("workshop", b"x")
    store.remove("work")
    assert store.list("") == ["workshop"]
    store.remove("work")  # is not there: nothing to do


@pytest.mark.parametrize("name", ["out[1]", "o?t1", "*"])
def test_removing_takes_no_name_for_a_pattern(store: Store, name: str) -> None:
    odd, other = (Store(f"{store.url.rstrip('/').rpartition('/')[0]}/{last}") for last in (name, "out1"))
    for each in (odd, other):
        each.write("kept/a.parquet", b"a")
        each.write("_work/receipts/emit/a.json", b"a")
    odd.remove("_work")
    odd.remove("kept/a.parquet")
    assert [odd.list(folder) for folder in ("_work/receipts/emit", "kept")] == [[], []]
    assert [other.list(folder) for folder in ("_work/receipts/emit", "kept")] == [["a.json"], ["a.parquet"]]


def test_json(store: Store) -> None:
    value = {"text": 'é "quoted" \u2028', "n": [1, 2.5, None]}
    store.write_json("a.json", value)
    assert store.read_json("a.json") == value
    assert store.read("a.json").endswith(b"}\n")
    with pytest.raises(ValueError):
        store.write_json("nan.json", {"x": float("nan")})
    assert not store.exists("nan.json")


def test_a_table_comes_back_with_types_order_and_metadata(store: Store) -> None:
    schema = pa.schema(
        [
            pa.field("z", pa.int8(), nullable=False),
            ("text", pa.large_string()),
            ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
            ("when", pa.timestamp("ns", tz="Asia/Tokyo")),
            ("vector", pa.list_(pa.float32(), 2)),
            ("nothing", pa.null()),
        ],
        metadata={"huggingface": '{"info": 1}'},
    )
    turns = [{"role": "a", "content": None}]
    rows = [
        {"z": 1, "text": "é", "messages": turns, "when": 5, "vector": [0.5, 1]},
        {"z": 2, "text": None, "messages": [], "when": None, "vector": [1e-9, 3e38]},
    ]
    table = pa.Table.from_pylist(rows, schema=schema)
    store.write_table("t.parquet", table)
    found = store.read_table("t.parquet")
    assert found.equals(table)
    assert found.schema.metadata == schema.metadata
    assert not found.schema.field("z").nullable
    assert store.read_table("t.parquet", ["text", "z"]).column_names == ["text", "z"]
    empty = schema.empty_table()
    store.write_table("e.parquet", empty)
    assert store.read_table("e.parquet").equals(empty)
    assert store.read_table("e.parquet").schema.metadata == schema.metadata


def test_it_travels_to_a_worker(store: Store) -> None:
    store.write("a", b"x")  # the connection is open now, and must not travel
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301
    assert copy == store
    assert copy.read("a") == b"x"
    assert "_opened" not in store.__getstate__()


def test_a_relative_folder_means_the_same_in_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = pickle.loads(pickle.dumps(Store("out")))  # noqa: S301
    monkeypatch.chdir("/")
    store.write("a", b"x")
    assert (tmp_path / "out/a").read_bytes() == b"x"


def test_paths_to_show(tmp_path: Path) -> None:
    local = Store(f"{tmp_path}/out/")
    assert local.is_local
    assert local.path("report.html") == f"{tmp_path}/out/report.html"
    assert local.path() == f"{tmp_path}/out"
    remote = Store("memory://bucket/out")
    assert not remote.is_local
    assert remote.path("report.html") == "memory://bucket/out/report.html"


# --- local writes -------------------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_content_and_no_rest(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("a.bin", b"old")
    with pytest.raises(TypeError):
        store.write("a.bin", "not bytes")  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == ["a.bin"]
    assert store.read("a.bin") == b"old"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        store.write("folder", b"cannot take the place of a folder")
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "folder"]


def test_rests_of_a_killed_process_are_not_listed(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("a/1.json", b"")
    (tmp_path / "a/2.json.0123abcd.tmp").write_bytes(b"half")
    assert store.list("a") == ["1.json"]


def test_a_half_written_table_can_be_removed(tmp_path: Path) -> None:
    store, table = Store(str(tmp_path)), pa.table({"n": [1]})
    store.write("kept/b.parquet", b"whole")
    with pytest.raises(FileNotFoundError), store.writing_table("kept/a.parquet", table.schema) as writer:  # noqa: PT012
        writer.add(table)
        assert len(os.listdir(tmp_path / "kept")) == 2  # as if the process died here
        store.remove_leftovers("kept")
        store.remove_leftovers("dropped")  # which is not there
        assert os.listdir(tmp_path / "kept") == ["b.parquet"]
    assert os.listdir(tmp_path / "kept") == ["b.parquet"]


def test_an_object_is_sent_in_one_piece_as_far_as_s3_takes_it() -> None:
    s3, other = fsspec.filesystem("s3"), fsspec.filesystem("memory")
    assert _in_one_piece(s3, 1) == {"chunksize": 50 << 20}
    assert _in_one_piece(s3, 1 << 30) == {"chunksize": 1 << 30}
    assert _in_one_piece(s3, 5 << 30) == {}
    assert _in_one_piece(other, 1 << 30) == {}


def test_readers_see_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("a.bin", b"old")
    with (tmp_path / "a.bin").open("rb") as held:
        store.write("a.bin", b"new content")
        assert held.read() == b"old"
    assert store.read("a.bin") == b"new content"


def test_writability(store: Store) -> None:
    store.check_writable("work")
    assert [name for name in store.list("_work") if "probe" in name] == []


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"output: .*file/out cannot be written"):
        Store(str(tmp_path / "file/out")).check_writable("work")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_folder_without_room_is_the_storages_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(StorageError, match=rf"out has no room \({os.strerror(number)}\)"):
        Store(str(tmp_path / "out")).check_writable("work")


def test_a_file_that_finds_no_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as caught:
        Store(str(tmp_path)).write("kept/a.parquet", b"a")
    for error in (caught.value, copy.copy(caught.value)):  # as Ray passes it on
        assert error.filename == f"{tmp_path}/kept/a.parquet"
        assert as_facts(error)["message"] == f"OSError: {tmp_path}/kept/a.parquet: No space left on device"


class _Locked(fsspec.get_filesystem_class("memory")):  # type: ignore[misc]
    """A storage that answers 403 to everything."""

    protocol = "locked"

    def info(self, path: str, **_: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    def exists(self, path: str, **_: object) -> bool:
        raise PermissionError(13, "Permission denied", path)

    def ls(self, path: str, **_: object) -> None:
        raise PermissionError(13, "Permission denied", path)


def test_what_cannot_be_looked_into_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"output: .*file/out cannot be looked into \(Not a directory\); choose"):
        Store(str(tmp_path / "file/out")).list("")
    fsspec.register_implementation("locked", _Locked, clobber=True)
    for attempt in (lambda store: store.list("a"), lambda store: store.exists("a")):
        with pytest.raises(ConfigError, match=r"output: locked://b/out cannot be looked into \(Permission denied\)"):
            attempt(Store("locked://b/out"))


# --- addresses ----------------------------------------------------------------------------------------------------

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "url",
    [
        f"s3://me:{SECRET}@bucket/out",
        f"s3://me:hunt/er2{SECRET}@bucket/out",
        f"s3://me:{SECRET}?x@bucket/out",
        f"https://{SECRET}@host/data.jsonl",
        f"https://me:{SECRET}@host:443/data.jsonl",
        f"simplecache::https://{SECRET}@host/data.jsonl",
        f"sftp://me:{SECRET}@host/out",
        f"s3://:{SECRET}@bucket",
        f"https://a.blob.core.windows.net/c/x.jsonl?sv=1&sig={SECRET}",
        f"https://b.s3.amazonaws.com/x.jsonl?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}",
        f"https://storage.googleapis.com/b/x.jsonl?X-Goog-Signature={SECRET}",
        f"https://b.s3.amazonaws.com/x.jsonl?AWSAccessKeyId=a&Signature={SECRET}&Expires=1",
        f"simplecache::https://host/x.jsonl?x-goog-signature={SECRET}",
        f"https://host/x.jsonl?token={SECRET}",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(url: str) -> None:
    for attempt in (lambda: Store(url), lambda: open_filesystem(url, {})):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert "credentials in an address are refused" in str(caught.value)
        assert "hunt" not in str(caught.value)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/out",
        "s3://bucket/mail@host/a:b@c.jsonl",
        "abfss://container@account.dfs.core.windows.net/out",
        "sftp://me@host:22/out",
        "https://host:443/x@y.jsonl",
        "http://[::1]:9000/a@b",
        "/local/me:you@here/out",
        "C:/x@y",
        "memory://a",
        "hf://datasets/org/name@main/data.jsonl",
        "https://host/x.jsonl?download=true&design=3&signed=no",
        "s3://bucket/sig=1/x?.jsonl",
        "/local/x?sig=1.jsonl",
    ],
)
def test_innocent_addresses_are_not(url: str) -> None:
    assert not has_credentials(url)


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nosuch://bucket/x: no storage driver"):
        open_filesystem("nosuch://bucket/x", {})


def test_options_are_for_remote_storage_only(tmp_path: Path) -> None:
    # An endpoint_url set for the input must not break a local output.
    Store(str(tmp_path / "out"), {"endpoint_url": "http://127.0.0.1:1"}).write("a", b"x")
    assert is_local_url(str(tmp_path))
    assert is_local_url("file:///x")
    assert not is_local_url("s3://x")


def test_errors_as_one_line() -> None:
    assert error_text(FileNotFoundError(2, "No such file or directory", "x")) == "No such file or directory"
    assert error_text(ValueError("a\n  b\tc")) == "a b c"
    assert error_text(KeyError()) == "KeyError"
    assert len(error_text(ValueError("x" * 1000))) == 200
    json.dumps(error_text(OSError("odd")))


@pytest.mark.parametrize("form", ["{}", "https://h/x?k={}&b=1"])
def test_secrets_of_the_environment_are_in_no_message(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    secret = "wJalr/XUtn+FEMI= K7"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    for shown in (secret, quote(secret), quote(secret, safe=""), quote_plus(secret)):
        assert error_text(ValueError(f"cannot open {form.format(shown)}")) == f"cannot open {form.format('***')}"


# --- what outlives a crash of the machine -------------------------------------------------------------------------


def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_next_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []
    sync, replace = os.fsync, os.replace

    def recorded_sync(opened: int) -> None:
        sync(opened)
        done.append(("sync", os.readlink(f"/proc/self/fd/{opened}")))

    def recorded_replace(source: str, target: str) -> None:
        replace(source, target)
        done.append(("rename", target))

    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    root = tmp_path / "out"
    store = Store(str(root))
    with store.writing_table("kept/a.parquet", pa.schema([("n", pa.int64())])) as writer:
        writer.add(pa.table({"n": [1]}))
    store.write("_work/receipts/emit/a.json", b"rows")
    found = [(what, re.sub(r"\.[0-9a-f]{8}\.tmp$", ".tmp", path.removeprefix(str(tmp_path)))) for what, path in done]
    assert found == [
        ("sync", ""),  # the names of the new folders, from the top
        ("sync", "/out"),
        ("sync", "/out/kept/a.parquet.tmp"),
        ("rename", "/out/kept/a.parquet"),
        ("sync", "/out/kept"),
        ("sync", "/out"),
        ("sync", "/out/_work"),
        ("sync", "/out/_work/receipts"),
        ("sync", "/out/_work/receipts/emit/a.json.tmp"),
        ("rename", "/out/_work/receipts/emit/a.json"),
        ("sync", "/out/_work/receipts/emit"),
    ]


@pytest.mark.parametrize(("number", "raises"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_file_system_without_syncing_is_fine_and_one_that_fails_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, raises: bool
) -> None:
    def refuse(opened: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(os, "fsync", refuse)
    store = Store(str(tmp_path))
    if raises:
        with pytest.raises(OSError, match="no"):
            store.write("a", b"rows")
        assert store.list("") == []
    else:
        store.write("a", b"rows")
        assert store.read("a") == b"rows"
