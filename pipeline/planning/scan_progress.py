"""The progress of a scan; a scan that is small and short shows nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.terminal.progress import Progress

SHOWN_BYTES = 10**9
SHOWN_FILES = 1000
"""A scan of at least this many bytes or files shows its progress from the start, a smaller one only if it lasts. A
footer takes one request, whatever its size."""

_MB = 10**6


@contextmanager
def scan_progress(files: Sequence[SourceFile], stage: str = "scan") -> Iterator[Callable[[int], None]]:
    """Yields a callback for the number of stored bytes that are scanned; any thread may call it."""
    total = sum(file.bytes for file in files)
    brief = total < SHOWN_BYTES and len(files) < SHOWN_FILES
    progress, lock, done = Progress(stage, -(-total // _MB), unit="MB", brief=brief), threading.Lock(), 0

    def tell(count: int) -> None:
        nonlocal done
        with lock:
            before, done = done, done + count
            # The end of the files may lie within the last, incomplete megabyte.
            progress.advance((-(-done // _MB) if done >= total else done // _MB) - before // _MB)

    yield tell
    progress.finish()
