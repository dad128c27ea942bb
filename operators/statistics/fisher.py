"""The Fisher ratio of each block's safety direction: which block best separates unsafe answers from safe ones.

DataShield's layer selection (arXiv 2606.00160; docs/methods.md, "Fisher ratios"): no text is generated, the captured
vectors of the references are enough. Let v be the unit vector from the safe to the unsafe mean of response_mean, and
S_b, S_t the between-class and the total scatter of the standardised last_token vectors. Then

    ratio = v' S_b v / v' S_t v        in [0, 1]; 1: along v, all scatter is between the two classes

v' S v is the scatter of the projections on v, so no d x d matrix is ever made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tamis.operators.requests import Request

Matrix = npt.NDArray[np.floating[Any]]
Ratios = npt.NDArray[np.float64]


def fisher_ratios(features: Mapping[str, tuple[Matrix, Matrix]], blocks: int) -> Ratios:
    """float64 (blocks,): the ratio of each block.

    features: column of a request -> (unsafe (n, d), safe (m, d)), with last_token and response_mean of every block.
    NaN if there is no ratio: a class has no rows, the two means are equal, the vectors do not vary along v, or a
    vector is not finite. Raises ValueError if a column is missing or its arrays do not fit together.
    """
    if blocks < 1:
        raise ValueError(f"blocks={blocks}: a model has at least one block")
    ratios = np.full(blocks, np.nan)
    for block in range(blocks):
        means = _pair(features, Request(block, "response_mean").column)
        tokens = _pair(features, Request(block, "last_token").column)
        if means[0].shape[1] != tokens[0].shape[1]:
            raise ValueError(f"block {block}: vectors of {means[0].shape[1]} and of {tokens[0].shape[1]} numbers")
        ratios[block] = _ratio(means, tokens)
    return ratios


def best_block(ratios: npt.ArrayLike) -> int:
    """The block with the highest ratio; ties go to the lower block, and NaN never wins. ValueError if all are NaN."""
    values = np.asarray(ratios, dtype=np.float64)
    if values.ndim != 1 or np.isnan(values).all():
        raise ValueError("no block has a Fisher ratio: the references do not differ, or one of the two sets is empty")
    return int(np.nanargmax(values))


def _ratio(means: tuple[Matrix, Matrix], tokens: tuple[Matrix, Matrix]) -> float:
    if not all(len(part) for part in (*means, *tokens)):
        return np.nan
    unsafe, safe = (np.asarray(part, dtype=np.float64) for part in tokens)
    everything = np.concatenate([unsafe, safe])
    difference = np.mean(means[0], axis=0, dtype=np.float64) - np.mean(means[1], axis=0, dtype=np.float64)
    length = np.linalg.norm(difference)
    if not (np.isfinite(everything).all() and np.isfinite(length) and length > 0):
        return np.nan
    # the mean of equal numbers may round to another number, so a constant column is detected by its range
    varies = np.ptp(everything, axis=0) > 0
    scale = np.where(varies, everything.std(axis=0), 1.0)
    projections = ((everything - everything.mean(axis=0)) / scale * varies) @ (difference / length)
    total = float(np.sum((projections - projections.mean()) ** 2))
    if not total > 0:
        return np.nan
    parts = (projections[: len(unsafe)], projections[len(unsafe) :])
    between = sum(len(part) * (part.mean() - projections.mean()) ** 2 for part in parts)
    return float(min(between / total, 1.0))


def _pair(features: Mapping[str, tuple[Matrix, Matrix]], column: str) -> tuple[Matrix, Matrix]:
    if column not in features:
        raise ValueError(f"{column} of the references is missing; the Fisher ratio needs it")
    unsafe, safe = features[column]
    if unsafe.ndim != 2 or safe.ndim != 2 or unsafe.shape[1] != safe.shape[1]:
        raise ValueError(f"{column}: unsafe {unsafe.shape} and safe {safe.shape} are not vectors of the same size")
    return unsafe, safe
