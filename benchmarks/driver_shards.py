"""What the driver holds and does for each shard, at more shards than a machine here can run.

A small real run (three shards) gives the plan and the receipts. They are multiplied, and go through the driver's own
code: the totals of the capture with their checks, the totals of the output, the manifest. Each number of shards has a
fresh process, whose peak memory the kernel tells. What Ray itself does for each task is not in it (scale.py --shards
measures all of it, at fewer shards).
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
from tables import markdown
from whole_runs import Setting, make_models, run

from tamis.pipeline.capture.stage import check_quarantine
from tamis.pipeline.capture.totals import CaptureTotals
from tamis.pipeline.emit.totals import EmitTotals
from tamis.pipeline.inputs.shards import Shard, Span
from tamis.pipeline.job.job_file import load_job
from tamis.pipeline.planning.plan import make_plan
from tamis.pipeline.run.incomplete import write_manifest
from tamis.pipeline.storage.store import Store

COUNTS = (1_000, 10_000, 50_000)
ROWS = 5_000


def measure_driver(folder: Path) -> dict[str, Any]:
    """Peak memory, CPU seconds of each step and bytes of the manifest by number of shards; what a shard costs."""
    model = make_models(folder)
    run(folder, model, Setting(ROWS, sets=("keep_captures=true",)))
    found = []
    for shards in COUNTS:
        command = [sys.executable, __file__, str(folder), str(shards)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{shards:,} shards failed:\n{done.stderr}")
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{shards:,} shards: {found[-1]}", file=sys.stderr)
    first, last = found[0], found[-1]
    more = last["shards"] - first["shards"]
    each = {
        "driver_kb": (last["peak_mb"] - first["peak_mb"]) * 1000 / more,
        "cpu_ms": (sum(last["cpu"].values()) - sum(first["cpu"].values())) * 1000 / more,
        "manifest_bytes": (last["manifest_bytes"] - first["manifest_bytes"]) / more,
    }
    return {"runs": found, "each_shard": each}


def drive(folder: Path, shards: int) -> dict[str, Any]:
    """All of it in this process, for this many shards."""
    job = load_job(None, {"input": str(folder / f"corpus-{ROWS}.jsonl"), "output": str(folder / "other"),
                          "model": str(folder / "model"), "method": "saft"}, ["saft.layer=0"])  # fmt: skip
    plan = make_plan(job)
    empty = _peak()
    cpu: dict[str, float] = {}
    began = time.process_time()

    def ended(step: str) -> None:
        nonlocal began
        cpu[step] = round(time.process_time() - began, 3)
        began = time.process_time()

    planned = tuple(_shards(plan.shards[0], shards))
    plan = replace(plan, shards=planned)
    ended("shards")
    captured, emitted = CaptureTotals(), EmitTotals(bins=80)
    for receipt in _receipts(folder, "capture", planned):
        captured.add(receipt, new=True)
        check_quarantine(plan, captured)
    ended("capture")
    for receipt in _receipts(folder, "emit", planned):
        emitted.add(receipt)
    ended("emit")
    summary = json.loads((folder / "out" / "manifest.json").read_text())
    listed = [{key: file[key] for key in ("name", "bytes", "sha256")} for file in emitted.files]
    listed.sort(key=lambda file: str(file["name"]))
    store = Store(str(folder / "driver"))
    write_manifest(store, {**summary, "files": listed}, [], "key")
    ended("manifest")
    return {
        "shards": shards,
        "plan_peak_mb": empty / 1e6,
        "peak_mb": _peak() / 1e6,
        "cpu": cpu,
        "manifest_bytes": len(store.read("manifest.json")),
    }


def _shards(of: Shard, count: int) -> Iterator[Shard]:
    for number in range(count):
        span = Span(number * of.rows, (number + 1) * of.rows, 0, 0)
        yield replace(of, index=number, span=span, id=f"{number:016x}")


def _receipts(folder: Path, stage: str, shards: tuple[Shard, ...]) -> Iterator[dict[str, Any]]:
    """A receipt of the real run for each shard, parsed anew as one that is read from storage is."""
    [first, *_] = sorted((folder / "out" / "_work" / "receipts" / stage).glob("0*.json"))
    text = first.read_text()
    name = json.loads(text)["shard"]
    for shard in shards:
        receipt: dict[str, Any] = json.loads(text.replace(name, shard.name))
        receipt["index"] = shard.index
        yield receipt


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def show_driver(found: Mapping[str, Any]) -> None:
    rows = [
        [f"{each['shards']:,}", f"{each['peak_mb']:,.0f}", *(f"{seconds:.2f}" for seconds in each["cpu"].values()),
         f"{each['manifest_bytes'] / 1e6:,.1f}"]
        for each in found["runs"]
    ]  # fmt: skip
    steps = [f"{step}, CPU s" for step in found["runs"][0]["cpu"]]
    print(markdown(["shards", "peak MB", *steps, "manifest MB"], rows))
    print("each shard: " + ", ".join(f"{value:.2f} {name}" for name, value in found["each_shard"].items()))


if __name__ == "__main__":
    print(json.dumps(drive(Path(sys.argv[1]), int(sys.argv[2]))))
