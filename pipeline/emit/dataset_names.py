"""What OpenLineage calls a file or folder: (namespace, name), by its naming rules, so that events of different programs
meet where they speak of the same data. https://openlineage.io/docs/spec/naming

Where there is no rule (the Hugging Face hub, http), it is the general one: scheme://authority, and the path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from tamis.pipeline.errors import redacted
from tamis.pipeline.storage.addresses import EXTRAS, is_local_url, refuse_credentials, scheme_of

FILE = "file"
HUB_DATASETS, HUB_MODELS = "hf://datasets", "hf://models"

_REVISION = re.compile(r"^([^/]+/[^/@]+)@[^/]+")
_MAGIC = re.compile(r"[*?\[{]")
_HOST = ".dfs.core.windows.net"


def dataset_name(url: str, options: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """(namespace, name) of an address, or of a path on this machine. options: the job's storage_options, which may name
    the account of an Azure store. ConfigError for an address with a credential."""
    refuse_credentials(url)
    namespace, name = _parts(url, options or {})
    return redacted(namespace), redacted(name.rstrip("/") or "/")


def folder_of_pattern(url: str) -> str:
    """The deepest folder that holds all files of a pattern; any other path as it is."""
    found = _MAGIC.search(url)
    if found is None or (is_local_url(url) and os.path.lexists(_local(url))):
        return url
    return url[: found.start()].rpartition("/")[0] or ("/" if url.startswith("/") else ".")


def hub_commit(url: str) -> str | None:
    """The commit in the address of a file of the hub: hf://datasets/ORG/NAME@COMMIT/file."""
    found = re.search(r"^hf://[^@]*@([0-9a-f]{40})(/|$)", url)
    return found and found[1]


def _parts(url: str, options: Mapping[str, Any]) -> tuple[str, str]:
    if is_local_url(url):
        return FILE, os.path.abspath(_local(url))
    scheme = scheme_of(url).lower()
    authority, _, path = url.partition("://")[2].partition("/")
    if scheme == "hf":
        if authority in {"datasets", "spaces"}:
            return f"hf://{authority}", _REVISION.sub(r"\1", path)
        return HUB_MODELS, _REVISION.sub(r"\1", f"{authority}/{path}".rstrip("/"))
    if scheme in {"http", "https"}:
        split = urlsplit(url)
        return f"{scheme}://{split.hostname}{f':{split.port}' if split.port else ''}", split.path
    family = EXTRAS.get(scheme)
    if family == "s3":
        return f"s3://{authority}", path
    if family == "gcs":
        return f"gs://{authority}", path
    if family == "azure":
        container, _, host = authority.partition("@")
        account = _account(options, scheme)
        host = host or (f"{account}{_HOST}" if account else "")
        return f"abfss://{container}{f'@{host}' if host else ''}", path
    return f"{scheme}://{authority}", path


def _local(url: str) -> str:
    return os.path.expanduser(url.removeprefix("file://"))


def _account(options: Mapping[str, Any], scheme: str) -> str | None:
    """Of an Azure store whose address names none."""
    own = options.get(scheme)
    named = (own if isinstance(own, Mapping) else {}).get("account_name") or options.get("account_name")
    return named or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
