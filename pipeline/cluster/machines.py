"""The machines of a Ray cluster, and how many workers of one size they have room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_TINY = 1e-9


@dataclass(frozen=True)
class Machine:
    """The total resources of one node of a cluster, used or not."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Cluster:
    """The resources of the cluster now. seconds_to_start: how long the run has waited for Ray."""

    address: str
    machines: tuple[Machine, ...]
    seconds_to_start: float = 0.0

    @property
    def nodes(self) -> int:
        return len(self.machines)

    @property
    def cpus(self) -> float:
        return sum(machine.cpus for machine in self.machines)

    @property
    def gpus(self) -> float:
        return sum(machine.gpus for machine in self.machines)


def on_gpus(gpus: float, share: float) -> int:
    """How many workers of `share` GPUs fit this many GPUs of one machine. A fraction of a GPU lies on a single GPU:
    three workers of 0.6 need three GPUs. 0.2 fits five times, despite the rounding of floats."""
    a_gpu = int(1 / share + _TINY)
    return int(gpus) * a_gpu if a_gpu else int(gpus / share + _TINY)


def room_for(machines: Sequence[Machine], cpus: float, gpus: float) -> int:
    """How many workers of this many CPUs and GPUs would fit the machines if they were empty."""
    return sum(_fitting(machine, cpus, gpus) for machine in machines)


def room_beside_a_task(machines: Sequence[Machine], cpus: float, gpus: float, task_cpus: float) -> int:
    """How many workers would fit the machines if they were empty, so that a task of `task_cpus` CPUs always finds room
    beside them, wherever they are. More of them may take every CPU, and then wait for tasks that wait for them. Where
    there is no CPU at all, it is not the workers who take it."""
    most = [_fitting(machine, cpus, gpus) for machine in machines]
    full = [_on_cpus(machine.cpus - task_cpus, cpus) + 1 if machine.cpus > task_cpus - _TINY else 0
            for machine in machines]  # fmt: skip
    fills_up = all(needed <= fitting for needed, fitting in zip(full, most, strict=True))
    if not fills_up or not any(machine.cpus for machine in machines):
        return sum(most)
    return min(sum(most), max(sum(full) - 1, 0))


def _fitting(machine: Machine, cpus: float, gpus: float) -> int:
    return min(_on_cpus(machine.cpus, cpus), on_gpus(machine.gpus, gpus) if gpus else 1 << 30)


def _on_cpus(cpus: float, share: float) -> int:
    return int(cpus / share + 1e-6) if share else 1 << 30


def alive() -> tuple[Machine, ...]:
    """The nodes that are in the cluster now. Ray must be running."""
    import ray

    return tuple(
        Machine(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    )
