"""Whose garbage collector is changed, and whose is not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tamis.pipeline.cluster.session import WORKER_ENVIRONMENT

DEFAULT = "import gc; before = gc.get_threshold()\n"
COMMAND = """
import sys, tamis.pipeline.cli as cli
sys.argv = ["tamis", "--version"]
try:
    cli.main()
except SystemExit:
    pass
"""


@pytest.mark.parametrize(
    ("code", "env", "changes"),
    [
        pytest.param("import tamis.operators.training.trainer", {}, False, id="a program that imports tamis"),
        pytest.param("import tamis.pipeline.capture.tokenise", WORKER_ENVIRONMENT, True, id="a worker"),
        pytest.param(COMMAND, {}, True, id="a command"),
    ],
)
def test_only_processes_of_our_own_collect_rarely(code: str, env: dict[str, str], changes: bool) -> None:
    program = f"{DEFAULT}{code}\nprint(gc.get_threshold() != before, gc.get_threshold()[0] >= 100_000)"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | env, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == f"{changes} {changes}"


def test_cycles_are_still_collected() -> None:
    program = (
        "import gc, weakref; from tamis.pipeline.cluster.collecting import collect_rarely; collect_rarely()\n"
        "class Node: pass\n"
        "first = Node(); first.me = first; gone = weakref.ref(first); del first\n"
        "keep = [[] for _ in range(200_000)]\n"
        "print(gone() is None)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
