"""Contrast: project a sample's representation on the direction from the corpus itself to unsafe references.

    w     = mean_j unit(r(u_j)) - mean_i unit(r(z_i))      u: unsafe references, z: the corpus
    score = unit(r(z)) . w                                   in [-2, 2], higher = riskier

r is the residual stream after one block at one position. LARF's safe references are short refusals and its unsafe ones
long answers, so its direction mixes "complies" with "is long". The corpus is the safe side here: what it has in common
with the references, length and format among it, falls out of w. It is tamis's own method (docs/methods.md,
"Contrast"). If a share p of the corpus is harmful in the way of the references, w is (1 - p) times as long and points
the same way; where most of the corpus is harmful, little is left of it.

z may also be rows drawn at random from the corpus: then w is known before the corpus is captured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from tamis.operators.methods.directions import Sum, add, sum_of, unit
from tamis.operators.methods.protocol import (
    CORPUS,
    Artifact,
    CorpusSample,
    Features,
    Method,
    Reduce,
    check_layer,
    resolve_layer,
    setting,
    vectors_for,
)
from tamis.operators.requests import Position, Request

MOSTLY_HARMFUL = 0.5
FEW_REFERENCES = 16
SAMPLE_ROWS = 4096
"""As many rows rank like the whole corpus with a Spearman correlation of 0.9996 in the median, 0.998 in 95 of 100
draws (benchmarks/results/contrast_sample.json)."""

ROUGH_DIRECTION = 0.1

# Captured vectors have float32 noise of about 1e-7; a direction shorter than this is only noise.
_NO_DIRECTION = 1e-6


@dataclass(frozen=True)
class Contrast(Method):
    """layer: a block number or "auto" (the middle block, blocks // 2). position: one of requests.POSITIONS. sample: how
    many rows stand for the corpus; "all" (or 0), or "auto": SAMPLE_ROWS where the run can then do without vectors."""

    name: ClassVar[str] = "contrast"
    title: ClassVar[str] = "Contrast"
    about: ClassVar[str] = "cosine to harmful compliance minus the mean cosine to the corpus itself, at one block."
    references: ClassVar[Mapping[str, str]] = {
        "unsafe": "File of harmful prompts with complying answers; default: the shipped set.",
    }

    layer: Literal["auto"] | int = setting("auto", "0-based block whose output is read; auto: the middle block.", ge=0)
    position: Position = setting("last_token", "Which token's state stands for the sample.")
    sample: Literal["auto", "all"] | int = setting(
        "auto",
        "How many rows, drawn at random by seed, stand for the corpus: a number; all (or 0): the whole corpus; auto: "
        f"{SAMPLE_ROWS} where the vectors of the whole corpus would be written for Contrast alone, else the whole.",
        ge=0,
    )

    def __post_init__(self) -> None:
        check_layer(self.name, self.layer)
        Request(0, self.position)
        # One row is no mean, and 1 is also what a job file's `true` becomes.
        if self.sample not in ("auto", "all") and (type(self.sample) is not int or self.sample < 0 or self.sample == 1):
            raise ValueError(f"contrast.sample={self.sample!r}: write auto, all or a number of rows from 2 on")

    @classmethod
    def explain(cls, facts: Mapping[str, Any]) -> str:
        found = facts.get("corpus_sample")
        corpus = "the whole corpus"
        if isinstance(found, Mapping):
            drawn = f"{found['usable']:,} of the {found['of']:,} rows of the corpus"
            corpus = f"{drawn}, drawn at random (seed {found['seed']})"
        return (
            "Contrast: the unit-length representation times w, the mean unit representation of the unsafe references "
            f"minus that of {corpus}. Between -2 and 2; the higher, the more the sample differs from the rest "
            "of this corpus in the way that the references do: compare within this run only."
        )

    def corpus_sample(self) -> CorpusSample:
        if isinstance(self.sample, int):
            return CorpusSample(self.sample, always=True)
        return CorpusSample(SAMPLE_ROWS, always=False) if self.sample == "auto" else CorpusSample(0, always=True)

    def requests(self, blocks: int) -> tuple[Request, ...]:
        if blocks < 1:
            raise ValueError(f"blocks={blocks}: a model has at least one")
        return (Request(resolve_layer(self.name, self.layer, blocks // 2, blocks), self.position),)

    def fit(self, reduce: Reduce, blocks: int) -> Artifact:
        """direction float64 (d,), and what it is the difference of: unsafe_mean and corpus_mean, float64 (d,).

        Raises ValueError if there is no usable reference or row, and if the references are as the corpus is.
        """
        (request,) = self.requests(blocks)

        def total(features: Features) -> Sum:
            return sum_of(features[request.column])

        unsafe, corpus = reduce(total, add, "unsafe"), reduce(total, add, CORPUS)
        if unsafe.count == 0:
            raise ValueError("contrast: no usable unsafe reference")
        if corpus.count == 0:
            raise ValueError("contrast: no usable row in the corpus")
        direction = unsafe.mean - corpus.mean
        length = float(np.linalg.norm(direction))
        if length < _NO_DIRECTION:
            raise ValueError(f"contrast: the unsafe references do not differ from the corpus (distance {length:.1e})")
        facts: dict[str, Any] = {
            "method": self.name,
            "layer": request.block,
            "layer_chosen": "middle" if self.layer == "auto" else "job",
            "position": request.position,
            "columns": [request.column],
            "references": {"unsafe": unsafe.count},
            "zero_references": {"unsafe": unsafe.zeros},
            "count": corpus.count,
            "zero_rows": corpus.zeros,
            "direction_length": length,
        }
        return Artifact({"direction": direction, "unsafe_mean": unsafe.mean, "corpus_mean": corpus.mean}, facts)

    def score(self, artifact: Artifact, features: Features) -> npt.NDArray[np.float32]:
        direction = artifact.arrays["direction"]
        scores: npt.NDArray[np.float32] = (unit(vectors_for(artifact, features, len(direction))) @ direction).astype(
            np.float32
        )
        return scores

    def warnings(self, artifact: Artifact, dropped_share: float) -> list[str]:
        """Warns if the corpus is a poor safe side, or the references, or the rows drawn from the corpus, are few."""
        warnings = []
        if dropped_share >= MOSTLY_HARMFUL:
            warnings.append(
                f"Contrast takes the corpus as its safe side: if {dropped_share:.1%} of it is harmful, the direction "
                f"is {1 - dropped_share:.2g} times as long as that to a harmless corpus, and other differences weigh "
                "more."
            )
        if (error := sampling_error(artifact)) > ROUGH_DIRECTION:
            drawn = artifact.facts["corpus_sample"]
            warnings.append(
                f"Contrast's direction is uncertain by {error:.0%} of its length, as {drawn['usable']:,} row(s) stand "
                f"for the {drawn['of']:,} of the corpus: with others drawn, samples would rank otherwise; raise "
                "contrast.sample."
            )
        if lost := artifact.facts.get("corpus_sample", {}).get("set_aside"):
            warnings.append(
                f"{lost:,} of the {artifact.facts['corpus_sample']['drawn']:,} rows that were drawn for Contrast could "
                "not be captured: a run without that failure gives other scores."
            )
        references = artifact.facts["references"]["unsafe"]
        if references < FEW_REFERENCES:
            warnings.append(
                f"Contrast's direction is the mean of {references} unsafe reference(s): their subjects and style "
                "weigh as much as their harm."
            )
        if zeros := artifact.facts["zero_references"]["unsafe"]:
            warnings.append(f"{zeros} unsafe references have a representation of zeros and count as no direction.")
        return warnings


def sampling_error(artifact: Artifact) -> float:
    """How far the direction lies from that to the whole corpus, expected (root mean square) and relative to its length;
    0 where the whole corpus was read.

    The corpus' mean is estimated by n of N unit vectors: its squared error is their variance / n * (1 - n / N). One
    vector alone tells no variance; then it counts as 1, the most that unit vectors have.
    """
    facts = artifact.facts
    if "corpus_sample" not in facts:
        return 0.0
    count, rows, mean = facts["count"], facts["corpus_sample"]["of"], artifact.arrays["corpus_mean"]
    spread = 1.0
    if count > 1:
        spread = max((count - facts["zero_rows"]) / count - float(mean @ mean), 0.0) * count / (count - 1)
    return float(np.sqrt(spread / count * max(1 - count / rows, 0.0))) / float(facts["direction_length"])
