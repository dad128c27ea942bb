"""Folders and globs of object stores: the files found, and how few questions that takes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import pytest
from fault_proxy import FaultProxy
from gcs_server import GcsServer
from object_store import S3

from tamis.pipeline.errors import InputError
from tamis.pipeline.inputs.files import SourceFile, identity_of, resolve
from tamis.pipeline.storage.addresses import open_filesystem

LINE = b'{"a": 1}\n'
PAGE = 1000
MANY = PAGE + 200


@pytest.fixture
def bucket(moto: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """moto with a bucket `paths`."""
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    moto.make_bucket("paths")
    return moto


def put(store: S3, keys: list[str], body: bytes = LINE) -> None:
    client = store.client()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: client.put_object(Bucket="paths", Key=key, Body=body), keys))


def test_a_folder_of_many_objects_is_listed_in_pages_and_no_object_asked_for(bucket: S3) -> None:
    put(bucket, [f"many/{number:05d}.jsonl" for number in range(MANY)])
    for path in ("s3://paths/many", "s3://paths/many/*.jsonl"):
        with FaultProxy(bucket.endpoint) as proxy:
            found = resolve([path], "auto", {"endpoint_url": proxy.endpoint})
            questions = len(proxy.requests)
        assert [file.name for file in found] == [f"{number:05d}.jsonl" for number in range(MANY)]
        assert {file.bytes for file in found} == {len(LINE)}
        assert len({file.identity for file in found}) == 1, "one content, one etag"
        assert questions <= 2 * 2 + 5, "two pages (s3fs lists twice for a glob), and a few about names"


def test_markers_of_folders_and_hidden_objects_are_no_data(bucket: S3) -> None:
    put(bucket, ["marked/", "marked/sub/"], b"")
    put(bucket, ["marked/a.jsonl", "marked/sub/b.csv", "marked/_c.jsonl", "marked/.d/e.jsonl", "marked/[x].jsonl"])
    options = {"endpoint_url": bucket.endpoint}

    def names(path: str) -> list[str]:
        return [file.name for file in resolve([f"s3://paths/{path}"], "auto", options)]

    assert names("marked") == names("marked/") == ["[x].jsonl", "a.jsonl", "sub/b.csv"]
    assert names("marked/**/*.csv") == ["b.csv"]
    assert names("marked/[x].jsonl") == ["[x].jsonl"], "a name that looks like a glob"
    with pytest.raises(InputError, match="s3://paths/none: no such file or folder"):
        names("none")
    with pytest.raises(InputError, match=r"s3://paths/none/\*: no file matches"):
        names("none/*")


def same_alone(file: SourceFile, options: dict[str, Any]) -> bool:
    """Whether a worker that asks for this file alone finds what the listing has said."""
    filesystem, path = open_filesystem(file.url, options)
    info = filesystem.info(path)
    return (file.bytes, file.identity) == (info["size"], identity_of(info)) and bool(file.identity)


def test_a_listing_of_s3_says_the_same_as_the_object_itself(bucket: S3) -> None:
    put(bucket, ["same/a.jsonl", "same/b.jsonl"])
    options = {"endpoint_url": bucket.endpoint}
    files = resolve(["s3://paths/same"], "auto", options) + resolve(["s3://paths/same/*"], "auto", options)
    assert len(files) == 4
    assert all(same_alone(file, options) for file in files)


def test_a_listing_of_google_says_the_same_as_the_object_itself(
    gcs: GcsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in gcs.environment.items():
        monkeypatch.setenv(name, value)
    filesystem = fsspec.filesystem("gcs")
    filesystem.mkdir("paths")
    for name in ("a", "b"):
        filesystem.pipe_file(f"paths/same/{name}.jsonl", LINE)
    files = resolve(["gs://paths/same"], "auto", {}) + resolve(["gs://paths/same/*"], "auto", {})
    assert len(files) == 4
    assert all(same_alone(file, {}) for file in files)
