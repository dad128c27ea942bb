"""Streaming mean and scatter of vectors, mergeable in any order, and the eigenbasis of the scatter.

Everything is float64. A merge tree over any partition of the rows gives the moments of all rows, up to rounding
(projector error below 1e-8), so each shard is read only once. Memory is O(d^2) whatever the number of rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """count: rows seen. mean: float64 (d,), zeros when count is 0. scatter: float64 (d, d), the sum over rows
    of (x - mean)(x - mean)^T, not divided by the count; exactly symmetric.
    """

    count: int
    mean: Float64s
    scatter: Float64s

    @property
    def width(self) -> int:
        return int(self.mean.shape[0])

    @property
    def total_variance(self) -> float:
        """The trace of the scatter: an eigenvalue divided by it is the explained-variance ratio of that direction."""
        return float(np.trace(self.scatter))


def moments_of(rows: npt.NDArray[np.floating]) -> Moments:
    """The moments of rows (n, d), of any floating dtype; n may be 0.

    Raises ValueError for another shape and for NaN or infinity: such rows must be quarantined before any statistic.
    """
    if rows.ndim != 2:
        raise ValueError(f"rows must have shape (n, d), not {rows.shape}")
    if not np.isfinite(rows).all():
        raise ValueError("rows hold NaN or infinity; quarantine them before computing moments")
    count, width = rows.shape
    if count == 0:
        return Moments(0, np.zeros(width), np.zeros((width, width)))
    values = rows.astype(np.float64)
    mean = values.mean(axis=0)
    values -= mean
    # The first mean is rounded. Its residual corrects it and keeps a large common offset out of the scatter.
    residual = values.mean(axis=0)
    values -= residual
    return Moments(count, mean + residual, values.T @ values)


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of the rows of `a` and `b` together (Chan, Golub and LeVeque 1979, eq. 1.5).

    Raises ValueError if the widths differ.
    """
    if a.width != b.width:
        raise ValueError(f"cannot merge moments of width {a.width} and {b.width}")
    if a.count == 0:
        return b
    if b.count == 0:
        return a
    count = a.count + b.count
    delta = b.mean - a.mean
    # The square root is applied to the vector so that the outer product stays exactly symmetric.
    shift = delta * math.sqrt(a.count * b.count / count)
    scatter = a.scatter + b.scatter
    scatter += np.outer(shift, shift)
    return Moments(count, a.mean + delta * (b.count / count), scatter)


def eigenbasis(m: Moments, k: int) -> tuple[Float64s, Float64s]:
    """The k leading eigenvalues (float64 (k,), descending, never negative) and eigenvectors (float64 (k, d),
    unit rows) of the scatter. They are the squared singular values and the right singular vectors of the
    centred rows.

    Each vector's sign is chosen so that its component of largest magnitude is positive. Beyond the rank of the scatter
    (at most count - 1), eigenvalues are zero up to rounding and the vectors complete the basis arbitrarily.
    Raises ValueError unless 1 <= k <= d.
    """
    if not 1 <= k <= m.width:
        raise ValueError(f"k={k}: between 1 and {m.width} directions exist")
    ascending, columns = np.linalg.eigh(m.scatter)
    eigenvalues = np.maximum(ascending[::-1][:k], 0.0)
    vectors = np.ascontiguousarray(columns.T[::-1][:k])
    peaks = vectors[np.arange(k), np.abs(vectors).argmax(axis=1)]
    vectors *= np.where(peaks < 0, -1.0, 1.0)[:, None]
    return eigenvalues, vectors
