"""How long a run of very many shards takes to begin: from the start of the command to the first shard's work.

    python benchmarks/many_shards.py                        50,000 shards against 20, three times each: five minutes
    python benchmarks/many_shards.py --shards 5000 --repeats 1
    python benchmarks/many_shards.py --json benchmarks/results/many_shards.json

The real command begins to capture a corpus, one row a shard, with a random model that costs next to nothing, and is
killed when it has captured the first one. What it takes longer than a run of 20 shards is what their number costs.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import machine
import resume
from null_model import make_model
from tables import markdown

SMALL = 20
TARGET_SECONDS = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=50_000, help="shards of the large run (default 50,000)")
    parser.add_argument("--repeats", type=int, default=3, help="starts of each; the median counts (default 3)")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tamis-shards-") as folder:
        found = measure(Path(folder), arguments.shards, arguments.repeats)
    found = machine.facts(also=("ray", "pyarrow")) | found
    print(machine.line(found["machine"]))
    rows = [
        [name, f"{taken['median']:.1f}", ", ".join(map(str, taken["all"]))] for name, taken in found["runs"].items()
    ]
    print(markdown(["shards", "seconds to the first", "all"], rows))
    print(f"what the number of shards costs: {found['difference']:.1f} s (target {TARGET_SECONDS:.0f})")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def measure(folder: Path, shards: int, repeats: int) -> dict[str, Any]:
    model = make_model(folder / "model")
    taken: dict[int, list[float]] = {shards: [], SMALL: []}
    for number in range(repeats):
        for count, seconds in taken.items():
            run = resume.run_of(folder, model, str(folder / f"out-{number}"), {}, count, left=0)
            seconds.append(run.resume())
            run.store.remove("")
    runs = {f"{count:,}": resume.median_of(seconds) for count, seconds in taken.items()}
    return {
        "load_average": round(os.getloadavg()[0], 1),
        "runs": runs,
        "difference": runs[f"{shards:,}"]["median"] - runs[f"{SMALL:,}"]["median"],
        "target": TARGET_SECONDS,
    }


if __name__ == "__main__":
    main()
