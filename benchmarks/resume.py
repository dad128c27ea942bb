"""How long a run of many finished shards takes to go on: from the start of the command to the first new shard's work.

    python benchmarks/resume.py                                    10,000 finished shards, on this disk
    python benchmarks/resume.py --shards 1000                      a minute
    python benchmarks/resume.py --output s3://bucket/folder --endpoint http://localhost:9000
    python benchmarks/resume.py --json benchmarks/results/resume.json

The real command begins to capture a corpus, one row a shard, with a random model that costs next to nothing, and is
killed. The receipts of the shards that it has not come to are then written as the pipeline writes them, with the facts
of one of its own (what they tell of is not read before all shards are captured). The same command is started again,
and killed when it has captured a new shard, whose receipt tells when that began. It is started three ways:

    as it is        the plan is kept and the receipts are compacted
    without both    those files are deleted before it starts: every receipt is opened, every byte is scanned
    a small run     the same command on a run of 20 shards: what imports, Ray and the model take by themselves

Beside it stand the seconds that its parts take in this process: finding the shards, and reading the receipts.
S3 credentials come from the environment, as for tamis itself.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import psutil
from null_model import make_model, write_corpus
from tables import markdown

from tamis.pipeline.job.job_file import Job, load_job
from tamis.pipeline.planning.plan import make_plan
from tamis.pipeline.run import paths, receipts
from tamis.pipeline.storage.store import Store

STAGE = "capture"
SMALL = 20
LEFT = 2000
"""Shards that are not done when the run is resumed."""

TARGET_SECONDS = 10.0
DEADLINE = 3600.0


@dataclass(frozen=True)
class Run:
    """One output folder and the command that fills it."""

    store: Store
    job: Job
    command: list[str]
    log: Path

    def until(self, condition: Callable[[], bool]) -> float:
        """Start the command, kill it and all that it started when `condition` holds; when it was started."""
        began = time.time()
        with self.log.open("ab") as log:
            process = subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True)
        try:
            while not condition():
                if process.poll() is not None or time.time() - began > DEADLINE:
                    sys.exit(f"the command did not get there:\n{self.log.read_text()}")
                time.sleep(0.05 if self.store.is_local else 0.5)
        finally:
            _kill(process)
        return began

    def done(self) -> set[str]:
        names = self.store.list(receipts.folder(STAGE))
        return {name for name in names if name.endswith(".json")}

    def resume(self) -> float:
        """Seconds from the start of the command to the moment at which the first new shard's forward pass began."""
        before = self.done()
        began = self.until(lambda: len(self.done()) > len(before))
        new = self.done() - before
        return min(self.store.read_json(f"{receipts.folder(STAGE)}/{name}")["started"] for name in new) - began

    def fill(self, shards: int) -> None:
        """Write the receipts of the first `shards` shards that have none."""
        done = self.done()
        left = [shard for shard in make_plan(self.job).shards[:shards] if f"{shard.name}.json" not in done]
        facts = self.store.read_json(f"{receipts.folder(STAGE)}/{min(done)}")
        key = facts.pop("key")
        own = {name: value for name, value in facts.items() if name not in {"shard", "index", "rows"}}
        with ThreadPoolExecutor(16) as pool:
            new = pool.map(lambda shard: receipts.write(self.store, STAGE, shard, key, own), left)
            for _ in receipts.compacted(self.store, STAGE, key, new):
                pass

    def parts(self) -> dict[str, float]:
        """Seconds to plan, and to read the receipts."""
        began = time.perf_counter()
        plan = make_plan(self.job)
        planned = time.perf_counter()
        key = self.store.read_json(f"{receipts.folder(STAGE)}/{min(self.done())}")["key"]
        listed = time.perf_counter()
        for _ in receipts.done(self.store, STAGE, plan.shards, key):
            pass
        return {"plan": planned - began, "receipts": time.perf_counter() - listed}

    def forget(self) -> None:
        """Leave the run as one without compact files and without a kept plan."""
        for name in self.store.list(receipts.folder(STAGE)):
            if name.startswith("compact-"):
                self.store.remove(f"{receipts.folder(STAGE)}/{name}")
        self.store.remove(paths.PLANNED_ROWS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10_000, help="finished shards (default 10,000)")
    parser.add_argument("--repeats", type=int, default=3, help="resumes of each kind; the median counts (default 3)")
    parser.add_argument("--output", help="a folder or URL to put the outputs into; default: a temporary folder")
    parser.add_argument("--endpoint", help="address of an S3 server, for --output s3://...")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tamis-resume-") as folder:
        output = arguments.output or f"{folder}/out"
        found = measure(Path(folder), output, arguments.endpoint, arguments.shards, arguments.repeats)
    facts = machine.facts(also=("ray", "pyarrow", "fsspec", "s3fs"))
    show(found, facts["machine"])
    if arguments.json is not None:
        # The results of a disk and of an object store stand beside each other.
        known = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        arguments.json.write_text(json.dumps({**known, found["storage"]: {**facts, **found}}, indent=2) + "\n")


def measure(folder: Path, output: str, endpoint: str | None, shards: int, repeats: int) -> dict[str, Any]:
    model = make_model(folder / "model")
    options = {"endpoint_url": endpoint} if endpoint else {}
    large, small = (run_of(folder, model, output, options, count) for count in (shards, SMALL))
    for run in (large, small):
        run.until(lambda run=run: len(run.done()) > 0)  # type: ignore[misc]
    large.fill(shards)
    taken: dict[str, list[float]] = {"as it is": [], "without both": [], "a small run": []}
    parts: dict[str, list[dict[str, float]]] = {"as it is": [], "without both": []}
    for _ in range(repeats):
        parts["as it is"].append(large.parts())
        taken["as it is"].append(large.resume())
        large.forget()
        parts["without both"].append(large.parts())  # which compacts again
        large.forget()
        taken["without both"].append(large.resume())
        taken["a small run"].append(small.resume())
    for run in (large, small):
        run.store.remove("")
    return {
        "storage": large.store.url.partition("://")[0] if "://" in large.store.url else "local disk",
        "finished_shards": shards,
        "load_average": round(os.getloadavg()[0], 1),
        "seconds_to_first_shard": {name: median_of(values) for name, values in taken.items()},
        "seconds_of_parts": {
            name: {part: median_of([each[part] for each in values]) for part in values[0]}
            for name, values in parts.items()
        },
        "target": TARGET_SECONDS,
    }


def median_of(values: list[float]) -> dict[str, Any]:
    return {"median": round(sorted(values)[len(values) // 2], 2), "all": [round(value, 2) for value in values]}


def run_of(folder: Path, model: Path, output: str, options: dict[str, str], shards: int, left: int = LEFT) -> Run:
    """A run of shards + left shards."""
    corpus = folder / f"corpus-{shards}.jsonl"
    write_corpus(corpus, shards + left)
    out = f"{output.rstrip('/')}/{shards}"
    keys = {"input": str(corpus), "output": out, "model": str(model), "method": "saft"}
    sets = ["saft.layer=0", "shard_rows=1", *(f"storage_options.{key}={value}" for key, value in options.items())]
    command = [str(Path(sys.executable).parent / "tamis"), "curate"]
    command += [word for key, value in keys.items() for word in (f"--{key}", value)]
    command += [f"--set={one}" for one in sets]
    return Run(Store(out, options), load_job(None, keys, sets), command, folder / f"log-{shards}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9 of the command and of the Ray that it started."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        try:
            member.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.wait()
    psutil.wait_procs(family, timeout=60)


def show(found: dict[str, Any], facts: dict[str, Any]) -> None:
    print(f"{found['finished_shards']:,} finished shards on {found['storage']}; {machine.line(facts)}\n")
    rows = [
        [name, f"{value['median']:.1f}", ", ".join(f"{each:.1f}" for each in value["all"])]
        for name, value in found["seconds_to_first_shard"].items()
    ]
    print(markdown(["resumed", "s to the first new shard", "all"], rows))
    for name, parts in found["seconds_of_parts"].items():
        print(f"{name}: " + ", ".join(f"{part} {value['median']:.2f} s" for part, value in parts.items()))
    print(f"target: {found['target']:.0f} s; load average {found['load_average']}")


if __name__ == "__main__":
    main()
