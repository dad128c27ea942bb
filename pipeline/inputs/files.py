"""From the user's input (a file, a folder, a glob, a list) to the files themselves, each with its identity."""

from __future__ import annotations

import base64
import os
import posixpath
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tamis.pipeline.errors import InputError, error_text
from tamis.pipeline.inputs.discovery import Found, expand
from tamis.pipeline.inputs.discovery import identity_of as identity_of
from tamis.pipeline.inputs.formats import TEXT_FORMATS as TEXT_FORMATS
from tamis.pipeline.inputs.formats import split_suffixes
from tamis.pipeline.inputs.hub import DatasetPart
from tamis.pipeline.storage.addresses import is_local
from tamis.pipeline.storage.ranged import info_of


@dataclass(frozen=True)
class SourceFile:
    """One input file. name: path under the input root. identity: changes when the content does (etag, or the
    modification time, which anyone can set). changed: of a local file, the time of its last change of any kind, even of
    its name only."""

    url: str
    name: str
    format: str
    compression: str | None
    bytes: int
    identity: str
    changed: str = ""


def resolve(
    paths: Sequence[str], format: str, options: Mapping[str, Any], part: DatasetPart | None = None
) -> list[SourceFile]:
    """Every file that `paths` name, sorted by name within each path (datasets: in their own order), no file twice.

    Names are relative to the deepest folder that contains all files. Raises InputError that lists every path that names
    nothing, cannot be read, or has a suffix of no known format; ConfigError for a path to which `part` does not apply.
    """
    problems: list[str] = []
    found: dict[tuple[str, str], Found] = {}
    for path in paths:
        try:
            for file in expand(path, format, options, part or DatasetPart()):
                found.setdefault(file.place, file)
        except InputError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path}: {error_text(error)}")
    root = _common_folder([file.path for file in found.values()])
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(lambda file: _describe(file, root, format), found.values()))
    files = [outcome for outcome in outcomes if isinstance(outcome, SourceFile)]
    problems.extend(outcome for outcome in outcomes if isinstance(outcome, str))
    if problems:
        raise InputError(f"{len(problems)} of the inputs cannot be used:", problems)
    return files


def _common_folder(files: Sequence[str]) -> str:
    folders = [posixpath.dirname(file) for file in files]
    return posixpath.commonpath(folders) if len({folder.startswith("/") for folder in folders}) == 1 else ""


def _describe(found: Found, root: str, format: str) -> SourceFile | str:
    filesystem, file = found.filesystem, found.path
    by_name, compression = split_suffixes(file)
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
        size, identity, changed = _size_and_identity(found)
    except OSError as error:
        return f"{file}: {error_text(error)}"
    if not size:
        return f"{file}: the file is empty"
    name = posixpath.relpath(file, root) if root else file
    url = file if is_local(filesystem) else filesystem.unstrip_protocol(file)
    return SourceFile(url, name, kind, compression, size, identity, changed)


def _size_and_identity(found: Found) -> tuple[int, str, str]:
    if is_local(found.filesystem):
        status = os.stat(found.path)
        if not os.access(found.path, os.R_OK):
            raise PermissionError("no permission to read it")
        return status.st_size, str(status.st_mtime_ns), str(status.st_ctime_ns)
    info = found.info
    if info is None or info.get("size") is None:
        info = info_of(found.filesystem, found.path)
    return int(info["size"]), identity_of(info), ""


def encode_schema(schema: Any) -> str:
    """An Arrow schema as text, for receipts and plans."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()
