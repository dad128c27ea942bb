"""The meaning of a file name's suffixes: format and compression."""

from __future__ import annotations

import posixpath

FORMATS = {
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

READ_HERE = f"{', '.join(FORMATS)}; plain, .gz or .zst"
"""For messages: the suffixes of data files."""


def split_suffixes(file: str) -> tuple[str | None, str | None]:
    """(format, compression), each None if the name does not tell."""
    stem, last = posixpath.splitext(file.lower())
    compression = _COMPRESSIONS.get(last)
    if compression is not None:
        last = posixpath.splitext(stem)[1]
    return FORMATS.get(last), compression
