"""How long a whole plan takes where the input is large in one way: very many files, columns or rows.

    python benchmarks/plans.py                          20,000 files; 2,000 and 10,000 columns; 2 GB of JSON Lines
    python benchmarks/plans.py --many-files 2000 --wide 1000 --megabytes 200 --rounds 1
    git worktree add /tmp/before f4db798 && python benchmarks/plans.py --before /tmp/before

Each plan is a process of its own, from the listing of the input to the finished plan, with a random model that costs
next to nothing; what Python and the libraries take to start is not in it, as a small input is planned before. The old
and the new are interleaved and the medians count. Both must make the same plan: the same shards to the byte, schema,
notes and fingerprint. Beside the seconds of the wall, which a busy machine stretches, stand those of the processor, of
all threads of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import checkout
import machine
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from null_model import make_model
from planning import commit_of, lines, old_path
from tables import markdown
from timing import interleave, summarise

RESULTS = checkout.ROOT / "benchmarks" / "results" / "plans.json"
ONCE = Path(__file__).with_name("plan_whole.py")
FILE_ROWS = 20


def main() -> None:
    arguments = parse()
    results = machine.facts(also=("pyarrow", "fsspec"))
    with tempfile.TemporaryDirectory(prefix="tamis-plans-") as name:
        folder = Path(name)
        model = make_model(folder / "model")
        ways = {"now": old_path(folder / "now", checkout.ROOT)}
        if arguments.before is not None:
            ways = {"before": old_path(folder / "old", arguments.before), **ways}
            results["before"] = commit_of(arguments.before)
        small = folder / "small.jsonl"
        small.write_bytes(lines(10_000))
        inputs: dict[str, Path] = {}
        if arguments.many_files:
            label = f"{arguments.many_files:,} files of {FILE_ROWS} rows"
            inputs[label] = many_files(folder / "many", arguments.many_files)
        for columns in arguments.wide:
            inputs[f"{columns:,} columns"] = wide(folder / f"wide-{columns}.parquet", columns)
        if arguments.megabytes:
            inputs[f"{arguments.megabytes:,} MB of JSON Lines"] = long(folder / "long.jsonl", arguments.megabytes)
        results["inputs"] = {}
        for label, path in inputs.items():
            results["inputs"][label] = compare(ways, [str(path), str(model), str(small)], arguments.rounds)
            show(label, results["inputs"][label])
    if arguments.json is not None:
        # Inputs may be measured one by one: they stand beside each other.
        known = json.loads(arguments.json.read_text())["inputs"] if arguments.json.exists() else {}
        results["inputs"] = known | results["inputs"]
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
        print(f"\nwritten to {arguments.json}")


def many_files(folder: Path, files: int) -> Path:
    """So many files of JSON Lines, of different rows."""
    folder.mkdir()
    for number in range(files):
        rows = [
            {"instruction": f"Explain point {row} of file {number}.", "input": "", "output": "An answer of it. " * row}
            for row in range(FILE_ROWS)
        ]
        (folder / f"{number:06d}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def wide(path: Path, columns: int, rows: int = 200) -> Path:
    """A Parquet file of instructions and answers beside so many columns of numbers and texts."""
    chance = np.random.default_rng(0)
    made: dict[str, Any] = {
        "instruction": [f"Explain point {row}." for row in range(rows)],
        "output": ["An answer of some length. " * (row % 20 + 1) for row in range(rows)],
    }
    for number in range(columns - len(made)):
        kinds = (chance.random(rows), chance.integers(0, 1000, rows), [f"text {number} {row}" for row in range(rows)])
        made[f"feature_{number}"] = kinds[number % 3]
    pq.write_table(pa.table(made), path)
    return path


def long(path: Path, megabytes: int) -> Path:
    """One file of so many megabytes of rows of some 600 bytes."""
    with path.open("wb") as file:
        body = lines(10**8)
        for _ in range(-(-megabytes * 10**6 // len(body))):
            file.write(body)
        file.truncate(megabytes * 10**6)
    return path


def compare(ways: dict[str, str], words: list[str], rounds: int) -> dict[str, Any]:
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}

    def run(name: str) -> float:
        environment = os.environ | {"PYTHONPATH": ways[name]}
        command = [sys.executable, str(ONCE), *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
        runs[name].append(json.loads(done.stdout.splitlines()[-1]))
        return float(runs[name][-1]["seconds"])

    taken = interleave({name: lambda name=name: run(name) for name in ways}, rounds)
    plans = {each["sha256"] for found in runs.values() for each in found}
    if len(plans) != 1:
        sys.exit(f"the plans of {words[0]} differ: {plans}")
    first = runs["now"][0]
    results: dict[str, Any] = {"sha256": plans.pop(), **{key: first[key] for key in ("files", "rows", "shards")}}
    results |= {"rounds": rounds, "load_average": round(os.getloadavg()[0], 1)}
    measured = [key for key in first if key not in results]
    for name, values in taken.items():
        middle = {key: summarise([each[key] for each in runs[name]]).median for key in measured}
        results[name] = middle | {"seconds": summarise(values).as_json()}
    return results


def show(label: str, found: dict[str, Any]) -> None:
    rows = [
        [
            way,
            f"{taken['seconds']['median']:.2f}",
            f"{taken['seconds']['min']:.2f}-{taken['seconds']['max']:.2f}",
            f"{taken['cpu_seconds']:.2f}",
            f"{taken['scan_cpu_seconds']:.2f}",
            f"{taken['mb_peak']:.0f} ({taken['mb_before']:.0f})",
        ]
        for way in ("before", "now")
        if (taken := found.get(way))
    ]
    print(f"\n{label}: {found['rows']:,} rows, {found['shards']:,} shards\n")
    print(
        markdown(["", "seconds", "min-max", "CPU seconds", "of the scan", "MB at the peak (before)"], rows), flush=True
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--many-files", type=int, default=20_000, help="files of JSON Lines, 0: none (default 20,000)")
    parser.add_argument("--wide", type=int, nargs="*", default=[2000, 10_000], help="columns of Parquet files")
    parser.add_argument("--megabytes", type=int, default=2000, help="of one file of JSON Lines, 0: none (default 2000)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each plan is made (default 3)")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit, to be measured too")
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"the results (default {RESULTS.name})")
    return parser.parse_args()


if __name__ == "__main__":
    main()
