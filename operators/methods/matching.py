"""Representation matching: how near a sample lies to its nearest unsafe references (arXiv 2404.01099).

    score = mean of the `nearest` largest cosines between r(z) and r(u_j)      in [-1, 1], higher = riskier

r is the residual stream after one block at one position; the paper reads the last one. A zero vector has no direction:
its cosine to anything is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from tamis.operators.methods.directions import unit
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

_AT_ONCE = 1 << 22
"""Cosines in memory at a time, as float64: 32 MiB."""


@dataclass(frozen=True)
class Matching(Method):
    """layer: a block number or "auto" (the last one). position: one of requests.POSITIONS. nearest: how many of the
    largest cosines are averaged; at most the number of references."""

    name: ClassVar[str] = "matching"
    title: ClassVar[str] = "Matching"
    papers: ClassVar[tuple[str, ...]] = ("2404.01099",)
    about: ClassVar[str] = "cosine to the nearest of the unsafe references, at one block."
    reads_corpus: ClassVar[bool] = False
    references: ClassVar[Mapping[str, str]] = {
        "unsafe": "File of harmful prompts with complying answers; default: the shipped set.",
    }

    layer: Literal["auto"] | int = setting("auto", "0-based block whose output is read; auto: the last block.", ge=0)
    position: Position = setting("last_token", "Which token's state stands for the sample.")
    nearest: int = setting(1, "How many of the nearest references are averaged.", ge=1)

    def __post_init__(self) -> None:
        check_layer(self.name, self.layer)
        Request(0, self.position)
        if not isinstance(self.nearest, int) or isinstance(self.nearest, bool) or self.nearest < 1:
            raise ValueError(f"matching.nearest={self.nearest!r}: write a whole number from 1 on")

    @classmethod
    def explain(cls, facts: Mapping[str, Any]) -> str:
        nearest = facts.get("nearest", 1)
        which = "nearest unsafe reference" if nearest == 1 else f"{nearest} nearest unsafe references, averaged"
        return (
            f"Matching (arXiv 2404.01099): the cosine to the {which}. Between -1 and 1. It finds what resembles one of "
            "the references; harm of another kind scores as anything else does."
        )

    def requests(self, blocks: int) -> tuple[Request, ...]:
        if blocks < 1:
            raise ValueError(f"blocks={blocks}: a model has at least one")
        return (Request(resolve_layer(self.name, self.layer, blocks - 1, blocks), self.position),)

    def fit(self, reduce: Reduce, blocks: int) -> Artifact:
        """unsafe float64 (references, d): the unit representations, in the order of the file.

        Raises ValueError for fewer usable references than `nearest`.
        """
        (request,) = self.requests(blocks)
        found = reduce(
            lambda features: unit(features[request.column].astype(np.float64)),
            lambda a, b: np.concatenate([a, b]),
            "unsafe",
        )
        if len(found) < self.nearest:
            raise ValueError(f"matching.nearest={self.nearest}: there are {len(found)} usable unsafe references")
        facts: dict[str, Any] = {
            "method": self.name,
            "layer": request.block,
            "layer_chosen": "last" if self.layer == "auto" else "job",
            "position": request.position,
            "columns": [request.column],
            "nearest": self.nearest,
            "references": {"unsafe": len(found)},
            "zero_references": {"unsafe": int(np.count_nonzero(~found.any(axis=1)))},
        }
        return Artifact({"unsafe": found}, facts)

    def score(self, artifact: Artifact, features: Features) -> npt.NDArray[np.float32]:
        references, nearest = artifact.arrays["unsafe"], artifact.facts["nearest"]
        rows = unit(vectors_for(artifact, features, references.shape[1]))
        scores = np.empty(len(rows), dtype=np.float32)
        step = max(1, _AT_ONCE // len(references))
        for first in range(0, len(rows), step):
            cosines = rows[first : first + step] @ references.T
            # The largest ones come last; their order does not matter.
            cosines.partition(len(references) - nearest, axis=1)
            scores[first : first + step] = cosines[:, len(references) - nearest :].mean(axis=1)
        return scores

    def warnings(self, artifact: Artifact, dropped_share: float) -> list[str]:
        if zeros := artifact.facts["zero_references"]["unsafe"]:
            return [f"{zeros} unsafe references have a representation of zeros and match nothing."]
        return []
