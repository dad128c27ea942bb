"""Compliance direction: does the answer move from the request towards compliance with harm (arXiv 2606.00160).

    v     = unit(mean_j m(u_j) - mean_j m(s_j))      u: harmful requests complied with, s: the same, refused
    score = v . m(z) - v . p(z)                       higher = riskier, in units of the model's residual stream

m is the mean state over the tokens of the answer, p the state at the last token before it; both after one block. A
harmful request alone does not score high: what the request has along v is taken off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from tamis.operators.methods.directions import Sum, add, sum_of
from tamis.operators.methods.protocol import (
    Artifact,
    Features,
    Method,
    Reduce,
    check_layer,
    resolve_layer,
    setting,
    vectors,
)
from tamis.operators.requests import Request

# Relative to the longer of the two means: float32 noise of captured vectors is about 1e-7 of their length.
_NO_DIRECTION = 1e-6


@dataclass(frozen=True)
class Compliance(Method):
    """layer: a block number or "auto" (the middle block, blocks // 2; the paper searches it)."""

    name: ClassVar[str] = "compliance"
    title: ClassVar[str] = "Compliance"
    papers: ClassVar[tuple[str, ...]] = ("2606.00160",)
    about: ClassVar[str] = "how far the answer moves from its request towards compliance with harm, at one block."
    reads_corpus: ClassVar[bool] = False
    references: ClassVar[Mapping[str, str]] = {
        "unsafe": "File of harmful prompts with complying answers; default: the shipped set.",
        "safe": "File of the same prompts with refusals; default: the shipped set.",
    }

    layer: Literal["auto"] | int = setting("auto", "0-based block whose output is read; auto: the middle block.", ge=0)

    def __post_init__(self) -> None:
        check_layer(self.name, self.layer)

    @classmethod
    def explain(cls, facts: Mapping[str, Any]) -> str:
        return (
            "Compliance (arXiv 2606.00160): the mean state of the answer minus the state before it, along the unit "
            "direction from refusals to compliance. Above 0 the answer moves towards compliance, below 0 towards "
            "refusal; in units of this model and block."
        )

    def requests(self, blocks: int) -> tuple[Request, ...]:
        """The mean over the answer, and the last token of the prompt."""
        if blocks < 1:
            raise ValueError(f"blocks={blocks}: a model has at least one")
        block = resolve_layer(self.name, self.layer, blocks // 2, blocks)
        return (Request(block, "response_mean"), Request(block, "last_prompt_token"))

    def fit(self, reduce: Reduce, blocks: int) -> Artifact:
        """direction float64 (d,), of length 1. ValueError for an empty reference set and if the sets do not differ."""
        answer, prompt = self.requests(blocks)

        def total(features: Features) -> Sum:
            return sum_of(features[answer.column], units=False)

        sums = {source: reduce(total, add, source) for source in self.sources()}
        for source, found in sums.items():
            if found.count == 0:
                raise ValueError(f"compliance: no usable {source} reference")
        difference = sums["unsafe"].mean - sums["safe"].mean
        length = float(np.linalg.norm(difference))
        if length <= _NO_DIRECTION * max(float(np.linalg.norm(found.mean)) for found in sums.values()):
            raise ValueError(f"compliance: the unsafe and safe references do not differ (distance {length:.1e})")
        facts: dict[str, Any] = {
            "method": self.name,
            "layer": answer.block,
            "layer_chosen": "middle" if self.layer == "auto" else "job",
            "position": f"{answer.position} - {prompt.position}",
            "columns": [answer.column, prompt.column],
            "references": {source: found.count for source, found in sums.items()},
            "distance": length,
        }
        return Artifact({"direction": difference / length}, facts)

    def score(self, artifact: Artifact, features: Features) -> npt.NDArray[np.float32]:
        direction = artifact.arrays["direction"]
        answer, prompt = (vectors(features, column, len(direction)) for column in artifact.facts["columns"])
        with np.errstate(over="ignore"):
            scores: npt.NDArray[np.float32] = ((answer - prompt) @ direction).astype(np.float32)
        return scores
