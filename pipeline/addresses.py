"""Addresses of files and folders: which file system serves one, and whether it holds a credential."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import fsspec

from tamis.pipeline.errors import ConfigError, error_text


def open_filesystem(url: str, options: Mapping[str, Any]) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system that serves `url`, and the path of `url` on it. ConfigError if nothing here serves it."""
    refuse_credentials(url)
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **({} if is_local_url(url) else options))
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{url}: no storage driver for this address ({error_text(error)})") from None
    return filesystem, path


def is_local(filesystem: fsspec.AbstractFileSystem) -> bool:
    return "file" in (filesystem.protocol if isinstance(filesystem.protocol, tuple | list) else (filesystem.protocol,))


def is_local_url(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def refuse_credentials(url: str) -> None:
    """ConfigError for user:password@ or a signature in a URL; such an address would end up in logs and manifests."""
    if has_credentials(url):
        raise ConfigError(
            f"{url.partition('://')[0]}://***: credentials in an address are refused; put them in "
            "the environment or the provider's own config file (or fetch the file of a signed address first)"
        )


_SIGNED = re.compile(
    r"[?&;#]([\w.-]*(signature|security-token|credential)|sig|(access_|auth_)?token|api_?key)=", re.IGNORECASE
)
"""What presigned addresses of S3, Google, Azure and the like carry in their query."""


def has_credentials(url: str) -> bool:
    """container@account (abfs) and user@host (sftp) are no secrets; what stands there over http is."""
    scheme, separator, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    before_host = authority.rpartition("@")[0]
    secret = ":" in before_host or (before_host and scheme.rpartition("::")[2] in {"http", "https"})
    # A secret with a slash in it ends the authority early: s3://key:se/cret@bucket.
    split = "@" not in authority and re.search(r":(?!\d*$)[^\]]*$", authority) and "@" in rest
    return bool(separator and (secret or split or _SIGNED.search(rest)))
