"""Names of datasets, against the client's own naming where it has one."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openlineage.client.naming.dataset import ABFSS, GCS, S3, LocalFileSystem

from tamis.pipeline.emit.dataset_names import dataset_name, folder_of_pattern, hub_commit
from tamis.pipeline.errors import ConfigError

PLAIN = st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=12).filter(lambda s: s.strip("."))
PATHS = st.lists(PLAIN, min_size=1, max_size=4).map("/".join)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@given(PLAIN, PATHS, st.sampled_from(["s3", "s3a"]))
def test_s3_as_the_client_has_it(bucket: str, key: str, scheme: str) -> None:
    theirs = S3(bucket, key)
    assert dataset_name(f"{scheme}://{bucket}/{key}") == (theirs.get_namespace(), theirs.get_name())


@given(PLAIN, PATHS, st.sampled_from(["gs", "gcs"]))
def test_google_as_the_client_has_it(bucket: str, key: str, scheme: str) -> None:
    theirs = GCS(bucket, key)
    assert dataset_name(f"{scheme}://{bucket}/{key}") == (theirs.get_namespace(), theirs.get_name())


@given(PLAIN, PLAIN, PATHS, st.sampled_from(["abfs", "abfss", "az"]), st.sampled_from(["host", "own", "all"]))
def test_azure_as_the_client_has_it(container: str, account: str, path: str, scheme: str, where: str) -> None:
    theirs = ABFSS(container, account, path)
    host = f"@{account}.dfs.core.windows.net" if where == "host" else ""
    options = {"host": {}, "own": {scheme: {"account_name": account}}, "all": {"account_name": account}}[where]
    assert dataset_name(f"{scheme}://{container}{host}/{path}", options) == (theirs.get_namespace(), theirs.get_name())


@given(PATHS)
def test_local_files_as_the_client_has_them(path: str) -> None:
    theirs = LocalFileSystem(f"/{path}")
    assert dataset_name(f"/{path}") == dataset_name(f"file:///{path}") == ("file", theirs.get_name())


def test_a_relative_path_is_the_absolute_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert dataset_name("data/") == ("file", str(tmp_path / "data"))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("hf://datasets/org/name", ("hf://datasets", "org/name")),
        (f"hf://datasets/org/name@{COMMIT}/a/b.parquet", ("hf://datasets", "org/name/a/b.parquet")),
        (f"hf://datasets/org/name@{COMMIT}", ("hf://datasets", "org/name")),
        ("hf://org/model@main", ("hf://models", "org/model")),
        ("https://host:8443/a/b.jsonl?page=2#top", ("https://host:8443", "/a/b.jsonl")),
        ("s3://bucket", ("s3://bucket", "/")),
        ("s3://bucket/folder/", ("s3://bucket", "folder")),
        ("/", ("file", "/")),
    ],
)
def test_other_places(url: str, name: tuple[str, str]) -> None:
    assert dataset_name(url) == name


@pytest.mark.parametrize("url", ["s3://key:word@bucket/a", "https://user@host/a", "https://host/a?sig=abcdef"])
def test_a_credential_never_becomes_a_name(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        dataset_name(url)
    assert "word" not in str(refused.value)
    assert "abcdef" not in str(refused.value)


def test_a_secret_of_the_environment_is_blanked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_TOKEN", "very-secret-0")
    assert dataset_name("s3://bucket/very-secret-0/rows") == ("s3://bucket", "***/rows")


def test_the_folder_of_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "odd[1].jsonl").touch()
    assert folder_of_pattern("s3://bucket/a/night=*/rows-?.parquet") == "s3://bucket/a"
    assert folder_of_pattern("/data/*.jsonl") == "/data"
    assert folder_of_pattern("/*.jsonl") == "/"
    assert folder_of_pattern("*.jsonl") == "."
    assert folder_of_pattern("/data/rows.jsonl") == "/data/rows.jsonl"
    odd = str(tmp_path / "odd[1].jsonl")
    assert folder_of_pattern(odd) == odd


def test_the_commit_of_the_hub() -> None:
    assert hub_commit(f"hf://datasets/org/name@{COMMIT}/a.parquet") == COMMIT
    assert hub_commit("hf://datasets/org/name@main/a.parquet") is None
    assert hub_commit("/data/a.parquet") is None
