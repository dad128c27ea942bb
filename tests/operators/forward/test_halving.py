"""Every row is run once, or fails alone; the smallest batch that can fail is the one that does."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.forward.halving import RowNumbers, run_halving

pytestmark = pytest.mark.usefixtures("one_thread")

NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory")


class Machine:
    """Runs batches; fails on those that are too large or hold a broken row."""

    def __init__(self, most: int, broken: set[int], error: Exception) -> None:
        self.most, self.broken, self.error = most, broken, error
        self.batches: list[list[int]] = []
        self.done: list[int] = []
        self.failed = self.recovered = 0

    def run(self, rows: RowNumbers) -> None:
        self.batches.append(rows.tolist())
        self.failed += 1
        if len(rows) > self.most:
            raise NO_MEMORY
        if self.broken & set(rows.tolist()):
            raise self.error
        self.failed -= 1
        self.done += rows.tolist()

    def recover(self) -> None:
        self.recovered += 1


def batches(*sizes: int) -> list[RowNumbers]:
    stops = np.cumsum(sizes)
    return [np.arange(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    most=st.integers(1, 25),
    broken=st.sets(st.integers(1, 60)),
)
def test_every_row_is_done_once_or_set_aside(sizes: list[int], most: int, broken: set[int]) -> None:
    rows = set(range(sum(sizes)))
    machine = Machine(most, broken, RuntimeError("a broken row"))
    problems = run_halving(batches(*sizes), machine.run, recover=machine.recover)
    assert set(problems) == broken & rows
    assert sorted(machine.done) == sorted(rows - broken)
    assert machine.recovered == machine.failed


def test_halves_come_in_order_and_the_rest_goes_on() -> None:
    machine = Machine(2, set(), NO_MEMORY)
    assert run_halving(batches(5, 2), machine.run, recover=machine.recover) == {}
    assert machine.batches == [[0, 1, 2, 3, 4], [0, 1], [2, 3, 4], [2], [3, 4], [5, 6]]
    assert machine.recovered == 2


def test_the_problem_names_the_kind_of_error_and_not_its_text() -> None:
    machine = Machine(9, {2}, RuntimeError("secret sample text"))
    problems = run_halving(batches(4), machine.run, recover=machine.recover)
    assert problems[2].code == "forward_failed"
    assert "RuntimeError" in problems[2].message
    assert "secret" not in problems[2].message


def test_an_error_of_every_row_is_the_programs() -> None:
    machine = Machine(9, {0, 1, 2}, TypeError("a mistake in the program"))
    with pytest.raises(TypeError, match="a mistake"):
        run_halving(batches(2, 1), machine.run, recover=machine.recover)
    assert len(machine.batches) == 4


def test_one_row_is_no_evidence_against_the_program() -> None:
    machine = Machine(9, {0}, TypeError("a mistake"))
    assert set(run_halving(batches(1), machine.run, recover=machine.recover)) == {0}


def test_no_memory_for_any_row_is_not_raised() -> None:
    machine = Machine(0, set(), NO_MEMORY)
    assert set(run_halving(batches(3), machine.run, recover=machine.recover)) == {0, 1, 2}


def test_a_broken_accelerator_ends_the_run() -> None:
    machine = Machine(9, {0}, torch.AcceleratorError("device-side assert"))
    with pytest.raises(torch.AcceleratorError):
        run_halving(batches(4, 4), machine.run, recover=machine.recover)
    assert len(machine.batches) == 1


def test_a_failed_batch_leaves_nothing_behind() -> None:
    """The tensors of a batch that did not fit must be gone before its halves are run."""
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def run(rows: RowNumbers) -> None:
        gc.collect()
        alive.extend(reference() is not None for reference in held)
        large = torch.zeros(8)
        held.append(weakref.ref(large))
        if len(rows) > 1:
            raise NO_MEMORY

    assert run_halving(batches(4), run, recover=lambda: None) == {}
    assert alive
    assert not any(alive)


def test_no_batches() -> None:
    assert run_halving([], lambda rows: None, recover=lambda: None) == {}
