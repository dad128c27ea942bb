"""SAFT: the squared projection of a sample on the leading directions of the corpus itself (arXiv 2410.10014).

    mu = mean_i z_i ;  Z - mu = U S V^T ;  score_i = (1/k) sum_{j<=k} <z_i - mu, v_j>^2      higher = riskier

z is the residual stream after one block at one position, v_j the top right singular vectors. There are no labels and
no references, only one streaming reduce of mean and scatter. The squared score finds the MINORITY cluster, so it
cannot work if the harmful samples are about half of the corpus or more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from tamis.operators.methods.protocol import (
    Artifact,
    Features,
    Method,
    Reduce,
    check_layer,
    resolve_layer,
    setting,
    vectors_for,
)
from tamis.operators.requests import Position, Request
from tamis.operators.statistics.moments import Moments, eigenbasis, merge, moments_of

REPORTED_DIRECTIONS = 10
WEAK_SHARE = 0.3
AMBIGUOUS_RATIO = 0.8

_READING = (
    "SAFT (arXiv 2410.10014): how far the sample lies from the corpus mean along the corpus's k leading "
    "directions, squared{}, averaged over the k. From 0 up, in units of this corpus and model: compare "
    "within this run only. "
    "It finds the minority cluster, so it cannot work when half of the corpus or more is harmful."
)
_EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Saft(Method):
    """layer: a block number or "auto" (the middle block, blocks // 2). k: number of directions. weighted: each
    term is multiplied by its singular value (the ancestor code's form). position: one of requests.POSITIONS.
    """

    name: ClassVar[str] = "saft"
    title: ClassVar[str] = "SAFT"
    papers: ClassVar[tuple[str, ...]] = ("2410.10014",)
    about: ClassVar[str] = "squared projection on the leading singular directions of the corpus."

    layer: Literal["auto"] | int = setting("auto", "0-based block whose output is read; auto: the middle block.", ge=0)
    position: Position = setting("last_token", "Which token's state stands for the sample.")
    k: int = setting(1, "How many singular directions.", ge=1)
    weighted: bool = setting(False, "Weigh each direction by its singular value (the ancestor's form).")

    def __post_init__(self) -> None:
        check_layer(self.name, self.layer)
        Request(0, self.position)
        if not isinstance(self.k, int) or isinstance(self.k, bool) or self.k < 1:
            raise ValueError(f"saft.k={self.k!r}: write a whole number from 1 on")

    def requests(self, blocks: int) -> tuple[Request, ...]:
        if blocks < 1:
            raise ValueError(f"blocks={blocks}: a model has at least one")
        return (Request(resolve_layer(self.name, self.layer, blocks // 2, blocks), self.position),)

    @classmethod
    def explain(cls, facts: Mapping[str, Any]) -> str:
        return _READING.format(", times the singular value" if facts.get("weighted") else "")

    def check(self, width: int) -> None:
        if self.k > width:
            raise ValueError(f"saft.k: {self.k} directions where the representation has {width} dimensions")

    def fit(self, reduce: Reduce, blocks: int) -> Artifact:
        """mean float64 (d,), basis float64 (k, d), singular_values float64 (k,), all over the corpus.

        Raises ValueError for fewer than 2 rows, if all rows are equal, or if the rows vary in fewer than k directions.
        """
        (request,) = self.requests(blocks)
        moments = reduce(lambda features: moments_of(features[request.column]), merge)
        _check_variance(moments)
        if self.k > moments.width:
            raise ValueError(f"saft.k={self.k}: the representation has {moments.width} dimensions")
        eigenvalues, vectors = eigenbasis(moments, min(max(self.k, REPORTED_DIRECTIONS), moments.width))
        rank = int(np.count_nonzero(eigenvalues > eigenvalues[0] * moments.width * _EPSILON))
        if self.k > rank:
            raise ValueError(f"saft.k={self.k}: the {moments.count} rows vary in only {rank} directions")
        ratios = eigenvalues / moments.total_variance
        facts: dict[str, Any] = {
            "method": self.name,
            "layer": request.block,
            "layer_chosen": "middle" if self.layer == "auto" else "job",
            "position": request.position,
            "columns": [request.column],
            "k": self.k,
            "weighted": self.weighted,
            "count": moments.count,
            "mean_norm": float(np.linalg.norm(moments.mean)),
            "singular_values": [float(s) for s in np.sqrt(eigenvalues[:REPORTED_DIRECTIONS])],
            "explained_variance_ratio": [float(r) for r in ratios[:REPORTED_DIRECTIONS]],
        }
        arrays = {
            "mean": moments.mean,
            "basis": vectors[: self.k],
            "singular_values": np.sqrt(eigenvalues[: self.k]),
        }
        return Artifact(arrays, facts)

    def score(self, artifact: Artifact, features: Features) -> npt.NDArray[np.float32]:
        """float32 (n,), never negative; +inf if the score exceeds float32. Uses the artifact's k and weighting."""
        mean = artifact.arrays["mean"]
        projected = (vectors_for(artifact, features, len(mean)) - mean) @ artifact.arrays["basis"].T
        terms = projected**2
        if artifact.facts["weighted"]:
            terms *= artifact.arrays["singular_values"]
        with np.errstate(over="ignore"):
            scores: npt.NDArray[np.float32] = terms.mean(axis=1).astype(np.float32)
        return scores

    def warnings(self, artifact: Artifact, dropped_share: float) -> list[str]:
        """Warns if the score may not work: the cut drops a large share, or the direction is ambiguous."""
        warnings = []
        if dropped_share >= WEAK_SHARE:
            separation = ((1 - dropped_share) / dropped_share) ** 2
            effect = "inverted" if dropped_share > 0.5 else "none" if dropped_share == 0.5 else "weak"
            warnings.append(
                f"SAFT finds the minority of two clusters: if {dropped_share:.1%} of the corpus is harmful, "
                f"harmful scores are {separation:.2g} times the harmless ones ({effect}; 81 times at 10 %)."
            )
        values = artifact.facts["singular_values"]
        k = artifact.facts["k"]
        if k < len(values) and (values[k] / values[k - 1]) ** 2 > AMBIGUOUS_RATIO:
            ratios = artifact.facts["explained_variance_ratio"]
            warnings.append(
                f"SAFT's direction {k} explains {ratios[k - 1]:.1%} of the variance and direction {k + 1} "
                f"{ratios[k]:.1%}: nearly interchangeable, so another sample would score differently."
            )
        return warnings


def _check_variance(moments: Moments) -> None:
    if moments.count < 2:
        raise ValueError(f"saft: {moments.count} usable rows; a direction of variation needs at least 2")
    rounding = moments.count * (8 * _EPSILON * float(np.linalg.norm(moments.mean))) ** 2
    if moments.total_variance <= rounding:
        raise ValueError(f"saft: all {moments.count} rows have the same representation; nothing varies")
