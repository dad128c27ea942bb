"""Bytes that the corpus pass writes for a row, in both orders: vectors, or scores after the references.

    python benchmarks/references_first.py [--rows 20000] [--json FILE]

Two runs of LARF around the null model, which differ in keep_captures alone. A vector of the null model has 16 numbers;
what other widths and sizes take is arithmetic on what a row takes besides them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import machine
from tables import markdown
from whole_runs import Setting, make_models, run

NULL_WIDTH = 16
WIDTHS = {"null model": NULL_WIDTH, "8B": 4096, "70B": 8192}
SIZE = 2_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tamis-references-first-") as folder:
        model = make_models(Path(folder))
        runs = {kept: one(Path(folder), model, flags.rows, kept) for kept in ("vectors", "scores")}
    found = {"rows": flags.rows, "runs": runs, "rows_computed": SIZE, "machine": machine.facts()}
    besides = runs["vectors"]["corpus_bytes_per_row"] - 4 * NULL_WIDTH
    found["bytes"] = {
        name: {"vectors": (besides + 4 * width) * SIZE, "scores": runs["scores"]["corpus_bytes_per_row"] * SIZE}
        for name, width in WIDTHS.items()
    }
    rows = [
        [name, f"{sizes['vectors'] / 1e9:,.2f} GB", f"{sizes['scores'] / 1e9:,.3f} GB"]
        for name, sizes in found["bytes"].items()
    ]
    print(markdown([f"{SIZE:,} rows, one method", "vectors first", "references first"], rows))
    if flags.json:
        flags.json.write_text(json.dumps(found, indent=1) + "\n")


def one(folder: Path, model: Path, rows: int, kept: str) -> dict[str, Any]:
    """seconds: of the whole command."""
    found = run(folder, model, Setting(rows, "larf", (f"keep_captures={kept}",)))
    work = found["written"]
    # The references, 240 rows, are among the vectors in one run and in no table that stays in the other.
    references = sum(path.stat().st_size for path in _reference_tables(folder / "out"))
    corpus = work.get("_work/capture", {"bytes": 0})["bytes"] - references if kept == "vectors" else 0
    scored = work.get("_work/scored", {"bytes": 0})["bytes"]
    return {
        "seconds": found["seconds"],
        "capture_seconds": found["stages"]["capture"]["seconds"],
        "fit_seconds": found["stages"]["fit"]["seconds"],
        "corpus_bytes": corpus + scored,
        "corpus_bytes_per_row": (corpus + scored) / rows,
    }


def _reference_tables(output: Path) -> list[Path]:
    found = []
    for path in (output / "_work/receipts/capture").glob("[0-9]*.json"):
        receipt = json.loads(path.read_text())
        if receipt["role"] != "corpus":
            found.append(output / receipt["file"]["name"])
    return found


if __name__ == "__main__":
    main()
