"""What methods that compare directions share: unit vectors, and their sums over shards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Sum:
    """Over some vectors: their number, the number of zero vectors, and the sum, float64 (d,)."""

    count: int
    zeros: int
    total: npt.NDArray[np.float64]

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """float64 (d,). Undefined for no vectors."""
        return self.total / self.count


def unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """rows (n, d) scaled to length 1; a row of zeros stays zero, and one that is not finite becomes NaN somewhere."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):  # infinity by infinity
        units: npt.NDArray[np.float64] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths != 0)
    return units


def sum_of(rows: npt.NDArray[np.float32], *, units: bool = True) -> Sum:
    """The sum of vectors (n, d), or of their unit vectors."""
    exact = rows.astype(np.float64)
    zeros = int(np.count_nonzero(~exact.any(axis=1)))
    return Sum(len(exact), zeros, (unit(exact) if units else exact).sum(axis=0))


def add(a: Sum, b: Sum) -> Sum:
    return Sum(a.count + b.count, a.zeros + b.zeros, a.total + b.total)
