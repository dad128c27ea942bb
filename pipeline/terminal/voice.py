"""The one place through which all words to people go: what happens now, and what has happened.

The voice knows what is being done at the moment. A small thread, the heartbeat, says it again when nobody has said
anything for a while: in a log and in JSON at least every 30 seconds, on a terminal by the live line. It is a daemon, so
it keeps no process alive.
"""

from __future__ import annotations

import atexit
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TextIO

from tamis.pipeline.terminal.events import Event, Level
from tamis.pipeline.terminal.lines import JsonLines, Line, TextLines, strict

BEAT_SECONDS = 25.0
"""Less than the 30 seconds that are promised: a library may keep the thread waiting for some seconds."""

_DRAW_SECONDS = 1.0
_TURN_SECONDS = 1.0
_SHORTEST_SECONDS = 0.001


class Doing(Protocol):
    """What is being done. began: time.monotonic(). prompt: on a terminal it is shown at once, not only when it lasts.
    shown: whether it has been."""

    stage: str
    began: float
    prompt: bool
    shown: bool

    def line(self, final: bool = False) -> Line:
        """How far it is. final: it is done."""

    def so_far(self, done: int, total: int) -> None:
        """Parts of it that are done, as whoever does them counts."""


class Voice:
    """Says lines in one form, as text or as JSON, and leaves out what is not wanted. Any thread may call it."""

    def __init__(self, stream: TextIO | None = None, *, every: float = BEAT_SECONDS, heart: bool = False) -> None:
        self.every = every
        self.quiet = False
        self.answers = False
        """Whether the outcome goes to stdout as one JSON object, in place of screens (`--json`)."""
        self.command_id = str(uuid.uuid4())
        self._lines: TextLines | JsonLines = TextLines(stream)
        self._doing: list[Doing] = []
        self._last_stage: str | None = None
        self.began = self._said = self._drawn = time.monotonic()
        # Again from the same thread: tidying up, which Python may do at any time, may have something to say.
        self._lock = threading.RLock()
        self._changed = threading.Condition()
        self._heart: threading.Thread | None = None
        self._heart_wanted = heart
        self._over = False

    # --- the form ---------------------------------------------------------------------------------------------------

    def speak_json(self, stream: TextIO) -> None:
        """From now on, one JSON object a line, on this stream."""
        self._lines = JsonLines(stream, self.command_id)

    @property
    def as_json(self) -> bool:
        return isinstance(self._lines, JsonLines)

    @property
    def draws(self) -> bool:
        """Whether people see screens: neither objects nor lines in their place."""
        return not (self.as_json or self.quiet or self.answers)

    def of_run(self, run: str | None) -> None:
        """From now on, lines bear the id of this run."""
        if isinstance(self._lines, JsonLines):
            self._lines.run = run

    # --- words ------------------------------------------------------------------------------------------------------

    def say(
        self,
        message: str,
        event: Event = "note",
        level: Level = "info",
        *,
        stage: str | None = None,
        last: bool = False,
        spoken: bool = True,
        **fields: Any,
    ) -> None:
        """Say a line. last: it is the outcome of the command, which `--quiet` does not leave out. spoken: if False, it
        is for machines alone. fields: those of events.FIELDS."""
        with self._turn():
            if self._over or (self.quiet and level == "info" and not last):
                return
            if stage is None:
                # An error is said when what it ended is over.
                stage = self._doing[-1].stage if self._doing else self._last_stage if event == "error" else None
            self._write(Line(event, message, level, stage, fields, spoken))
            if self._live and self._doing and self._doing[-1].shown:
                self._draw(self._doing[-1])

    def show(
        self,
        draw: Callable[[], None],
        message: str,
        event: Event,
        level: Level = "info",
        *,
        last: bool = False,
        also: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        """What is a whole screen on a terminal. draw: prints it to stdout. message: the same in one line, which goes to
        stdout in its place if the command is quiet and this is its outcome. also: further keys of the object that
        answers `--json`: what a log has in lines of their own."""
        if self.answers and last:
            self.answer({"event": event, **fields, **(also or {})})
        if self.as_json or (self.answers and not last):
            self.say(message, event, level, last=last, **fields)
        if self.as_json or self.answers:
            return
        with self._turn():
            if isinstance(self._lines, TextLines):
                self._lines.wipe()
            if not self.quiet or level != "info":
                draw()
            elif last:
                print(message)

    def answer(self, facts: Mapping[str, Any]) -> None:
        """Print the one object that `--json` asks for. Keys without a value are left out, as in a log."""
        kept = {key: value for key, value in facts.items() if value is not None and key != "stage"}
        words = json.dumps(strict(kept), indent=2, allow_nan=False)
        self.rest()
        with self._turn():
            print(words)

    # --- what is being done -------------------------------------------------------------------------------------------

    def begin(self, doing: Doing, *, alone: bool = False) -> None:
        """This is done now, until its `end`; then again what was done before. alone: what was done before has ended,
        whether it said so or not."""
        with self._turn():
            if not self._doing:
                self._said = time.monotonic()
            if alone:
                self._hide()
                self._doing.clear()
            self._doing.append(doing)
            if doing.prompt and self._live:
                self._draw(doing)
        if self._heart_wanted:
            self._wake()

    def end(self, doing: Doing, event: Event | None = None) -> None:
        """It is done. event: of the line that stays; None leaves none."""
        with self._turn():
            if doing not in self._doing:
                return
            self._doing.remove(doing)
            if event is None or self._over or self.quiet:
                self._hide()
            elif self._live and isinstance(self._lines, TextLines):
                self._lines.settle(doing.line(final=True))
            else:
                self._write(doing.line(final=True))

    def so_far(self, done: int, total: int) -> None:
        """Parts of what is being done that are done: for work that does not know what it is a part of."""
        if self._doing:
            self._doing[-1].so_far(done, total)

    def rest(self) -> None:
        """Nothing is done any more."""
        with self._turn():
            self._hide()
            if self._doing:
                self._last_stage = self._doing[-1].stage
            self._doing.clear()

    def beat(self, after: float | None = None) -> None:
        """Say what is being done, if it is time to. after: on a terminal, seconds since the live line was drawn."""
        with self._turn():
            if self._over or self.quiet or not self._doing:
                return
            doing, now = self._doing[-1], time.monotonic()
            if self._live:
                due = now - self._drawn >= (_DRAW_SECONDS if after is None else after)
                if due and (doing.prompt or now - doing.began >= _DRAW_SECONDS):
                    self._draw(doing)
            elif now - self._said >= self.every:
                doing.shown = True
                self._write(doing.line())

    def close(self) -> None:
        """The last word is spoken: at the end of the process, a thread that writes would be in the way."""
        with self._turn():
            self._hide()
            self._over = True

    # --- inside -------------------------------------------------------------------------------------------------------

    @property
    def _live(self) -> bool:
        return not self.quiet and self._lines.live

    def _write(self, line: Line) -> None:
        self._said = time.monotonic()
        self._lines.write(line)

    def _draw(self, doing: Doing) -> None:
        if isinstance(self._lines, TextLines):
            doing.shown = True
            self._drawn = time.monotonic()
            self._lines.draw(doing.line().message)

    def _hide(self) -> None:
        if isinstance(self._lines, TextLines):
            self._lines.wipe()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One line at a time. Not at any price: a thread that hangs on a full pipe must not keep the last word of
        another from being said."""
        mine = self._lock.acquire(timeout=_TURN_SECONDS)
        try:
            yield
        finally:
            if mine:
                self._lock.release()

    def _wake(self) -> None:
        with self._changed:
            if self._heart is None or not self._heart.is_alive():  # a forked process has no threads
                self._heart = threading.Thread(target=self._live_on, name="heartbeat", daemon=True)
                self._heart.start()
            self._changed.notify()

    def _live_on(self) -> None:
        while not self._over:
            with self._changed:
                self._changed.wait(self._pause())
            with suppress(OSError, ValueError):  # the terminal may be gone; whoever has something to say will notice
                self.beat()

    def _pause(self) -> float | None:
        """Seconds until the next look; None if nothing is being done."""
        if not self._doing or self.quiet:
            return None
        if self._lines.live:
            return _DRAW_SECONDS
        return max(self._said + self.every - time.monotonic(), _SHORTEST_SECONDS)


VOICE = Voice(heart=True)
"""The voice of this process."""

atexit.register(VOICE.close)

say = VOICE.say
_warned: set[str] = set()


def warn_once(line: str) -> None:
    """Say a warning only once, even if many workers or stages have it."""
    if line not in _warned:
        _warned.add(line)
        say(line, "warning", "warning")


def say_damaged(line: str) -> None:
    """A file is not as it was written, and its work is done again."""
    say(line, "damaged", "warning")


def say_workers(line: str) -> None:
    """What the workers wait for, or with how many of them the run goes on."""
    say(line, "workers")


def last_word(code: int) -> None:
    """The end of the command, for machines; nothing is said after it."""
    with suppress(OSError, ValueError):
        seconds = round(time.monotonic() - VOICE.began, 3)
        level: Level = "info" if code == 0 else "error"
        VOICE.rest()
        say(f"ended with exit code {code}", "end", level, last=True, spoken=False, exit_code=code, seconds=seconds)
        VOICE.close()
