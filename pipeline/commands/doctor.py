"""`tamis doctor`: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from typing import Any

from tamis.pipeline.cluster.session import ray_session
from tamis.pipeline.commands import showing
from tamis.pipeline.commands.screens import size
from tamis.pipeline.emit.publish import versions
from tamis.pipeline.errors import TamisError
from tamis.pipeline.models.render_process import BoundedRenderer
from tamis.pipeline.terminal.progress import at_work, phase
from tamis.pipeline.terminal.text import shown
from tamis.pipeline.terminal.voice import VOICE


@at_work()
def examine(model: str | None, address: str | None) -> bool:
    """Print one line per check; True when nothing prevents a run."""
    sound = True

    phase("doctor", "looking at this machine")

    def say(good: bool, what: str, found: str, advice: str = "") -> None:
        nonlocal sound
        sound = sound and good
        words = shown(f"{found}{'' if good or not advice else f' -> {advice}'}")
        line = f"{'ok  ' if good else 'BAD '} {what:<12} {words}"
        facts: dict[str, Any] = {"ok": good, "name": what, "found": found, "advice": None if good else advice or None}
        VOICE.show(lambda: print(line), f"{what}: {words}", "check", "info" if good else "error", **facts)

    say(
        sys.version_info >= (3, 11),
        "python",
        f"{platform.python_version()} at {sys.executable}",
        "install Python 3.11 or newer",
    )
    say(
        True,
        "packages",
        ", ".join(f"{name} {version}" for name, version in versions().items() if name != "python"),
    )
    say(True, "processors", f"{os.cpu_count()} cores, {size(_memory())} memory")
    free = shutil.disk_usage(tempfile.gettempdir()).free
    say(
        free > 2e9,
        "disk",
        f"{size(free)} free in {tempfile.gettempdir()}",
        "Ray needs a few GB there; set RAY_TMPDIR",
    )
    shared = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else None
    if shared is not None:
        say(
            shared > 5e8,
            "shared memory",
            f"{size(shared)} in /dev/shm",
            "in Docker, start with --shm-size=2g or more",
        )
    import torch

    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    say(True, "gpus", ", ".join(gpus) or "none; the forward pass will run on the CPU")
    try:
        with ray_session(address) as cluster:
            found = f"{cluster.address}: {cluster.nodes} node(s), {cluster.cpus:g} CPUs, {cluster.gpus:g} GPUs"
            say(
                cluster.cpus >= 1,
                "ray",
                f"{found}, ready in {cluster.seconds_to_start:.1f} s",
                "a job needs at least one CPU",
            )
    except TamisError as error:
        say(False, "ray", str(error))
    if model is not None:
        _examine_model(model, say)
    showing.result("ready" if sound else "not ready; see the lines marked BAD", ready=sound)
    return sound


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _examine_model(model: str, say: object) -> None:
    from tamis.operators.forward.representations import check_model
    from tamis.operators.requests import Request
    from tamis.operators.tokens.tokenizer import ChatTokenizer
    from tamis.pipeline.models.checks import check_vocabulary, unusable
    from tamis.pipeline.models.fetch import fetch

    assert callable(say)
    try:
        source = fetch(model, None, weights=True)
        info, _ = check_model(source.path, [Request(0, "last_token")])
        tokenizer = ChatTokenizer.load(source.path, renderer=BoundedRenderer)
        check_vocabulary(tokenizer, info)
    except Exception as error:
        say(False, "model", str(unusable(model, error)))
        return
    template = "its own chat template" if tokenizer.has_template else "no chat template; a plain one is used"
    say(True, "model", f"{model}: {info.architecture}, {info.blocks} blocks x {info.width}; {template}")
