"""Ctrl-C, SIGTERM and SIGHUP: a message at once, then the command ends in order; a second signal ends it immediately.

Python runs signal handlers in the main thread, which may be inside a library for a long time. So a separate thread,
woken by the interpreter's C code, prints the message and counts the signals.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

from tamis.pipeline.terminal.voice import last_word, say

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}

_GO_ON = "what is done stays done, run the same command again to go on"

_ONE_DEMAND_SECONDS = 0.3
"""Signals within this time count as one: `timeout`, shells and schedulers may signal both a process and its group."""

_code: int | None = None
_said = threading.Event()


def listen() -> None:
    """Start listening; for a command, in its main thread. An ignored signal (nohup, a background job) stays ignored."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    threading.Thread(target=_tell, args=(woken,), name="signals", daemon=True).start()
    for number in CODES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def demanded() -> int | None:
    """The exit code of the signal that this command ends by; None if none came. A library may make another exit of
    ours: a run that was stopped while it waited for Ray has ended with code 1."""
    return _code


def _stop(number: int, _frame: FrameType | None) -> None:
    global _code
    if _code is not None:
        return
    _code = CODES[signal.Signals(number)]
    _said.wait(1.0)  # not longer: this may have interrupted code that the thread waits for
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(_code)


def _tell(woken: int) -> None:
    first: float | None = None
    while number := os.read(woken, 1):
        if number[0] not in CODES:
            continue
        name, now = _NAMES[signal.Signals(number[0])], time.monotonic()
        if first is None:
            first = now
            _say(f"stopping ({name}); {_GO_ON}", name)
            _said.set()
        elif now - first > _ONE_DEMAND_SECONDS:
            _say(f"ended at once ({name}); {_GO_ON}", name, at_once=True)
            last_word(CODES[signal.Signals(number[0])])
            os._exit(CODES[signal.Signals(number[0])])


def _say(line: str, name: str, at_once: bool = False) -> None:
    with suppress(OSError, ValueError):  # the terminal may be gone
        if sys.stderr.isatty():
            sys.stderr.write("\n")  # below the progress line and the ^C
        say(line, "stopping", "warning", signal=name, at_once=at_once)
