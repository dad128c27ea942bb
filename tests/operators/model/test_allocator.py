"""operators/model/allocator.py: freed memory is used again, without page faults, and given back when asked to."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, torch
from tamis.operators.model.allocator import keep_freed_memory
print(keep_freed_memory())
def use():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(8 << 20, dtype=torch.uint8) + 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
use()
print(use())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_used_again() -> None:
    # a process of its own: the setting is the process's, and so is the count
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    assert kept == "True"
    # 16 MiB in each of 20 rounds would be 81,920 faults of 4 KiB
    assert int(faults) < 1_000


GIVE_BACK = """
import psutil, torch
from tamis.operators.model.allocator import keep_freed_memory, return_freed_memory
keep_freed_memory()
torch.ones(64 << 20, dtype=torch.uint8) + 1
before = psutil.Process().memory_info().rss
print(return_freed_memory())
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_given_back_when_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", GIVE_BACK], capture_output=True, text=True, check=True)
    told, bytes_back = done.stdout.split()
    assert told == "True"
    assert int(bytes_back) > 100 << 20
