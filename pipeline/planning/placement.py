"""Where a job will run on the cluster that it finds: how many workers, and how many readers to feed them."""

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
"""What one reader tokenises while another one starts."""

_MOST_BYTES_PER_TOKEN = 16
"""Of a file: 3 to 6 of text, some more of what is around it, and a fraction of that if it is packed."""


def placed(plan: Plan, cluster: Cluster, *, refuse: bool = True) -> Plan:
    """The plan, which says where its workers will run. ClusterError or ConfigError where they do not fit, or, without
    refuse, the plan as it is."""
    try:
        found = placement_of(plan.job, cluster, plan.parameters)
        readers = readers_for(plan, plan.rows, pool_of(cluster, plan.job))
    except (ClusterError, ConfigError):
        if refuse:
            raise
        return plan
    most = min(readers, max(int(cluster.cpus), 1))
    fed = f"{found.text}; {most:,} reader{'s' if most > 1 else ''} at most"
    return replace(plan, placement=replace(found, text=fed), warnings=(*plan.warnings, *found.warnings))


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
    """Nothing tells whether a cluster that grows will have GPUs."""
    if not isinstance(job.workers, WorkerRange) or pool.gpus_per_worker or job.model.device != "auto":
        return ()
    return ("the cluster has no GPU now, so the workers take CPUs; to wait for GPU nodes set model.gpus_per_worker",)


def this_machine() -> Cluster:
    """What Ray would find here, as far as can be said without starting it: it counts the GPUs that the driver has, and
    of these the ones that CUDA_VISIBLE_DEVICES names."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = len(gpus_here())
    seen = gpus if named is None else min(gpus, len([name for name in named.split(",") if name.strip()]))
    return Cluster(HERE, (Machine(float(os.cpu_count() or 1), float(seen)),))


def readers_for(plan: Plan, rows: int, pool: Pool) -> int:
    """How many tasks at a time tokenise so many rows, as far as there are CPUs: the job's word, or one for each million
    tokens, and at least one for each worker that has a GPU, which would wait for rows else."""
    if plan.job.readers is not None:
        return plan.job.readers
    return max(readers_of(tokens_of(plan, rows)), pool.workers if pool.gpus_per_worker else 1)


def tokens_of(plan: Plan, rows: int) -> float:
    """About how many tokens so many rows have: as the sampled ones do, and if those are all bad, or far shorter than
    what follows, at least as many as the size of the files says."""
    by_size = plan.bytes / _MOST_BYTES_PER_TOKEN * rows / max(plan.rows_in, 1)
    return max(plan.estimate.tokens_per_row * rows, by_size)


def readers_of(tokens: float) -> int:
    """How many tasks may tokenise so many tokens at a time: each takes seconds to start."""
    return max(round(tokens / READER_TOKENS), 1)
