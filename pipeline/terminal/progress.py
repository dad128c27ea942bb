"""One live line per stage on a terminal; in a log, at most one plain line every 30 seconds.

Long work before the first finished row has a line, too: by `waiting`, and by `Progress.within`.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

from tamis.pipeline.terminal.text import shown

LOG_SECONDS = 30.0
_LIVE_SECONDS = 0.1
_WAITING_SECONDS = 1.0
_WIPE = "\r\x1b[2K"
_SETTLE_SECONDS = 5.0
"""Before this time, no estimate of the remaining time is shown."""


@dataclass
class Progress:
    """Rows (and tokens) done in one stage. Writes to stderr, so that stdout stays for results."""

    stage: str
    total: int
    unit: str = "rows"
    skipped: int = 0
    stream: TextIO = field(default_factory=lambda: sys.stderr)

    def __post_init__(self) -> None:
        self._live = self.stream.isatty()
        self._began = self._said = self._at_work = time.monotonic()
        self._done = self._tokens = 0
        self._within_rows = self._within_tokens = 0
        self._width = 0
        self._note = self._waits = ""
        if self._live:
            self._say(self._line())

    def advance(self, done: int, tokens: int = 0, note: str = "") -> None:
        """Count finished rows and tokens. note: shown on the line until the next call, e.g. a loss."""
        self._note = note
        self._done += done
        self._tokens += tokens
        self._may_say()

    def within(self, done: float, tokens: int, waits: str = "") -> None:
        """Set the finished amount of all unfinished parts together; called about once a second. waits: what the stage
        is waiting for before the first part begins, e.g. a model that loads. The time until then does not count in the
        estimate of the remaining time."""
        self._within_rows, self._within_tokens = int(done), tokens
        self._waits = "" if self._done else waits
        if self._waits:
            self._at_work = time.monotonic()
        self._may_say()

    def _may_say(self) -> None:
        if time.monotonic() - self._said >= (_LIVE_SECONDS if self._live else LOG_SECONDS):
            self._say(self._line())

    def finish(self) -> float:
        """Write the last line. Returns the seconds since the stage began."""
        self._within_rows = self._within_tokens = 0
        self._waits = ""
        self._say(self._line(final=True))
        if self._live:
            self.stream.write("\n")
            self.stream.flush()
        return time.monotonic() - self._began

    def _line(self, final: bool = False) -> str:
        seconds = max(time.monotonic() - (self._began if final else self._at_work), 1e-9)
        new, tokens = self._done + self._within_rows, self._tokens + self._within_tokens
        rate = new / seconds
        done = min(new + self.skipped, self.total)
        share = f" {done / self.total:4.0%}" if self.total else ""
        parts = [f"{self.stage:<8} {done:,} / {self.total:,} {self.unit}{share}"]
        if self.skipped:
            parts.append(f"{self.skipped:,} were done before")
        if new:
            parts.append(f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2g} {self.unit}/s")
        if tokens:
            parts.append(f"{tokens / seconds:,.0f} tokens/s")
        if self._note or self._waits:
            parts.append(self._note or f"{self._waits} ({_clock(time.monotonic() - self._began)})")
        if final:
            parts.append(f"took {_clock(seconds)}")
        elif new and self.total > done and seconds >= _SETTLE_SECONDS:
            parts.append(f"{_clock((self.total - done) / rate)} left")
        return " · ".join(parts)

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        line = shown(line)
        if self._live:
            line = line[: shutil.get_terminal_size().columns - 1]  # a wrapped line could not be overwritten
            self.stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def note(self, line: str) -> None:
        """Write a permanent line above the live one."""
        if self._live:
            self.stream.write("\r" + " " * self._width + "\r")
        self.stream.write(shown(line) + "\n")
        self.stream.flush()
        if self._live:
            self._say(self._line())


@contextmanager
def waiting(what: str, stream: TextIO | None = None) -> Iterator[None]:
    """A sign of life during work that cannot report its progress: what it is, and how long it has taken so far. On a
    terminal the line disappears at the end; a log shows it only for work that takes longer than LOG_SECONDS."""
    out = stream or sys.stderr
    live, began, over = out.isatty(), time.monotonic(), threading.Event()

    def show() -> None:
        while not over.wait(_WAITING_SECONDS if live else LOG_SECONDS):
            line = f"{what} ({_clock(time.monotonic() - began)})"
            out.write("\r" + line[: shutil.get_terminal_size().columns - 1] if live else line + "\n")
            out.flush()

    shown = threading.Thread(target=show, name="waiting", daemon=True)
    shown.start()
    try:
        yield
    finally:
        over.set()
        shown.join()
        if live:
            out.write(_WIPE)
            out.flush()


def say(line: str) -> None:
    """Print a line for the person who watches, outside of a stage."""
    print(shown(line), file=sys.stderr, flush=True)


def warn_once(line: str, tell: Callable[[str], None] = say) -> None:
    """Print a warning only once, even if many workers or stages have it."""
    if line not in _warned:
        _warned.add(line)
        tell(f"warning: {line}")


_warned: set[str] = set()


def _clock(seconds: float) -> str:
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
