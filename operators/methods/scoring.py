"""All methods of a job on one shard: captured vectors -> a score for each row, checked."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tamis.operators.methods.protocol import Artifact, Features, Method


def scores_of(
    methods: Mapping[str, Method], artifacts: Mapping[str, Artifact], features: Features, rows: int
) -> dict[str, npt.NDArray[np.float32]]:
    """Name -> float32 (rows,). rows: of every array of `features`.

    Raises ValueError, which names the method, for scores that are not one finite number a row, and where the vectors do
    not fit the artifact.
    """
    found = {}
    for name, method in methods.items():
        try:
            scores = method.score(artifacts[name], features)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if scores.shape != (rows,):  # numpy would spread one number over all rows
            raise ValueError(f"{name}: gave scores of shape {scores.shape} for {rows} rows; repair it")
        if not np.isfinite(scores).all():
            raise ValueError(f"{name}: a score is too large for float32; choose another layer")
        found[name] = scores.astype(np.float32)
    return found
