"""The meaning of a file name's suffixes: format and compression."""

from __future__ import annotations

import posixpath
import re

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jl": "jsonl",
    ".jsonlines": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz", ".lz4": "lz4"}
TEXT_FORMATS = frozenset({"jsonl", "json", "csv", "tsv"})

READ_HERE = f"{', '.join(FORMATS)}; plain, {', '.join(COMPRESSIONS)}"
"""For messages: the suffixes of data files."""

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".7z", ".rar")
_NOT_READ = (
    *(".orc", ".avro", ".xlsx", ".xls", ".ods", ".yaml", ".yml", ".xml", ".html", ".pdf", ".db", ".sqlite", ".duckdb"),
    *(".pkl", ".pickle", ".npy", ".npz", ".h5", ".hdf5", ".tfrecord", ".lance", ".msgpack"),
)

_SPARK_PART = re.compile(r"part-[\w-]+\.c\d+")


def split_suffixes(file: str) -> tuple[str | None, str | None]:
    """(format, compression), each None if the name does not tell."""
    stem, last = posixpath.splitext(file.lower())
    compression = COMPRESSIONS.get(last)
    if compression is not None:
        last = posixpath.splitext(stem)[1]
    return FORMATS.get(last), compression


def known_otherwise(file: str) -> str:
    """What a file of a kind that is not read here is, and what to do; "" for any other."""
    name = file.lower()
    if name.endswith(_ARCHIVES):
        return "an archive; unpack it and name the folder"
    kind = next((ending for ending in _NOT_READ if name.endswith(ending)), None)
    return "" if kind is None else f"a {kind} file, which is not read; convert it to Parquet or JSON lines"


def has_no_ending(file: str) -> bool:
    """Whether a name says nothing about a format, as Spark's part files: then the content may."""
    name = posixpath.basename(file)
    stem, last = posixpath.splitext(name)
    if last.lower() in COMPRESSIONS:
        name, last = stem, posixpath.splitext(stem)[1]
    return not last or _SPARK_PART.fullmatch(name) is not None
