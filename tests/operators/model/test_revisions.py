"""A branch of the hub is asked once what it stands for: all files are of that commit, though it moves meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hub import running_hub

from tamis.operators.model.revisions import _by_config, resolve_revision

PROGRAM = """
from tamis.operators.model.revisions import {ask}
from transformers.utils import cached_file
revision = {ask}("team/tiny", {given!r})
print("asked", flush=True)
input()
print(open(cached_file("team/tiny", "rest.json", revision=revision)).read())
"""


# The second is how it is asked where transformers is the oldest.
@pytest.mark.parametrize("ask", ["resolve_revision", "_by_config"])
@pytest.mark.parametrize("given", [None, "dev"])
def test_a_branch_that_moves(ask: str, given: str | None, tmp_path: Path) -> None:
    with running_hub() as hub:
        repository = hub.add("models", "team/tiny", {})
        repository.commit({"config.json": b"{}", "rest.json": b"before"}, given or "main")
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        environment.pop("HF_HUB_OFFLINE", None)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-c", PROGRAM.format(ask=ask, given=given)]
        with subprocess.Popen(command, env=environment, text=True, **pipes) as program:
            assert program.stdout is not None
            first = program.stdout.readline()
            repository.commit({"config.json": b"{}", "rest.json": b"after"}, given or "main")
            rest, errors = program.communicate("\n", timeout=120)
    assert (first, rest) == ("asked\n", "before\n"), errors


@pytest.mark.parametrize("ask", [resolve_revision, _by_config])
def test_a_folder_and_a_hub_that_does_not_answer(ask: Callable[..., str | None], tmp_path: Path) -> None:
    assert ask(tmp_path, "dev") == "dev"
    assert ask(tmp_path, None) is None
    assert ask("team/nowhere", "dev") == "dev"  # tests are offline
