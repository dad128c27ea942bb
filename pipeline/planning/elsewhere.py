"""Where a job will run if no cluster is joined: on this machine, or on a cluster of GPUs that is not here.

A plan is often made on a laptop for a cluster that starts at night. Where the job says how many workers there will be
and that they have GPUs, and this machine lacks them, the plan is made by these numbers, and says so.
"""

from __future__ import annotations

from dataclasses import replace

from tamis.pipeline.cluster.gpu_memory import shown, weights_of
from tamis.pipeline.cluster.machines import Cluster, on_gpus
from tamis.pipeline.cluster.pools import UNKNOWN_CPUS, Placement, Pool, on_gpus_text
from tamis.pipeline.errors import ClusterError, ConfigError
from tamis.pipeline.job.job_file import LayersJob
from tamis.pipeline.job.sections import WorkerRange
from tamis.pipeline.planning.placement import placed, placement_of, readers_for, this_machine
from tamis.pipeline.planning.plan import Plan


def placed_without_cluster(plan: Plan) -> Plan:
    """The plan with the places of its workers. ClusterError or ConfigError where they do not fit this machine and the
    job does not describe another one."""
    here = this_machine()
    pool = asked_pool(plan.job, here)
    if pool is None:
        return placed(plan, here)
    readers = readers_for(plan, plan.rows, pool)
    fed = f"{readers:,} reader{'s' if readers > 1 else ''} at most"
    weights = ""
    if plan.parameters is not None:
        size, dtype = weights_of(plan.parameters, plan.job.model, on_gpu=True)
        weights = f"about {shown(size)} a worker, in {dtype}; how large its GPUs are is not known here"
    note = (
        "no cluster was asked (--address), so this is planned by workers and model.gpus_per_worker alone; started on "
        f"this machine, the job {_here(plan, here)}"
    )
    found = Placement(
        f"{on_gpus_text(pool)}, on a cluster that is not here; {fed}", weights, pool=pool, readers=readers
    )
    return replace(plan, placement=found, warnings=(*plan.warnings, note))


def asked_pool(job: LayersJob, here: Cluster) -> Pool | None:
    """The pool that the job itself describes; None if it does not, or if this machine can run it."""
    model, workers = job.model, job.workers
    expects = model.device == "cuda" or "gpus_per_worker" in model.model_fields_set
    if workers is None or model.device == "cpu" or not expects:
        return None
    least, most = (workers.min, workers.max) if isinstance(workers, WorkerRange) else (workers, workers)
    if sum(on_gpus(machine.gpus, model.gpus_per_worker) for machine in here.machines) >= most:
        return None
    return Pool(most, UNKNOWN_CPUS, model.gpus_per_worker, None, 1.0, least=least, begin=least)


def _here(plan: Plan, here: Cluster) -> str:
    try:
        return f"would have {placement_of(plan.job, here, plan.parameters).text}"
    except (ClusterError, ConfigError) as error:
        return f"would end: {error}"
