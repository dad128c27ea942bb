"""How a command ends while Ray Data still uses Ray.

Ray Data runs in threads that may wait for Ray without end, for example for one of its own actors that is killed again
and again because memory is short. A thread that calls Ray after `ray.shutdown()` ends the whole process with exit code
1, whatever the command has to say. So such a Ray is not shut down: it ends with the process.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

GRAPH = "graph"
"""The name of the thread that runs a capture graph."""
_EXECUTOR = "StreamingExecutor"

_tidy: Callable[[], None] | None = None


def in_use() -> bool:
    """Whether a thread of Ray Data still runs in this process."""
    return any(thread.name == GRAPH or thread.name.startswith(_EXECUTOR) for thread in threading.enumerate())


def leave_running(tidy: Callable[[], None]) -> None:
    """Note that this process leaves Ray as it is. tidy: called right before the process ends."""
    global _tidy
    _tidy = tidy


def leave(code: int) -> None:
    """The end of a command. It returns if Ray was shut down; else the process ends here, with this exit code."""
    if _tidy is None:
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    _tidy()
    os._exit(code)
