"""Where a job will run on the available cluster: how many workers, and how many readers to feed them."""

from __future__ import annotations

import os
from dataclasses import replace

from tamis.pipeline.cluster.gpu_memory import check_weights, gpus_here, memory_here, shown, smallest_gpu, weights_of
from tamis.pipeline.cluster.machines import Cluster, Machine
from tamis.pipeline.cluster.pools import Placement, Pool, describe, pool_of
from tamis.pipeline.errors import ClusterError, ConfigError
from tamis.pipeline.job.job_file import LayersJob
from tamis.pipeline.job.sections import WorkerRange
from tamis.pipeline.planning.plan import Plan

HERE = "this machine, where Ray is not started"

READER_TOKENS = 1_000_000
"""The tokens that one reader tokenises in the time that another one takes to start."""

_MOST_BYTES_PER_TOKEN = 16
"""Bytes of a file per token, at most: 3 to 6 of text, some more for what surrounds it; less if it is compressed."""


def placed(plan: Plan, cluster: Cluster, *, refuse: bool = True) -> Plan:
    """The plan, with the places where its workers will run. ClusterError or ConfigError where they do not fit; with
    refuse=False, the unchanged plan instead of an error."""
    try:
        found = placement_of(plan.job, cluster, plan.parameters)
        pool = pool_of(cluster, plan.job)
        readers = readers_for(plan, plan.rows, pool)
        further = [(each.name, placement_of(each.job, cluster, each.parameters)) for each in plan.further]
    except (ClusterError, ConfigError):
        if refuse:
            raise
        return plan
    most = min(readers, max(int(cluster.cpus), 1))
    fed = f"{found.text}; {most:,} reader{'s' if most > 1 else ''} at most"
    found = replace(found, text=fed, pool=pool, readers=most)
    more = [f"{name}: {said}" for name, theirs in further for said in theirs.warnings if said not in found.warnings]
    return replace(plan, placement=found, warnings=(*plan.warnings, *found.warnings, *more))


def placement_of(job: LayersJob, cluster: Cluster, parameters: int | None) -> Placement:
    """Where the workers of `job` will run. ClusterError or ConfigError where they do not fit."""
    pool = pool_of(cluster, job)
    text = describe(pool, cluster.machines)
    notes = _notes(job, pool)
    if parameters is None:
        return Placement(text, warnings=notes)
    size, dtype = weights_of(parameters, job.model, on_gpu=pool.gpus_per_worker > 0)
    memory = None
    if pool.gpus_per_worker:
        memory = memory_here() if cluster.address == HERE else smallest_gpu()
    warning = check_weights(size, dtype, pool, memory) if memory is not None else None
    of = f", of its GPU's {shown(memory * pool.gpus_per_worker)}" if memory is not None else ""
    return Placement(text, f"about {shown(size)} a worker, in {dtype}{of}", (*notes, *([warning] if warning else [])))


def _notes(job: LayersJob, pool: Pool) -> tuple[str, ...]:
    """Notes for the person: nothing tells in advance whether a growing cluster will have GPUs."""
    if not isinstance(job.workers, WorkerRange) or pool.gpus_per_worker or job.model.device != "auto":
        return ()
    return ("the cluster has no GPU now, so the workers take CPUs; to wait for GPU nodes set model.gpus_per_worker",)


def this_machine() -> Cluster:
    """What Ray would find on this machine, as far as that is known without starting it: the GPUs that the driver
    counts, restricted to those in CUDA_VISIBLE_DEVICES."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = len(gpus_here())
    seen = gpus if named is None else min(gpus, len([name for name in named.split(",") if name.strip()]))
    return Cluster(HERE, (Machine(float(os.cpu_count() or 1), float(seen)),))


def readers_for(plan: Plan, rows: int, pool: Pool) -> int:
    """How many tasks tokenise this many rows at the same time, if there are CPUs: the job's setting, or one per million
    tokens and at least one per worker with a GPU, which would otherwise wait for rows."""
    if plan.job.readers is not None:
        return plan.job.readers
    return max(readers_of(tokens_of(plan, rows)), pool.workers if pool.gpus_per_worker else 1)


def tokens_of(plan: Plan, rows: int) -> float:
    """Roughly how many tokens this many rows have, estimated from the sampled rows. The size of the files gives a lower
    bound, in case the sampled rows are all bad or far shorter than the rest."""
    by_size = plan.bytes / _MOST_BYTES_PER_TOKEN * rows / max(plan.rows_in, 1)
    return max(plan.estimate.tokens_per_row * rows, by_size)


def readers_of(tokens: float) -> int:
    """How many tasks may tokenise this many tokens at the same time: each task takes seconds to start."""
    return max(round(tokens / READER_TOKENS), 1)
