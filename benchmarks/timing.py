"""Time several ways of doing one thing so that they can be compared: interleaved, repeated, medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True)
class Summary:
    """Of the repeats of one measurement, in its own unit."""

    median: float
    min: float
    max: float
    repeats: int

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def summarise(values: Sequence[float]) -> Summary:
    return Summary(statistics.median(values), min(values), max(values), len(values))


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call; work that a GPU still has to do is part of it."""
    synchronise(device)
    began = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - began


def cpu_seconds(run: Callable[[], object]) -> float:
    """Processor time of one call, of all threads of this process: it says more than wall time on a busy machine."""
    began = time.process_time()
    run()
    return time.process_time() - began


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleave(
    measurements: Mapping[str, Callable[[], float]], repeats: int, tell: Callable[[str], None] = lambda line: None
) -> dict[str, list[float]]:
    """Take every measurement `repeats` times: each round takes all of them, and begins with another one.

    A machine that slows down for a while then slows all of them, and none always runs on another's warm caches.
    """
    names = list(measurements)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(repeats):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(measurements[name]())
        tell(f"round {number + 1} of {repeats}")
    return taken
