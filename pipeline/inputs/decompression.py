"""Unpacking of text files with a decompression bomb limit: a few megabytes may unpack to terabytes of zeros."""

from __future__ import annotations

import lzma
import weakref
from typing import Any

import pyarrow as pa

MAX_RATIO = 200
"""The most unpacked bytes per packed byte. Chats reach 3 to 10, the most repetitive logs about 100."""

FREE_BYTES = 1 << 30
"""This many bytes may be unpacked at any ratio."""

_PACKED_BYTES = 1 << 20
_XZ_MEMORY = 1 << 30
"""The most memory that an .xz file may ask for; its strongest usual preset (-9) takes 65 MiB."""


class Unpacked:
    """A stream of the unpacked bytes of `raw`. ValueError if it exceeds both FREE_BYTES and MAX_RATIO."""

    def __init__(self, raw: Any, compression: str) -> None:
        self._packed = _Counted(raw)
        if compression == "xz":
            self._stream: Any = _Xz(self._packed)
        else:
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


class _Xz:
    """The unpacked bytes of an .xz file, which pyarrow does not know. OSError if it is cut off or damaged."""

    def __init__(self, packed: _Counted) -> None:
        self._packed = packed
        self._decoder: lzma.LZMADecompressor | None = None
        self._held = b""

    def read(self, size: int) -> bytes:
        pieces: list[bytes] = []
        while size > 0:
            piece = self._piece(size)
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _piece(self, size: int) -> bytes:
        """Some unpacked bytes, at most `size`; none only at the end."""
        while True:
            if self._decoder is None:
                while not self._held.strip(b"\0"):  # padding between the members of a file
                    self._held = self._packed.read(_PACKED_BYTES)
                    if not self._held:
                        return b""
                self._held = self._held.lstrip(b"\0")
                self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
            decoder = self._decoder
            if decoder.needs_input and not self._held:
                self._held = self._packed.read(_PACKED_BYTES)
                if not self._held:
                    raise OSError("Truncated compressed stream")
            given, self._held = self._held, b""
            try:
                data = decoder.decompress(given, size)
            except lzma.LZMAError as error:
                raise OSError(f"damaged .xz data ({error})") from None
            if decoder.eof:
                self._decoder, self._held = None, decoder.unused_data
            if data:
                return data

    def close(self) -> None:
        self._packed.close()


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
