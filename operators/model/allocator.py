"""Keeps the memory that a forward pass on a CPU frees, for its next step; and returns it when there is no next step.

By default glibc returns every large block to the system when it is freed, and the next tensor of that size costs a
page fault for each 4 KiB: on a small model that takes longer than the arithmetic. With this setting the process holds
its peak memory for as long as it lives, which is what a worker that runs batch after batch needs anyway.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # from malloc.h
_LARGEST = (1 << 30, 32 << 20)  # older versions of glibc accept at most the second


@cache
def keep_freed_memory() -> bool:
    """Turns it on for this process. Returns False, and does nothing, if the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST)
    return bool(mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)) and kept


def return_freed_memory() -> bool:
    """Returns free memory to the system, for a process that continues with other work.

    Returns whether any memory was returned; also False if the C library is not glibc.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    return trim is not None and bool(trim(0))
