"""Seconds of `tamis curate --from`: another method on the vectors that a run has kept.

    python benchmarks/from_kept.py [--rows 100000] [--width 512] [--methods saft contrast] [--folder F] [--json FILE]

The run that is the parent is real but for its vectors: they are drawn at random and written with the writer of the
capture, and `tamis curate` finds them done, fits, cuts and publishes. Then the model's folder is removed. In --folder,
a parent that is there already is used again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import machine
import numpy as np
import pyarrow as pa
from null_model import make_model, write_corpus
from tables import markdown

from tamis.operators.conversation.schema import infer_rows
from tamis.pipeline.capture.spec import STAGE
from tamis.pipeline.capture.worker import write_shard
from tamis.pipeline.inputs.files import encode_schema
from tamis.pipeline.inputs.shards import CORPUS, Shard, read, rows_digest
from tamis.pipeline.job.job_file import load_job
from tamis.pipeline.planning.plan import Plan, make_plan
from tamis.pipeline.run import folder as run_folder
from tamis.pipeline.storage.store import Store

LAYER = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--methods", nargs="+", default=["saft", "contrast"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tamis-from-kept-") as temporary:
        folder = (flags.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        made = make_parent(folder, flags.rows, flags.width)
        runs = {method: again(folder, method) for method in flags.methods}
    table = [[name, *(f"{run[key]:.1f}" for key in ("wall", "work", "fit", "emit"))] for name, run in runs.items()]
    print(markdown(["method", "s, whole command", "s, without imports and Ray", "s, fit", "s, output"], table))
    if flags.json:
        found = {"rows": flags.rows, "width": flags.width, "parent": made, "runs": runs, "machine": machine.facts()}
        flags.json.write_text(json.dumps(found, indent=1) + "\n")


def make_parent(folder: Path, rows: int, width: int) -> dict[str, Any]:
    """A finished LARF run with its vectors, in folder/run."""
    run = folder / "run"
    if not (run / "manifest.json").exists():
        shutil.rmtree(run, ignore_errors=True)
        corpus, model = folder / "corpus.jsonl", make_model(folder / "model", width=width)
        write_corpus(corpus, rows)
        job: dict[str, Any] = {
            "input": str(corpus),
            "output": str(run),
            "model": str(model),
            "method": "larf",
            "larf": {"layer": LAYER},
            "keep_captures": "vectors",
        }
        (folder / "job.yaml").write_text(json.dumps(job))  # JSON is YAML
        plan = make_plan(load_job(None, job))
        write_captures(plan, Store(str(run)), width)
        tamis("curate", str(folder / "job.yaml"))
        shutil.rmtree(model)
    captures = [path.stat().st_size for path in (run / "_work" / "capture").iterdir()]
    return {"capture_bytes": sum(captures), "tables": len(captures)}


def write_captures(plan: Plan, store: Store, width: int) -> None:
    columns = [request.column for request in plan.requests]
    spec: Any = SimpleNamespace(store=store, stage=STAGE, key=run_folder.captures_key(plan.fingerprint, columns))
    random = np.random.default_rng(0)
    sides = {"larf.unsafe": 1.0, "larf.safe": -1.0}
    for shard in (*plan.shards, *plan.reference_shards):
        rows = read(shard, {})
        lengths = random.integers(5, 400, len(rows)).astype(np.int32)
        vectors = random.normal(size=(len(rows), width)).astype(np.float32)
        vectors[:, 0] += sides.get(shard.role, 0.0)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width)
        table = pa.table(
            {
                "code": pa.nulls(len(rows), pa.string()),
                "message": pa.nulls(len(rows), pa.string()),
                "n_tokens": pa.array(lengths + 20, pa.int32()),
                "n_response_tokens": pa.array(lengths),
                "truncated": pa.array(np.zeros(len(rows), dtype=bool)),
                **dict.fromkeys(columns, flat),
            }
        )
        write_shard(table, _notes(shard, rows), spec)


def _notes(shard: Shard, rows: list[Any]) -> dict[str, Any]:
    timing = dict.fromkeys(("read_seconds", "forward_seconds", "load_seconds", "started"), 0.0)
    schema = encode_schema(infer_rows([row.value for row in rows])) if shard.role == CORPUS else None
    return {
        "shard": shard.to_json(),
        "input": rows_digest(rows),
        "schema": schema,
        "precision": "float32 on cpu",
        "fallback": None,
        **timing,
    }


def again(folder: Path, method: str) -> dict[str, float]:
    """wall: of the whole command. work: from when its modules are there to the manifest, without Ray's start."""
    output = folder / f"again-{method}"
    shutil.rmtree(output, ignore_errors=True)
    began = time.monotonic()
    tamis(
        *("curate", "--from", str(folder / "run"), "--method", method, "--set", f"{method}.layer={LAYER}"),
        *("--output", str(output)),
    )
    wall = time.monotonic() - began
    timings = json.loads((output / "manifest.json").read_text())["timings"]
    seconds = {name: float(timing["seconds"]) for name, timing in timings.items()}
    return {"wall": wall, "work": seconds["total"] - seconds["ray_start"], **seconds}


def tamis(*arguments: str) -> None:
    subprocess.run([sys.executable, "-P", "-m", "tamis.pipeline.cli", *arguments], check=True)


if __name__ == "__main__":
    main()
