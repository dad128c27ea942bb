"""The `tamis` command in its own process, forked from a process that has already imported everything.

A command's imports (torch, transformers) take seconds, and the tests run hundreds of commands. The forked command
still has its own process, arguments, folder, environment, output and exit code, and uses the entry point of the
console script. `python forking.py` is the parent process. It computes nothing and does not import Ray, so that it has
no threads, which a fork would lose. It ends when its standard input ends.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

IMPORTED = (
    "google.protobuf.descriptor_pool", "jsonschema", "pandas", "requests", "tamis.operators.forward.representations",
    "tamis.operators.tokens.questions", "tamis.pipeline.cli", "tamis.pipeline.models.checks",
    "tamis.pipeline.recipes.samples",
    "tamis.pipeline.commands.screens", "tamis.pipeline.recipes.tokens", "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
)  # fmt: skip
"""What a command imports for the models of these tests. Not Ray, which does not support forking."""

READ_AT_IMPORT = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "OMP_", "MKL_", "PYTHON", "LD_")
"""Prefixes of the environment variables that libraries read when they are imported."""


class Forks:
    """Starts commands, one at a time."""

    def __init__(self) -> None:
        self._parent: subprocess.Popen[str] | None = None

    def fits(self, env: Mapping[str, str]) -> bool:
        """Whether a forked command sees the same values of the variables read at import, and this system can wait
        for it.
        """
        if not hasattr(os, "pidfd_open"):  # only Linux has it
            return False
        names = {name for name in {*env, *os.environ} if name.startswith(READ_AT_IMPORT)}
        return all(env.get(name) == os.environ.get(name) for name in names)

    def run(
        self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Like `subprocess.run` with captured output."""
        if self._parent is None or self._parent.poll() is not None:
            command = [sys.executable, __file__]
            self._parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        with tempfile.TemporaryDirectory(prefix="forked-") as folder:
            stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
            order = {
                "arguments": list(arguments), "cwd": str(cwd), "env": dict(env), "timeout": timeout,
                "stdout": str(stdout), "stderr": str(stderr),
            }  # fmt: skip
            self._parent.stdin.write(json.dumps(order) + "\n")
            self._parent.stdin.flush()
            code = int(self._parent.stdout.readline())
            output, errors = (path.read_text(errors="replace") for path in (stdout, stderr))
        if code == _TOO_LONG:
            raise subprocess.TimeoutExpired(list(arguments), timeout, output, errors)
        return subprocess.CompletedProcess(list(arguments), code, output, errors)


_TOO_LONG = 1000


def serve() -> None:
    import select

    for name in IMPORTED:
        importlib.import_module(name)
    assert "ray" not in sys.modules
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_command(order))
        watched = os.pidfd_open(pid)
        ended, _, _ = select.select([watched], [], [], order["timeout"])
        os.close(watched)
        if not ended:
            os.killpg(pid, 9)  # the command and everything it started
        _, status = os.waitpid(pid, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status) if ended else _TOO_LONG}\n")
        answers.flush()


def _command(order: Mapping[str, Any]) -> int:
    """In the child: does what the console script does; returns its exit code."""
    os.setsid()
    for target, name in ((0, os.devnull), (1, order["stdout"]), (2, order["stderr"])):
        opened = os.open(name, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, target)
        os.close(opened)
    sys.stdin = os.fdopen(0, closefd=False)  # the parent's stdin object has read ahead
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    tempfile.tempdir = None
    sys.argv = ["tamis", *order["arguments"]]
    try:
        from tamis.pipeline.cli import main

        main()
        code: Any = 0
    except SystemExit as ending:
        code = ending.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


if __name__ == "__main__":
    serve()
