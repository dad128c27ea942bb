"""How long the plan looks over JSON Lines, in the driver alone and on a cluster, and what the driver holds meanwhile.

    python benchmarks/planning.py                       100 files of 64 MB, three rounds: a quarter of an hour
    python benchmarks/planning.py --files 8 --rounds 1 --json /tmp/planning.json
    git worktree add /tmp/before 020fd0a && python benchmarks/planning.py --before /tmp/before

The files lie on an S3 server (OpenStack Swift, on disk), which shares the cores with all that is measured; then in a
folder, where no server takes part; then all their rows in one file, which the cluster reads by ranges. Each scan is a
process of its own; the ways are interleaved and the medians count. The cluster is a Ray on this machine, which is up,
with its workers started, before the time runs. All ways must find the same shards, to the byte.

cpu_seconds: of all processes that took part, by kind: the driver, the workers of Ray, the rest of Ray, the servers.
`floor` is what the machine needs for them if none of its cores ever waits: no way can be quicker.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import checkout
import machine
import psutil
from tables import markdown
from timing import interleave, summarise

sys.path.insert(0, str(checkout.ROOT / "tests" / "servers"))

from object_store import S3
from swift_server import SwiftServer, unusable

RESULTS = checkout.ROOT / "benchmarks" / "results" / "planning.json"
BUCKET = "bench"
ONCE = Path(__file__).with_name("plan_once.py")
CPUS = 2
PLACES = ("s3", "local", "one-file")


def main() -> None:
    arguments = parse()
    results = machine.facts(also=("ray", "fsspec", "s3fs", "swift"))
    results |= {"files": arguments.files, "megabytes": arguments.megabytes, "rounds": arguments.rounds}
    results["places"] = arguments.places
    results["load_average_at_start"] = os.getloadavg()[0]
    body = lines(arguments.megabytes * 10**6)
    with tempfile.TemporaryDirectory(prefix="tamis-planning-") as name:
        folder = Path(name)
        if reason := unusable(folder):
            sys.exit(f"{reason}; set TMPDIR to another folder")
        ways = {"in the driver": ([], "process"), f"cluster, {CPUS} CPUs": ([], "cluster")}
        if arguments.before is not None:
            ways = {"in the driver, before": ([old_path(folder, arguments.before)], "process"), **ways}
            results["before"] = commit_of(arguments.before)
        if "s3" in arguments.places:
            with on_swift(folder, body, arguments.files) as s3:
                address = f"s3://{BUCKET}/data"
                results["s3"] = compare(ways, address, s3.storage_options, arguments.rounds, servers_of(folder))
        if "local" in arguments.places:
            with in_folder(folder, body, arguments.files, 1) as data:
                results["local"] = compare(ways, str(data), {}, arguments.rounds, list)
        if "one-file" in arguments.places:
            with in_folder(folder, body, 1, arguments.files) as data:
                results["one-file"] = compare(ways, str(data), {}, arguments.rounds, list)
    show(results)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
        print(f"\nwritten to {arguments.json}")


def lines(size: int) -> bytes:
    """About `size` bytes of rows of some 600 bytes, like Alpaca's."""
    rows, made, number = [], 0, 0
    while made < size:
        words = "word " * (number % 40), "An answer of some length. " * (5 + number % 25)
        row = {"instruction": f"Explain point {number} of the plan. {words[0]}", "input": "", "output": words[1]}
        rows.append(json.dumps(row).encode() + b"\n")
        made, number = made + len(rows[-1]), number + 1
    return b"".join(rows)


@contextmanager
def on_swift(folder: Path, body: bytes, files: int) -> Iterator[S3]:
    server = SwiftServer(folder / "swift")
    try:
        s3 = server.start()
        os.environ.update(s3.environment)
        s3.make_bucket(BUCKET)
        client = s3.client()
        for number in range(files):
            client.put_object(Bucket=BUCKET, Key=f"data/{number:04d}.jsonl", Body=body)
        yield s3
    finally:
        server.kill()
        shutil.rmtree(folder / "swift")


@contextmanager
def in_folder(folder: Path, body: bytes, files: int, times: int) -> Iterator[Path]:
    """A folder with so many files, each of which holds the body so many times."""
    data = folder / "data"
    data.mkdir()
    for number in range(files):
        with (data / f"{number:04d}.jsonl").open("wb") as file:
            for _ in range(times):
                file.write(body)
    yield data
    shutil.rmtree(data)


def old_path(folder: Path, before: Path) -> str:
    """A folder for PYTHONPATH in which tamis is that of the checkout `before`."""
    package = folder / "before" / "tamis"
    package.mkdir(parents=True)
    for room in ("operators", "pipeline"):
        (package / room).symlink_to((before / room).resolve())
    for file in (before / "api").glob("*.py"):
        (package / file.name).symlink_to(file.resolve())
    (package / "__init__.py").touch()  # of an older checkout, or an installed tamis would come before it
    return str(package.parent)


def commit_of(before: Path) -> str:
    command = ["git", "-C", str(before), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def servers_of(folder: Path) -> Callable[[], list[psutil.Process]]:
    def find() -> list[psutil.Process]:
        found = psutil.process_iter(["cmdline"])
        return [process for process in found if f"{folder}/swift" in " ".join(process.info["cmdline"] or ())]

    return find


def compare(
    ways: Mapping[str, tuple[list[str], str]],
    address: str,
    options: Mapping[str, Any],
    rounds: int,
    servers: Callable[[], list[psutil.Process]],
) -> dict[str, Any]:
    """Way -> seconds, CPU seconds by kind of process, floor, MB of the driver, and times as quick as the first way."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}

    def run(name: str) -> float:
        path, way = ways[name]
        runs[name].append(once(path, way, address, options, servers()))
        return float(runs[name][-1]["seconds"])

    taken = interleave(
        {name: lambda name=name: run(name) for name in ways}, rounds, lambda line: print(line, file=sys.stderr)
    )
    found = {run["sha256"] for each in runs.values() for run in each}
    if len(found) != 1:
        sys.exit(f"the ways disagree: {found}")
    first = summarise(next(iter(taken.values()))).median
    results: dict[str, Any] = {"sha256": found.pop()}
    for name, values in taken.items():
        summary, last = summarise(values), runs[name][-1]
        cpu = {kind: summarise([run["cpu_seconds"][kind] for run in runs[name]]).median for kind in last["cpu_seconds"]}
        results[name] = {
            "seconds": summary.as_json(),
            "times_as_quick": first / summary.median,
            "cpu_seconds": cpu,
            "floor_seconds": sum(cpu.values()) / (os.cpu_count() or 1),
            "driver_mb_before": max(run["driver_mb_before"] for run in runs[name]),
            "driver_mb_peak": max(run["driver_mb_peak"] for run in runs[name]),
            **{key: last[key] for key in ("files", "rows", "shards")},
        }
    return results


def once(
    path: list[str], way: str, address: str, options: Mapping[str, Any], servers: list[psutil.Process]
) -> dict[str, Any]:
    """One scan in its own process, with the CPU seconds of all that took part."""
    # Ray gives way to all else on a machine; with cores to share that would measure its manners.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), "RAY_worker_niceness": "0"}
    before = sum(seconds_of(process) for process in servers)
    command = [sys.executable, str(ONCE), way, address, json.dumps(dict(options))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[1:4])} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    used = Counter(result.pop("cpu_seconds_of_ray", {}))
    served = sum(seconds_of(process) for process in servers) - before
    result["cpu_seconds"] = {"driver": result.pop("driver_cpu_seconds"), **used, "servers": served}
    return result


def seconds_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def show(results: Mapping[str, Any]) -> None:
    print(machine.line(results["machine"]))
    header = ["", "seconds", "min-max", "times as quick", "floor", "CPU seconds", "driver MB (before)"]
    for place in results["places"]:
        rows = [
            [
                name,
                f"{found['seconds']['median']:.1f}",
                f"{found['seconds']['min']:.1f}-{found['seconds']['max']:.1f}",
                f"{found['times_as_quick']:.2f}",
                f"{found['floor_seconds']:.1f}",
                ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in found["cpu_seconds"].items()),
                f"{found['driver_mb_peak']:.0f} ({found['driver_mb_before']:.0f})",
            ]
            for name, found in results[place].items()
            if name != "sha256"
        ]
        print(f"\n{results['files']} files of {results['megabytes']} MB, {place}, {results['rounds']} rounds\n")
        print(markdown(header, rows))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100, help="how many (default 100)")
    parser.add_argument("--megabytes", type=int, default=64, help="size of each (default 64)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each way is taken (default 3)")
    parser.add_argument("--places", nargs="+", choices=PLACES, default=PLACES, help="where the files lie (default all)")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit, to be measured too")
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"the results (default {RESULTS.name})")
    return parser.parse_args()


if __name__ == "__main__":
    main()
