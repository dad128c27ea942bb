"""Runs batches of rows. A batch that fails is halved, down to one row; a row that fails on its own is quarantined.

Running out of memory and a row that breaks the model are handled the same way: by halving, rows that work get
through and the rows that do not are found.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence

import torch

from tamis.operators.forward.rows import RowNumbers
from tamis.operators.model.loading import is_out_of_memory
from tamis.operators.problems import RowProblem


def run_halving(
    batches: Sequence[RowNumbers], run: Callable[[RowNumbers], None], *, recover: Callable[[], None]
) -> dict[int, RowProblem]:
    """Calls run(batch) for each batch in turn, or for its halves if it raises.

    batches: arrays of row numbers (B,), no row twice.
    run: scores the rows and keeps their results.
    recover: called after each failure; releases what the failed batch still holds on the device.
    Returns a forward_failed problem for every row that failed on its own. If there are two or more rows and all
    failed, raises the first error that is not an out-of-memory error: the rows are not the cause. An accelerator
    error that is not an out-of-memory error is raised at once: nothing more can be run, or trusted, on that device.
    """
    pending = list(batches)[::-1]
    failures: dict[int, Exception] = {}
    while pending:
        rows = pending.pop()
        error = _attempt(rows, run)
        if error is None:
            continue
        recover()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(rows) > 1:
            half = len(rows) // 2
            pending += [rows[half:], rows[:half]]
        else:
            failures[int(rows[0])] = error

    at_fault = [error for error in failures.values() if not is_out_of_memory(error)]
    if len(failures) == sum(len(rows) for rows in batches) > 1 and at_fault:
        raise at_fault[0]
    return {row: _problem(error) for row, error in failures.items()}


def _attempt(rows: RowNumbers, run: Callable[[RowNumbers], None]) -> Exception | None:
    try:
        run(rows)
        return None
    except Exception as error:
        if isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error):
            raise
        # the frames hold the batch's tensors: without this, halving would not free any memory
        traceback.clear_frames(error.__traceback__)
        return error


def _problem(error: Exception) -> RowProblem:
    return RowProblem("forward_failed", f"the model raised {type(error).__name__} on this sample alone")
