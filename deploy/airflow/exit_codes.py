"""What a schedule does with an exit code of tamis. No Airflow in here, so that it can be tested without."""

from __future__ import annotations

from typing import Literal

Next = Literal["done", "retry", "page"]

RETRY = {4: "incomplete: some shards failed", 5: "the cluster or the storage failed"}
"""The same command goes on where it stopped."""

PAGE = {2: "the job is wrong", 3: "the input is wrong", 6: "done, but the data has drifted", 70: "a fault of tamis"}
"""It would end so again. After 6 the output is there, whole, for a person to look at."""


def what_next(code: int) -> Next:
    """done, retry or page, for an exit code of tamis. An unknown one is for a person."""
    if code == 0:
        return "done"
    return "retry" if code in RETRY else "page"


def in_words(code: int) -> str:
    """One line for the log and the pager."""
    why = (RETRY | PAGE).get(code, "killed or stopped" if code < 0 or code > 128 else "see the log")
    return f"tamis ended with exit code {code}: {why}"
