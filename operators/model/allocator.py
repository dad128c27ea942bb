"""Keep the memory that a forward pass frees, on a CPU, for its next step; and give it back when there is none.

By default glibc returns every large block to the system when it is freed, and the next tensor of that size is paid for
with a page fault for each 4 KiB: on a small model that takes longer than its arithmetic. The process then holds
what it needed at its peak for as long as it lives, which is what a worker that runs batch after batch needs anyway.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGEST = (1 << 30, 32 << 20)  # older versions of glibc take no more than the second


@cache
def keep_freed_memory() -> bool:
    """Set it for this process; False where the C library is not glibc, and nothing is done."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST)
    return bool(mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)) and kept


def return_freed_memory() -> bool:
    """Give the system what is free, for a process that lives on with something else to do. Whether any was given back;
    False, too, where the C library is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    return trim is not None and bool(trim(0))
