"""The progress of a scan, where it may take long: a short one says nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.terminal.progress import Progress

SHOWN_BYTES = 10**9
SHOWN_FILES = 1000
"""From so much on, in bytes or in files, a scan shows its progress. A footer takes a request, whatever its size."""

_MB = 10**6


@contextmanager
def scan_progress(files: Sequence[SourceFile]) -> Iterator[Callable[[int], None]]:
    """To be told of bytes of the files that are done with, as they lie in the storage; by any thread."""
    total = sum(file.bytes for file in files)
    if total < SHOWN_BYTES and len(files) < SHOWN_FILES:
        yield lambda count: None
        return
    progress, lock, done = Progress("scan", -(-total // _MB), unit="MB"), threading.Lock(), 0

    def tell(count: int) -> None:
        nonlocal done
        with lock:
            before, done = done, done + count
            # The last of them fill the last megabyte, of which there may be less.
            progress.advance((-(-done // _MB) if done >= total else done // _MB) - before // _MB)

    yield tell
    progress.finish()
