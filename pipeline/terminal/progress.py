"""What is being done, and how far it is: stages that count, and phases that cannot.

On a terminal each has one live line, in a log or in JSON a line when nothing else was said for a while (voice.py).
Short phases say nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tamis.pipeline.terminal.events import Event
from tamis.pipeline.terminal.lines import Line
from tamis.pipeline.terminal.voice import VOICE, Voice

_LIVE_SECONDS = 0.1
_SETTLE_SECONDS = 5.0
"""Before this time, no estimate of the remaining time is shown."""


@dataclass(eq=False)
class Progress:
    """Rows (and tokens) done in one stage. brief: it may be so short that nobody need hear of it."""

    stage: str
    total: int
    unit: str = "rows"
    skipped: int = 0
    brief: bool = False
    voice: Voice = field(default=VOICE, repr=False)

    def __post_init__(self) -> None:
        self.began = self._at_work = self._looked = time.monotonic()
        self.prompt, self.shown = not self.brief, False
        self._done = self._tokens = 0
        self._within_rows = self._within_tokens = 0
        self._note = self._waits = ""
        self.voice.begin(self)

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
        now = time.monotonic()
        if now - self._looked >= _LIVE_SECONDS:
            self._looked = now
            self.voice.beat(_LIVE_SECONDS)

    def so_far(self, done: int, total: int) -> None:
        """It counts by itself."""

    def finish(self) -> float:
        """Say the last line. Returns the seconds since the stage began."""
        self._within_rows = self._within_tokens = 0
        self._waits = ""
        self.voice.end(self, "stage_done" if self.shown or not self.brief else None)
        return time.monotonic() - self.began

    def line(self, final: bool = False) -> Line:
        """How far it is, in words and as values."""
        seconds = max(time.monotonic() - (self.began if final else self._at_work), 1e-9)
        new, tokens = self._done + self._within_rows, self._tokens + self._within_tokens
        rate = new / seconds
        done = min(new + self.skipped, self.total)
        lasts = time.monotonic() - self.began
        facts: dict[str, Any] = {"done": done, "total": self.total, "unit": self.unit, "seconds": round(lasts, 3)}
        share = f" {done / self.total:4.0%}" if self.total else ""
        parts = [f"{self.stage:<8} {done:,} / {self.total:,} {self.unit}{share}"]
        if self.skipped:
            parts.append(f"{self.skipped:,} were done before")
            facts["skipped"] = self.skipped
        if new:
            parts.append(f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2g} {self.unit}/s")
            facts["per_second"] = round(rate, 6)
        if tokens:
            parts.append(f"{tokens / seconds:,.0f} tokens/s")
            facts |= {"tokens": tokens, "tokens_per_second": round(tokens / seconds, 3)}
        if self._note or self._waits:
            parts.append(self._note or f"{self._waits} ({clock(lasts)})")
            facts["doing"] = self._note or self._waits
        if final:
            parts.append(f"took {clock(seconds)}")
        elif new and self.total > done and seconds >= _SETTLE_SECONDS:
            parts.append(f"{clock((self.total - done) / rate)} left")
            facts["seconds_left"] = round((self.total - done) / rate, 3)
        event: Event = "stage_done" if final else "progress"
        return Line(event, " · ".join(parts), stage=self.stage, fields=facts)


class Phase:
    """Work that does not count by itself: what it is, and for how long. limit: the seconds after which it is given
    up."""

    prompt = False

    def __init__(self, stage: str, doing: str, limit: float | None = None) -> None:
        self.stage, self.doing, self._limit = stage, doing, limit
        self.began, self.shown = time.monotonic(), False
        self._parts: tuple[int, int] | None = None

    def so_far(self, done: int, total: int) -> None:
        """Show how many of its parts are done, where there are several."""
        self._parts = (done, total) if total > 1 else None

    def line(self, final: bool = False) -> Line:
        """What it is, and for how long."""
        seconds = time.monotonic() - self.began
        took = clock(seconds) if self._limit is None else f"{clock(seconds)} of {clock(self._limit)} at most"
        facts: dict[str, Any] = {"doing": self.doing, "seconds": round(seconds, 3)}
        doing = self.doing
        if self._parts is not None:
            doing += f": {self._parts[0]:,} of {self._parts[1]:,} parts"
            facts |= {"done": self._parts[0], "total": self._parts[1], "unit": "parts"}
        return Line("progress", f"{self.stage:<8} {doing} ({took})", stage=self.stage, fields=facts)


def phase(stage: str, doing: str, voice: Voice = VOICE) -> None:
    """This is done from now on, until the next phase. For the driver, between the stages that count: whatever they have
    left unfinished is forgotten."""
    voice.begin(Phase(stage, doing), alone=True)


@contextmanager
def waiting(stage: str, doing: str, limit: float | None = None, voice: Voice = VOICE) -> Iterator[Phase]:
    """This is done inside; then again what was done before. It may be renamed while it lasts (`doing`). limit: the
    seconds after which it is given up."""
    mine = Phase(stage, doing, limit)
    voice.begin(mine)
    try:
        yield mine
    finally:
        voice.end(mine)


@contextmanager
def at_work(voice: Voice = VOICE) -> Iterator[None]:
    """Around everything that a job does (`@at_work()`): at its end nothing is being done, however it ends."""
    try:
        yield
    finally:
        voice.rest()


def clock(seconds: float) -> str:
    """A duration for a person."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
