"""From one path of the user (a file, a folder, a glob, a dataset) to the files that it names.

A remote store is asked once for a whole folder, page by page. Its listing also gives size and identity, so that a
hundred thousand objects need no single requests.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fsspec

from tamis.pipeline.errors import ConfigError, InputError, error_text
from tamis.pipeline.inputs.formats import READ_HERE, split_suffixes
from tamis.pipeline.inputs.hub import SCHEME, DatasetPart, HubAddress, files_of, pin
from tamis.pipeline.inputs.saved import INDEX, INFO, STATE, saved_files
from tamis.pipeline.storage.addresses import is_local, open_filesystem
from tamis.pipeline.storage.ranged import info_of
from tamis.pipeline.storage.retrying import retrying


@dataclass(frozen=True)
class Found:
    """A file and its entry in the storage's listing; None where a request for this file alone is needed."""

    filesystem: fsspec.AbstractFileSystem
    path: str
    info: Mapping[str, Any] | None = None

    @property
    def place(self) -> tuple[str, str]:
        """The same value for two ways to write one path, so that no file is read twice."""
        if is_local(self.filesystem):
            return "file", os.path.realpath(self.path)
        return "remote", self.filesystem.unstrip_protocol(self.path)


def expand(path: str, format: str, options: Mapping[str, Any], part: DatasetPart) -> list[Found]:
    """The files that `path` names. Raises InputError, OSError, and ConfigError if `part` does not apply to it."""
    if not path.startswith(SCHEME):
        if part.revision is not None:
            raise ConfigError(f"input.revision: {path} has no revisions, only hf://... has; leave it out")
        return _expand_place(path, path, format, options, part)
    address = pin(path, part.revision)
    if address.is_dataset:
        return _expand_dataset(address, path, format, options, part)
    return _expand_place(address.url, path, format, options, part)


def _expand_dataset(
    address: HubAddress, shown: str, format: str, options: Mapping[str, Any], part: DatasetPart
) -> list[Found]:
    filesystem, root = open_filesystem(address.url, options)
    files = [root + url[len(address.url) :] for url in files_of(address, shown, part)]
    unknown = [file for file in files if format == "auto" and split_suffixes(file)[0] is None]
    if unknown:
        raise InputError(
            f"{shown}: {len(unknown)} of its files are of a kind that tamis does not read, such as "
            f"{posixpath.basename(unknown[0])} (it reads {READ_HERE}); if the hub has converted the dataset to "
            "Parquet, set input.revision=refs/convert/parquet"
        )
    listed = _listing(filesystem, root, shown)
    return [Found(filesystem, file, listed.get(file)) for file in files]


def _expand_place(url: str, shown: str, format: str, options: Mapping[str, Any], part: DatasetPart) -> list[Found]:
    """The same for a path on a file system. shown: as the user has written it."""
    filesystem, full = open_filesystem(url, options)
    if not shown.strip() or not full.strip("/"):  # an empty name would mean the current folder
        raise InputError(f"{shown!r}: names no file or folder")
    kind = _kind_of(filesystem, full, shown)
    below: Mapping[str, Mapping[str, Any] | None] = {}
    if kind == "folder":
        below = dict.fromkeys(_files_below(full)) if is_local(filesystem) else _listing(filesystem, full, shown)
        saved = None if part.config else saved_files(filesystem, full, below, shown, part.split)
        if saved is not None:
            return [Found(filesystem, file, below.get(file)) for file in saved]
    _refuse_part(part, shown)
    if kind == "file":
        return [Found(filesystem, full)]
    if kind == "folder":
        files = [Found(filesystem, file, below[file]) for file in sorted(below) if _is_data(file, full, format)]
        if not files:
            raise InputError(f"{shown}: a folder without data files ({READ_HERE})")
        return files
    if any(mark in full for mark in "*?["):
        return _expand_glob(filesystem, full, shown)
    advice = ""
    if is_local(filesystem) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", shown):
        advice = f"; a dataset of the Hugging Face hub is written {SCHEME}datasets/{shown}"
    raise InputError(f"{shown}: no such file or folder{advice}")


def _expand_glob(filesystem: fsspec.AbstractFileSystem, pattern: str, shown: str) -> list[Found]:
    try:
        matches = retrying(lambda: filesystem.glob(pattern, detail=True), shown)
    except ValueError as error:
        raise InputError(f"{shown}: {error_text(error)}") from None
    meant = {file: info for file, info in matches.items() if _is_meant(file, pattern)}
    infos = {} if is_local(filesystem) else _sure(filesystem, meant, shown)
    names = [file for file, info in meant.items() if info["type"] != "directory"] if is_local(filesystem) else infos
    files = [Found(filesystem, file, infos.get(file)) for file in sorted(names)]
    if not files:
        raise InputError(f"{shown}: no file matches")
    return files


def _refuse_part(part: DatasetPart, shown: str) -> None:
    for key, value, also in (("config", part.config, ""), ("split", part.split, " or a folder of save_to_disk")):
        if value is not None:
            raise ConfigError(
                f"input.{key}: {shown} is no dataset of the hub (hf://datasets/ORG/NAME){also}, so it has no {key}; "
                "leave it out"
            )


def _kind_of(filesystem: fsspec.AbstractFileSystem, full: str, shown: str) -> str:
    """file, folder, or "" for nothing, with one request. An error of the storage does not count as nothing."""
    try:
        info = info_of(filesystem, full)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if info["type"] == "directory" or (is_local(filesystem) and os.path.isdir(full)):
        return "folder"
    # An empty object may stand for a folder.
    return "folder" if not info["size"] and retrying(lambda: filesystem.isdir(full), shown) else "file"


def _listing(filesystem: fsspec.AbstractFileSystem, folder: str, shown: str) -> dict[str, Mapping[str, Any] | None]:
    """All files below a folder of a remote store, requested page by page, each with its `Found.info`."""
    return _sure(filesystem, retrying(lambda: filesystem.find(folder, detail=True), shown), shown)


def _sure(
    filesystem: fsspec.AbstractFileSystem, listed: Mapping[str, Mapping[str, Any]], shown: str
) -> dict[str, Mapping[str, Any] | None]:
    """The files of a listing. Its details are dropped if the storage gives other details in a request for one file.

    Workers make such requests to check that a file is still the one that was planned.
    """
    files = {file: info for file, info in listed.items() if info["type"] != "directory" and not file.endswith("/")}
    sample = next(iter(files), None)
    if sample is None:
        return {}
    alone = info_of(filesystem, sample)
    same = (files[sample].get("size"), identity_of(files[sample])) == (alone.get("size"), identity_of(alone))
    return dict(files) if same else dict.fromkeys(files)


def identity_of(info: Mapping[str, Any]) -> str:
    """A value that changes when the file does: its etag where the storage has one, else its modification time."""
    for key in (
        "blob_id",  # on the hub: the file's hash in git
        "xet_hash",
        "ETag",
        "etag",
        "md5Hash",
        "crc32c",
        "mtime",
        "LastModified",
        "last_modified",
        "updated",
        "created",
    ):
        if info.get(key) is not None:
            return str(info[key]).strip('"')
    return ""


def _files_below(folder: str) -> list[str]:
    """All files below a local folder, without those in hidden or underscored folders. Links to folders are followed.

    Each folder is entered once, by a path without links if there is one. InputError names a folder that cannot be
    listed (fsspec's own find silently skips such a folder, and links to folders).
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: {error_text(error)}")

    found: list[str] = []
    entered: set[str] = set()
    tops = [folder]
    for top in tops:  # grows by the links that are found in the loop
        for path, folders, files in os.walk(top, onerror=refuse):
            real = os.path.realpath(path)
            if real in entered:
                folders.clear()
                continue
            entered.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
            tops += [link for name in folders if os.path.islink(link := os.path.join(path, name))]
            found += [os.path.join(path, name) for name in files]
    return found


def _is_data(file: str, root: str, format: str) -> bool:
    """Whether a file found in a folder belongs to the corpus: hidden and underscored files do not."""
    parts = file[len(root) :].strip("/").split("/")
    if any(part.startswith((".", "_")) for part in parts):
        return False
    if parts[-1] in {INDEX, INFO, STATE}:
        return False
    return format != "auto" or split_suffixes(file)[0] is not None


def _is_meant(file: str, pattern: str) -> bool:
    """Whether a glob was meant to find this file: as in a shell, only a pattern with a dot finds hidden files."""
    fixed = re.split(r"[*?\[]", pattern)[0].rsplit("/", 1)[0]
    return "/." in pattern[len(fixed) :] or "/." not in file[len(fixed) :]
