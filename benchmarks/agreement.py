"""Do two ways give the same vectors? A benchmark that compares different results is worthless."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

# Largest relative difference of any row. bfloat16 keeps 8 bits: two orders of summation over 6 to 11 blocks end some
# per cent apart; another block or another token is ten times as far.
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.05}


@dataclass(frozen=True)
class Agreement:
    """Over all rows: relative differences |x - y| / |x|, and the smallest cosine."""

    median: float
    max: float
    min_cosine: float

    def line(self) -> str:
        return (
            f"relative difference median {self.median:.1e}, max {self.max:.1e}; smallest cosine {self.min_cosine:.6f}"
        )

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def agreement(reference: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> Agreement:
    """Compare (N, d) vectors row by row, in float64. NaN in either makes the difference NaN."""
    x, y = reference.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1)
    difference = np.linalg.norm(x - y, axis=1) / lengths
    cosine = (x * y).sum(axis=1) / (lengths * np.linalg.norm(y, axis=1))
    return Agreement(float(np.median(difference)), float(difference.max()), float(cosine.min()))


def require_agreement(agreements: Mapping[str, Agreement], dtype: str) -> str:
    """What to print; exits if a way is further away than TOLERANCES allow."""
    text = "\n".join(f"  ({name}) {found.line()}" for name, found in agreements.items())
    wrong = [name for name, found in agreements.items() if not found.max <= TOLERANCES[dtype]]
    if wrong:
        sys.exit(f"{text}\nnot the same vectors: ({'), ('.join(wrong)}), tolerance {TOLERANCES[dtype]} in {dtype}")
    return text
