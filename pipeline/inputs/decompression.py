"""Unpacking .gz and .zst with a decompression bomb limit: a few megabytes may unpack to terabytes of zeros."""

from __future__ import annotations

import weakref
from typing import Any

import pyarrow as pa

MAX_RATIO = 200
"""The most unpacked bytes per packed byte. Chats reach 3 to 10, the most repetitive logs about 100."""

FREE_BYTES = 1 << 30
"""This many bytes may be unpacked at any ratio."""


class Unpacked:
    """A stream of the unpacked bytes of `raw`. ValueError if it exceeds both FREE_BYTES and MAX_RATIO."""

    def __init__(self, raw: Any, compression: str) -> None:
        self._packed = _Counted(raw)
        self._stream = pa.CompressedInputStream(pa.PythonFile(self._packed, mode="r"), compression)
        self._count = 0
        # If a reader keeps it open until its process ends, Arrow would close it during Python's shutdown, and print
        # errors.
        weakref.finalize(self, self._stream.close)

    def read(self, size: int) -> bytes:
        """At most `size` bytes; fewer only at the end."""
        data: bytes = self._stream.read(size)
        self._count += len(data)
        if self._count > max(FREE_BYTES, MAX_RATIO * self._packed.count):
            packed = self._packed.count
            raise ValueError(
                f"{packed:,} packed bytes became {self._count:,} and more, {self._count // max(packed, 1):,} times as "
                f"many; above {MAX_RATIO} times no archive is read, as it may be a bomb; if it is a corpus after all, "
                "unpack it yourself and name the unpacked file"
            )
        return data

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> Unpacked:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Counted:
    """The part of the file interface that pyarrow needs; it counts the bytes that were read."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._raw.read(size)
        self.count += len(data)
        return data

    def close(self) -> None:
        self._raw.close()

    @property
    def closed(self) -> bool:
        return bool(self._raw.closed)
