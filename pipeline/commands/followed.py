"""A command that another process follows (`tamis.curate` in Python) ends in order when that process is gone.

The other process holds the far end of our stdin open, and writes nothing to it: the kernel closes it however that
process ends.
"""

from __future__ import annotations

import os
import signal
import threading

FOLLOWED = "TAMIS_FOLLOWED"
"""Environment variable: 1 where stdin ends with whoever has started this command."""


def watch() -> None:
    """Stop as on SIGTERM when stdin ends, if it is watched. What this process starts does not watch it, too."""
    if os.environ.pop(FOLLOWED, None) == "1":
        threading.Thread(target=_wait, args=(0,), name="follower", daemon=True).start()


def _wait(stdin: int) -> None:
    while os.read(stdin, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
