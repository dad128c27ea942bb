"""LARF: project a sample's representation on the direction from safe to unsafe references (arXiv 2507.18631).

    w     = mean_j unit(r(u_j)) - mean_j unit(r(s_j))      u: unsafe references, s: safe references
    score = unit(r(z)) . w                                   in [-2, 2], higher = riskier

r is the residual stream after one block at one position. With as many unsafe as safe references, this equals the
authors' program: the mean over pairs of the difference of two cosines. A zero vector has no direction: unit(0) = 0,
so it scores 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt

from tamis.operators.methods.directions import Sum, add, sum_of, unit
from tamis.operators.methods.protocol import (
    Artifact,
    BlockSearch,
    Features,
    Method,
    Reduce,
    check_layer,
    resolve_layer,
    setting,
    vectors_for,
)
from tamis.operators.requests import Position, Request

Form = Literal["paired", "mean_representation"]
FORMS: tuple[str, ...] = get_args(Form)

_FORMS = {
    "paired": (
        "the unit-length representation times w, where w is the mean unit representation of the unsafe "
        "references (harmful requests, complied with) minus that of the safe ones (the same, refused)"
    ),
    "mean_representation": (
        "form mean_representation: cosine to the mean representation of the unsafe references "
        "(harmful requests, complied with) minus cosine to that of the safe ones (the same requests, refused)"
    ),
}
_READING = (
    "LARF (arXiv 2507.18631): {}. Between -2 and 2; above 0 the sample lies nearer to compliance than to refusal."
)

# Captured vectors have float32 noise of about 1e-7; a direction shorter than this is only noise.
_NO_DIRECTION = 1e-6


@dataclass(frozen=True)
class Larf(Method):
    """layer: a block number, or "auto" or "fisher" if a search should find it; without a search, `default_block`.
    position: one of requests.POSITIONS. form: "paired", the authors' program, or "mean_representation", the paper's
    text: cos(r, mean of r(u)) - cos(r, mean of r(s)), which ranks differently.
    over_rejection_prompts, refusal_markers: used only by the search. layer_chosen: how the block number was found, for
    the facts.
    """

    name: ClassVar[str] = "larf"
    title: ClassVar[str] = "LARF"
    papers: ClassVar[tuple[str, ...]] = ("2507.18631",)
    about: ClassVar[str] = "cosine to harmful compliance minus cosine to refusal, at one block."
    reads_corpus: ClassVar[bool] = False
    references: ClassVar[Mapping[str, str]] = {
        "unsafe": "File of harmful prompts with complying answers; default: the shipped set.",
        "safe": "File of the same prompts with refusals; default: the shipped set.",
    }

    layer: Literal["auto", "fisher"] | int = setting(
        "auto",
        "0-based block whose output is read; auto: the most safety-sensitive one, searched first where the output "
        "holds no search of it yet (see tamis layers), or fisher's where none moves the refusals; fisher: the one "
        "whose states best separate the references.",
        ge=0,
    )
    position: Position = setting("last_token", "Which token's state stands for the sample.")
    form: Form = setting("paired", "paired: the authors' code; mean_representation: the paper's text.")
    over_rejection_prompts: str | None = setting(
        None,
        "File of harmless prompts that sound unsafe (column prompt), for the search of layer: auto; default: the "
        "shipped set.",
    )
    # A blank marker would be in nearly every answer.
    refusal_markers: list[str] = setting(
        [],
        "Texts that mark a refusal, besides can not, cannot, can't and sorry, for layer: auto.",
        pattern=r"\S",
    )
    layer_chosen: str = setting("job", "How the block was found.", in_job=False)

    def __post_init__(self) -> None:
        check_layer(self.name, "auto" if self.layer == "fisher" else self.layer)
        Request(0, self.position)
        if self.form not in FORMS:
            raise ValueError(f"larf.form={self.form!r}: choose one of {', '.join(FORMS)}")

    @classmethod
    def explain(cls, facts: Mapping[str, Any]) -> str:
        return _READING.format(_FORMS.get(str(facts.get("form")), _FORMS["paired"]))

    def block_search(self) -> BlockSearch:
        return BlockSearch(
            self.name, self.layer, self.over_rejection_prompts, tuple(self.refusal_markers), ("unsafe", "safe")
        )

    def requests(self, blocks: int) -> tuple[Request, ...]:
        layer = "auto" if self.layer == "fisher" else self.layer
        block = resolve_layer(self.name, layer, default_block(blocks), blocks)
        return (Request(block, self.position),)

    def fit(self, reduce: Reduce, blocks: int) -> Artifact:
        """The direction w, float32 (d,). Raises ValueError for an empty reference set and if the sets do not differ."""
        (request,) = self.requests(blocks)
        paired = self.form == "paired"

        def total(features: Features) -> Sum:
            return sum_of(features[request.column], units=paired)

        sums = {source: reduce(total, add, source) for source in self.sources()}
        for source, found in sums.items():
            if found.count == 0:
                raise ValueError(f"larf: no usable {source} reference")
        means = {source: found.mean for source, found in sums.items()}
        if not paired:
            means = {source: unit(mean[None])[0] for source, mean in means.items()}
        direction = means["unsafe"] - means["safe"]
        length = float(np.linalg.norm(direction))
        if length < _NO_DIRECTION:
            raise ValueError(f"larf: the unsafe and safe references do not differ (distance {length:.1e})")
        facts: dict[str, Any] = {
            "method": self.name,
            "layer": request.block,
            "layer_chosen": "default_block" if isinstance(self.layer, str) else self.layer_chosen,
            "position": request.position,
            "columns": [request.column],
            "form": self.form,
            "references": {source: found.count for source, found in sums.items()},
            "zero_references": {source: found.zeros for source, found in sums.items()},
            "direction_length": length,
        }
        facts["warnings"] = _reference_warnings(facts)
        return Artifact({"direction": direction.astype(np.float32)}, facts)

    def score(self, artifact: Artifact, features: Features) -> npt.NDArray[np.float32]:
        direction = artifact.arrays["direction"].astype(np.float64)
        rows = vectors_for(artifact, features, len(direction))
        scores: npt.NDArray[np.float32] = (unit(rows) @ direction).astype(np.float32)
        return scores

    def warnings(self, artifact: Artifact, dropped_share: float) -> list[str]:
        return list(artifact.facts["warnings"])


def default_block(blocks: int) -> int:
    """For any depth, the block at the same relative depth as the paper's choice for Llama-3-8B (block 10 of 32)."""
    if blocks < 1:
        raise ValueError(f"blocks={blocks}: a model has at least one")
    return min(round(0.31 * blocks), blocks - 1)


def _reference_warnings(facts: dict[str, Any]) -> list[str]:
    warnings = []
    unsafe, safe = facts["references"]["unsafe"], facts["references"]["safe"]
    if unsafe != safe:
        warnings.append(
            f"LARF used {unsafe} unsafe and {safe} safe references: they are meant as pairs of one prompt, "
            "so prompts present on one side only shift the direction."
        )
    for source, zeros in facts["zero_references"].items():
        if zeros:
            warnings.append(f"{zeros} {source} references have a representation of zeros and count as no direction.")
    return warnings
