"""Addresses of files and folders: the file system for an address, and whether the address contains a credential."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import fsspec

from tamis.pipeline.errors import ConfigError, error_text

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}
"""Scheme of an object store -> the extra of tamis that installs its driver. storage_options are for these schemes."""

_OF_ANOTHER_PROCESS = ("memory",)
_WITHOUT_OPTIONS = ("file", "hf", "http", "https", "memory")
"""Schemes without storage_options; a job may use them together with one object store."""


def open_filesystem(url: str, options: Mapping[str, Any]) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system for `url`, and the path of `url` on it. ConfigError if no installed driver serves it.

    options: for object stores, in the form of the job's storage_options (see `driver_options`).
    """
    if ":" not in url:  # a plain path: what fsspec gives for it after its search for a driver
        local = fsspec.filesystem("file")
        return local, local._strip_protocol(url)
    refuse_credentials(url)
    scheme = scheme_of(url)
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **driver_options(scheme, options))
    except (ImportError, ValueError) as error:
        extra = f"; pip install 'tamis[{EXTRAS[scheme]}]'" if scheme in EXTRAS else ""
        raise ConfigError(f"{url}: no storage driver for this address ({error_text(error)}){extra}") from None
    except TypeError as error:
        raise ConfigError(f"storage_options: {scheme}:// has no such option ({error_text(error)})") from None
    return filesystem, path


def driver_options(scheme: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for the fsspec driver of `scheme`.

    Options under the name of a scheme (`s3: {...}`) are only for that store, the others for every object store.
    region and addressing_style have the same meaning for S3 as in other S3 tools.
    """
    if scheme in _WITHOUT_OPTIONS:
        return {}
    mine = {key: value for key, value in options.items() if key not in EXTRAS}
    if scheme not in EXTRAS:
        return mine
    family = {name for name, extra in EXTRAS.items() if extra == EXTRAS[scheme]}
    for name in family & options.keys():
        mine.update(options[name])
    # No cached listings: files that this or another program has written must be visible.
    mine.setdefault("use_listings_cache", False)
    if EXTRAS[scheme] != "s3":
        return mine
    if region := mine.pop("region", None):
        mine["client_kwargs"] = {"region_name": region, **mine.get("client_kwargs", {})}
    if style := mine.pop("addressing_style", None):
        config = dict(mine.get("config_kwargs", {}))
        mine["config_kwargs"] = {**config, "s3": {"addressing_style": style, **config.get("s3", {})}}
    return mine


def scheme_of(url: str) -> str:
    """The scheme of an address: s3 for s3://bucket/key, file for a plain path."""
    return "file" if is_local_url(url) else url.partition("://")[0].rpartition("::")[2]


def is_local(filesystem: fsspec.AbstractFileSystem) -> bool:
    return "file" in (filesystem.protocol if isinstance(filesystem.protocol, tuple | list) else (filesystem.protocol,))


def is_local_url(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def refuse_unshared(url: str) -> None:
    """ConfigError for a storage that the workers cannot see because they are other processes."""
    if scheme_of(url) in _OF_ANOTHER_PROCESS:
        raise ConfigError(
            f"{url}: {scheme_of(url)}:// lives in one process, and the workers are others; use a folder or an object "
            "store"
        )


def refuse_credentials(url: str) -> None:
    """ConfigError for user:password@ or a signature in a URL: such an address would appear in logs and manifests."""
    if has_credentials(url):
        raise ConfigError(
            f"{url.partition('://')[0]}://***: credentials in an address are refused; put them in "
            "the environment or the provider's own config file (or fetch the file of a signed address first)"
        )


_SIGNED = re.compile(
    r"[?&;#]([\w.-]*(signature|security-token|credential)|sig|(access_|auth_)?token|api_?key)=", re.IGNORECASE
)
"""Query parameters of presigned addresses of S3, Google, Azure and similar stores."""


def has_credentials(url: str) -> bool:
    """Whether an address contains a credential. container@account (abfs) and user@host (sftp) are not secret; text in
    that place of an http address is."""
    scheme, separator, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    before_host = authority.rpartition("@")[0]
    secret = ":" in before_host or (before_host and scheme.rpartition("::")[2] in {"http", "https"})
    # A slash in a secret ends the authority early: s3://key:se/cret@bucket.
    split = "@" not in authority and re.search(r":(?!\d*$)[^\]]*$", authority) and "@" in rest
    return bool(separator and (secret or split or _SIGNED.search(rest)))
