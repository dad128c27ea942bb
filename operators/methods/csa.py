"""Consensus subspace score with one model (arXiv 2607.15081): how much of a sample lies in the subspace of the unsafe
references, minus how much lies in that of the safe ones.

    c(z)  = unit([unit(h_b1(z)), unit(h_b2(z)), unit(h_b3(z))])
    U_un, U_sa = the `rank` leading right singular vectors of the references' c, not centred
    score = |U_un^T c|^2 - |U_sa^T c|^2                in [-1, 1], higher = riskier

h_b is the residual stream after block b at the last token. The paper clips this at the 1st and 99th percentile of the
corpus, scales it, and averages it over several models. Over one model, that changes no order but ties 1 % of the rows
at each end, so it is left out. The paper's code takes the norms without squaring them; the formula above is its text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from tamis.operators.methods.directions import unit
from tamis.operators.methods.protocol import Artifact, Features, Method, Reduce, setting, vectors
from tamis.operators.requests import Request

RELATIVE_DEPTHS = (12 / 32, 15 / 32, 18 / 32)
"""The paper's blocks of Llama-3-8B, counted from 0, over its 32 blocks."""
SMALLEST_SHARE = 1e-6
"""A singular value below this share of the largest one is rounding: captured vectors are float32."""


@dataclass(frozen=True)
class Csa(Method):
    """layers: block numbers, or "auto" (RELATIVE_DEPTHS of the model's). rank: directions of each subspace; at most
    as many as the smaller reference set has."""

    name: ClassVar[str] = "csa"
    title: ClassVar[str] = "CSA"
    about: ClassVar[str] = "share in the subspace of unsafe references minus that in the safe ones', at three blocks."
    references: ClassVar[Mapping[str, str]] = {
        "unsafe": "File of harmful prompts with complying answers; default: the shipped set.",
        "safe": "File of the same prompts with refusals; default: the shipped set.",
    }

    layers: Literal["auto"] | list[int] = setting(
        "auto", "0-based blocks whose outputs are joined; auto: three near the middle, as deep as the paper's.", ge=0
    )
    rank: int = setting(16, "Directions of each subspace; fewer if a reference set has fewer rows.", ge=1)

    def __post_init__(self) -> None:
        layers: Any = self.layers
        numbers = isinstance(layers, list) and layers and all(type(layer) is int and layer >= 0 for layer in layers)
        if layers != "auto" and not (numbers and len(set(layers)) == len(layers)):
            raise ValueError(f'csa.layers={layers!r}: write "auto" or different block numbers, counted from 0')
        if not isinstance(self.rank, int) or isinstance(self.rank, bool) or self.rank < 1:
            raise ValueError(f"csa.rank={self.rank!r}: write a whole number from 1 on")

    @classmethod
    def explain(cls, facts: Mapping[str, Any]) -> str:
        return (
            "CSA (arXiv 2607.15081, one model): the share of the sample's representation that lies in the subspace of "
            "the unsafe references minus the share in that of the safe ones. Between -1 and 1; above 0 it has more of "
            "the unsafe ones."
        )

    def requests(self, blocks: int) -> tuple[Request, ...]:
        if blocks < 1:
            raise ValueError(f"blocks={blocks}: a model has at least one")
        if isinstance(self.layers, list):
            layers = list(self.layers)
        else:
            layers = list(dict.fromkeys(min(round(depth * blocks), blocks - 1) for depth in RELATIVE_DEPTHS))
        for layer in layers:
            if layer >= blocks:
                raise ValueError(f"csa.layers={layers}: the model has blocks 0 to {blocks - 1}")
        return tuple(Request(layer, "last_token") for layer in layers)

    def fit(self, reduce: Reduce, blocks: int) -> Artifact:
        """unsafe and safe, float64 (rank, blocks x d): orthonormal rows.

        Raises ValueError if a reference set has no usable row or only zeros. Each subspace has the smallest of `rank`,
        the sets' sizes and the sets' numerical ranks: of two subspaces of different size, the larger one would win.
        """
        columns = [request.column for request in self.requests(blocks)]
        joined = {
            source: reduce(
                lambda features: _joined([features[column].astype(np.float64) for column in columns]),
                lambda a, b: np.concatenate([a, b]),
                source,
            )
            for source in self.sources()
        }
        bases = {source: _basis(source, rows) for source, rows in joined.items()}
        rank = min(self.rank, *map(len, bases.values()))
        facts: dict[str, Any] = {
            "method": self.name,
            "layers": [request.block for request in self.requests(blocks)],
            "position": "last_token",
            "columns": columns,
            "rank": rank,
            "references": {source: len(rows) for source, rows in joined.items()},
        }
        return Artifact({source: basis[:rank] for source, basis in bases.items()}, facts)

    def score(self, artifact: Artifact, features: Features) -> npt.NDArray[np.float32]:
        columns = artifact.facts["columns"]
        width = artifact.arrays["unsafe"].shape[1] // len(columns)
        rows = _joined([vectors(features, column, width) for column in columns])
        shares = [((rows @ artifact.arrays[source].T) ** 2).sum(axis=1) for source in ("unsafe", "safe")]
        scores: npt.NDArray[np.float32] = (shares[0] - shares[1]).astype(np.float32)
        return scores

    def warnings(self, artifact: Artifact, dropped_share: float) -> list[str]:
        rank, references = artifact.facts["rank"], artifact.facts["references"]
        if rank < self.rank:
            return [
                f"CSA's subspaces have {rank} directions instead of {self.rank}: there are {references['unsafe']} "
                f"unsafe and {references['safe']} safe references."
            ]
        return []


def _joined(parts: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """(n, d) of each block -> (n, blocks x d), of length 1; every block weighs the same."""
    return unit(np.concatenate([unit(part) for part in parts], axis=1))


def _basis(source: str, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """All right singular vectors of the rows that are more than rounding, the leading ones first."""
    if not len(rows) or not rows.any():
        raise ValueError(f"csa: no usable {source} reference")
    _, values, directions = np.linalg.svd(rows, full_matrices=False)
    basis: npt.NDArray[np.float64] = directions[values > values[0] * SMALLEST_SHARE]
    return basis
