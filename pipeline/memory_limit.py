"""A bound on what reading may take: a small file can claim to hold more than any machine has.

Parquet stores a value that stands in every row once, and Arrow files are compressed: a kilobyte can say that it is
hundreds of gigabytes. Linux then refuses memory to this process alone, in time and as an error that can be told of,
where it would else end whichever process it likes best. Elsewhere (macOS) nothing is bounded.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

READ_BYTES = 4 << 30
"""What one reader may take: some sixty times the bytes of a shard."""

_STATUS = Path("/proc/self/status")


class _Limit:
    """The limit of this process, while any of its threads is inside. base: what it had when the first one came."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = self._base = 0
        self._before = (0, 0)

    def enter(self, more: int) -> None:
        import resource

        with self._lock:
            if not self._inside:
                self._before, self._base = resource.getrlimit(resource.RLIMIT_DATA), _taken()
            self._inside += more
            self._set()

    def leave(self, more: int) -> None:
        with self._lock:
            self._inside -= more
            self._set()

    def _set(self) -> None:
        import resource

        soft, hard = self._before
        if self._inside:
            wanted = self._base + self._inside
            soft = wanted if soft == resource.RLIM_INFINITY else min(wanted, soft)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


_limit = _Limit()


@contextmanager
def limited_memory(more: int = READ_BYTES) -> Iterator[None]:
    """Inside, this process may take `more` bytes beside what it has; asked for more, it gets a MemoryError.

    Threads that are inside at the same time share what all of them may take.
    """
    if not _STATUS.exists():
        yield
        return
    _limit.enter(more)
    try:
        yield
    finally:
        _limit.leave(more)


def _taken() -> int:
    """Bytes of this process's memory that count: private and writable ones, used or not."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmData"))
    return int(line.split()[1]) << 10
