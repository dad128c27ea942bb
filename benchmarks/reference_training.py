"""One worker's training of a reference model: as a plain Ray task, as tamis runs it, and under Ray Train.

    python benchmarks/reference_training.py                 aligned-8m if at hand, else a random small model
    python benchmarks/reference_training.py --model FOLDER  a chat model

Both call the same function on the same rows, so what differs is what it takes to start and to end. Interleaved,
medians; wall seconds, and the processor time of all processes of Ray, which says more on a busy machine. The adapters
of both must be the same bytes.

Needs an installed tamis.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import checkout
import corpora
import machine
import models
import numpy as np
import psutil
import torch
from tables import markdown
from timing import interleave, summarise

from tamis.operators.tokens.tokenised import Tokenised
from tamis.operators.training.recipe import Recipe
from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.cluster.session import ray_session
from tamis.pipeline.cluster.watchdog import start_watch
from tamis.pipeline.models.handle import ModelHandle
from tamis.pipeline.references import group
from tamis.pipeline.references.rows import rows_digest, write_rows
from tamis.pipeline.references.worker import ReferenceSpec
from tamis.pipeline.storage.store import Store

RESULTS = checkout.ROOT / "benchmarks" / "results" / "reference_training.json"
POOL = Pool(workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0, threads=1, task_cpus=0.5)
TIMEOUT = 3600.0
WEIGHTS = "artifact/references/utility/adapter_model.safetensors"


def main() -> None:
    arguments = parse()
    results = machine.facts(also=["ray"])
    print(machine.line(results["machine"]))
    with tempfile.TemporaryDirectory(prefix="tamis-training-") as name:
        folder = Path(name)
        model = arguments.model or corpora.shared_file("models/aligned-8m") or _random(folder)
        rows = _rows(arguments.rows)
        made: list[Path] = []
        cpu: dict[str, list[float]] = {}
        with ray_session(None), closing(ProcessorTime()) as clock:

            def once(way: str, run: Callable[[ReferenceSpec], Iterable[object]]) -> float:
                made.append(folder / str(len(made)))
                spec = _spec(Store(str(made[-1])), model, rows)
                before, began = clock.seconds, time.perf_counter()
                for _ in run(spec):
                    pass
                took = time.perf_counter() - began
                cpu.setdefault(way, []).append(clock.seconds - before)
                return took

            ways = {"a task": partial(once, "a task", _alone), "Ray Train": partial(once, "Ray Train", _together)}
            interleave(ways, 1)  # the first start of each imports torch and Ray Train
            cpu.clear()
            taken = interleave(ways, arguments.repeats, print)
        same = len({(each / WEIGHTS).read_bytes() for each in made}) == 1
    found = {way: {"wall": summarise(taken[way]).as_json(), "cpu": summarise(cpu[way]).as_json()} for way in ways}
    results |= {"model": Path(model).name, "rows": len(rows), "load_average": round(os.getloadavg()[0], 1)}
    results |= {"same_bytes": same, "ways": found}
    table = [[way, *(f"{of[kind]['median']:.1f} ({of[kind]['min']:.1f} to {of[kind]['max']:.1f})"
                     for kind in ("wall", "cpu"))] for way, of in found.items()]  # fmt: skip
    print("\n" + markdown(["one worker", "wall seconds, median (min to max)", "CPU seconds"], table))
    print(f"\nthe same adapter, byte for byte: {same}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
        print(f"written to {arguments.json}")


def _alone(spec: ReferenceSpec) -> Iterable[object]:
    return group.messages(spec, POOL, 1, TIMEOUT)


def _together(spec: ReferenceSpec) -> Iterable[object]:
    guard = start_watch()
    return group._together(spec, POOL, 1, guard, group._HangDetector(guard, TIMEOUT))


def _spec(store: Store, model: Path | str, rows: list[Tokenised]) -> ReferenceSpec:
    written = write_rows(store, "utility", rows)
    return ReferenceSpec(
        store=store,
        name="utility",
        key="benchmark",
        digest=rows_digest(rows),
        rows=written.sealed,
        model=ModelHandle(str(model), str(model), None, dtype="float32", device="cpu", threads=1),
        token_budget=None,
        recipe=Recipe(rank=4, alpha=8, learning_rate=1e-3, batch_size=4, epochs=1),
        checkpoint_steps=1000,
    )


def _rows(count: int) -> list[Tokenised]:
    drawn = np.random.default_rng(0)
    return [Tokenised(drawn.integers(6, 300, 60).astype(np.int32), ((20, 60),), False) for _ in range(count)]


def _random(folder: Path) -> Path:
    return models.make_folder(folder, "small16", 15, dtype="float32", device=torch.device("cpu"), texts=["some text"])


class ProcessorTime:
    """Processor seconds of this process and of all below it, also of those that have ended, until `close`: a thread
    looks at them ten times a second. The system's own sum for children lacks those that Ray ends without waiting."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, float], float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def seconds(self) -> float:
        self._look()
        return sum(self._seen.copy().values())

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self._look()

    def _look(self) -> None:
        own = psutil.Process()
        for process in [own, *own.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                self._seen[process.pid, process.create_time()] = times.user + times.system


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a chat model's folder")
    parser.add_argument("--rows", type=int, default=64, help="of 60 tokens each (default 64)")
    parser.add_argument("--repeats", type=int, default=3, help="of every way (default 3)")
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"where results go (default {RESULTS.name})")
    parser.add_argument("--no-json", dest="json", action="store_const", const=None)
    return parser.parse_args()


if __name__ == "__main__":
    main()
