"""Contrast against rows that are drawn, and against the whole corpus: two runs of the real command, compared.

    python benchmarks/drawn_rows.py --input FILE --model MODEL --references FILE [--sample 1000] [--json FILE]

Told are Spearman's correlation of the scores, how many of the dropped rows are the same, the bytes that the corpus pass
wrote, the seconds of its stages, and how fast a shard of the input is read and parsed, which drawn rows cost once more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from contrast_sample import spearman
from tables import markdown

from tamis.pipeline.inputs.files import resolve
from tamis.pipeline.inputs.shards import CORPUS, make_shards, read, scan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--input", "--model", "--references"):
        parser.add_argument(name, required=True)
    parser.add_argument("--sample", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tamis-drawn-rows-") as folder:
        kept = {"all": ("all", "vectors"), "sample": (str(flags.sample), "scores")}
        runs = {name: curated(Path(folder) / name, flags, *settings) for name, settings in kept.items()}
        whole, some = (
            pa.concat_tables(map(pq.read_table, sorted((Path(folder) / n / "scores").iterdir()))) for n in runs
        )
    scores = [table.column("contrast").drop_null().to_numpy() for table in (whole, some)]
    fell = [{*table.filter(pc.equal(table.column("decision"), "dropped")).column("sample_id").to_pylist()}
            for table in (whole, some)]  # fmt: skip
    found = {
        "rows": len(scores[0]),
        "sample": flags.sample,
        "spearman": spearman(*scores),
        "dropped": len(fell[0]),
        "dropped_by_both": len(fell[0] & fell[1]),
        "runs": runs,
        "parsed_rows_per_second": parsed(flags.input),
        "machine": machine.facts(),
    }
    print(f"Spearman {found['spearman']:.4f}; {found['dropped_by_both']} of {found['dropped']} dropped by both")
    rows = [[name, *(f"{value:,.0f}" for value in each["bytes"].values())] for name, each in runs.items()]
    print(markdown(["bytes that the corpus pass wrote", "vectors", "scores"], rows))
    if flags.json:
        flags.json.write_text(json.dumps(found, indent=1) + "\n")


def curated(output: Path, flags: argparse.Namespace, sample: str, kept: str) -> dict[str, Any]:
    """bytes: of the captured tables of the corpus. error: of the direction, as the method expects it."""
    settings = [f"contrast.sample={sample}", f"keep_captures={kept}", f"contrast.unsafe_references={flags.references}"]
    sets = [word for setting in settings for word in ("--set", setting)]
    paths = ["--input", flags.input, "--model", flags.model, "--output", str(output)]
    command = [sys.executable, "-P", "-m", "tamis.pipeline.cli", "curate", *paths, "--method", "contrast", *sets]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    manifest = json.loads((output / "manifest.json").read_text())
    sizes = {"vectors": 0, "scores": 0}
    for stage, what in (("capture", "vectors"), ("scored", "scores")):
        for path in (output / "_work/receipts" / stage).glob("[0-9]*.json"):
            receipt = json.loads(path.read_text())
            sizes[what] += receipt["file"]["bytes"] if receipt["role"] == CORPUS else 0
    seconds = {name: timing["seconds"] for name, timing in manifest["timings"].items()}
    return {
        "bytes": sizes,
        "seconds": seconds,
        "facts": manifest["methods"][0]["facts"],
        "warnings": manifest["warnings"],
    }


def parsed(path: str) -> float:
    """Rows a second of one reader, without tokenising them."""
    shards = [
        shard for file in resolve([path], "auto", {}) for shard in make_shards(scan(file, 2048, {}), CORPUS, {}, 0)
    ]
    began = time.perf_counter()
    rows = sum(len(read(shard, {})) for shard in shards)
    return rows / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
