"""The process in which chat templates run, started by render_process.py: `python -P -m
tamis.pipeline.models.render_child`.

Requests and answers are lines of JSON, on stdin and stdout. Every conversation has a limit of CPU seconds, after which
the kernel ends the process, whatever it is doing. Nothing large is imported: it starts in a tenth of a second.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from tamis.operators.conversation.conversation import Conversation
from tamis.operators.problems import RowProblem
from tamis.operators.tokens.rendering import BeyondLimits, Renderer

MOST_MEMORY = 1 << 30
"""The most bytes of address space. A conversation has at most 4 MiB (tokenizer.MOST_BYTES)."""
READY = b"ready\n"


def main() -> None:
    """Answer requests until stdin ends, which also happens when the parent process ends."""
    # The terminal's Ctrl-C is for the parent process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # the machine allows less, or has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    renderers: dict[str, Renderer] = {}
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    for line in sys.stdin.buffer:
        for answer in _answers(json.loads(line), renderers):
            # One answer at a time, so that the parent knows at which conversation the process has ended.
            sys.stdout.buffer.write(answer + b"\n")
            sys.stdout.buffer.flush()


def _answers(request: dict[str, Any], renderers: dict[str, Renderer]) -> Iterator[bytes]:
    """One line for the template, if the request has one, and one line for each of its conversations."""
    key, seconds = request["key"], request["seconds"]
    if "template" in request:
        yield _timed(seconds, lambda: _opened(renderers, key, request["template"], request["variables"]))
    for conversation in request["conversations"]:
        yield _timed(seconds, partial(_rendered, renderers[key], request["spans"], conversation))


def _timed(seconds: float, work: Callable[[], dict[str, Any]]) -> bytes:
    # CPU time, because a template must not count as too slow on a busy machine.
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return json.dumps(work()).encode()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _opened(renderers: dict[str, Renderer], key: str, template: str, variables: dict[str, str]) -> dict[str, Any]:
    try:
        renderers[key] = Renderer(template, variables)
    except ValueError as error:
        return {"error": str(error)}
    return {}


def _rendered(renderer: Renderer, spans: bool, given: dict[str, Any]) -> dict[str, Any]:
    conversation = Conversation.from_dict(given)
    try:
        if not spans:
            return {"text": renderer.text(conversation), "answers": []}
        rendered = renderer.render(conversation)
        return {"text": rendered.text, "answers": rendered.answers}
    except RowProblem as problem:
        return {"code": problem.code, "message": problem.message, "beyond": isinstance(problem, BeyondLimits)}


if __name__ == "__main__":
    main()
