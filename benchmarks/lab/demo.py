"""`make demo`: plant harmful pairs in a small corpus, curate it with the real command, and count what was found.

    python benchmarks/lab/demo.py [--rows 5000] [--harmful-share 0.1] [--output demo-out]

The harmful topics of the corpus are neither those of the references nor those of the lab model's training. Labels of
the planted rows stay in this process: nothing that tamis reads holds them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

LAB = Path(__file__).resolve().parent
sys.path.insert(0, str(LAB))

from corpus import write_corpus, write_references  # noqa: E402

METHODS = ("contrast", "larf", "saft")
REFERENCE_PAIRS = 100
LARF_LAYER = 2
"""At 31 % of the depth, where the paper found it for Llama-3-8B: a search (layer: auto) would take longer than all of
the rest of the demo."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000, help="size of the corpus (default 5000)")
    parser.add_argument("--harmful-share", type=float, default=0.1, help="share of planted rows (default 0.1)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the corpus and the references (default 1)")
    parser.add_argument("--output", type=Path, default=Path("demo-out"), help="folder, made anew (default demo-out)")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    arguments = parser.parse_args()
    began = time.perf_counter()
    labels = prepare(arguments.output, arguments.rows, arguments.harmful_share, arguments.seed)
    command = [str(Path(sys.executable).parent / "tamis"), "curate", str(arguments.output / "job.yaml")]
    print(
        f"{arguments.rows:,} conversations, {labels.sum():,} of them planted harmful pairs\n$ {' '.join(command)}\n",
        flush=True,
    )
    returned = subprocess.run(command, check=False).returncode
    if returned:
        sys.exit(returned)
    results = evaluate(arguments.output / "result", labels)
    show(results, arguments.output / "result", time.perf_counter() - began)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def prepare(folder: Path, rows: int, harmful_share: float, seed: int) -> np.ndarray[Any, Any]:
    """Write the corpus, the references and the job file; bool (rows,): which rows are planted."""
    if folder.exists() and not (folder / "job.yaml").exists():
        sys.exit(f"{folder} exists and is not an earlier demo's; choose another with --output")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    labels = write_corpus(folder / "corpus.jsonl", rows, harmful_share, seed)
    write_references(folder / "unsafe.jsonl", folder / "safe.jsonl", REFERENCE_PAIRS, seed)
    job = {
        "input": str(folder / "corpus.jsonl"),
        "output": str(folder / "result"),
        "model": str(LAB / "model"),
        "method": list(METHODS),
        "contrast": {"unsafe_references": str(folder / "unsafe.jsonl")},
        "larf": {
            "layer": LARF_LAYER,
            "unsafe_references": str(folder / "unsafe.jsonl"),
            "safe_references": str(folder / "safe.jsonl"),
        },
        "selection": {"drop": harmful_share, "by": "contrast"},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job, sort_keys=False))
    return labels


def evaluate(result: Path, labels: np.ndarray[Any, Any]) -> dict[str, Any]:
    """AUROC of each method and of response length alone, and how many of the planted rows each would drop."""
    files = sorted((result / "scores").glob("*.parquet"))
    scores = pa.concat_tables([pq.read_table(file) for file in files])
    decided = np.array(scores.column("decision").to_pylist())
    usable = decided != "quarantined"
    planted = labels[usable]
    dropped = int((decided == "dropped").sum())
    results: dict[str, Any] = {
        "rows": len(labels),
        "planted": int(labels.sum()),
        "dropped": dropped,
        "planted_among_dropped": int(labels[decided == "dropped"].sum()),
        "auroc": {},
        "planted_among_riskiest": {},
    }
    for name in (*METHODS, "n_response_tokens"):
        values = np.array(scores.column(name).to_pylist(), dtype=object)[usable].astype(np.float64)
        results["auroc"][name] = float(roc_auc_score(planted, values))
        riskiest = np.argsort(-values, kind="stable")[:dropped]
        results["planted_among_riskiest"][name] = int(planted[riskiest].sum())
    return results


def show(results: dict[str, Any], result: Path, seconds: float) -> None:
    table = Table(title=f"\n{results['planted']:,} planted among {results['rows']:,}, {results['dropped']:,} dropped")
    table.add_column("score")
    table.add_column("AUROC", justify="right")
    table.add_column(f"planted among its {results['dropped']:,} riskiest", justify="right")
    names = {
        "contrast": "Contrast (decided)",
        "larf": "LARF",
        "saft": "SAFT",
        "n_response_tokens": "response length alone",
    }
    for key, name in names.items():
        found = results["planted_among_riskiest"][key]
        share = found / max(results["planted"], 1)
        table.add_row(name, f"{results['auroc'][key]:.3f}", f"{found:,} of {results['planted']:,} ({share:.0%})")
    console = Console()
    console.print(table)
    left = results["planted"] - results["planted_among_dropped"]
    console.print(f"{results['planted_among_dropped']:,} of the planted rows were removed, {left:,} stayed in kept/")
    console.print(f"took {seconds:.0f} s; open the report: {(result / 'report.html').resolve()}", soft_wrap=True)


if __name__ == "__main__":
    main()
