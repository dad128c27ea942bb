"""The ways that are in use, in a process of their own where nothing of tamis is set, as their users run them.

What tamis sets for its process (operators/model/allocator.py) serves every model in it, the other ways' too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import models
import numpy as np
import numpy.typing as npt
import torch
import ways
from timing import seconds

CPU = torch.device("cpu")


class Apart:
    """full: a causal language model on the CPU; it is written to `folder`, and loaded from there. Runs (a) to (c)."""

    def __init__(self, full: Any, dtype: str, input_ids: Sequence[npt.NDArray[np.int64]], block: int, folder: Path):
        full.save_pretrained(folder / "model")
        lengths = np.array([len(ids) for ids in input_ids])
        np.savez(folder / "rows.npz", ids=np.concatenate(input_ids), lengths=lengths)
        command = [sys.executable, __file__, str(folder), dtype, str(block), str(torch.get_num_threads())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, way: str) -> float:
        """The wall time of one pass of `way` over all rows."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(way + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"the process of the other ways ended ({self._process.wait()}); see above")
        return float(json.loads(answer))

    def close(self) -> None:
        self._process.communicate()


def serve(folder: Path, dtype: str, block: int, threads: int) -> None:
    """Read the name of a way from each line of standard input, and answer with its seconds."""
    torch.set_num_threads(threads)
    full = models.load_full(folder / "model", dtype=models.DTYPES[dtype], device=CPU)
    rows = np.load(folder / "rows.npz")
    ids = np.split(rows["ids"], np.cumsum(rows["lengths"])[:-1])
    runs = {
        "a": lambda: ways.one_by_one(full, ids, block),
        "b": lambda: ways.in_file_order(full.base_model, ids, block),
        "c": lambda: ways.sorted_by_length(full.base_model, ids, block),
    }
    for line in sys.stdin:
        print(json.dumps(seconds(runs[line.strip()], CPU)), flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
