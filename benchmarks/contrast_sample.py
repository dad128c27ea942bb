"""How many rows of the corpus Contrast would need in place of all of them, so that its ranks stay.

    python benchmarks/contrast_sample.py OUT [--json FILE]

OUT: a finished run of contrast with keep_captures: vectors. For each size of the sample, 100 seeded samples (with
replacement: as if the corpus were far larger than the sample) give 100 directions; told are Spearman's correlation of
the scores with those of the whole corpus, and the share of its riskiest tenth that is still the riskiest tenth.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from tables import markdown

from tamis.operators.methods.directions import unit
from tamis.pipeline.fit.scores import read_features
from tamis.pipeline.run import receipts
from tamis.pipeline.run.paths import ARTIFACT_FACTS, VECTORS_STAGE
from tamis.pipeline.storage.store import Sealed, Store

SIZES = (400, 1_000, 2_048, 4_096, 16_384)
SEEDS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    store = Store(flags.output)
    [column] = store.read_facts(ARTIFACT_FACTS)["methods"]["contrast"]["columns"]
    vectors: dict[str, list[np.ndarray[Any, Any]]] = {}
    for receipt in sorted(receipts.whole(store, VECTORS_STAGE), key=lambda receipt: int(receipt["index"])):
        file = Sealed(receipt["file"]["name"], receipt["file"]["sha256"])
        vectors.setdefault(receipt["role"], []).append(read_features(store, file)[column])
    corpus, unsafe = (unit(np.concatenate(vectors[role]).astype(np.float64)) for role in ("corpus", "contrast.unsafe"))
    found = {"rows": len(corpus), "references": len(unsafe), "column": column, "sizes": measured(corpus, unsafe)}
    print(
        markdown(
            ["rows in the sample", "Spearman, lowest", "5 % lowest", "median", "riskiest tenth kept, lowest"],
            [[f"{size:,}", *(f"{value:.4f}" for value in each.values())] for size, each in found["sizes"].items()],
        )
    )
    if flags.json:
        flags.json.write_text(json.dumps(found, indent=1) + "\n")


def measured(corpus: np.ndarray[Any, Any], unsafe: np.ndarray[Any, Any]) -> dict[int, dict[str, float]]:
    """corpus, unsafe: unit vectors (rows, d)."""
    whole = corpus @ (unsafe.mean(axis=0) - corpus.mean(axis=0))
    tenth = len(corpus) // 10
    riskiest = set(np.argsort(-whole, kind="stable")[:tenth].tolist())
    found = {}
    for size in SIZES:
        correlations, overlaps = [], []
        for seed in range(SEEDS):
            sample = corpus[np.random.default_rng(seed).integers(0, len(corpus), size)]
            scores = corpus @ (unsafe.mean(axis=0) - sample.mean(axis=0))
            correlations.append(spearman(whole, scores))
            overlaps.append(len(riskiest & set(np.argsort(-scores, kind="stable")[:tenth].tolist())) / max(tenth, 1))
        found[size] = {
            "lowest": min(correlations),
            "lowest_5_percent": float(np.quantile(correlations, 0.05)),
            "median": float(np.median(correlations)),
            "lowest_overlap": min(overlaps),
        }
    return found


def spearman(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Of values without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


if __name__ == "__main__":
    main()
