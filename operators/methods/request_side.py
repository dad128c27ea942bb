"""Whether a request looks harmful: the state at the last token of the prompt, on the direction from the corpus's
requests to those of the unsafe references (Contrast's, at another position).

    w     = mean_j unit(p(u_j)) - mean_i unit(p(z_i))      u: unsafe references, z: rows of the corpus
    score = unit(p(z)) . w

p is the residual stream after one block at `last_prompt_token`, which sees the request and nothing of the answer. Each
row that w is made of is scored without itself. The cut is the score that 95 % of the references' own requests exceed:
the answer must refuse as well, so a request that is missed counts more than one too many. It says nothing where the
two sides cannot be told apart: then there is no cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tamis.operators.methods.directions import unit
from tamis.operators.methods.protocol import Method
from tamis.operators.requests import Request

UNSAFE = "unsafe"
MISSED = 0.05
"""The share of the unsafe references whose requests lie at or below the cut."""
ENOUGH = 16
"""Requests on either side; with fewer there is no cut."""
TOLD = 0.75
"""The AUROC between the two sides below which no cut says what a request is."""


@dataclass(frozen=True, eq=False)
class RequestCut:
    """direction: float64 (d,). threshold: requests that score above it look harmful. auroc: of the references' requests
    against those of the corpus. above: the share of the corpus's requests above the threshold. unsafe, corpus: how many
    requests of each."""

    direction: npt.NDArray[np.float64]
    threshold: float
    auroc: float
    above: float
    unsafe: int
    corpus: int

    def harmful(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """bool (n,): which requests, (n, d), look harmful."""
        if not len(vectors):
            return np.zeros(0, dtype=bool)
        found: npt.NDArray[np.bool_] = unit(vectors.astype(np.float64)) @ self.direction > self.threshold
        return found


def read_of(methods: Mapping[str, Method], blocks: int) -> tuple[str, Request] | None:
    """The method whose unsafe references are used, and what is read of each row: the first that has such references,
    and its first block. None if none has."""
    for name, method in methods.items():
        if UNSAFE in method.sources():
            return name, Request(method.requests(blocks)[0].block, "last_prompt_token")
    return None


def request_cut(unsafe: npt.NDArray[np.float32], corpus: npt.NDArray[np.float32]) -> RequestCut:
    """Of requests (n, d) and (m, d). ValueError, in words, where they allow no cut."""
    for rows, side in ((unsafe, "unsafe references"), (corpus, "rows of the corpus")):
        if len(rows) < ENOUGH:
            raise ValueError(f"only {len(rows)} {side} have a request that could be read, and {ENOUGH} are needed")
    u, z = unit(unsafe.astype(np.float64)), unit(corpus.astype(np.float64))
    means = u.mean(axis=0), z.mean(axis=0)
    direction = means[0] - means[1]
    # Without itself, a row's own side is the mean of the others.
    without = (len(u) * means[0] - u) / (len(u) - 1), (len(z) * means[1] - z) / (len(z) - 1)
    own = (u * (without[0] - means[1])).sum(axis=1)
    others = (z * (means[0] - without[1])).sum(axis=1)
    auroc = _auroc(own, others)
    if auroc < TOLD:
        raise ValueError(
            f"the requests of the unsafe references are not told from those of the corpus (AUROC {auroc:.2f}; "
            f"{TOLD:g} is needed)"
        )
    threshold = float(np.quantile(own, MISSED, method="lower"))
    return RequestCut(direction, threshold, auroc, float((others > threshold).mean()), len(u), len(z))


def _auroc(high: npt.NDArray[np.float64], low: npt.NDArray[np.float64]) -> float:
    """The share of pairs in which the first is above; ties count half."""
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, "left") + np.searchsorted(ordered, high, "right")
    return float(below.sum() / (2 * len(high) * len(low)))
