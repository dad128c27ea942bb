"""TOSS and TOSS-Pro: which response tokens not to learn from (arXiv 2603.01185).

    S(i, j) = CE(token j of sample i | theta_u) - CE(same | theta_h)       higher = riskier

theta_u is fine-tuned on utility data, theta_h on harmful data. The share `discard` of all response tokens, those with
the largest S, stay in the input but lose their labels. The tokens of a shard are a ragged array: flat values, and
int64 offsets (rows + 1,) from 0 to the number of values. Flat arrays in shard order are in tie order (sample, then
position), so ranking.py and selection.py make the corpus-wide cut directly on `risk`; this module has what the two
methods say about themselves, and the functions that those two modules lack.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from tamis.operators.methods.protocol import AnyMethod, setting
from tamis.operators.statistics.ranking import image
from tamis.operators.statistics.selection import drop_count_of

REACH = 3
"""The number of tokens after a response in which the end of its turn is searched."""

IGNORED = -100
"""The label of a token that is not learned from, as in PyTorch's cross-entropy and in transformers."""

Risks = npt.NDArray[np.float32]
Offsets = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_ALL = np.uint32(0xFFFF_FFFF)

_READING = (
    "{} (arXiv 2603.01185): the risk of a response token is its loss (cross-entropy, in nats) under the utility "
    "reference minus its loss under the harmful one. Both are fine-tunes of the same model, and each token is read "
    "with all that stands before it. Above 0 the harmful reference expects the token more than the utility reference "
    "does; the higher, the riskier to train on. Risks compare within this run only."
)
_ROUNDS = (
    "TOSS-Pro works in rounds: the samples that hold the riskiest tokens join the harmful set, the harmful reference "
    "is trained anew from the base model, and all tokens are scored again. The last round decides."
)


@dataclass(frozen=True)
class Training:
    """How TOSS's reference models are trained: LoRA, plain fine-tuning on the response tokens (the paper's recipe)."""

    rank: int = setting(16, "LoRA rank.", ge=1)
    alpha: float = setting(16, "LoRA alpha; updates are scaled by alpha / rank.", gt=0)
    dropout: float = setting(0.0, "LoRA dropout.", ge=0, lt=1)
    target_modules: Literal["auto"] | list[str] = setting(
        "auto",
        "Names of the linear layers that get adapters; auto: q_proj and v_proj, or what the architecture has in their "
        "place.",
        min_length=1,
    )
    learning_rate: float = setting(1e-5, "Constant learning rate of AdamW.", gt=0)
    weight_decay: float = setting(0.0, "Of AdamW.", ge=0)
    batch_size: int = setting(64, "Samples in one step, over all workers.", ge=1)
    epochs: int = setting(2, "Passes over the reference set.", ge=1)
    clip: float = setting(1.0, "Largest norm of the gradient.", gt=0)
    checkpoint_steps: int = setting(50, "Steps between two checkpoints, from which a killed training goes on.", ge=1)
    seed: int = setting(42, "Of the adapters' first weights, the order of the samples and dropout.")


@dataclass(frozen=True)
class Toss(AnyMethod):
    """discard: the share of response tokens that are masked. scope: of the corpus, or of each sample. training: of the
    reference models."""

    name: ClassVar[str] = "toss"
    title: ClassVar[str] = "TOSS"
    about: ClassVar[str] = (
        "every response token scored by the loss under a utility model minus the loss under a degraded one."
    )
    papers: ClassVar[tuple[str, ...]] = ("2603.01185",)
    section: ClassVar[str] = "toss"
    references: ClassVar[Mapping[str, str]] = {
        "harmful": "File of harmful prompts with complying answers; default: the shipped set.",
        "utility": "File of good instruction data; needed unless utility_model is given.",
    }
    models: ClassVar[Mapping[str, str]] = {
        "utility": "A LoRA adapter or full model fine-tuned on good data before; nothing is trained then.",
        "harmful": "A LoRA adapter or full model fine-tuned on harmful data before; nothing is trained then.",
    }
    masks_tokens: ClassVar[bool] = True

    discard: float = setting(0.1, "Share of response tokens whose loss is masked.", gt=0, lt=1)
    scope: Literal["global", "sample"] = setting(
        "global", "global: the riskiest tokens of the whole corpus; sample: the same share of each sample."
    )
    training: Training = setting(Training(), "How the reference models are trained.")

    @classmethod
    def explain(cls, facts: Mapping[str, Any]) -> str:
        return _READING.format(cls.title)

    @classmethod
    def trained(cls, given: Collection[str]) -> tuple[str, ...]:
        """The models that are trained, and so need their reference set, where a job names the models `given`."""
        return tuple(name for name in cls.models if name not in given)

    @classmethod
    def complaint(cls, references: Collection[str], given: Collection[str]) -> str | None:
        """What is missing where a job names these reference sets and these models; None if nothing is."""
        if "utility" in {*references, *given}:
            return None
        return (
            f"{cls.name} compares with a model trained on good data: set toss.utility_references to a file of "
            "instructions and answers, or toss.utility_model to a model fine-tuned on such"
        )

    def repeats(self) -> int:
        """How many rounds train the harmful model anew."""
        return 0

    def added(self, references: int) -> int:
        """How many samples a round adds to a harmful set of this many rows."""
        return 0


@dataclass(frozen=True)
class TossPro(Toss):
    """rounds: how often the harmful model is trained anew. samples_per_round: None for as many as there are harmful
    references."""

    name: ClassVar[str] = "toss-pro"
    title: ClassVar[str] = "TOSS-Pro"

    rounds: int = setting(1, "toss-pro: how often the degraded model is trained anew.", ge=1)
    samples_per_round: int | None = setting(
        None,
        "toss-pro: samples each round adds to the harmful set; default: as many as there are harmful references.",
        ge=1,
    )

    @classmethod
    def explain(cls, facts: Mapping[str, Any]) -> str:
        return f"{super().explain(facts)} {_ROUNDS}"

    @classmethod
    def trained(cls, given: Collection[str]) -> tuple[str, ...]:
        return super().trained(set(given) - {"harmful"})  # a given one is trained again in rounds

    @classmethod
    def complaint(cls, references: Collection[str], given: Collection[str]) -> str | None:
        if (said := super().complaint(references, given)) is not None:
            return said
        if "harmful" not in given or "harmful" in references:
            return None
        return (
            f"{cls.name} trains the degraded model anew on the harmful references and what it finds: beside "
            "toss.harmful_model it needs toss.harmful_references"
        )

    def repeats(self) -> int:
        return self.rounds

    def added(self, references: int) -> int:
        return self.samples_per_round or references


def token_risk(utility: npt.NDArray[np.float32], harmful: npt.NDArray[np.float32]) -> Risks:
    """float32 (n,): utility - harmful, one float32 subtraction each, so rounded once.

    utility, harmful: float32 (n,), the losses of the same tokens under the two models. Raises ValueError for another
    dtype, for different shapes, for NaN or infinity (such samples must be quarantined before any statistic), and for a
    difference that exceeds float32.
    """
    for name, losses in (("utility", utility), ("harmful", harmful)):
        if losses.dtype != np.float32 or losses.ndim != 1:
            raise ValueError(f"{name} losses must be flat float32, not {losses.dtype} of shape {losses.shape}")
        if not np.isfinite(losses).all():
            raise ValueError(f"{name} losses hold NaN or infinity; quarantine those samples first")
    if utility.shape != harmful.shape:
        raise ValueError(f"{len(utility)} losses under one model and {len(harmful)} under the other")
    with np.errstate(over="ignore"):
        risk: Risks = utility - harmful
    if not np.isfinite(risk).all():
        raise ValueError("a difference of two losses exceeds float32")
    return risk


def discard_in_each(risk: Risks, offsets: Offsets, share: float) -> Mask:
    """bool (n,): True for exactly floor(share * its tokens) tokens of each row, the riskiest; ties by position.

    The share is read as in selection.drop_count_of. Raises ValueError unless 0 <= share <= 1, and for NaN.
    """
    check_offsets(offsets, len(risk))
    lengths = np.diff(offsets)
    distinct, kind = np.unique(lengths, return_inverse=True)
    quotas = np.array([drop_count_of(share, int(length)) for length in distinct], dtype=np.int64)[kind]
    rows = np.repeat(np.arange(len(lengths), dtype=np.uint64), lengths)
    # One stable sort by row, then by descending risk; it reorders tokens only within their row.
    order = np.argsort(rows << np.uint64(32) | (image(risk) ^ _ALL), kind="stable")
    discarded = np.zeros(len(risk), dtype=np.bool_)
    discarded[order] = positions(offsets) < np.repeat(quotas, lengths)
    return discarded


def highest_risk(risk: Risks, offsets: Offsets) -> Risks:
    """float32 (rows,): the largest risk of each row; -inf for a row without tokens, which no round may add.

    A round of TOSS-Pro walks over all tokens from the riskiest down (ties by sample, then position). It adds the
    sample that contains the token, unless that sample is excluded or already added, until k samples are added. This
    adds the k samples with the largest highest risk, ties by sample, among those not excluded. Proof: a sample is
    added when the walk meets its first token. No token of a sample comes before its tokens of highest risk m, so the
    place of that first token is given by (m descending, sample), and the walk meets samples in the order of their
    (m, sample). Excluded samples are skipped and do not change the order of the others. So ranking.nth_largest over
    these values of the samples that may be added finds the k samples, in constant memory.
    """
    check_offsets(offsets, len(risk))
    filled = np.diff(offsets) > 0
    highest = np.full(len(filled), -np.inf, dtype=np.float32)
    if filled.any():
        # Rows without tokens have no values in `risk`, so the filled rows are contiguous.
        highest[filled] = np.maximum.reduceat(risk, offsets[:-1][filled])
    return highest


def per_row_counts(chosen: Mask, offsets: Offsets) -> npt.NDArray[np.int64]:
    """int64 (rows,): the number of each row's tokens that are True in `chosen`."""
    check_offsets(offsets, len(chosen))
    up_to = np.zeros(len(chosen) + 1, dtype=np.int64)
    np.cumsum(chosen, out=up_to[1:])
    return up_to[offsets[1:]] - up_to[offsets[:-1]]


def training_columns(
    input_ids: npt.NDArray[np.integer],
    offsets: Offsets,
    starts: npt.NDArray[np.integer],
    stops: npt.NDArray[np.integer],
    range_offsets: Offsets,
    risk: Risks,
    discarded: Mask,
) -> tuple[npt.NDArray[np.int64], Risks, Mask]:
    """The columns that a trainer reads, flat in the order of input_ids (n,): labels int64, risk float32, and whether
    the token is a response token, bool.

    The label of a kept response token is its id; all other labels are -100. The risk of a token that is not a response
    token has no meaning.
    offsets: of the rows in input_ids.
    starts, stops: half-open token ranges of the responses, counted from the start of their row, in order and not
        overlapping. range_offsets: of the rows in starts and stops.
    risk, discarded: of the response tokens only, in order.
    Raises ValueError for ranges outside their row or out of order, and if the lengths do not fit.
    """
    check_offsets(offsets, len(input_ids))
    check_offsets(range_offsets, len(starts))
    if len(range_offsets) != len(offsets) or len(starts) != len(stops):
        raise ValueError(
            f"{len(offsets) - 1} rows of tokens, {len(range_offsets) - 1} of responses; "
            f"{len(starts)} starts, {len(stops)} stops"
        )
    ranges = np.diff(range_offsets)
    begins, ends = (np.repeat(offsets[:-1], ranges) + edge for edge in (starts, stops))
    edges = np.stack([begins, ends], axis=1).ravel()
    beyond = (ends > np.repeat(offsets[1:], ranges)).any() or (starts < 0).any()
    if beyond or (np.diff(edges) < 0).any():
        raise ValueError("response ranges must lie in their row, in order and apart")
    # +1 at the start of a range, -1 after its end; a range may start where another ends, and empty ranges cancel out.
    steps = np.zeros(len(input_ids) + 1, dtype=np.int64)
    np.add.at(steps, begins, 1)
    np.subtract.at(steps, ends, 1)
    scored = np.cumsum(steps[:-1]) > 0
    tokens = int(np.count_nonzero(scored))
    if not len(risk) == len(discarded) == tokens:
        raise ValueError(f"{tokens} response tokens, {len(risk)} risks and {len(discarded)} decisions")
    labels = np.full(len(input_ids), IGNORED, dtype=np.int64)
    labels[scored] = np.where(discarded, IGNORED, input_ids[scored])
    spread = np.zeros(len(input_ids), dtype=np.float32)
    spread[scored] = risk
    return labels, spread, scored


def turn_ends(
    input_ids: npt.NDArray[np.integer],
    offsets: Offsets,
    stops: npt.NDArray[np.integer],
    range_offsets: Offsets,
    control_ids: Collection[int],
) -> npt.NDArray[np.int64]:
    """int64 (at most one per response,): the indices of the tokens that end the responses' turns.

    This is the first control token among the REACH tokens after a response, in the same row: some templates write
    white space in between. It is not a response token and has no risk, but a model that never learns it does not learn
    to stop. Arguments as in training_columns; control_ids: the tokenizer's.
    """
    controls = np.isin(input_ids, np.fromiter(control_ids, dtype=np.int64))
    ranges = np.diff(range_offsets)
    behind, row_ends = np.repeat(offsets[:-1], ranges) + stops, np.repeat(offsets[1:], ranges)
    # A response ends at the latest where the next response of its row starts, so the nearest control token is its own.
    found = np.full(len(stops), -1, dtype=np.int64)
    for step in range(REACH):
        place = behind + step
        inside = (found < 0) & (place < row_ends)
        hit = np.flatnonzero(inside)[controls[place[inside]]]
        found[hit] = place[hit]
    return np.unique(found[found >= 0])


def positions(offsets: Offsets) -> npt.NDArray[np.int64]:
    """int64 (n,): the index of each token in its row, from 0."""
    return np.arange(int(offsets[-1]), dtype=np.int64) - np.repeat(offsets[:-1], np.diff(offsets))


def check_offsets(offsets: Offsets, total: int) -> None:
    """Raises ValueError unless the offsets split `total` values into rows."""
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 0).any():
        raise ValueError(f"offsets {offsets[:5]}... do not cut {total} values into rows")
