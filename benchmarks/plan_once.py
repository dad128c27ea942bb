"""One scan of an input in a process of its own, for planning.py: what it took as JSON on stdout.

Run with another checkout's folders before this one's on the path it measures that checkout, so it imports nothing
that the plan of an older commit has not.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tamis.pipeline.inputs.files import resolve
from tamis.pipeline.inputs.shards import make_shards
from tamis.pipeline.job.job_file import load_job
from tamis.pipeline.planning import scanning


def main() -> None:
    """Arguments: "process" or "cluster", the address of the input, the storage options as JSON."""
    way, address, options = sys.argv[1:]
    flags = {"input": address, "output": "/nowhere", "model": "none", "method": "saft"}
    job = load_job(None, {**flags, "storage_options": json.loads(options)})
    files = resolve(job.input.path, "auto", job.storage_options)
    if way == "process":
        found = measured(scanning.scan_files, files, job)
    else:
        from tamis.pipeline.cluster.session import ray_session
        from tamis.pipeline.planning.cluster_scan import scan_on_cluster

        with ray_session(None):
            warm_up()
            before = seconds_of_ray()
            found = measured(scan_on_cluster, files, job)
            used = seconds_of_ray()
            found["cpu_seconds_of_ray"] = {kind: used[kind] - before[kind] for kind in used}
    json.dump(found, sys.stdout)


def measured(scan: Any, files: Any, job: Any) -> dict[str, Any]:
    """Seconds of the wall and of this process, its memory before and at its peak, and a hash of all that was found."""
    before, began, used = memory("VmRSS"), time.perf_counter(), time.process_time()
    found = scan(files, job)
    seconds, used = time.perf_counter() - began, time.process_time() - used
    peak, digest, shards = memory("VmHWM"), hashlib.sha256(), 0
    for scanned in found:
        for shard in make_shards(scanned, "corpus", {}, shards):
            digest.update(shard.to_json().encode())
            shards += 1
        digest.update(repr((scanned.schema, scanned.head, scanned.head_problems)).encode())
    return {
        "seconds": seconds,
        "driver_cpu_seconds": used,
        "driver_mb_before": before,
        "driver_mb_peak": peak,
        "files": len(files),
        "rows": sum(scanned.rows for scanned in found),
        "shards": shards,
        "sha256": digest.hexdigest(),
    }


def memory(name: str) -> float:
    """MB that this process holds (VmRSS) or has held (VmHWM). What getrusage tells begins with the parent's."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in status if line.startswith(f"{name}:"))


def seconds_of_ray() -> dict[str, float]:
    """CPU seconds of the processes that this one has started: the workers, and the rest of Ray."""
    import psutil

    seconds = {"workers": 0.0, "ray": 0.0}
    for process in psutil.Process().children(recursive=True):
        times = process.cpu_times()
        seconds["workers" if "ray::" in " ".join(process.cmdline()) else "ray"] += times.user + times.system
    return seconds


def warm_up() -> None:
    """A task on every CPU that has imported what a scan imports: a cluster that is up has workers."""
    import ray

    count = int(ray.cluster_resources()["CPU"])
    ray.get([ray.remote(_imports).remote() for _ in range(4 * count)])


def _imports() -> int:
    import s3fs

    from tamis.pipeline.planning import cluster_scan

    time.sleep(0.5)  # so that each worker has some
    return os.getpid() + len(s3fs.__name__) + len(cluster_scan.__name__)


if __name__ == "__main__":
    main()
