"""How many copies of the model run on a cluster, and the resources of each."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tamis.pipeline.cluster.machines import Cluster, Machine, alive, on_gpus, room_beside_a_task, room_for
from tamis.pipeline.errors import ClusterError
from tamis.pipeline.job.job_file import LayersJob
from tamis.pipeline.job.sections import WorkerRange

UNKNOWN_CPUS = 0.25
"""The CPUs of a GPU worker whose node is not there yet: few enough for any node."""

Workers = int | WorkerRange | None
"""The `workers` setting of a job."""


@dataclass(frozen=True)
class Pool:
    """How many copies of the model run, and the resources of each.

    workers: the most copies. threads: per worker, for computation on CPUs. readers: the most tasks that read and
    tokenise for them at the same time; None for as many as fit. least: how many workers must have room before the first
    one starts. begin: how many workers would fit the present cluster if it were empty.
    """

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    threads: int | None
    task_cpus: float
    readers: int | None = None
    least: int = 1
    begin: int = 1


@dataclass(frozen=True)
class Placement:
    """text: how many workers there will be, and where. weights: the weights that each one loads; empty where they are
    not known. warnings: what a person should know before the run. pool: of these workers. readers: how many tasks
    tokenise for them, at most; 0 where that was not asked."""

    text: str
    weights: str = ""
    warnings: tuple[str, ...] = ()
    pool: Pool | None = None
    readers: int = 0


def pool_of(cluster: Cluster, job: LayersJob) -> Pool:
    """`size_pool` for the settings of a job. Settings that only GPUs can meet say that GPU nodes will come."""
    model = job.model
    expects = model.device == "cuda" or "gpus_per_worker" in model.model_fields_set
    return size_pool(cluster, job.workers, model.device, model.gpus_per_worker, expects_gpus=expects)


def size_pool(
    cluster: Cluster, workers: Workers, device: str, gpus_per_worker: float, *, expects_gpus: bool = False
) -> Pool:
    """One worker per GPU share, or one per node on CPUs, unless `workers` says otherwise.

    A worker reserves only part of its node's CPUs, so that reading and writing always have room beside it: an actor
    that holds every CPU would wait for tasks that wait for the actor. A range of workers may exceed the present
    cluster. expects_gpus: a cluster that grows will have GPUs, even if it has none yet. Raises ClusterError when the
    workers cannot fit.
    """
    grows = isinstance(workers, WorkerRange)
    if not cluster.cpus and not grows:
        raise ClusterError("the cluster has no CPU for tasks; let it have a worker node before the job starts")
    if device != "cpu" and (cluster.gpus or (grows and expects_gpus)):
        return _of_gpus(cluster, workers, gpus_per_worker)
    if device == "cuda":
        raise ClusterError(
            "model.device is cuda and the cluster has no GPU; use auto or cpu, join another cluster, or set workers to "
            "{min: 1, max: N} to wait for GPU nodes that are to come"
        )
    return _of_a_range(cluster, workers) if isinstance(workers, WorkerRange) else _of_cpus(cluster, workers)


def refit(pool: Pool, job: LayersJob) -> Pool:
    """The pool for the cluster after it has lost or gained nodes. The number of threads stays, because the rounding of
    a forward pass depends on it. Where no worker has room: one worker, which waits for a node."""
    now, device = Cluster("", alive()), job.model.device if pool.gpus_per_worker else "cpu"
    alone = replace(pool, workers=1, least=1, begin=1)
    if pool.gpus_per_worker and not now.gpus:
        return replace(alone, workers=pool.workers)
    try:
        found = size_pool(now, job.workers, device, job.model.gpus_per_worker)
    except ClusterError:
        try:
            found = size_pool(now, None, device, job.model.gpus_per_worker)
        except ClusterError:
            return alone
    here = room_for(now.machines, found.cpus_per_worker, found.gpus_per_worker)
    begin = max(min(found.begin, here), 1)
    return replace(found, threads=pool.threads, readers=pool.readers, least=1, begin=begin)


def at_most(pool: Pool, workers: int) -> Pool:
    """The pool with at most `workers` workers: where there is less work, the others would load a model for nothing."""
    return replace(
        pool,
        workers=min(pool.workers, workers),
        least=min(pool.least, workers),
        begin=min(pool.begin, workers),
    )


def device_of(device: str, pool: Pool) -> str:
    """The device of the pool's workers. A worker without a GPU of its own leaves the visible GPUs to others."""
    return device if pool.gpus_per_worker else "cpu"


def room(pool: Pool) -> int:
    """How many of the pool's workers would fit the present cluster if it were empty."""
    return min(room_for(alive(), pool.cpus_per_worker, pool.gpus_per_worker), pool.workers)


def room_with_tasks(pool: Pool) -> int:
    """As `room`, with a place for one of the tasks that read for the workers, wherever the workers are."""
    found = room_beside_a_task(alive(), pool.cpus_per_worker, pool.gpus_per_worker, pool.task_cpus)
    return min(found, pool.workers)


def _of_gpus(cluster: Cluster, workers: Workers, share: float) -> Pool:
    hosts = [machine for machine in cluster.machines if on_gpus(machine.gpus, share)]
    now = sum(on_gpus(machine.gpus, share) for machine in hosts)
    least = workers.min if isinstance(workers, WorkerRange) else 1
    most = workers.max if isinstance(workers, WorkerRange) else workers or now
    if not isinstance(workers, WorkerRange) and (most > now or not now):
        largest = max((machine.gpus for machine in cluster.machines), default=0.0)
        raise ClusterError(
            f"{_many(most or 1, 'worker')} of {share:g} GPU each do not fit the cluster's {cluster.gpus:g} "
            f"(at most {now} do; the largest node has {largest:g}); lower workers or model.gpus_per_worker, or set "
            "workers to {min: 1, max: N} to wait for nodes that are to come"
        )
    begin = min(max(now, least), most)
    on = [min(on_gpus(machine.gpus, share), most) for machine in hosts]
    cpus = min((_down(machine.cpus / (2 * count)) for machine, count in zip(hosts, on, strict=True)),
               default=UNKNOWN_CPUS)  # fmt: skip
    cpus = min(cpus, 1.0)
    threads = min((max(int(machine.cpus / count), 1) for machine, count in zip(hosts, on, strict=True)), default=1)
    beside = [machine.cpus - cpus * min(on_gpus(machine.gpus, share), most) for machine in cluster.machines]
    return Pool(most, cpus, share, threads, min(1.0, max(beside, default=1.0) or 1.0), least=least, begin=begin)


def _of_cpus(cluster: Cluster, workers: int | None) -> Pool:
    count = workers or sum(machine.cpus > 0 for machine in cluster.machines)
    per_node = max(cluster.cpus / cluster.nodes, 1)
    threads = max(int(per_node * cluster.nodes / count), 1)
    cpus = min(1.0, cluster.cpus / (2 * count))
    smallest = min(machine.cpus for machine in cluster.machines if machine.cpus > 0)
    task_cpus = min(1.0, max(cluster.cpus - cpus * count, 0.25), smallest) / 2
    return Pool(count, cpus, 0.0, threads, task_cpus, begin=count)


def _of_a_range(cluster: Cluster, workers: WorkerRange) -> Pool:
    """One worker per node, on present and on future nodes. Each takes a little more than half of the largest node, so
    that two workers never share a node and tasks have room beside each. Nodes of at most half that size run only
    tasks."""
    largest = max((machine.cpus for machine in cluster.machines), default=0.0) or 1.0
    cpus = math.floor(50 * largest + 1) / 100
    now = room_for(cluster.machines, cpus, 0.0)
    begin = min(max(now, workers.min), workers.max)
    return Pool(
        workers.max, cpus, 0.0, max(int(largest), 1), min(1.0, largest - cpus) / 2, least=workers.min, begin=begin
    )


def _down(cpus: float) -> float:
    """Rounded down to ten-thousandths, the unit in which Ray counts."""
    return math.floor(cpus * 10_000) / 10_000


def describe(pool: Pool, machines: tuple[Machine, ...]) -> str:
    """For the plan: how many workers there will be, and where."""
    share, count = pool.gpus_per_worker, pool.workers
    hosts = min(sum(bool(on_gpus(m.gpus, share) if share else m.cpus) for m in machines), count)
    nodes = _many(hosts, "node")
    if share:
        said = f"{_workers_on_gpus(count, share)}{f', on {nodes}' if hosts else ''}"
    else:
        said = f"{_many(count, 'worker')} on the CPUs{f' of {nodes}' if hosts else ''}"
    fit = min(room_for(machines, pool.cpus_per_worker, share), count)
    if fit >= count:
        return said
    return f"{pool.least} to {said}; {fit or 'none'} {'fits' if fit == 1 else 'fit'} now, the rest as nodes come"


def on_gpus_text(pool: Pool) -> str:
    """How many workers with GPUs there will be, without the nodes that they will be on."""
    least = f"{pool.least} to " if pool.least < pool.workers else ""
    return least + _workers_on_gpus(pool.workers, pool.gpus_per_worker)


def _workers_on_gpus(count: int, share: float) -> str:
    a_gpu = on_gpus(1, share)
    each = f"{share:g} GPUs each" if share > 1 else f"{'one' if a_gpu == 1 else a_gpu} a GPU"
    return f"{_many(count, 'worker')}, {each}"


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
