"""Where a job will run on the cluster that it finds: how many workers, and how many readers to feed them."""

from __future__ import annotations

import os
from dataclasses import replace

from tamis.pipeline.job import LayersJob
from tamis.pipeline.machines import Cluster, Machine
from tamis.pipeline.plan import Plan
from tamis.pipeline.pools import describe, size_pool

READER_TOKENS = 1_000_000
"""What one reader tokenises while another one starts."""

_MOST_BYTES_PER_TOKEN = 16
"""Of a file: 3 to 6 of text, some more of what is around it, and a fraction of that if it is packed."""


def placed(plan: Plan, cluster: Cluster) -> Plan:
    """The plan, which says where its workers will run. ClusterError where they do not fit."""
    readers = plan.job.readers or readers_of(tokens_of(plan, plan.rows))
    least = min(readers, max(int(cluster.cpus), 1))
    fed = f"; {least:,} reader{'s' if least > 1 else ''} at most"
    return replace(plan, placement=placement_of(plan.job, cluster) + fed)


def placement_of(job: LayersJob, cluster: Cluster) -> str:
    """How many workers there will be, and where. ClusterError where they do not fit."""
    pool = size_pool(cluster, job.workers, job.model.device, job.model.gpus_per_worker)
    return describe(pool, cluster.machines)


def this_machine() -> Cluster:
    """What Ray would find here, as far as can be said without starting it. Imports torch."""
    import torch

    return Cluster("local", (Machine(float(os.cpu_count() or 1), float(torch.cuda.device_count())),))


def tokens_of(plan: Plan, rows: int) -> float:
    """About how many tokens so many rows have: as the sampled ones do, and if those are all bad, or far shorter than
    what follows, at least as many as the size of the files says."""
    by_size = plan.bytes / _MOST_BYTES_PER_TOKEN * rows / max(plan.rows_in, 1)
    return max(plan.estimate.tokens_per_row * rows, by_size)


def readers_of(tokens: float) -> int:
    """How many tasks may tokenise so many tokens at a time: each takes seconds to start."""
    return max(round(tokens / READER_TOKENS), 1)
