"""Telling a process from a later one with the same pid."""

from __future__ import annotations

import os

import psutil


def started(pid: int) -> float:
    """When the process started, in seconds since the machine booted. psutil's start time would move when somebody sets
    the clock. Where the system does not tell, the time of the clock.

    Raises psutil.NoSuchProcess, psutil.AccessDenied.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The second field is a name in parentheses, which may contain anything.
            fields = file.read().rpartition(b")")[2].split()
    except ProcessLookupError:
        raise psutil.NoSuchProcess(pid) from None
    except OSError:
        return float(psutil.Process(pid).create_time())
    return int(fields[19]) / float(os.sysconf("SC_CLK_TCK"))
