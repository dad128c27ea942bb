"""Two workers against one, one thread each: what a second worker is worth where the forward pass is the work.

    python benchmarks/two_workers.py                 five rounds on an idle machine of two cores: 15 minutes
    python benchmarks/two_workers.py --rows 1500 --repeats 3

The real command runs with one worker and with two, in turns, on the same Ray cluster: two nodes of one CPU each, so
that a worker has one thread however many there are. Seconds are those of the manifest, from the first forward pass to
the end of the last; medians count. Readers and the driver share the cores with the workers, as in any run. A machine
that does something else beside it shows less than a second worker is worth: the load average stands in the result, and
a warning where it was above half a core before the first round.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import checkout
import machine
import models
import torch
from capture import write_corpus
from tables import markdown
from timing import interleave, summarise

sys.path.insert(0, str(checkout.ROOT / "tests" / "servers"))

from ray_cluster import RayCluster

RESULTS = checkout.ROOT / "benchmarks" / "results" / "two_workers.json"
TARGET = 1.8
SHARD_ROWS = 64
"""Few, so that neither worker waits long for the other at the end."""

_IDLE = 0.5


def main() -> None:
    arguments = parse()
    # The cluster and the commands that join it; nothing is left in the home folder.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    results = machine.facts(also=("ray",)) | {"load_average_before": round(os.getloadavg()[0], 2)}
    if results["load_average_before"] > _IDLE:
        print(f"warning: the machine is not idle (load average {results['load_average_before']})", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="tamis-two-") as name:
        results |= measure(Path(name), arguments)
    show(results)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    shape = models.SHAPES[arguments.shape]
    file = write_corpus(folder / "corpus.jsonl", arguments.rows)
    model = models.make_folder(
        folder / "model", arguments.shape, shape.block, dtype="float32", device=torch.device("cpu"),
        texts=[file.read_text(encoding="utf-8")],
    )  # fmt: skip
    captures: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    # Else a node of one CPU ends its idle reader after a second, and starts a new one for the next shard.
    env = {"RAY_worker_niceness": "0", "RAY_num_workers_soft_limit": "8"}
    with RayCluster([(1, 0), (1, 0)], env=env) as cluster:

        def run(workers: int) -> float:
            captures[workers].append(_capture(folder, file, model, shape.block, cluster.address, workers))
            return captures[workers][-1]["seconds"]

        taken = interleave(
            {"one worker": lambda: run(1), "two workers": lambda: run(2)},
            arguments.repeats,
            tell=lambda line: print(line, file=sys.stderr),
        )
    one, two = (summarise(taken[name]) for name in ("one worker", "two workers"))
    return {
        "model": f"{arguments.shape}, random, block {shape.block}, float32",
        "rows": arguments.rows,
        "load_average_after": round(os.getloadavg()[0], 2),
        "seconds": {"one worker": one.as_json(), "two workers": two.as_json()},
        "forward_share": {
            str(workers): [round(each["forward_seconds"] / (each["seconds"] * workers), 3) for each in found]
            for workers, found in captures.items()
        },
        "times_as_fast": one.median / two.median,
        "target": TARGET,
    }


def _capture(folder: Path, file: Path, model: Path, block: int, address: str, workers: int) -> dict[str, float]:
    """The manifest's timing of one run's capture."""
    output = folder / "out"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "tamis.pipeline.cli", "curate", "--address", address, "--input", str(file)]
    command += ["--model", str(model), "--method", "saft", "--output", str(output)]
    sets = (f"saft.layer={block}", "model.dtype=float32", "max_quarantined=0.5", f"shard_rows={SHARD_ROWS}")
    # A range puts at most one worker on a node.
    command += [f"--set={each}" for each in (*sets, f"workers={{min: {workers}, max: {workers}}}")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the run failed:\n{done.stdout}\n{done.stderr}")
    timing: dict[str, float] = json.loads((output / "manifest.json").read_text())["timings"]["capture"]
    if timing["threads"] != 1:
        sys.exit(f"a worker had {timing['threads']:g} threads; the comparison is of one thread each")
    return timing


def show(results: dict[str, Any]) -> None:
    print(machine.line(results["machine"]))
    print(f"\n{results['model']}; {results['rows']:,} rows\n")
    rows = [[name, "{median:.2f} ({min:.2f}-{max:.2f})".format(**took)] for name, took in results["seconds"].items()]
    print(markdown(["", "seconds (min-max)"], rows))
    print(
        f"\ntwo workers: {results['times_as_fast']:.2f} times as fast (target {TARGET}); load average "
        f"{results['load_average_before']} before, {results['load_average_after']} after"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--shape", choices=models.SHAPES, default="small16", help="of the random model")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of both; medians count (default 5)")
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"where results go (default {RESULTS.name})")
    parser.add_argument("--no-json", dest="json", action="store_const", const=None)
    return parser.parse_args()


if __name__ == "__main__":
    main()
