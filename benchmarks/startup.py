"""Where the time goes from the command to the first captured row, and what the processes take until then.

    python benchmarks/startup.py                             five runs of LARF with a given layer on 300 rows
    python benchmarks/startup.py --repeats 1                 half a minute
    git worktree add /tmp/before COMMIT && python benchmarks/startup.py --before /tmp/before
    python benchmarks/startup.py --json benchmarks/results/startup.json

The real `tamis curate`, with a Ray of its own and a random model that costs next to nothing to load and to run. Each
process notes when its imports and its steps began and ended (benchmarks/traced/); the first row is captured when the
first receipt of a shard is written, and then the command is stopped as by Ctrl-C. --before: a checkout to compare
with; its runs and ours take turns.

The steps overlap: Ray starts while the driver plans. `s` is the wall time of a step, `at` when it ended, from the
start of the command. On a machine that others use, too, CPU seconds are the fair figure. Those of a step are of its
whole process meanwhile: steps of one process that overlap share theirs. Python processes: all that Python starts,
those of Ray and short ones, too.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
from checkout import ROOT
from family import DRIVER, RAY, WORKERS, Family
from null_model import make_model, write_corpus
from tables import markdown
from timing import interleave, summarise

ROWS = 300
TARGET_SECONDS = 8.0
DEADLINE = 400.0
FIRST = "ModelWorker._capture"
LOADED = ("import torch", "import transformers", "import tamis.operators.model.architecture",
          "import tamis.operators.forward.representations")  # fmt: skip
"""Together all of torch and transformers that a process needs. None of them stands within another."""


@dataclass(frozen=True)
class Note:
    """One step of one process. began, ended: seconds since the start of the command."""

    name: str
    began: float
    ended: float
    cpu: float


Notes = dict[int, list[Note]]
"""Process -> its steps."""


@dataclass(frozen=True)
class Start:
    """One start. processes: that had written notes by the first row."""

    steps: dict[str, dict[str, float]]
    cpu: dict[str, float]
    processes: int

    @property
    def seconds(self) -> float:
        return self.steps["first shard"]["at"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="starts of each checkout; the medians count (default 5)")
    parser.add_argument("--before", type=Path, help="another checkout, to compare with")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    arguments = parser.parse_args()
    ways = {"now": ROOT} if arguments.before is None else {"before": arguments.before, "now": ROOT}
    starts: dict[str, list[Start]] = {way: [] for way in ways}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="tamis-startup-") as name:
        folder = Path(name)
        model, corpus = make_model(folder / "model"), folder / "corpus.jsonl"
        write_corpus(corpus, ROWS)

        def measure(way: str) -> float:
            place = Path(tempfile.mkdtemp(dir=folder))
            starts[way].append(start(ways[way], place, model, corpus))
            return starts[way][-1].seconds

        taken = {way: (lambda way=way: measure(way)) for way in ways}  # type: ignore[misc]
        interleave(taken, arguments.repeats, lambda line: print(line, file=sys.stderr))
    facts = machine.facts(also=("ray", "tokenizers"))
    found = {way: summary(each) for way, each in starts.items()}
    show(found, facts["machine"], load)
    if arguments.json is not None:
        results = {**facts, "rows": ROWS, "load_average": round(load, 1), "target": TARGET_SECONDS, **found}
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def start(root: Path, folder: Path, model: Path, corpus: Path) -> Start:
    """Start the command of the checkout at `root`, and stop it when the first shard is captured."""
    notes = folder / "notes"
    notes.mkdir()
    path = [str(ROOT / "benchmarks" / "traced"), str(importable(root, folder))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "STARTUP_TRACE": str(notes)}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-P", "-m", "tamis.pipeline.cli", "curate", "--method", "larf", "--set", "larf.layer=0"]
    command += ["--input", str(corpus), "--model", str(model), "--output", str(folder / "out")]
    log = folder / "log"
    with log.open("wb") as said:
        began = time.time()
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
    with Family(process.pid) as family:
        while not captured(read := read_notes(notes, began)):
            if process.poll() is not None or time.time() - began > DEADLINE:
                process.kill()
                sys.exit(f"the command captured nothing:\n{log.read_text()}")
            time.sleep(0.05)
        cpu = family.cpu()
        process.send_signal(signal.SIGINT)
        process.wait()
    return Start(steps_of(read, process.pid), {kind: cpu[kind] for kind in (DRIVER, WORKERS, RAY)}, len(read))


def importable(root: Path, folder: Path) -> Path:
    """A folder from which Python imports the tamis of that checkout, wherever another one is installed."""
    package = folder / "path" / "tamis"
    package.mkdir(parents=True)
    for each in (root / "operators", root / "pipeline", *(root / "api").glob("*.py")):
        (package / each.name).symlink_to(each.resolve())
    return package.parent


def read_notes(folder: Path, began: float) -> Notes:
    found: Notes = {}
    for file in folder.glob("*.jsonl"):
        # A line that is being written is read the next time.
        lines = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
        steps = [json.loads(line) for line in lines]
        found[int(file.stem)] = [Note(name, since - began, until - began, cpu) for name, since, until, cpu in steps]
    return found


def captured(notes: Notes) -> bool:
    return any(note.name == FIRST for each in notes.values() for note in each)


def steps_of(notes: Notes, driver: int) -> dict[str, dict[str, float]]:
    """Step -> its wall seconds (s), when it ended (at) and its CPU seconds in that process (cpu), in order."""
    capturing = min(
        (each for each in notes.values() if any(note.name == FIRST for note in each)),
        key=lambda each: next(note.ended for note in each if note.name == FIRST),
    )
    ours, theirs = first_of(notes[driver]), first_of(capturing)
    reading = [note for each in notes.values() for note in each if note.name == "tokenise_shard"]
    steps = {
        "driver: Python and the command's imports": lasts(0.0, ours["import tamis.pipeline.curate"]),
        "driver: torch and transformers": together(ours),
        "driver: the plan, with them": as_step(ours["make_plan"]),
        "Ray's start, meanwhile": as_step(ours["_init"]),
        "driver: from the plan to the graph": lasts(ours["make_plan"].ended, ours["_graph"]),
        "worker: from the graph to its Python": lasts(ours["_graph"].ended, theirs["python"]),
        "worker: from its Python to the actor": between(theirs["python"], theirs["ModelWorker.__init__"]),
        "worker: torch and transformers": together(theirs),
        "worker: the model": as_step(theirs["Forward.load"]),
        "reader: the first shard": as_step(min(reading, key=lambda note: note.ended)),
        "first shard": as_step(theirs[FIRST]),
    }
    return {name: {key: round(value, 2) for key, value in step.items()} for name, step in steps.items()}


def first_of(notes: list[Note]) -> dict[str, Note]:
    found: dict[str, Note] = {}
    for note in notes:
        found.setdefault(note.name, note)
    return found


def as_step(note: Note) -> dict[str, float]:
    return {"s": note.ended - note.began, "at": note.ended, "cpu": note.cpu}


def lasts(since: float, until: Note) -> dict[str, float]:
    return {"s": max(until.ended - since, 0.0), "at": until.ended}


def between(since: Note, until: Note) -> dict[str, float]:
    return {"s": until.began - since.ended, "at": until.began}


def together(notes: dict[str, Note]) -> dict[str, float]:
    """Zero where none of them was imported: the driver may do without."""
    loaded = [note for name in LOADED if (note := notes.get(name)) is not None]
    # An import within another one counts once.
    outer = [n for n in loaded if not any(m is not n and m.began <= n.began and n.ended <= m.ended for m in loaded)]
    seconds, cpu = sum(note.ended - note.began for note in outer), sum(note.cpu for note in outer)
    return {"s": seconds, "at": max((note.ended for note in outer), default=0.0), "cpu": cpu}


def summary(starts: list[Start]) -> dict[str, Any]:
    steps: dict[str, Any] = {}
    for name, step in starts[0].steps.items():
        steps[name] = {key: summarise([each.steps[name][key] for each in starts]).as_json() for key in step}
    return {
        "seconds_to_first_row": summarise([each.seconds for each in starts]).as_json(),
        "steps": steps,
        "cpu_seconds": {kind: summarise([each.cpu[kind] for each in starts]).as_json() for kind in starts[0].cpu},
        "python_processes": summarise([each.processes for each in starts]).as_json(),
    }


def show(found: dict[str, Any], facts: dict[str, Any], load: float) -> None:
    print(f"LARF with a given layer, {ROWS} rows; {machine.line(facts)}; load average {load:.1f} at the start\n")
    header = ["step"]
    for way in found:
        header += [f"{key} {way}" if len(found) > 1 else key for key in ("s", "at", "CPU s")]
    names = next(iter(found.values()))["steps"]
    rows = []
    for name in names:
        cells = [name]
        for each in found.values():
            step = each["steps"][name]
            cells += [f"{step[key]['median']:.1f}" if key in step else "" for key in ("s", "at", "cpu")]
        rows.append(cells)
    print(markdown(header, rows))
    for way, each in found.items():
        first, cpu = each["seconds_to_first_row"], each["cpu_seconds"]
        taken = ", ".join(f"{kind} {value['median']:.1f}" for kind, value in cpu.items())
        print(
            f"{way}: first row after {first['median']:.1f} s ({first['min']:.1f} to {first['max']:.1f}, "
            f"{first['repeats']} starts), target {TARGET_SECONDS:.0f} s; CPU s until then: {taken}; "
            f"{each['python_processes']['median']:.0f} Python processes"
        )


if __name__ == "__main__":
    main()
