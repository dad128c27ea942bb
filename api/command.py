"""A command of tamis in a process of its own, followed by its `--log-format json`: the same code path as in a shell.

Not in the caller's process: there, Ray would end the whole process where its node dies, threads of Ray Data could not
be ended, and descriptors, signal handlers and the environment would change under the caller's other threads. A Ray that
the caller has started is in another process, too, and is left as it is.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

from tamis.pipeline import errors
from tamis.pipeline.commands.followed import FOLLOWED
from tamis.pipeline.commands.log_flags import HEARTBEAT
from tamis.pipeline.errors import (
    ClusterError,
    ConfigError,
    InputError,
    InternalError,
    StorageError,
    TamisError,
    error_text,
)
from tamis.shown import Display

_LIVE_SECONDS = "1"
_PATIENCE = 60.0
"""Seconds for a process to end that has closed its stderr, or was told to stop a second time."""
_OURS = {kind.__name__: kind for kind in TamisError.__subclasses__()}
_KINDS: dict[int, type[TamisError]] = {
    2: ConfigError,
    3: InputError,
    4: errors.IncompleteError,
    5: StorageError,  # of ours, only errors of the system have a line without a kind
    6: errors.DriftError,
    70: InternalError,
}


@dataclass
class Said:
    """What a command has said. plan, result, error: the values of these events, None where there was none. out: its
    stdout. stray: the last line on stderr that is no event. code: with which it ended; negative: the signal."""

    code: int = 0
    plan: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    out: str = ""
    error: Mapping[str, Any] | None = None
    stray: str = ""


def run(words: Sequence[str], quiet: bool) -> Said:
    """Run `tamis WORDS` and return what it has said. quiet: show warnings alone.

    Raises the TamisError with which the command ends; KeyboardInterrupt after Ctrl-C, once the command has ended in
    order.
    """
    said = attempt(words, quiet)
    if said.code != 0:
        raise error_of(said)
    return said


def attempt(words: Sequence[str], quiet: bool) -> Said:
    """The same, however the command ends."""
    if not sys.executable:
        raise ConfigError("this Python does not know its own program (sys.executable), which tamis has to run")
    display = Display(quiet)
    _mention_ray(words, display)
    command = [sys.executable, "-P", "-m", "tamis.pipeline.cli", *words, "--log-format", "json"]
    environment = dict(os.environ)
    if display.live:
        environment[HEARTBEAT] = _LIVE_SECONDS
    try:
        return follow(command, environment, display)
    finally:
        display.close()


def follow(command: Sequence[str], environment: Mapping[str, str], display: Display) -> Said:
    """The same for any command that speaks as tamis does."""
    said = Said()
    with tempfile.TemporaryFile() as out:
        child: subprocess.Popen[bytes] | None = None
        try:
            child = _start(command, environment, out)
            _listen(child, said, display)
        except BaseException:
            if child is not None:
                _stop(child, said, display)
            raise
        finally:
            for pipe in () if child is None else (child.stdin, child.stderr):
                if pipe is not None:
                    pipe.close()
        out.seek(0)
        said.out = out.read().decode("utf-8", "replace")
    said.code = child.returncode
    return said


def _start(command: Sequence[str], environment: Mapping[str, str], out: IO[bytes]) -> subprocess.Popen[bytes]:
    """The process. It ends in order when the pipe to its stdin does, which this process holds, however it ends."""
    try:
        # In a session of its own, so that Ctrl-C, in a terminal or a notebook, reaches it once: from here.
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.PIPE,
            env={**environment, FOLLOWED: "1"},
            start_new_session=True,
        )
    except OSError as error:
        raise ClusterError(f"no process can be started here ({error_text(error)})") from None


def _listen(child: subprocess.Popen[bytes], said: Said, display: Display) -> None:
    """Until the process has ended."""
    assert child.stderr is not None
    for line in child.stderr:
        try:
            facts = json.loads(line)
            event, level = facts["event"], facts["level"]
        except (ValueError, LookupError, TypeError):  # Python itself, before the command begins
            said.stray = line.decode("utf-8", "replace").strip() or said.stray
            continue
        if event == "plan":
            said.plan = facts
        elif event == "result":
            said.result = facts
        elif event == "error":
            said.error = facts
        elif event == "note":
            said.notes.append(facts["message"])
        if level == "warning":
            said.warnings.append(facts["message"])
        display.event(facts)
    child.wait()


def _stop(child: subprocess.Popen[bytes], said: Said, display: Display) -> None:
    """End a command in order: what is done stays done. Ctrl-C once more ends it at once. It never outlives this."""
    # A shell lets what it runs in the background ignore Ctrl-C, and then the command ignores it, too.
    asked = signal.SIGTERM if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else signal.SIGINT
    try:
        for _ in range(2):
            with suppress(KeyboardInterrupt):
                child.send_signal(asked)
                _listen(child, said, display)
                return
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            child.wait(_PATIENCE)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def error_of(said: Said) -> TamisError:
    """The error with which a command has ended, as an exception with the same words."""
    code = said.code
    again = "what is done stays done, call it again to go on"
    if said.error is None:
        if code < 0:
            name = signal.Signals(-code).name
            return ClusterError(f"the process of the run was killed ({name}; memory may have run out); {again}")
        if code > 128:
            return ClusterError(f"the run was stopped from outside (exit code {code}); {again}")
        return InternalError(f"tamis could not be run in a process of its own (exit code {code}): {said.stray[:300]}")
    message = str(said.error["message"])
    kind = _OURS.get(str(said.error.get("kind")), _KINDS.get(code, InternalError))
    error = errors.from_facts({"kind": kind.__name__, "message": message})
    if isinstance(error, InputError):
        error.problems = tuple(line[4:] for line in message.split("\n") if line.startswith("  - "))
    return error


def _mention_ray(words: Sequence[str], display: Display) -> None:
    ray = sys.modules.get("ray")
    if ray is not None and words[0] in {"curate", "plan", "select"} and "--address" not in words:
        with suppress(Exception):  # whatever that module is
            if ray.is_initialized() and not os.environ.get("RAY_ADDRESS"):
                display.note(
                    "the Ray of this process is left alone, and tamis starts one of its own; to run on it, pass "
                    "address=ray.get_runtime_context().gcs_address"
                )
