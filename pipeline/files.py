"""From what the user named (a file, a folder, a glob, a list) to the files themselves, each with its identity."""

from __future__ import annotations

import base64
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import fsspec

from tamis.pipeline.addresses import is_local, open_filesystem
from tamis.pipeline.errors import InputError, error_text

_FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".arrow": "arrow",
    ".feather": "arrow",
}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
TEXT_FORMATS = frozenset({"jsonl", "json", "csv", "tsv"})


@dataclass(frozen=True)
class SourceFile:
    """One input file. name: path under the input root; identity: changes when the content does (etag or mtime)."""

    url: str
    name: str
    format: str
    compression: str | None
    bytes: int
    identity: str


def resolve(paths: Sequence[str], format: str, options: Mapping[str, Any]) -> list[SourceFile]:
    """Every file that `paths` name, sorted by name within each path, no file twice.

    Names are relative to the deepest folder that holds them all. Raises InputError that lists every path that
    names nothing, cannot be read, or has an ending that says nothing about its format.
    """
    problems: list[str] = []
    found: dict[tuple[str, str], tuple[fsspec.AbstractFileSystem, str]] = {}
    for path in paths:
        filesystem, full = open_filesystem(path, options)
        try:
            for file in _expand(filesystem, full, path, format):
                found.setdefault(_place(filesystem, file), (filesystem, file))
        except InputError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path}: {error_text(error)}")
    root = _common_folder([file for _, file in found.values()])
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(lambda item: _describe(item[0], item[1], root, format), found.values()))
    files = [outcome for outcome in outcomes if isinstance(outcome, SourceFile)]
    problems.extend(outcome for outcome in outcomes if isinstance(outcome, str))
    if problems:
        raise InputError(f"{len(problems)} of the inputs cannot be used:", problems)
    return files


def identity_of(info: Mapping[str, Any]) -> str:
    """What changes when a file does: its etag where the storage has one, else its time of modification."""
    for key in (
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


def _place(filesystem: fsspec.AbstractFileSystem, file: str) -> tuple[str, str]:
    """The same for two ways to write one path, so that no file is read twice."""
    if is_local(filesystem):
        return "file", os.path.realpath(file)
    return "remote", filesystem.unstrip_protocol(file)


def _expand(filesystem: fsspec.AbstractFileSystem, full: str, shown: str, format: str) -> list[str]:
    if not shown.strip() or not full.strip("/"):  # an empty name would mean the current folder
        raise InputError(f"{shown!r}: names no file or folder")
    if filesystem.isdir(full):
        below = _files_below(full) if is_local(filesystem) else filesystem.find(full)
        files = [file for file in sorted(below) if _is_data(file, full, format)]
        if not files:
            raise InputError(f"{shown}: a folder without data files ({', '.join(_FORMATS)}; plain, .gz or .zst)")
        return files
    if filesystem.exists(full):
        return [full]
    if any(mark in full for mark in "*?["):
        files = [f for f in sorted(filesystem.glob(full)) if _is_meant(f, full) and not filesystem.isdir(f)]
        if not files:
            raise InputError(f"{shown}: no file matches")
        return files
    raise InputError(f"{shown}: no such file or folder")


def _files_below(folder: str) -> list[str]:
    """All files of a local folder but those in hidden or underscored ones, through links to folders as well.

    Each folder is entered once, by a path without links if there is one. InputError names a folder that cannot be
    listed (fsspec's own find passes over it, and over links to folders, without a word).
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: {error_text(error)}")

    found: list[str] = []
    entered: set[str] = set()
    tops = [folder]
    for top in tops:  # grows by the links met on the way
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
    """Whether a file found in a folder belongs to the corpus: hidden and underscored ones do not."""
    parts = file[len(root) :].strip("/").split("/")
    if any(part.startswith((".", "_")) for part in parts):
        return False
    if parts[-1] in {
        "dataset_info.json",
        "dataset_dict.json",
        "state.json",
    }:  # beside Arrow files of save_to_disk
        return False
    return format != "auto" or _split_suffixes(file)[0] is not None


def _is_meant(file: str, pattern: str) -> bool:
    """Whether a file found by a glob was meant by it: as in a shell, only a pattern with a dot finds hidden ones."""
    fixed = re.split(r"[*?\[]", pattern)[0].rsplit("/", 1)[0]
    return "/." in pattern[len(fixed) :] or "/." not in file[len(fixed) :]


def _split_suffixes(file: str) -> tuple[str | None, str | None]:
    stem, last = posixpath.splitext(file.lower())
    compression = _COMPRESSIONS.get(last)
    if compression is not None:
        last = posixpath.splitext(stem)[1]
    return _FORMATS.get(last), compression


def _common_folder(files: Sequence[str]) -> str:
    folders = [posixpath.dirname(file) for file in files]
    return posixpath.commonpath(folders) if len({folder.startswith("/") for folder in folders}) == 1 else ""


def _describe(filesystem: fsspec.AbstractFileSystem, file: str, root: str, format: str) -> SourceFile | str:
    by_name, compression = _split_suffixes(file)
    kind = by_name if format == "auto" else format
    if kind is None:
        return f"{file}: the ending does not say what it is; set input.format (jsonl, json, parquet, csv, tsv, arrow)"
    if compression is not None and kind not in TEXT_FORMATS:
        return f"{file}: {kind} is already compressed inside; unpack the {compression} layer first"
    try:
        file.encode()
    except UnicodeEncodeError:
        return f"{file!a}: the name of the file is not UTF-8; rename it"
    try:
        identity = str(os.stat(file).st_mtime_ns) if is_local(filesystem) else ""
        if is_local(filesystem) and not os.access(file, os.R_OK):
            return f"{file}: no permission to read it"
        info = filesystem.info(file)
        identity = identity or identity_of(info)
    except OSError as error:
        return f"{file}: {error_text(error)}"
    if not info["size"]:
        return f"{file}: the file is empty"
    name = posixpath.relpath(file, root) if root else file
    url = file if is_local(filesystem) else filesystem.unstrip_protocol(file)
    return SourceFile(url, name, kind, compression, int(info["size"]), identity)


def encode_schema(schema: Any) -> str:
    """An Arrow schema as text, for receipts and plans."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()
