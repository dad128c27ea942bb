"""Run batches of rows; one that fails is halved, down to one row, and a row that fails alone is set aside.

A lack of memory and a row that breaks the model are treated alike: in halves, what fits gets through and what does
not is found.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from tamis.operators.model.loading import is_out_of_memory
from tamis.operators.problems import RowProblem

Rows = npt.NDArray[np.int64]


def run_halving(
    batches: Sequence[Rows], run: Callable[[Rows], None], *, recover: Callable[[], None]
) -> dict[int, RowProblem]:
    """Call run(batch) for each batch in turn, or for its halves where it raises.

    batches: arrays of row numbers (B,), no row twice. run: scores the rows and keeps their results. recover: called
    after each failure; lets go of what the failed batch still holds on the device.
    Returns a forward_failed problem for every row that failed alone. Raises the first error that is not a lack of
    memory if all of two or more rows failed: then it is no row's fault. An accelerator's own error that is not a lack
    of memory is raised at once: nothing on it can be trusted, or run, any more.
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


def _attempt(rows: Rows, run: Callable[[Rows], None]) -> Exception | None:
    try:
        run(rows)
        return None
    except Exception as error:
        if isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error):
            raise
        # the frames hold the batch's tensors: halving would not free any memory
        traceback.clear_frames(error.__traceback__)
        return error


def _problem(error: Exception) -> RowProblem:
    return RowProblem("forward_failed", f"the model raised {type(error).__name__} on this sample alone")
