"""Which driver serves an address, with which options; what is refused."""

from __future__ import annotations

import fsspec
import pytest

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.storage.addresses import driver_options, open_filesystem, refuse_unshared, scheme_of


@pytest.mark.parametrize(
    ("url", "scheme"),
    [("/a/b", "file"), ("file:///a", "file"), ("s3://b/k", "s3"), ("hf://datasets/a/b", "hf"), ("abfs://c/k", "abfs")],
)
def test_schemes(url: str, scheme: str) -> None:
    assert scheme_of(url) == scheme


def test_options_are_for_object_stores_alone() -> None:
    options = {"endpoint_url": "http://127.0.0.1:1"}
    for scheme in ("file", "hf", "http", "memory"):
        assert driver_options(scheme, options) == {}
    assert driver_options("s3", options)["endpoint_url"] == "http://127.0.0.1:1"
    # A listing that is kept would hide what other workers write.
    assert driver_options("gs", options)["use_listings_cache"] is False


def test_options_of_one_store_among_several() -> None:
    options = {"s3": {"endpoint_url": "a"}, "gs": {"endpoint_url": "b"}, "timeout": 5}
    assert driver_options("s3a", options) == {"endpoint_url": "a", "timeout": 5, "use_listings_cache": False}
    assert driver_options("gcs", options) == {"endpoint_url": "b", "timeout": 5, "use_listings_cache": False}
    assert driver_options("abfs", options) == {"timeout": 5, "use_listings_cache": False}


def test_region_and_addressing_style_mean_what_they_mean_elsewhere() -> None:
    made = driver_options("s3", {"region": "eu-west-1", "addressing_style": "virtual", "config_kwargs": {"a": 1}})
    assert made["client_kwargs"] == {"region_name": "eu-west-1"}
    assert made["config_kwargs"] == {"a": 1, "s3": {"addressing_style": "virtual"}}
    filesystem, path = open_filesystem("s3://bucket/key", {"region": "eu-west-1", "addressing_style": "path"})
    assert path == "bucket/key"
    assert filesystem.client_kwargs["region_name"] == "eu-west-1"


def test_the_driver_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="no storage driver for this address"):
        open_filesystem("nosuch://a/b", {})


def test_what_workers_cannot_see() -> None:
    refuse_unshared("s3://b/k")
    with pytest.raises(ConfigError, match="lives in one process"):
        refuse_unshared("memory://a")


@pytest.mark.parametrize("path", ["/a/b", "a", "./a/", "~/a", "", "/", "/a//b/../c", "/a b/ü?*", "/a@b", "/a/"])
def test_a_plain_path_is_opened_as_fsspec_would(path: str) -> None:
    filesystem, where = open_filesystem(path, {})
    expected, there = fsspec.core.url_to_fs(path)
    assert filesystem is expected
    assert where == there
