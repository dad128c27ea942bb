"""Reading objects by ranges: a few large, concurrent requests, each repeated when it fails or returns too few bytes.

The file objects of the drivers read in small blocks or sequentially, and some ignore a truncated body.
"""

from __future__ import annotations

import errno
import io
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import fsspec

from tamis.pipeline.storage.addresses import is_local
from tamis.pipeline.storage.retrying import ShortRead, retrying

PART_BYTES = 16 << 20
"""Smaller requests cost more in round trips than they gain by concurrency."""

PARTS = 3
"""Concurrent requests for one range."""

_AHEAD = 2
_REFUSED_HEADS = 5
_CUT_OFF = 2
"""After this many truncated answers, the size of the object is checked; fewer may be chance."""


def open_stream(filesystem: fsspec.AbstractFileSystem, path: str) -> Any:
    """Open a file or object for reading from the first byte to the last."""
    if is_local(filesystem):
        return filesystem.open(path, "rb")
    return ObjectStream(filesystem, path, int(info_of(filesystem, path)["size"]))


def info_of(filesystem: fsspec.AbstractFileSystem, path: str) -> dict[str, Any]:
    """Size, kind and etag of the file or object at `path`. FileNotFoundError if there is none, PermissionError if
    access is denied; otherwise raises as `retrying`."""
    refused = 0

    def ask() -> dict[str, Any]:
        nonlocal refused
        try:
            found: dict[str, Any] = filesystem.info(path)
            return found
        except PermissionError:
            refused += 1
            if is_local(filesystem) or refused > _REFUSED_HEADS:
                raise
        # The answer to a HEAD has no body with the reason, so throttling looks like a refusal. A GET gives the reason,
        # and raises if access is denied; any other answer (no object, an empty object without that range) is ignored.
        try:
            filesystem.cat_file(path, start=0, end=1)
        except PermissionError:
            raise
        except Exception as error:
            raise TimeoutError("the storage refused a HEAD, but not a GET") from error
        raise TimeoutError("the storage refused a HEAD of what it lets us read")

    return retrying(ask, filesystem.unstrip_protocol(path))


def read_range(filesystem: fsspec.AbstractFileSystem, path: str, start: int, stop: int) -> bytes:
    """Exactly the bytes start..stop (half-open). Raises as `retrying`, also while answers are too short; ShortRead if a
    local file is too short, another OSError if an object is."""
    if stop <= start:
        return b""
    if is_local(filesystem):
        return _checked(filesystem.cat_file(path, start=start, end=stop), stop - start)
    pieces = _read_pieces(filesystem, path, _cut([(start, stop)]))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read_whole(filesystem: fsspec.AbstractFileSystem, path: str) -> bytes:
    """A file, or an object of unknown size in one request. Raises as `retrying`."""
    if is_local(filesystem):
        whole: bytes = filesystem.cat_file(path)
        return whole
    try:
        # With a range from the first byte on: without a range, some drivers first request the size.
        data: bytes = retrying(lambda: filesystem.cat_file(path, start=0, end=None), filesystem.unstrip_protocol(path))
    except (FileNotFoundError, PermissionError):
        raise
    except (OSError, ValueError):
        # Some stores refuse every range of an empty object; its size tells.
        if int(info_of(filesystem, path)["size"]):
            raise
        return b""
    return data


def _cut(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges, split into parts of at least about PART_BYTES, at most PARTS per range."""
    cut: list[tuple[int, int]] = []
    for start, stop in ranges:
        parts = max(min(PARTS, (stop - start) // PART_BYTES), 1)
        edges = [start + (stop - start) * number // parts for number in range(parts + 1)]
        cut += () if start == stop else pairwise(edges)
    return cut


def _read_pieces(filesystem: fsspec.AbstractFileSystem, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """The bytes of each range, read concurrently."""
    if not ranges:
        return []
    if len(ranges) == 1 or not filesystem.async_impl:
        with ThreadPoolExecutor(PARTS) as pool:
            return list(pool.map(lambda ends: _part(filesystem, path, *ends), ranges))
    starts, stops = zip(*ranges, strict=True)
    found = filesystem.cat_ranges([path] * len(ranges), list(starts), list(stops), on_error="return")
    return [
        data if isinstance(data, bytes) and len(data) == stop - start else _part(filesystem, path, start, stop)
        for data, (start, stop) in zip(found, ranges, strict=True)
    ]


def _part(filesystem: fsspec.AbstractFileSystem, path: str, start: int, stop: int) -> bytes:
    tries = 0

    def ask() -> bytes:
        nonlocal tries
        tries += 1
        data: bytes = filesystem.cat_file(path, start=start, end=stop)
        if len(data) != stop - start and tries > _CUT_OFF and int(filesystem.info(path)["size"]) < stop:
            raise OSError(errno.EIO, "the object has become shorter")
        return _checked(data, stop - start)

    return retrying(ask, filesystem.unstrip_protocol(path))


def _checked(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise ShortRead(f"{len(data)} bytes came of {size}")
    return data


class Told:
    """A stream that is read from the first byte to the last, and reports the number of bytes of each read."""

    def __init__(self, raw: Any, tell: Callable[[int], None]) -> None:
        self._raw, self._tell = raw, tell

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._raw.read(size)
        self._tell(len(data))
        return data

    def close(self) -> None:
        self._raw.close()

    @property
    def closed(self) -> bool:
        return bool(self._raw.closed)

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ObjectStream(io.RawIOBase):
    """An object read from the first byte to the last; the next parts are fetched while one is read.

    At most _AHEAD + 1 parts are in memory. size: of the object in bytes.
    """

    def __init__(self, filesystem: fsspec.AbstractFileSystem, path: str, size: int) -> None:
        super().__init__()
        self._filesystem, self._path, self._size = filesystem, path, size
        self._requested = self._position = 0
        self._part, self._used = b"", 0
        self._ahead: deque[Future[bytes]] = deque()
        self._pool = ThreadPoolExecutor(_AHEAD, thread_name_prefix="read-ahead")

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Exactly `size` bytes, unless the object ends earlier."""
        wanted = self._size - self._position if size is None or size < 0 else min(size, self._size - self._position)
        pieces = []
        while wanted > 0:
            self.peek()
            piece = self._part[self._used : self._used + wanted]
            pieces.append(piece)
            self._used += len(piece)
            self._position += len(piece)
            wanted -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def peek(self, size: int = 0) -> bytes:
        """Some of the next bytes, without advancing; none at the end. size: a hint, as in io."""
        if self._used == len(self._part) and self._position < self._size:
            self._part, self._used = self._next_part(), 0
        return self._part[self._used : self._used + size]

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _next_part(self) -> bytes:
        while self._requested < self._size and len(self._ahead) <= _AHEAD:
            stop = min(self._requested + PART_BYTES, self._size)
            self._ahead.append(self._pool.submit(_part, self._filesystem, self._path, self._requested, stop))
            self._requested = stop
        return self._ahead.popleft().result()


class ObjectFile(io.RawIOBase):
    """An object with random access, as Arrow's readers need it. size: of the object in bytes.

    `prefetch` fetches ranges that will be read; a read outside of them is one request each.
    """

    def __init__(self, filesystem: fsspec.AbstractFileSystem, path: str, size: int) -> None:
        super().__init__()
        self._filesystem, self._path, self._size = filesystem, path, size
        self._position = 0
        self._held: list[tuple[int, int, bytes]] = []

    def prefetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Fetch and keep the bytes of these ranges (half-open, in order, not overlapping); drop the earlier ones."""
        self._held = []
        parts = _cut(ranges)
        pieces = _read_pieces(self._filesystem, self._path, parts)
        self._held = [(start, stop, piece) for (start, stop), piece in zip(parts, pieces, strict=True)]

    def holds(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether these ranges can be read without a request."""
        return all(self._held_to(start, stop) == stop for start, stop in ranges)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def size(self) -> int:
        return self._size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        stop = self._size if size is None or size < 0 else min(self._position + size, self._size)
        start, self._position = self._position, max(stop, self._position)
        held = self._from_held(start, stop)
        return read_range(self._filesystem, self._path, start, stop) if held is None else held

    def _from_held(self, start: int, stop: int) -> bytes | None:
        if self._held_to(start, stop) < stop:
            return None
        held = [
            data[max(start - first, 0) : stop - first]
            for first, last, data in self._held
            if last > start and first < stop
        ]
        return held[0] if len(held) == 1 else b"".join(held)

    def _held_to(self, start: int, stop: int) -> int:
        """The end of the gapless bytes in memory from `start` on, at most `stop`."""
        for first, last, _ in self._held:
            if first <= start < last:
                start = last
        return min(start, stop)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
