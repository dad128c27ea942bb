"""The engine inside the job: the capture of a real `tamis curate` against the bare forward pass over the same rows.

    python benchmarks/capture.py                  3,000 Alpaca rows, 16 blocks x 512, bfloat16, block 5
    python benchmarks/capture.py --rows 500
    python benchmarks/capture.py --rows 12000     the rows again and again: what a longer run comes to
    python benchmarks/capture.py --shape 8b       an 8B-shaped model up to block 10, for a GPU

Job: the manifest's capture time, from the first forward pass to the end of the last (Ray's start, the workers' start
and the model's load are not part of it and shown beside it). Bare: Representer.represent over all rows, tokenised
beforehand, in a fresh process with as many threads as the job's worker has: its first call, in which kernels are
still being made for every new shape, as the job's are, and its second. The same once more in the environment that
the job gives its workers (WORKERS_ENVIRONMENT): what is slow there is no matter of what runs beside the worker. All
are run in turns; medians count. What the worker does between two shards (Parquet, receipt) is shown apart.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import checkout
import corpora
import machine
import models
import numpy as np
import torch
from tables import markdown
from timing import interleave, seconds, summarise
from ways import last_token, ours

from tamis.operators.forward.representations import Representer

RESULTS = checkout.ROOT / "benchmarks" / "results" / "capture.json"
TARGET = 1.10
WORKERS_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "MALLOC_ARENA_MAX": "1", "TOKENIZERS_PARALLELISM": "false"}


def main() -> None:
    arguments = parse()
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    results = machine.facts(device, also=("ray", "pyarrow"))
    with tempfile.TemporaryDirectory(prefix="tamis-capture-") as name:
        folder = Path(name)
        results |= measure(folder, arguments, device)
    show(results)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
        print(f"\nwritten to {arguments.json}")


def measure(folder: Path, arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    block = models.SHAPES[arguments.shape].block if arguments.block is None else arguments.block
    file = write_corpus(folder / "corpus.jsonl", arguments.rows)
    model = models.make_folder(
        arguments.model or folder / "model",
        arguments.shape,
        block,
        dtype=arguments.dtype,
        device=device,
        texts=[file.read_text(encoding="utf-8")],
    )
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the job's worker is another process on this GPU
    run = Run(folder, file, model, block, arguments.dtype, device.type)
    corpus = corpora.tokenised(corpora.read_conversations(file), model)
    np.savez(folder / "rows.npz", ids=np.concatenate(corpus.input_ids), lengths=corpus.lengths, finals=corpus.finals)
    jobs: list[dict[str, Any]] = []
    bare: list[dict[str, Any]] = []
    as_workers: list[dict[str, Any]] = []

    def run_job() -> float:
        jobs.append(job(run))
        return float(jobs[-1]["capture"]["seconds"])

    def run_bare(found: list[dict[str, Any]], environment: dict[str, str]) -> float:
        found.append(in_fresh_process(run, environment))
        return float(found[-1]["seconds"])

    ways = {
        "job": run_job,
        "bare": partial(run_bare, bare, {}),
        "bare as a worker": partial(run_bare, as_workers, WORKERS_ENVIRONMENT),
    }
    taken = interleave(ways, arguments.repeats, tell=lambda line: print(line, file=sys.stderr))
    captured, forward = summarise(taken["job"]), summarise(taken["bare"])
    first, first_as_worker = (summarise([found["first_call_seconds"] for found in runs]) for runs in (bare, as_workers))
    between = [found["capture"]["seconds"] - found["capture"]["forward_seconds"] for found in jobs]
    middle = jobs[taken["job"].index(min(taken["job"], key=lambda took: abs(took - captured.median)))]
    return {
        "corpus": corpus.quantiles(),
        "model": f"{arguments.shape}, random, block {block}, {arguments.dtype}, {device}",
        "job_capture_seconds": captured.as_json(),
        "bare_forward_seconds": forward.as_json(),
        "bare_first_call_seconds": first.as_json(),
        "bare_as_worker_seconds": summarise(taken["bare as a worker"]).as_json(),
        "bare_as_worker_first_call_seconds": first_as_worker.as_json(),
        "job_between_shards_seconds": summarise(between).as_json(),
        "job_tokens_per_second": summarise([found["capture"]["tokens_per_second"] for found in jobs]).as_json(),
        "bare_tokens_per_second": corpus.tokens / forward.median,
        "job_over_bare": captured.median / forward.median,
        "job_over_bare_first_call": captured.median / first.median,
        "target": TARGET,
        "median_job": middle,
    }


@dataclass(frozen=True)
class Run:
    """What both are given. folder: for what they write."""

    folder: Path
    file: Path
    model: Path
    block: int
    dtype: str
    device: str


def job(run: Run) -> dict[str, Any]:
    """One run of the real command; its manifest's timings, and the time of the whole command."""
    output = run.folder / "out"
    shutil.rmtree(output, ignore_errors=True)
    # The module and not the console script: it is there wherever tamis can be imported.
    command = [sys.executable, "-m", "tamis.pipeline.cli", "curate", "--input", str(run.file)]
    command += ["--model", str(run.model), "--method", "saft", "--set", f"saft.layer={run.block}"]
    command += ["--set", f"model.dtype={run.dtype}", "--set", f"model.device={run.device}"]
    command += ["--set", "max_quarantined=0.01", "--output", str(output)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the run failed:\n{done.stdout}\n{done.stderr}")
    timings: dict[str, Any] = json.loads((output / "manifest.json").read_text())["timings"]
    return timings | {"whole_command_seconds": time.perf_counter() - began}


def in_fresh_process(run: Run, environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--bare", str(run.folder), str(run.model), str(run.block), run.dtype]
    command += [run.device, str(os.cpu_count() or 1)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    if done.returncode:
        sys.exit(f"the bare forward pass failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def bare_forward(folder: str, model: str, block: str, dtype: str, device: str, threads: str) -> None:
    """Prints JSON: seconds of the second call, and of the first, in which kernels are still being chosen."""
    torch.set_num_threads(int(threads))
    rows = np.load(Path(folder) / "rows.npz")
    ids = np.split(rows["ids"], np.cumsum(rows["lengths"])[:-1])
    began = time.perf_counter()
    representer = Representer.load(model, last_token(int(block)), dtype=dtype, device=device)
    load = time.perf_counter() - began
    first, second = (seconds(partial(ours, representer, ids, rows["finals"]), representer.device) for _ in range(2))
    print(json.dumps({"seconds": second, "first_call_seconds": first, "load_seconds": load}))


def write_corpus(path: Path, rows: int) -> Path:
    """The first rows of Alpaca that the job does not quarantine, repeated if more are wanted than there are; else
    made-up ones of the same lengths.
    """
    source = corpora.shared_file("data/alpaca_3k.jsonl")
    if source is not None:
        with source.open(encoding="utf-8") as lines:
            good = [line for line in lines if json.loads(line)["output"].strip()]
        path.write_text("".join((good * -(-rows // len(good)))[:rows]), encoding="utf-8")
        return path
    random = np.random.default_rng(0)
    words = [f"word{number}" for number in range(2000)]
    drawn = corpora.drawn(rows)
    with path.open("w", encoding="utf-8") as file:
        for start, stop in drawn.finals:
            prompt, answer = (" ".join(random.choice(words, max(1, int(n)))) for n in (start - 3, stop - start))
            file.write(json.dumps({"instruction": prompt, "input": "", "output": answer}) + "\n")
    return path


def show(results: dict[str, Any]) -> None:
    captured, forward, middle = (results[k] for k in ("job_capture_seconds", "bare_forward_seconds", "median_job"))
    quantiles = results["corpus"]
    print(machine.line(results["machine"]))
    print(f"\n{results['model']}; {quantiles['rows']:,} rows, {quantiles['tokens']:,} tokens\n")
    rows = [
        ["capture in the job", f"{captured['median']:.2f} ({captured['min']:.2f}-{captured['max']:.2f})",
         f"{quantiles['rows'] / captured['median']:,.0f}"],
        *([f"bare forward pass, {call}", f"{took['median']:.2f} ({took['min']:.2f}-{took['max']:.2f})",
           f"{quantiles['rows'] / took['median']:,.0f}"]
          for call, took in (("first call", results["bare_first_call_seconds"]), ("second call", forward),
                             ("first call, as a worker", results["bare_as_worker_first_call_seconds"]),
                             ("second call, as a worker", results["bare_as_worker_seconds"]))),
    ]  # fmt: skip
    print(markdown(["", "seconds (min-max)", "rows/s"], rows))
    print(
        f"\nthe job's manifest says {results['job_tokens_per_second']['median']:,.0f} tokens/s; bare, second call: "
        f"{results['bare_tokens_per_second']:,.0f}"
    )
    capture = middle["capture"]
    print(
        f"\njob over bare: {results['job_over_bare']:.3f} (target {TARGET:.2f}); over the first call of a process: "
        f"{results['job_over_bare_first_call']:.3f}"
    )
    print(f"of it between shards: {results['job_between_shards_seconds']['median']:.2f} s")
    print(
        f"not part of it: Ray's start {middle['ray_start']['seconds']:.1f} s, the model's load "
        f"{middle['model_load']['seconds']:.2f} s; the capture stage with the workers' start "
        f"{capture['wall_seconds']:.1f} s, the whole command {middle['whole_command_seconds']:.1f} s"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--shape", choices=models.SHAPES, default="small16", help="of the random model")
    parser.add_argument("--model", type=Path, help="its folder, made if it is not there yet (default: a temporary one)")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda if there is one")
    parser.add_argument("--block", type=int, help="the block whose output is taken (default 5 of 16, 10 of 32)")
    parser.add_argument("--dtype", choices=list(models.DTYPES), default="bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"where results go (default {RESULTS.name})")
    parser.add_argument("--no-json", dest="json", action="store_const", const=None)
    return parser.parse_args()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        bare_forward(*sys.argv[2:])
    else:
        main()
