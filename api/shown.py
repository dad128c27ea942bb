"""What a running command says, shown on the stderr of the moment: in a notebook and on a terminal with one live line
that is written over, elsewhere line by line."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tamis.pipeline.terminal.lines import Line, TextLines
from tamis.pipeline.terminal.voice import BEAT_SECONDS

_LIVE_SECONDS = 1.0
_UNSAID = frozenset({"command", "end", "error"})
"""Events that are not for people, and the one that becomes an exception."""


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


class _Lines(TextLines):
    """A notebook writes a line over as a terminal does, but does not call itself one."""

    @property
    def live(self) -> bool:
        return in_notebook() or super().live


class Display:
    """quiet: show warnings alone."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._lines = _Lines()
        self._said = time.monotonic()

    @property
    def live(self) -> bool:
        """Whether there is a line that is written over."""
        return not self._quiet and self._lines.live

    def event(self, facts: Mapping[str, Any]) -> None:
        """Show an object of `--log-format json`."""
        event, level, message = facts["event"], facts["level"], str(facts["message"])
        self._said = time.monotonic()
        if event in _UNSAID or (self._quiet and level == "info"):
            return
        if event == "result" and facts.get("did_nothing"):
            message = f"complete already, nothing was done: {message}"
        with suppress(OSError, ValueError):  # the terminal may be gone; the work goes on
            if event == "progress" and self._lines.live:
                self._lines.draw(message)
            else:
                self._lines.write(Line("warning" if level == "warning" else event, message, level))

    def note(self, message: str) -> None:
        """Show a line of our own."""
        self.event({"event": "note", "level": "info", "message": message})

    def beat(self, message: str) -> None:
        """Say what is being done here, if nothing was said for a while."""
        now = time.monotonic()
        if now - self._said >= (_LIVE_SECONDS if self._lines.live else BEAT_SECONDS):
            self.event({"event": "progress", "level": "info", "message": message})

    def close(self) -> None:
        """Take the live line away."""
        with suppress(OSError, ValueError):
            self._lines.wipe()
