"""What the first bytes of a file say: format and compression of one whose name has no ending, and its encoding."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from tamis.pipeline.inputs.decompression import Unpacked
from tamis.pipeline.storage.addresses import open_filesystem
from tamis.pipeline.storage.ranged import open_stream

_HEAD_BYTES = 1 << 10
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x04\x22\x4d\x18": "lz4",
}
_COLUMNAR = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}
_OBJECT = re.compile(rb'\{\s*["}]')
_ARRAY = re.compile(rb"\[\s*[{\]]")
_WIDE = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
"""Byte order marks, the longer ones first: that of UTF-32 begins with one of UTF-16."""


def told_by_content(url: str, compression: str | None, options: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(format, compression) of a file whose name tells no format; the format is None if the content tells none either.

    compression: by the name. JSON, Parquet and Arrow are told apart; CSV is not, as any text could be one. Raises
    OSError and ValueError if the file cannot be read.
    """
    filesystem, path = open_filesystem(url, options)
    with open_stream(filesystem, path) as stream:
        head = stream.read(_HEAD_BYTES)
    if compression is None:
        compression = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    if compression is not None:
        try:
            with open_stream(filesystem, path) as stream, Unpacked(stream, compression) as unpacked:
                head = unpacked.read(_HEAD_BYTES)
        except (OSError, ValueError, EOFError, pa.ArrowException):
            return None, compression
    kind = next((name for magic, name in _COLUMNAR.items() if head.startswith(magic)), None)
    if kind is not None:
        return kind, compression
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if _OBJECT.match(text):
        return "jsonl", compression
    return ("json" if _ARRAY.match(text) else None), compression


def refuse_wide(head: bytes) -> None:
    """ValueError, with what to do, if these first bytes of a text file are not UTF-8 but UTF-16 or UTF-32."""
    name = next((name for mark, name in _WIDE if head.startswith(mark)), None)
    if name is None and len(head) >= 4 and head[:4].count(0) in (2, 3):
        # ASCII text without a mark: every second byte, or three of four, is zero.
        name = "UTF-16" if head[:4].count(0) == 2 else "UTF-32"
        name += "LE" if head[0] else "BE"
    if name is not None:
        raise ValueError(f"its text is {name}, and only UTF-8 is read; convert it: iconv -f {name} -t UTF-8 OLD > NEW")
