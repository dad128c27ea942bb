"""Chat templates rendered in a process of their own, which can be killed: templates come with models, and are code.

Jinja's sandbox keeps a template from reaching anything outside, but a single call into C may still run for ever or fill
the memory. The limits:

    time    SECONDS of CPU time per conversation (TRIAL_SECONDS for the first, short ones), enforced by the kernel. It
            ends the process whatever it does; after MOST_ENDED such conversations the template is refused
    memory  render_child.MOST_MEMORY of address space
    output  rendering.MOST_CHARACTERS per conversation

The plan tries every template on short conversations, so most bad templates are refused before a worker starts. If a
template passes there and misbehaves on a row, the row has a RowProblem("template_error").
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from tamis.operators.conversation.conversation import Conversation
from tamis.operators.problems import RowProblem
from tamis.operators.tokens.answers import CharRange
from tamis.operators.tokens.rendering import BeyondLimits, Rendered, Renderer

SECONDS, TRIAL_SECONDS = 10.0, 3.0
MOST_ENDED = 3

_READY = b"ready\n"
_BATCH, _MOST_IN_BATCH = 1 << 20, 512
"""The most characters and conversations in one request."""
TOO_LONG = "takes too long"
_TRIED = (("user", "assistant"), ("system", "user", "assistant"), ("user", "assistant", "user", "assistant"))
_ADVICE = "set model.template to another one"


class BoundedRenderer(Renderer):
    """A Renderer that runs in a child process; all templates of this process share it.

    Raises ValueError if the template cannot be compiled, or exceeds the limits with conversations of a few words;
    OSError if the process cannot be started.
    """

    def __init__(self, template: str, variables: Mapping[str, str]) -> None:
        self.source = template
        self._opening = {"template": template, "variables": dict(variables)}
        self._key = hashlib.sha256(json.dumps(self._opening, sort_keys=True).encode()).hexdigest()
        self._ended = 0  # conversations that have ended the process
        tried = [Conversation([{"role": role, "content": "x"} for role in roles]) for roles in _TRIED]
        for conversation in tried:
            # Other problems are legitimate: a template may refuse a conversation.
            [outcome] = self._ask([conversation], spans=False, seconds=TRIAL_SECONDS)
            if isinstance(outcome, BeyondLimits):
                raise ValueError(f"{outcome.message}, for a conversation of a few words; {_ADVICE}")

    def text(self, conversation: Conversation) -> str:
        """As Renderer.text. This and the two methods below raise ValueError if the template has ended the process too
        often."""
        return self._one(conversation, spans=False).text

    def render(self, conversation: Conversation) -> Rendered:
        return self._one(conversation, spans=True)

    def _one(self, conversation: Conversation, *, spans: bool) -> Rendered:
        [outcome] = self._ask([conversation], spans=spans)
        if isinstance(outcome, RowProblem):
            raise outcome
        return outcome

    def render_all(self, conversations: Sequence[Conversation]) -> list[Rendered | RowProblem]:
        return self._ask(conversations, spans=True)

    def _ask(
        self, conversations: Sequence[Conversation], *, spans: bool, seconds: float | None = None
    ) -> list[Rendered | RowProblem]:
        found: list[Rendered | RowProblem] = []
        seconds = SECONDS if seconds is None else seconds
        again = False
        with _lock:
            while len(found) < len(conversations):
                part = _some(conversations, len(found))
                outcomes, end = _process().ask(self._key, self._opening, part, spans, seconds)
                found += outcomes
                again = again and not outcomes
                if end is None:
                    continue
                if end != TOO_LONG and not again:
                    again = True  # the system may have killed it because of other processes
                    continue
                found.append(BeyondLimits("template_error", f"the chat template {end}"))
                again = False
                self._ended += 1
                if self._ended == MOST_ENDED:
                    self._ended = 0
                    raise ValueError(f"the chat template {end}, for {MOST_ENDED} conversations; {_ADVICE}")
        return found


class _Process:
    """The child process, and the templates that it has opened."""

    def __init__(self) -> None:
        # With -P nothing is imported from the working folder, which may contain any files.
        command = [sys.executable, "-P", "-m", "tamis.pipeline.models.render_child"]
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        self._child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nothing)
        self._opened: set[str] = set()
        self._pid = os.getpid()
        if self._read() != _READY:
            self.end()
            raise OSError(
                f"the process that renders chat templates did not start (exit code {self._child.returncode}); see what "
                "`python -P -m tamis.pipeline.models.render_child` says"
            )

    @property
    def is_ours(self) -> bool:
        """Whether the child runs, and was not inherited by a fork: the two sides would read each other's answers."""
        return self._pid == os.getpid() and self._child.poll() is None

    def ask(
        self, key: str, opening: Mapping[str, Any], conversations: Sequence[Conversation], spans: bool, seconds: float
    ) -> tuple[list[Rendered | RowProblem], str | None]:
        """The outcomes, in order, and how the process ended if the next conversation ended it. ValueError if the
        template cannot be compiled."""
        new = key not in self._opened
        asked = [conversation.to_dict() for conversation in conversations]
        request = {"key": key, "seconds": seconds, "spans": spans, "conversations": asked}
        try:
            self._write({**request, **opening} if new else request)
            if new:
                answer = self._answer()
                if answer is None:
                    raise ValueError(f"the chat template {self._end()} when it is compiled; {_ADVICE}")
                if "error" in answer:
                    raise ValueError(answer["error"])
                self._opened.add(key)
            outcomes: list[Rendered | RowProblem] = []
            for _ in conversations:
                answer = self._answer()
                if answer is None:
                    return outcomes, self._end()
                outcomes.append(_outcome(answer))
        except BaseException:
            self.end()  # answers to an interrupted request must not count as answers to the next one
            raise
        return outcomes, None

    def end(self) -> None:
        """Kill the child, and close the pipes to it."""
        if self._pid == os.getpid():
            self._child.kill()
            self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            with contextlib.suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()

    def _write(self, request: Mapping[str, Any]) -> None:
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the child has ended: there will be no answer
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            self._child.stdin.flush()

    def _read(self) -> bytes:
        assert self._child.stdout is not None
        return self._child.stdout.readline()

    def _answer(self) -> dict[str, Any] | None:
        line = self._read()
        found: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
        return found

    def _end(self) -> str:
        """How the child has ended."""
        self._child.wait()
        self.end()
        return TOO_LONG if self._child.returncode == -signal.SIGPROF else "ends the process that renders it"


def _outcome(answer: Mapping[str, Any]) -> Rendered | RowProblem:
    if "text" in answer:
        spans: list[CharRange] = [(start, stop) for start, stop in answer["answers"]]
        return Rendered(answer["text"], tuple(spans))
    kind = BeyondLimits if answer["beyond"] else RowProblem
    return kind(answer["code"], answer["message"])


def _some(conversations: Sequence[Conversation], first: int) -> list[Conversation]:
    """The conversations from `first` on, at most as many as one request may hold."""
    found: list[Conversation] = []
    characters = 0
    for conversation in conversations[first:]:
        found.append(conversation)
        characters += sum(map(len, conversation.texts()))
        if characters >= _BATCH or len(found) == _MOST_IN_BATCH:
            break
    return found


_lock = threading.Lock()
_running: _Process | None = None


def _process() -> _Process:
    """The one child of this process; a new one if there is none or it has ended."""
    global _running
    if _running is not None and not _running.is_ours:
        _running.end()
        _running = None
    if _running is None:
        _running = _Process()
    return _running


@atexit.register
def end() -> None:
    """End the child, if there is one."""
    global _running
    if _running is not None:
        _running.end()
        _running = None
