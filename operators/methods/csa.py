"""CSA: how much of a sample lies in the subspace of unsafe references, and how much in that of safe ones.

    c(z)  = unit([unit(h_b1), unit(h_b2), unit(h_b3)])          three blocks, at the last token
    g     = ||U_un^T c(z)||^2 - ||U_sa^T c(z)||^2               in [-1, 1], higher = riskier
    score = mean over models of clip(g, p1, p99) / std          p1, p99, std over the corpus

U_un and U_sa hold the leading right singular vectors of c of the unsafe and the safe references, not centred: at most
`rank` of them (arXiv 2607.15081, consensus subspace alignment; docs/methods.md, "CSA"). The norms are squared, as in
the paper's formula. A zero vector has no direction: unit(0) = 0.

This class fits and scores one model: g. `models` names further ones, each of which is captured in turn; the mean over
all is made when the whole corpus has its g (operators/statistics/consensus.py). With one model, clipping and scaling
keep the order of the rows, but for ties of one row in a hundred at either end. These are to be ranked by g, so the
order is that of g: then g is the score, it needs nothing of the corpus, and no cut falls among rows that clipping has
made equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt

from tamis.operators.methods.directions import unit
from tamis.operators.methods.protocol import Artifact, Features, Method, Reduce, setting, vectors
from tamis.operators.requests import Request

Float64s = npt.NDArray[np.float64]

FEW_REFERENCES = 16
POSITION = "last_token"

# By the bits of a state that are not used (of float32's 32), which tell the format of the forward pass: relative to the
# strongest direction, what lies below is noise, or, where references stand twice, a direction that no reference has.
# The states of one text differ by some roundings, from batch to batch.
_NO_DIRECTION = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 1e-6}
_UNUSED_BITS = {"bfloat16": 16, "float16": 13, "float32": 0}
# Two neighbouring directions that are as strong to this share are interchangeable in float32.
_SAME_STRENGTH = 1e-5
_SAME_SPAN = 1e-6
MODELS = "models"
"""The key of the facts of each model by its number, from 1 on, where there are several."""
_AT_ONCE = 1 << 22
"""Numbers of joined vectors in memory at a time, as float64: 32 MiB."""


Normalise = Literal["clip_std", "none"]


@dataclass(frozen=True)
class FurtherModel:
    """A model besides the job's, with its own tokens and chat template. blocks: as for Csa, of this model."""

    name: str = setting(..., "A folder with a transformers model, or its name on the Hugging Face hub.")
    revision: str | None = setting(None, "Branch, tag or commit on the hub.")
    template: str | None = setting(None, "A jinja chat template, or a file holding one; default: the tokenizer's own.")
    blocks: Literal["auto"] | list[int] = setting(
        "auto", "As csa.blocks, of this model.", ge=0, min_length=1, unordered=True
    )

    def __post_init__(self) -> None:
        _check_blocks(f"csa.models: blocks of {self.name}", self.blocks)


@dataclass(frozen=True)
class Csa(Method):
    """blocks: block numbers, or "auto" (`spread_blocks`). rank: the most directions of either reference set. models:
    further ones. normalise: how the scores of several models are made comparable."""

    name: ClassVar[str] = "csa"
    title: ClassVar[str] = "CSA"
    papers: ClassVar[tuple[str, ...]] = ("2607.15081",)
    about: ClassVar[str] = (
        "share of the representation in the subspace of unsafe references minus that in the subspace of safe ones "
        "(squared norms), three blocks together."
    )
    reads_corpus: ClassVar[bool] = False
    references: ClassVar[Mapping[str, str]] = {
        "unsafe": "File of harmful prompts with complying answers; default: the shipped set.",
        "safe": "File of the same prompts with refusals; default: the shipped set.",
    }
    blocks: Literal["auto"] | list[int] = setting(
        "auto",
        "0-based blocks whose outputs are joined, three in the paper; auto: those at a quarter, a half and three "
        "quarters of the depth. The paper takes the three that are most sensitive to safety: see the table of tamis "
        "layers.",
        ge=0,
        min_length=1,
        unordered=True,
    )
    rank: int = setting(16, "The most directions that stand for either reference set.", ge=1)

    # A setting. The class has none of the models that AnyMethod.models names, which are trained.
    models: list[FurtherModel] = setting(  # type: ignore[misc, assignment]
        [],
        "Further chat models, of other families: a name, or {name, revision, template, blocks}. Each is captured in "
        "turn, with the other settings of the model section, and the score is the mean over all; the paper takes "
        "three.",
    )
    normalise: Normalise = setting(
        "clip_std",
        "With further models, what the mean is of: clip_std, the scores of each clipped at the 1st and the 99th "
        "percentile and divided by their standard deviation, over the corpus; none, the scores as they are.",
    )

    def __post_init__(self) -> None:
        _check_blocks("csa.blocks", self.blocks)
        if not _whole(self.rank) or self.rank < 1:
            raise ValueError(f"csa.rank={self.rank!r}: write a whole number from 1 on")
        if self.normalise not in get_args(Normalise):
            raise ValueError(f"csa.normalise={self.normalise!r}: write {' or '.join(get_args(Normalise))}")
        named = [(model.name, model.revision) for model in self.models]
        if twice := [name for name, revision in named if named.count((name, revision)) > 1]:
            raise ValueError(f"csa.models: names {twice[0]} twice; it would count twice in the mean")

    def under(self, model: FurtherModel) -> Csa:
        """The same method with this model alone."""
        return replace(self, blocks=model.blocks, models=[])

    @classmethod
    def explain(cls, facts: Mapping[str, Any]) -> str:
        blocks, directions = facts.get("blocks"), facts.get("directions")
        where = f" of {_listed(blocks)}" if isinstance(blocks, list) else ""
        how_many = "" if not directions else f" ({directions['unsafe']} and {directions['safe']} directions)"
        several = facts.get(MODELS)
        with_models = "with one model" if not several else f"the mean over {len(several)} models"
        if not several:
            range_of = (
                "Between -1 and 1; above 0 it lies nearer to the unsafe references. It is neither clipped nor scaled, "
                "which matters to the mean over several models only."
            )
        else:
            range_of = f"{_read_of(facts.get('normalise'))} {', '.join(model['model'] for model in several.values())}."
        return (
            f"CSA (arXiv 2607.15081), {with_models}: the states{where} joined to one unit vector; the share of it "
            "that lies in the subspace of the unsafe references minus the share in that of the safe ones"
            f"{how_many}, as squared norms (the authors' code does not square them). {range_of} A subspace of long "
            "references encodes length: see how the score follows the length."
        )

    def planned(self, blocks: int, references: Mapping[str, int]) -> str:
        read = _numbers(self.requests(blocks))
        chosen = "spread over the depth; csa.blocks sets others" if self.blocks == "auto" else "by csa.blocks"
        ranks = [f"{min(self.rank, count)} of {count} {source} references" for source, count in references.items()]
        rank = f"; rank {' and '.join(ranks)}" if ranks else ""
        several = f"the first of {1 + len(self.models)} models, {self.normalise}" if self.models else "one model"
        return f"{_listed(read)} ({chosen}){rank}; squared norms, {several}"

    def requests(self, blocks: int) -> tuple[Request, ...]:
        if blocks < 1:
            raise ValueError(f"blocks={blocks}: a model has at least one")
        wanted = spread_blocks(blocks) if self.blocks == "auto" else sorted(self.blocks)
        if wanted[-1] >= blocks:
            raise ValueError(f"csa.blocks={self.blocks!r}: the model has blocks 0 to {blocks - 1}")
        return tuple(Request(block, POSITION) for block in wanted)

    def fit(self, reduce: Reduce, blocks: int) -> Artifact:
        """unsafe, safe: float64 (directions, blocks * d), orthonormal rows, the strongest first.

        Raises ValueError for an empty reference set, for one that is all zeros or not finite, and if both sets span the
        same directions.
        """
        requests = self.requests(blocks)
        columns = [request.column for request in requests]
        spans: dict[str, Float64s] = {}
        facts: dict[str, dict[str, Any]] = {}
        for source in self.sources():
            rows, unused = reduce(
                lambda features: (_joined(features, columns), _unused(features, columns)), _both, source
            )
            if not len(rows):
                raise ValueError(f"csa: no usable {source} reference")
            if not np.isfinite(rows).all():
                raise ValueError(f"csa: the states of some {source} references are not finite; try model.dtype float32")
            kind = next(name for name, bits in _UNUSED_BITS.items() if unused >= bits)
            spans[source], facts[source] = _span(rows, self.rank, _NO_DIRECTION[kind])
            if not len(spans[source]):
                raise ValueError(f"csa: all {source} references have a representation of zeros")
        overlap = float(((spans["unsafe"] @ spans["safe"].T) ** 2).sum())
        if abs(overlap - max(map(len, spans.values()))) < _SAME_SPAN:
            raise ValueError("csa: the unsafe and safe references span the same directions, so all rows score 0")
        by_name = {name: {source: facts[source][name] for source in facts} for name in facts["unsafe"]}
        return Artifact(
            spans,
            {
                "method": self.name,
                "form": "squared norms",
                "blocks": _numbers(requests),
                "blocks_chosen": "spread" if self.blocks == "auto" else "job",
                "position": POSITION,
                "columns": columns,
                "rank": self.rank,
                **by_name,
                "overlap": overlap / min(map(len, spans.values())),
            },
        )

    def score(self, artifact: Artifact, features: Features) -> npt.NDArray[np.float32]:
        unsafe, safe = artifact.arrays["unsafe"], artifact.arrays["safe"]
        columns: Sequence[str] = artifact.facts["columns"]
        width, count = unsafe.shape[1] // len(columns), len(next(iter(features.values()), ()))
        scores = np.empty(count, dtype=np.float32)
        step = max(1, _AT_ONCE // unsafe.shape[1])
        for first in range(0, max(count, 1), step):  # a shard without rows is checked, too
            part = {column: rows[first : first + step] for column, rows in features.items()}
            scores[first : first + step] = risk(_joined(part, columns, width), unsafe, safe)
        return scores

    def warnings(self, artifact: Artifact, dropped_share: float) -> list[str]:
        facts, warnings = artifact.facts, []
        for source, count in facts["references"].items():
            directions = facts["directions"][source]
            if count < FEW_REFERENCES:
                warnings.append(
                    f"CSA has {count} {source} reference(s), the paper at least {FEW_REFERENCES}: their subspace is "
                    "that of these texts, their subjects and style included."
                )
            if directions < min(facts["rank"], count):
                warnings.append(
                    f"CSA's {count} {source} references span only {directions} directions, not {facts['rank']}: the "
                    "others are repetitions of these."
                )
            if facts["ambiguous"][source]:
                warnings.append(
                    f"CSA's direction {directions} of the {source} references is as strong as the next one, which is "
                    "left out: which of them counts is chance. Set csa.rank otherwise."
                )
            if zeros := facts["zero_references"][source]:
                warnings.append(f"{zeros} {source} references have a representation of zeros and span nothing.")
        return warnings


def spread_blocks(blocks: int) -> list[int]:
    """A quarter, half and three quarters of the way up. A model of fewer than three blocks has all of them read."""
    return sorted({blocks // 4, blocks // 2, 3 * blocks // 4})


def risk(rows: Float64s, unsafe: Float64s, safe: Float64s) -> Float64s:
    """float64 (n,): g of unit rows (n, D). unsafe, safe: orthonormal rows (r, D)."""
    difference: Float64s = ((rows @ unsafe.T) ** 2).sum(axis=1) - ((rows @ safe.T) ** 2).sum(axis=1)
    return difference


def _joined(features: Features, columns: Sequence[str], width: int | None = None) -> Float64s:
    """float64 (n, len(columns) * d): the unit vectors of all blocks side by side, as one unit vector. width: d, where
    an artifact has one; ValueError if the vectors differ from that, or one is missing."""
    parts = [
        features[column].astype(np.float64) if width is None else vectors(features, column, width) for column in columns
    ]
    return unit(np.concatenate([unit(part) for part in parts], axis=1))


def _unused(features: Features, columns: Sequence[str]) -> int:
    """How many of the last bits are 0 in all numbers of these columns: 16 for states of bfloat16, 13 of float16."""
    bits = [np.bitwise_or.reduce(np.ascontiguousarray(features[name]).view(np.uint32), axis=None) for name in columns]
    used = int(np.bitwise_or.reduce(np.array(bits, dtype=np.uint32)))
    return (used & -used).bit_length() - 1 if used else 32


def _both(a: tuple[Float64s, int], b: tuple[Float64s, int]) -> tuple[Float64s, int]:
    return np.concatenate([a[0], b[0]]), min(a[1], b[1])


def _span(rows: Float64s, rank: int, nothing: float) -> tuple[Float64s, dict[str, Any]]:
    """At most `rank` leading right singular vectors, float64 (r, D), and what the report says of them. nothing: what
    share of the strongest is no direction."""
    _, strengths, directions = np.linalg.svd(rows, full_matrices=False)
    real = int(np.count_nonzero(strengths > nothing * strengths[0]))
    taken = min(rank, real)
    facts = {
        "references": len(rows),
        "zero_references": int(np.count_nonzero(~rows.any(axis=1))),
        "directions": taken,
        "noise_below": nothing,
        "strengths": [float(strength) for strength in strengths[:taken]],
        "ambiguous": bool(taken < real and strengths[taken] > (1 - _SAME_STRENGTH) * strengths[taken - 1]),
    }
    return np.ascontiguousarray(directions[:taken]), facts


def _check_blocks(where: str, blocks: Any) -> None:
    if blocks != "auto":
        numbers = isinstance(blocks, list) and blocks and all(map(_whole, blocks))
        if not numbers or min(blocks) < 0:
            raise ValueError(f'{where}={blocks!r}: write "auto" or a list of block numbers, from 0 on')
        if len(set(blocks)) < len(blocks):
            raise ValueError(f"{where}={blocks!r}: names a block twice")


def _read_of(normalise: Any) -> str:
    """How the mean is to be read; what follows are the models' names."""
    if normalise == "none":
        return "The score is the mean of that over the models, between -1 and 1:"
    return (
        "In each model it is clipped at the 1st and the 99th percentile of this corpus and divided by its standard "
        "deviation, so the mean is in standard deviations and comparable within this run alone; rows beyond the same "
        "end in every model keep their unclipped mean, so that they are ranked by it. The models:"
    )


def _numbers(requests: Sequence[Request]) -> list[int]:
    return [request.block for request in requests]


def _listed(blocks: Sequence[int]) -> str:
    *most, last = map(str, blocks)
    return f"blocks {', '.join(most)} and {last}" if most else f"block {last}"


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
