"""Model folders in an object store: each machine that uses them copies them once."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock

from tamis.pipeline.errors import ConfigError, error_text
from tamis.pipeline.inputs.discovery import identity_of
from tamis.pipeline.storage.addresses import open_filesystem
from tamis.pipeline.storage.ranged import open_stream
from tamis.pipeline.storage.retrying import retrying

CACHE_VARIABLE = "TAMIS_CACHE"
_PIECE = 16 << 20
_CONFIGS = ("config.json", "adapter_config.json")
_RELEVANT = ("*.json", "*.jinja", "*.model", "*.txt", "*.safetensors", "*.bin", "*.py")


@dataclass(frozen=True)
class _Listed:
    name: str
    path: str
    bytes: int
    identity: str


def copy_here(
    url: str, options: Mapping[str, Any], patterns: Sequence[str], revision: str | None = None
) -> tuple[str, str]:
    """The local folder with the files of the folder at `url` that match `patterns`, and the folder's revision: a digest
    of the names, sizes and etags of its files.

    revision: the revision in the plan; ConfigError if it has changed, if there is no such folder, or if this machine
    has no space for it.
    """
    filesystem, path = open_filesystem(url, options)
    listed = _list(filesystem, path, url)
    found = _digest(listed)
    if revision is not None and revision != found:
        raise ConfigError(f"{url}: the model changed since the run was planned; choose another output folder for it")
    wanted = [file for file in listed if any(fnmatch.fnmatch(file.name, pattern) for pattern in patterns)]
    folder = _cache() / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{found}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            missing = [file for file in wanted if not (folder / file.name).exists()]
            for file in missing:
                _copy(filesystem, file, folder)
            if missing and _digest(_list(filesystem, path, url)) != found:
                for file in missing:
                    (folder / file.name).unlink()
                raise ConfigError(f"{url}: the model was changed while it was copied; run again when it is whole")
    except OSError as error:
        raise ConfigError(
            f"{url}: cannot be copied to {folder} ({error_text(error)}); set {CACHE_VARIABLE} to a folder "
            "with room for it"
        ) from None
    return str(folder), found


def _list(filesystem: fsspec.AbstractFileSystem, path: str, url: str) -> list[_Listed]:
    def ask() -> list[dict[str, Any]]:
        filesystem.invalidate_cache(path)
        entries: list[dict[str, Any]] = filesystem.ls(path, detail=True)
        return entries

    try:
        entries = retrying(ask, url)
    except (FileNotFoundError, NotADirectoryError):
        entries = []
    except OSError as error:
        raise ConfigError(f"{url}: the model's folder cannot be listed ({error_text(error)})") from None
    files = [
        _Listed(name, entry["name"], int(entry["size"]), identity_of(entry))
        for entry in entries
        if entry["type"] == "file"
        and any(fnmatch.fnmatch(name := entry["name"].rsplit("/", 1)[-1], pattern) for pattern in _RELEVANT)
    ]
    if not any(file.name in _CONFIGS for file in files):
        raise ConfigError(f"{url}: there is no model folder here (no {' or '.join(_CONFIGS)})")
    return sorted(files, key=lambda file: file.name)


def _digest(listed: Sequence[_Listed]) -> str:
    facts = [[file.name, file.bytes, file.identity] for file in listed]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _copy(filesystem: fsspec.AbstractFileSystem, file: _Listed, folder: Path) -> None:
    """Copy a file atomically: another process may look at any moment."""
    aside = folder / f".{file.name}.{uuid.uuid4().hex[:8]}"
    try:
        size = 0
        with open_stream(filesystem, file.path) as stream, aside.open("wb") as out:
            while piece := stream.read(_PIECE):
                size += out.write(piece)
        if size != file.bytes:
            raise OSError(f"{file.name}: {size} bytes came of {file.bytes}; it is being changed")
        aside.replace(folder / file.name)
    finally:
        aside.unlink(missing_ok=True)


def _cache() -> Path:
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else Path("~/.cache/tamis").expanduser() / "models"
