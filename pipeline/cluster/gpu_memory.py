"""Whether the weights that a worker loads fit its GPU, known before anything is loaded."""

from __future__ import annotations

import math
import subprocess
from contextlib import suppress

from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.cluster.tasks import let_end
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.job.sections import ModelSpec

_FOR_WEIGHTS = 0.85
"""The share of a GPU's memory that the weights may take; the rest is for the batches."""

_LOOK_SECONDS = 20.0
_MOST_NODES = 16
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def weights_of(parameters: int, spec: ModelSpec, *, on_gpu: bool) -> tuple[int, str]:
    """The bytes that a worker needs for this many parameters, and the number format."""
    dtype = spec.dtype if spec.dtype != "auto" else "bfloat16" if on_gpu else "float32"
    return parameters * _BYTES[dtype], dtype


def check_weights(weights: int, dtype: str, pool: Pool, memory: int) -> str | None:
    """A warning where little memory is left for the batches. memory: bytes of one GPU. ConfigError where the weights
    alone are too large."""
    share = pool.gpus_per_worker
    room = memory * share
    if weights <= _FOR_WEIGHTS * room:
        return None
    needed = math.ceil(weights / (_FOR_WEIGHTS * memory))
    ways = [f"set model.gpus_per_worker to {max(needed, 1)}"] if share < max(needed, 1) else []
    ways += ["set model.dtype to bfloat16"] if dtype == "float32" else []
    ways += ["read a lower block, where one is read", "take GPUs with more memory"]
    said = (
        f"a worker's weights take about {shown(weights)} in {dtype}, and its {share:g} GPU "
        f"{'have' if share > 1 else 'has'} {shown(room)}; {', or '.join(ways)}"
    )
    if weights > room:
        raise ConfigError(f"model: {said}")
    return f"{said}: little is left for the batches"


def shown(size: float) -> str:
    """A number of bytes as text for a person."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def smallest_gpu() -> int | None:
    """Memory in bytes of the smallest GPU of the connected cluster; None where no node reports one."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    hosts = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    look = ray.remote(num_cpus=0, max_retries=0)(memory_here)
    looks = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(host, soft=False)).remote()
        for host in hosts[:_MOST_NODES]
    ]
    if not looks:
        return None
    ready, late = ray.wait(looks, num_returns=len(looks), timeout=_LOOK_SECONDS)
    for reference in let_end(late):
        ray.cancel(reference, force=False)
    found = []
    for reference in ready:
        with suppress(ray.exceptions.RayError):
            found.append(ray.get(reference))
    return min((size for size in found if size), default=None)


def memory_here() -> int | None:
    """Memory in bytes of this machine's smallest GPU, as its driver reports it; None where there is no driver."""
    return min(gpus_here(), default=None)


def gpus_here() -> list[int]:
    """Memory in bytes of each GPU of this machine, as its driver reports it; empty where there is no driver."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_LOOK_SECONDS, check=True).stdout
        return [int(line) << 20 for line in said.split()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
