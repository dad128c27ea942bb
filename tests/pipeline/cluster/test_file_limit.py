"""A limit of open files with which Ray would end the process without a word is one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os
os.environ.pop("RAY_ADDRESS", None)
from tamis.pipeline.errors import ClusterError
from tamis.pipeline.cluster.file_limit import check_file_limit
from tamis.pipeline.cluster.session import ray_session

try:
    check_file_limit()
    print("enough")
except ClusterError:
    try:
        with ray_session(None):
            pass
    except ClusterError as error:
        print(error)
"""


@pytest.mark.parametrize(("limit", "says"), [(64, "this process may open 64 files at most"), (4096, "enough")])
def test_too_few_files(limit: int, says: str) -> None:
    command = ["bash", "-c", f'ulimit -n {limit}; exec "$@"', "bash", sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(says), done
    assert ("ulimit -n" in done.stdout) == (limit == 64)
