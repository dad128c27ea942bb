"""From the user's input (a file, a folder, a glob, a list) to the files themselves, each with its identity."""

from __future__ import annotations

import base64
import os
import posixpath
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from tamis.pipeline.errors import InputError, error_text
from tamis.pipeline.inputs.contents import told_by_content
from tamis.pipeline.inputs.discovery import Found, Listing, expand
from tamis.pipeline.inputs.discovery import identity_of as identity_of
from tamis.pipeline.inputs.formats import READ_HERE, has_no_ending, known_otherwise, split_suffixes
from tamis.pipeline.inputs.formats import TEXT_FORMATS as TEXT_FORMATS
from tamis.pipeline.inputs.hub import DatasetPart
from tamis.pipeline.storage.addresses import is_local
from tamis.pipeline.storage.ranged import info_of


@dataclass(frozen=True)
class Wanted:
    """How a person wants text files to be read; empty where the file tells. delimiter: one character between the
    fields of CSV and TSV. quoting: csv or none. field: of a JSON file that is one object, the key with its rows.
    encoding: of the text, see encodings.py."""

    delimiter: str = ""
    quoting: str = ""
    field: str = ""
    encoding: str = ""


@dataclass(frozen=True)
class SourceFile:
    """One input file. name: path under the input root. identity: changes when the content does (etag, or the
    modification time, which anyone can set). changed: of a local file, the time of its last change of any kind, even of
    its name only. partition: the columns that its folders name, see partitions.py. sha256: of its bytes, where it is
    known. The others: see `Wanted`."""

    url: str
    name: str
    format: str
    compression: str | None
    bytes: int
    identity: str
    changed: str = ""
    partition: str = ""
    delimiter: str = ""
    quoting: str = ""
    field: str = ""
    sha256: str = ""
    encoding: str = ""


@dataclass(frozen=True)
class Unread:
    """What lies in the input's folders and is not read. files: the names. hidden: how many others have hidden or
    underscored names, which are never read; a folder with such a name counts once."""

    files: tuple[str, ...] = ()
    hidden: int = 0


NOTHING_UNREAD = Unread()


@dataclass(frozen=True)
class Inputs:
    """The files of a corpus. notes: what a person should know about how they were found. night: of a schedule, why
    just these, for the manifest."""

    files: list[SourceFile]
    unread: Unread
    notes: tuple[str, ...]
    night: Mapping[str, Any] | None = None


def resolve(
    paths: Sequence[str], format: str, options: Mapping[str, Any], part: DatasetPart | None = None
) -> list[SourceFile]:
    """The files of `find`."""
    return find(paths, format, options, part).files


def find(
    paths: Sequence[str],
    format: str,
    options: Mapping[str, Any],
    part: DatasetPart | None = None,
    wanted: Wanted | None = None,
) -> Inputs:
    """Every file that `paths` name, sorted by name within each path (datasets: in their own order), no file twice.

    Names are relative to the deepest folder that contains all files. Raises InputError that lists every path that names
    nothing, cannot be read, or has a suffix of no known format; ConfigError for a path to which `part` does not apply.
    """
    problems: list[str] = []
    found: dict[tuple[str, str], Found] = {}
    listings: list[tuple[str, Listing]] = []
    for path in paths:
        try:
            listing = expand(path, format, options, part or DatasetPart())
        except InputError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path}: {error_text(error)}")
        else:
            listings.append((path, listing))
            for file in listing.files:
                found.setdefault(file.place, file)
    root = _common_folder([file.path for file in found.values()])
    with ThreadPoolExecutor(16) as pool:
        outcomes = dict(zip(found, pool.map(lambda file: _describe(file, root, format, options), found.values()),
                            strict=True))  # fmt: skip
    for path, listing in listings:
        if listing.files and all(isinstance(outcomes[file.place], _Passed) for file in listing.files):
            problems.append(f"{path}: {_no_data([str(outcomes[file.place]) for file in listing.files])}")
    problems.extend(outcome for outcome in outcomes.values() if isinstance(outcome, str))
    if problems:
        raise InputError(f"{len(problems)} of the inputs cannot be used:", problems)
    passed = [outcome.shown for outcome in outcomes.values() if isinstance(outcome, _Passed)]
    read = {file.path for file in found.values()}
    names = [name for _, listing in listings for path, name in listing.unread.items() if path not in read]
    as_wanted = {} if wanted is None else asdict(wanted)
    files = [(found[place].path, outcome) for place, outcome in outcomes.items() if isinstance(outcome, SourceFile)]
    # Names must not depend on what is passed over.
    root = _common_folder([path for path, _ in files])
    return Inputs(
        [replace(file, name=_below(path, root), **as_wanted) for path, file in files],
        Unread(tuple(dict.fromkeys([*names, *passed])), sum(listing.hidden for _, listing in listings)),
        tuple(note for _, listing in listings for note in listing.notes),
    )


@dataclass(frozen=True)
class _Passed:
    """A file of a folder that is no data. why: said where nothing in the folder is data."""

    name: str
    why: str

    @property
    def shown(self) -> str:
        return f"{self.name} (empty)" if self.why == _EMPTY else self.name

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


_EMPTY = "the file is empty"


def _no_data(reasons: Sequence[str]) -> str:
    if len(reasons) == 1 and reasons[0].endswith(_EMPTY):
        return f"its only file is empty ({reasons[0].removesuffix(f': {_EMPTY}')})"
    return f"without data files ({READ_HERE}); such as {reasons[0]}"


def _common_folder(files: Sequence[str]) -> str:
    folders = [posixpath.dirname(file) for file in files]
    return posixpath.commonpath(folders) if len({folder.startswith("/") for folder in folders}) == 1 else ""


def _below(path: str, root: str) -> str:
    """The path as seen from the folder `root`, which holds it; all of it where there is no such folder."""
    if not root:
        return path
    rest = path.removeprefix(f"{root}/")
    plain = rest != path and not rest.startswith("/") and rest == posixpath.normpath(rest)
    return rest if plain else posixpath.relpath(path, root)  # which is slower


def _describe(found: Found, root: str, format: str, options: Mapping[str, Any]) -> SourceFile | _Passed | str:
    """The file; a message if it cannot be used; or that it is passed over, which only happens to files of folders and
    globs."""
    filesystem, file = found.filesystem, found.path
    try:
        file.encode()
    except UnicodeEncodeError:
        return f"{file!a}: the name of the file is not UTF-8; rename it"
    name = _below(file, root)
    try:
        size, identity, changed = _size_and_identity(found)
    except OSError as error:
        return f"{file}: {error_text(error)}"
    if not size:
        return f"{file}: {_EMPTY}" if found.named else _Passed(name, _EMPTY)
    url = file if is_local(filesystem) else filesystem.unstrip_protocol(file)
    by_name, compression = split_suffixes(file)
    kind = by_name if format == "auto" else format
    if kind is None and has_no_ending(file):
        try:
            kind, compression = told_by_content(url, compression, options)
        except (OSError, ValueError) as error:
            return f"{file}: {error_text(error)}"
    if kind is None:
        why = known_otherwise(file) or "the ending does not say what it is"
        if found.in_folder:
            return _Passed(name, why)
        if known_otherwise(file):
            return f"{file}: {why}"
        return f"{file}: {why}; set input.format (jsonl, json, parquet, csv, tsv, arrow)"
    if compression is not None and kind not in TEXT_FORMATS:
        return f"{file}: {kind} is already compressed inside; unpack the {compression} layer first"
    return SourceFile(url, name, kind, compression, size, identity, changed, found.partition)


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
