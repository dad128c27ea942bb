"""What metrics cost where nobody collects them: CPU microseconds for each shard and each batch.

    python benchmarks/metrics_cost.py

The time of the thread, not of the clock, so that a busy machine does not matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import ray

from tamis.pipeline.cluster import metrics
from tamis.pipeline.cluster.session import ray_session

SHARDS, BATCHES = 3000, 20_000


def main() -> None:
    with ray_session(None):
        print("driver:", costs())
        print("worker:", ray.get(ray.remote(costs).remote()))


def costs() -> str:
    ledger = metrics.Ledger("00000000-0000-4000-8000-000000000000")
    captured = {"role": "corpus", "rows": 2048, "quarantined": {"overlong": 3, "no_response": 1}, "tokens": 200_000}
    captured["seconds"] = {"read_seconds": 0.4, "forward_seconds": 3.0}
    emitted = {"counts": {"kept": 1800, "dropped": 244, "quarantined": 4}, "seconds": 0.3}
    meter = metrics.Meter("", "capture")
    told = meter.batches(None)
    steps: dict[str, tuple[Callable[[int], None], int]] = {
        "shard captured": (lambda i: ledger.captured({**captured, "index": i}, "capture", names_codes=True), SHARDS),
        "shard emitted": (lambda i: ledger.emitted({**emitted, "index": i}, "emit"), SHARDS),
        "batch": (lambda i: told(2048), BATCHES),
        "shard of a worker": (lambda i: meter.shard(0.0), SHARDS),
    }
    found = []
    for name, (step, count) in steps.items():
        step(count)  # the first one makes the metrics
        began = time.thread_time()
        for number in range(count):
            step(number)
        found.append(f"{name} {(time.thread_time() - began) / count * 1e6:.1f} us")
    return ", ".join(found)


if __name__ == "__main__":
    main()
