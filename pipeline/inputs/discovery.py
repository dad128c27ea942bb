"""From one path of the user (a file, a folder, a glob, a dataset) to the files that it names.

A remote store is asked once for a whole folder, page by page. Its listing also gives size and identity, so that a
hundred thousand objects need no single requests.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import fsspec

from tamis.pipeline.errors import ConfigError, InputError, error_text
from tamis.pipeline.inputs.formats import READ_HERE, has_no_ending, split_suffixes
from tamis.pipeline.inputs.hub import SCHEME, DatasetPart, HubAddress, chosen, config_note, files_of, pin
from tamis.pipeline.inputs.partitions import partitions_of
from tamis.pipeline.inputs.saved import INDEX, INFO, STATE, saved_files
from tamis.pipeline.inputs.splits import Splits, configs_of_card, reading_options, splits_by_card, splits_by_name
from tamis.pipeline.storage.addresses import is_local, open_filesystem
from tamis.pipeline.storage.ranged import info_of, read_whole
from tamis.pipeline.storage.retrying import retrying

_CARD, _CARD_BYTES = "README.md", 1 << 20
_DATASET_FILES = {INDEX, INFO, STATE, _CARD, "dataset_infos.json"}
"""Files of a dataset that are no data, whatever their ending."""


@dataclass(frozen=True)
class Found:
    """A file and its entry in the storage's listing; None where a request for this file alone is needed. named: by its
    own path. in_folder: it was found below a folder, so that it need not be data. partition: see partitions.py."""

    filesystem: fsspec.AbstractFileSystem
    path: str
    info: Mapping[str, Any] | None = None
    named: bool = False
    in_folder: bool = False
    partition: str = ""

    @property
    def place(self) -> tuple[str, str]:
        """The same value for two ways to write one path, so that no file is read twice."""
        if is_local(self.filesystem):
            return "file", os.path.realpath(self.path)
        return "remote", self.filesystem.unstrip_protocol(self.path)


@dataclass(frozen=True)
class Listing:
    """The files that one path of the user names. unread: full path -> name below the folder, for each of its files that
    is not read. hidden: how many with hidden or underscored names. notes: what a person should know about how they were
    found."""

    files: list[Found]
    unread: Mapping[str, str] = field(default_factory=dict)
    hidden: int = 0
    notes: tuple[str, ...] = ()


def expand(path: str, format: str, options: Mapping[str, Any], part: DatasetPart) -> Listing:
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
) -> Listing:
    filesystem, root = open_filesystem(address.url, options)
    found = files_of(address, shown, part)
    files = [root + url[len(address.url) :] for url in found.files]
    unknown = [file for file in files if format == "auto" and split_suffixes(file)[0] is None]
    if unknown:
        raise InputError(
            f"{shown}: {len(unknown)} of its files are of a kind that tamis does not read, such as "
            f"{posixpath.basename(unknown[0])} (it reads {READ_HERE}); if the hub has converted the dataset to "
            "Parquet, set input.revision=refs/convert/parquet"
        )
    listed = _listing(filesystem, root, shown)
    known = {root + url[len(address.url) :] for url in found.of_config}
    unread, hidden = _not_hidden([file for file in listed if file not in known], root)
    partitions = partitions_of([_below(file, root) for file in files])
    files_found = [
        Found(filesystem, file, listed.get(file), partition=partition)
        for file, partition in zip(files, partitions, strict=True)
    ]
    return Listing(files_found, {file: _below(file, root) for file in sorted(unread)}, hidden, found.notes)


def _expand_place(url: str, shown: str, format: str, options: Mapping[str, Any], part: DatasetPart) -> Listing:
    """The same for a path on a file system. shown: as the user has written it."""
    filesystem, full = open_filesystem(url, options)
    if not shown.strip() or not full.strip("/"):  # an empty name would mean the current folder
        raise InputError(f"{shown!r}: names no file or folder")
    kind = _kind_of(filesystem, full, shown)
    if kind == "folder":
        return _expand_folder(filesystem, full, shown, format, part)
    _refuse_part(part, shown)
    if kind == "file":
        return Listing([Found(filesystem, full, named=True)])
    if any(mark in full for mark in "*?["):
        return _expand_glob(filesystem, full, shown)
    advice = ""
    if is_local(filesystem) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", shown):
        advice = f"; a dataset of the Hugging Face hub is written {SCHEME}datasets/{shown}"
    raise InputError(f"{shown}: no such file or folder{advice}")


def _expand_folder(
    filesystem: fsspec.AbstractFileSystem, full: str, shown: str, format: str, part: DatasetPart
) -> Listing:
    below: Mapping[str, Mapping[str, Any] | None] = {}
    hidden_folders = 0
    if is_local(filesystem):
        files, hidden_folders = _files_below(full)
        below = dict.fromkeys(files)
    else:
        below = _listing(filesystem, full, shown)
    saved = None if part.config else saved_files(filesystem, full, below, shown, part.split)
    if saved is not None:
        beside = {posixpath.dirname(file) for file in saved}
        others = [file for file in below if posixpath.dirname(file) in beside and file not in saved]
        others, hidden = _not_hidden(others, full)
        others = sorted(file for file in others if posixpath.basename(file) not in _DATASET_FILES)
        found = [Found(filesystem, file, below.get(file)) for file in saved]
        return Listing(found, {file: _below(file, full) for file in others}, hidden + hidden_folders)
    meant, hidden = _not_hidden(sorted(below), full)
    data = {_below(file, full): file for file in meant if _is_data(file, format)}
    unread = {file: name for file in meant if (name := _below(file, full)) not in data}
    splits, notes = _splits_of(filesystem, full, shown, below, list(data), part)
    if splits is not None:
        unread |= {file: name for name, file in data.items() if name not in splits.known}
        data = {name: data[name] for name in splits.files}
    if not data:
        raise InputError(f"{shown}: a folder without data files ({READ_HERE})")
    partitions = partitions_of(list(data))
    files_found = [
        Found(filesystem, file, below[file], in_folder=True, partition=partition)
        for file, partition in zip(data.values(), partitions, strict=True)
    ]
    return Listing(files_found, unread, hidden + hidden_folders, tuple(notes))


@dataclass(frozen=True)
class _Chosen:
    """The files of one split of a folder, and all files that belong to any split of its config."""

    files: list[str]
    known: frozenset[str]


def _splits_of(
    filesystem: fsspec.AbstractFileSystem,
    full: str,
    shown: str,
    below: Mapping[str, Any],
    data: Sequence[str],
    part: DatasetPart,
) -> tuple[_Chosen | None, list[str]]:
    """The files of the split that the job names; None where all files are one corpus. InputError where `datasets` would
    find several configs or splits and the job names none."""
    card = f"{full.rstrip('/')}/{_CARD}"
    configs = configs_of_card(_text_of(filesystem, card)) if card in below else []
    by_config = {
        str(config.get("config_name") or "default"): splits
        for config in configs
        if (splits := splits_by_card(config, data))
    }
    by_card = bool(by_config)
    if not by_card:
        if part.config is not None:
            raise ConfigError(f"input.config: {shown} has no config (no {_CARD} that lists any); leave it out")
        by_config = {"default": splits_by_name(data)}
    config = chosen(list(by_config), part.config, "config", shown)
    notes = list(config_note(list(by_config), part.config, shown))
    splits = by_config[config]
    options = [each for entry in configs if str(entry.get("config_name") or "default") == config
               for each in reading_options(entry)] if by_card else []  # fmt: skip
    if options:
        raise InputError(
            f"{shown}: its card wants its files read with {', '.join(options)}, which tamis does not apply; name the "
            "files, such as by a glob, and set what they need (input.delimiter, input.field)"
        )
    if part.split is None and not _apart(splits):
        if by_card:  # other files of the folder are none of the dataset
            files = list(dict.fromkeys(file for found in splits.values() for file in found))
            return _Chosen(files, frozenset(files)), notes
        return None, []
    if not splits:
        raise ConfigError(f"input.split: the names of the files of {shown} tell no split; leave it out")
    split = chosen(list(splits), part.split, "split", shown)
    others = [name for name in splits if name != split]
    notes += [f"{shown}: only the split {split} is read, not {', '.join(others)}"] if others else []
    return _Chosen(splits[split], frozenset(file for found in splits.values() for file in found)), notes


def _apart(splits: Splits) -> bool:
    """Whether there are splits that differ: a file whose name fits two of them makes no two corpora."""
    return len({frozenset(files) for files in splits.values()}) > 1


def _text_of(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    return read_whole(filesystem, path)[:_CARD_BYTES].decode("utf-8", "replace")


def _expand_glob(filesystem: fsspec.AbstractFileSystem, pattern: str, shown: str) -> Listing:
    try:
        matches = retrying(lambda: filesystem.glob(pattern, detail=True), shown)
    except ValueError as error:
        raise InputError(f"{shown}: {error_text(error)}") from None
    meant = {file: info for file, info in matches.items() if _is_meant(file, pattern)}
    infos = {} if is_local(filesystem) else _sure(filesystem, meant, shown)
    names = [file for file, info in meant.items() if info["type"] != "directory"] if is_local(filesystem) else infos
    files = sorted(names)
    if not files:
        raise InputError(f"{shown}: no file matches")
    fixed = _fixed_part(pattern)
    partitions = partitions_of([_below(file, fixed) for file in files])
    hidden = sum(info["type"] != "directory" for file, info in matches.items() if file not in meant)
    found = [Found(filesystem, file, infos.get(file), partition=partition)
             for file, partition in zip(files, partitions, strict=True)]  # fmt: skip
    inside = {str(parent) for file in files for parent in PurePosixPath(file).parents}
    folders = [file.rstrip("/") for file, info in meant.items() if info["type"] == "directory"]
    unread = {file: f"{_below(file, fixed)}/ (a folder)" for file in folders if file not in inside}
    splits = splits_by_name([_below(file, fixed) for file in files])
    said = (f"{shown}: files of several splits ({', '.join(splits)}) become one corpus",) if _apart(splits) else ()
    return Listing(found, unread, hidden, said)


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


def _files_below(folder: str) -> tuple[list[str], int]:
    """All files below a local folder, without those in hidden or underscored folders, and how many such folders there
    are. Links to folders are followed.

    Each folder is entered once, by a path without links if there is one. InputError names a folder that cannot be
    listed (fsspec's own find silently skips such a folder, and links to folders).
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: {error_text(error)}")

    found: list[str] = []
    hidden = 0
    entered: set[str] = set()
    tops = [folder]
    for top in tops:  # grows by the links that are found in the loop
        for path, folders, files in os.walk(top, onerror=refuse):
            real = os.path.realpath(path)
            if real in entered:
                folders.clear()
                continue
            entered.add(real)
            hidden += sum(name.startswith((".", "_")) for name in folders)
            folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
            tops += [link for name in folders if os.path.islink(link := os.path.join(path, name))]
            found += [os.path.join(path, name) for name in files]
    return found, hidden


def _below(file: str, folder: str) -> str:
    return file[len(folder) :].strip("/")


def _not_hidden(files: Sequence[str], root: str) -> tuple[list[str], int]:
    """The files that are not hidden, and how many hidden or underscored names there are among their paths."""
    shown, hidden = [], set()
    for file in files:
        parts = _below(file, root).split("/")
        first = next((place for place, part in enumerate(parts) if part.startswith((".", "_"))), None)
        if first is None:
            shown.append(file)
        else:
            hidden.add("/".join(parts[: first + 1]))
    return shown, len(hidden)


def _is_data(file: str, format: str) -> bool:
    """Whether a file of a folder may belong to the corpus. One without an ending may: its content will tell."""
    if posixpath.basename(file) in _DATASET_FILES:
        return False
    return format != "auto" or split_suffixes(file)[0] is not None or has_no_ending(file)


def _fixed_part(pattern: str) -> str:
    """The folder of a glob, up to its first mark."""
    return re.split(r"[*?\[]", pattern)[0].rpartition("/")[0]


def _is_meant(file: str, pattern: str) -> bool:
    """Whether a glob was meant to find this file: as in a shell, only a pattern with a dot finds hidden files."""
    fixed = _fixed_part(pattern)
    return "/." in pattern[len(fixed) :] or "/." not in file[len(fixed) :]
