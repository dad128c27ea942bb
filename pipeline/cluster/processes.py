"""Telling a process from another that has its number later."""

from __future__ import annotations

import os

import psutil


def started(pid: int) -> float:
    """When the process started, in seconds since the machine did: the clock of the day may be set meanwhile, and
    psutil's time would go with it. Where the system does not say, by the clock of the day.

    Raises psutil.NoSuchProcess, psutil.AccessDenied.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The second field is a name in parentheses, in which there may be anything.
            fields = file.read().rpartition(b")")[2].split()
    except ProcessLookupError:
        raise psutil.NoSuchProcess(pid) from None
    except OSError:
        return float(psutil.Process(pid).create_time())
    return int(fields[19]) / float(os.sysconf("SC_CLK_TCK"))
