"""How the pipeline around the model grows with the corpus: time, CPU seconds, the driver's memory, files, requests.

    python benchmarks/scale.py                              100,000 and 1,000,000 rows: five minutes
    python benchmarks/scale.py --rows 5000000 --note "others used the machine, too"
    python benchmarks/scale.py --rows 20000 --method toss   the bytes that TOSS writes
    python benchmarks/scale.py --shards 1000 10000          few rows, many shards: what each shard costs
    python benchmarks/scale.py --driver                     the driver's memory at up to 50,000 shards
    python benchmarks/scale.py --requests                   requests to an S3 server of this machine, by kind
    python benchmarks/scale.py --rate                       rows/s at 50,000 rows, three times: a minute

The real commands (`tamis curate` with its own Ray, then `tamis verify`) run with the model of null_model.py, whose
forward pass costs next to nothing. Each stage is told by the line with which the command ends it; publish is the
report, the manifest and the removal of _work. CPU seconds are those of the driver, of all workers, and of Ray's own
processes (family.py); the driver's peak memory is the kernel's high-water mark of that process.

Every mode writes its own section of the result file, and so do other sizes than the two above: cost_model.py reads
those.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import checkout
import machine
from driver_shards import measure_driver, show_driver
from family import DRIVER
from scale_requests import METHODS, measure_requests, show_requests
from tables import markdown
from whole_runs import STAGES, Setting, make_models, run

RESULTS = checkout.ROOT / "benchmarks" / "results" / "scale.json"
SIZES = (100_000, 1_000_000)
WORK = ("capture", "fit", "emit", "publish")
TARGET_RATE, TARGET_TIME, TARGET_MEMORY = 5000.0, 10.5, 1.20


def main() -> None:
    arguments = parse()
    facts = machine.facts(also=("ray", "pyarrow", "fsspec", "s3fs"))
    print(machine.line(facts["machine"]))

    def save(section: str, found: Mapping[str, Any]) -> None:
        if arguments.json is not None:
            known = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
            # Those of the other method, if this machine has measured them, too.
            there = known.get(section, {}) if section == "requests" else {}
            alike = all(there.get(name) == facts[name] for name in ("machine", "versions"))
            others = {method: there[method] for method in METHODS if method in there and alike}
            known[section] = others | ({"note": arguments.note} if arguments.note else {}) | facts | found
            arguments.json.write_text(json.dumps(known, indent=2) + "\n")

    with tempfile.TemporaryDirectory(prefix="tamis-scale-") as name:
        folder = Path(name)
        if arguments.requests:
            section, show = "requests", show_requests
            methods = (arguments.method,) if arguments.method else METHODS
            measure = partial(measure_requests, methods=methods, save=partial(save, section))
        elif arguments.driver:
            section, measure, show = "driver", measure_driver, show_driver
        elif arguments.shards:
            section, measure, show = "shards", partial(measure_shards, counts=arguments.shards), show_shards
        elif arguments.rate:
            section, measure, show = "rate", partial(measure_rate, repeats=arguments.repeats), show_rate
        else:
            method = arguments.method or "saft"
            section = section_of(arguments.rows, method)
            save_runs = partial(save, section)  # each when it is there: the next one may take an hour
            measure = partial(measure_rows, sizes=arguments.rows, method=method, save=save_runs)
            show = show_rows
        found = measure(folder)
    save(section, found)
    show(found)


# --- what is measured ---------------------------------------------------------------------------------------------


def measure_rows(
    folder: Path, sizes: Sequence[int], method: str, save: Callable[[Mapping[str, Any]], None]
) -> dict[str, Any]:
    model = make_models(folder)
    runs = []
    for rows in sizes:
        runs.append(run(folder, model, Setting(rows, method)))
        save({"runs": runs})
        print(_said(runs[-1]), file=sys.stderr)
    if len(runs) == 1:
        return {"runs": runs}
    return {"runs": runs, "growth": growth(runs[0], runs[-1]), "target": {"time": TARGET_TIME, "memory": TARGET_MEMORY}}


def section_of(sizes: Sequence[int], method: str) -> str:
    """Where a result of --rows stands in the file."""
    if method != "saft":
        return f"rows, {method}"
    return "rows" if tuple(sizes) == SIZES else f"rows, {' and '.join(f'{rows:,}' for rows in sizes)}"


def measure_shards(folder: Path, counts: list[int]) -> dict[str, Any]:
    """Twenty rows a shard: what grows with the shards, and not with their rows."""
    model = make_models(folder)
    runs = []
    for shards in counts:
        runs.append(run(folder, model, Setting(20 * shards, sets=("shard_rows=20",))))
        print(_said(runs[-1]), file=sys.stderr)
    first, last = runs[0], runs[-1]
    more = last["shards"] - first["shards"]
    each = {
        "driver_kb": (last["peaks_mb"][DRIVER] - first["peaks_mb"][DRIVER]) * 1000 / more,
        "driver_cpu_ms": (_of(last, DRIVER) - _of(first, DRIVER)) * 1000 / more,
        "all_cpu_ms": (_of(last) - _of(first)) * 1000 / more,
        "manifest_bytes": (last["manifest_bytes"] - first["manifest_bytes"]) / more,
    }
    return {"runs": runs, "each_shard": each, "growth": growth(first, last)}


def measure_rate(folder: Path, repeats: int) -> dict[str, Any]:
    model = make_models(folder)
    runs = [run(folder, model, Setting(50_000)) for _ in range(repeats)]
    runs.sort(key=lambda found: found["rows_per_second"])
    return {
        "median": runs[len(runs) // 2],
        "all": [round(found["rows_per_second"]) for found in runs],
        "target": TARGET_RATE,
    }


def growth(small: Mapping[str, Any], large: Mapping[str, Any]) -> dict[str, float]:
    """How many times as much the large run took. work: without the start, which every run has."""

    def work(run: Mapping[str, Any]) -> float:
        return sum(run["stages"][stage]["seconds"] for stage in WORK)

    return {
        "rows": large["rows"] / small["rows"],
        "whole_command": large["seconds"] / small["seconds"],
        "work": work(large) / work(small),
        "work_without_worker_start": (work(large) - large["worker_start_seconds"])
        / (work(small) - small["worker_start_seconds"]),
        "verify": large["verify"]["seconds"] / small["verify"]["seconds"],
        "cpu_of_all": _of(large) / _of(small),
        "cpu_of_driver": _of(large, DRIVER) / _of(small, DRIVER),
        **{
            f"cpu_of_{stage}": sum(large["stages"][stage]["cpu"].values()) / sum(small["stages"][stage]["cpu"].values())
            for stage in WORK
            if sum(small["stages"][stage]["cpu"].values())
        },
        "driver_memory": large["peaks_mb"][DRIVER] / small["peaks_mb"][DRIVER],
    }


def _of(run: Mapping[str, Any], kind: str | None = None) -> float:
    """CPU seconds of a kind of process (None: of all) in all stages."""
    return sum(
        seconds for stage in run["stages"].values() for name, seconds in stage["cpu"].items() if kind in (None, name)
    )


# --- on the screen ------------------------------------------------------------------------------------------------


def _said(found: Mapping[str, Any]) -> str:
    stages = ", ".join(f"{name} {stage['seconds']:.1f}" for name, stage in found["stages"].items())
    return (
        f"{found['rows']:,} rows: {found['seconds']:.1f} s ({stages}), {_of(found):.1f} s of CPU, driver "
        f"{found['peaks_mb'][DRIVER]:.0f} MB; load {found['load_average'][0]} to {found['load_average'][1]}"
    )


def _table(runs: list[Mapping[str, Any]]) -> str:
    rows = []
    for found in runs:
        work = {name: entry for name, entry in found["written"].items() if name.startswith("_work")}
        receipts = sum(entry["files"] for name, entry in work.items() if "receipts" in name and "compact" not in name)
        stages = found["stages"]
        rows.append(
            [
                f"{found['rows']:,}",
                f"{found['shards']:,}",
                *(f"{stages[stage]['seconds']:.1f} / {sum(stages[stage]['cpu'].values()):.1f}" for stage in STAGES),
                f"{found['verify']['seconds']:.1f} / {found['verify']['cpu']:.1f}",
                f"{found['seconds']:.1f} / {_of(found):.1f}",
                f"{_of(found, DRIVER):.1f}",
                f"{found['peaks_mb'][DRIVER]:,.0f}",
                f"{sum(entry['files'] for entry in found['written'].values()):,}",
                f"{receipts:,}",
            ]
        )
    header = ["rows", "shards", *STAGES, "verify", "whole command", "driver's CPU s", "driver MB", "files", "receipts"]
    return markdown(header, rows)


def show_rows(found: Mapping[str, Any]) -> None:
    print("seconds / CPU seconds of all processes\n")
    print(_table(found["runs"]))
    if "growth" not in found:
        return
    grown = found["growth"]
    print(f"\n{grown['rows']:g} times the rows:")
    for name, times in grown.items():
        if name != "rows":
            print(f"  {name.replace('_', ' '):<28} {times:.2f}")
    print(f"targets: time {TARGET_TIME}, driver memory {TARGET_MEMORY}")


def show_shards(found: Mapping[str, Any]) -> None:
    print("seconds / CPU seconds of all processes\n")
    print(_table(found["runs"]))
    each = ", ".join(f"{value:.2f} {name.replace('_', ' ')}" for name, value in found["each_shard"].items())
    print(f"\neach shard: {each}")


def show_rate(found: Mapping[str, Any]) -> None:
    middle = found["median"]
    print(
        f"rate: {middle['rows_per_second']:,} rows/s over capture, fit and emit (target {TARGET_RATE:,.0f}); all: "
        f"{', '.join(f'{rate:,}' for rate in found['all'])}; median {statistics.median(found['all']):,}"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--rows", type=int, nargs="+", default=SIZES, help="sizes, the smallest first")
    modes.add_argument("--shards", type=int, nargs=2, help="numbers of shards, of 20 rows each")
    modes.add_argument("--driver", action="store_true", help="the driver's own work at up to 50,000 shards")
    modes.add_argument("--requests", action="store_true", help="count requests to an S3 server of this machine")
    modes.add_argument("--rate", action="store_true", help="rows/s at 50,000 rows")
    parser.add_argument("--method", choices=METHODS, help="of --rows (default saft) and --requests (default both)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of --rate; the median counts (default 3)")
    parser.add_argument("--note", help="kept with the result: what else the machine did")
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"where results go (default {RESULTS.name})")
    parser.add_argument("--no-json", dest="json", action="store_const", const=None)
    return parser.parse_args()


if __name__ == "__main__":
    main()
