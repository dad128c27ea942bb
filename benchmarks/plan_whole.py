"""One whole plan of an input in a process of its own, for plans.py: what it took as JSON on stdout.

Run with another checkout's folders on the path it measures that checkout, so it imports nothing that the plan of an
older commit has not.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time

from plan_once import memory

from tamis.pipeline.job.job_file import load_job
from tamis.pipeline.planning import plan as planning


def main() -> None:
    """Arguments: the input, the folder of the model, and a small input that is planned first, which imports all."""
    address, model, small = sys.argv[1:]
    planned(small, model)
    before, began, used = memory("VmRSS"), time.perf_counter(), time.process_time()
    plan, scanned = planned(address, model)
    done = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
    done |= {"scan_cpu_seconds": scanned - used}
    digest = hashlib.sha256()
    for shard in plan.shards:
        digest.update(shard.to_json().encode())
    schema = None if plan.schema is None else plan.schema.to_string(show_schema_metadata=True)
    digest.update(repr((schema, plan.warnings, plan.notes, plan.estimate, plan.fingerprint)).encode())
    facts = {"files": len(plan.files), "rows": plan.rows, "shards": len(plan.shards), "sha256": digest.hexdigest()}
    print(json.dumps({**done, "mb_before": before, "mb_peak": memory("VmHWM"), **facts}))


def planned(address: str, model: str) -> tuple[planning.Plan, float]:
    """The plan, and the processor's seconds of this process when the scan was done."""
    job = load_job(None, {"input": address, "output": "/nowhere", "model": model, "method": "saft"}, ["saft.layer=0"])
    found = planning.list_inputs(job)
    files = planning.scan_files(found.files, job)
    scanned = time.process_time()
    return planning.make_plan(job, files, found=found), scanned


if __name__ == "__main__":
    main()
