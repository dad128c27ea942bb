"""TOSS and TOSS-Pro: which response tokens not to learn from (arXiv 2603.01185).

    S(i, j) = CE(token j of sample i | theta_u) - CE(same | theta_h)       higher = riskier

theta_u is fine-tuned on utility data, theta_h on harmful data. The share `discard` of all response tokens with the
largest S keeps its place in the input and loses its label. The tokens of a shard are a ragged array: flat values, and
int64 offsets (rows + 1,) from 0 to their number. Flat arrays in shard order are in tie order (sample, then position),
so the corpus-wide cut is ranking.py and selection.py on `risk` as it is; here is only what those do not have.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from tamis.operators.statistics.ranking import image
from tamis.operators.statistics.selection import drop_count_of

REACH = 3
"""Tokens behind a response among which the end of its turn is looked for."""

IGNORED = -100
"""The label of a token that is not learned from, as PyTorch's cross-entropy and transformers have it."""

Risks = npt.NDArray[np.float32]
Offsets = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_ALL = np.uint32(0xFFFF_FFFF)


def token_risk(utility: npt.NDArray[np.float32], harmful: npt.NDArray[np.float32]) -> Risks:
    """float32 (n,): utility - harmful, one float32 subtraction each, so rounded once.

    utility, harmful: float32 (n,), the losses of the same tokens under both models. Raises ValueError for another
    dtype, for shapes that differ, and for NaN or infinity: such samples go to quarantine before any statistic.
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
    """bool (n,): of each row exactly floor(share * its tokens) tokens, the riskiest; ties by position.

    The share is read as selection.drop_count_of reads it. Raises ValueError unless 0 <= share <= 1, and for NaN.
    """
    check_offsets(offsets, len(risk))
    lengths = np.diff(offsets)
    distinct, kind = np.unique(lengths, return_inverse=True)
    quotas = np.array([drop_count_of(share, int(length)) for length in distinct], dtype=np.int64)[kind]
    rows = np.repeat(np.arange(len(lengths), dtype=np.uint64), lengths)
    # One stable sort by row, then risk from the top; a row's tokens stay where they are, in another order.
    order = np.argsort(rows << np.uint64(32) | (image(risk) ^ _ALL), kind="stable")
    discarded = np.zeros(len(risk), dtype=np.bool_)
    discarded[order] = positions(offsets) < np.repeat(quotas, lengths)
    return discarded


def highest_risk(risk: Risks, offsets: Offsets) -> Risks:
    """float32 (rows,): the largest risk of each row; -inf for a row without tokens, which no round may add.

    A round of TOSS-Pro walks all tokens from the riskiest down (ties by sample, then position) and adds the sample
    that holds the token, unless it is excluded or has been added, until k have been. That adds the k samples that
    are not excluded with the largest highest risk, ties by sample. For: a sample is added when its first token on
    the walk is met. No token of a sample comes before one of its highest risk m; so that first token stands on the
    walk by (m from the top, sample), and two samples are met in the order of (m, sample) of theirs. Excluded samples
    are passed over and change no other's place. Hence the k are ranking.nth_largest over these values of the samples
    that may be added, in constant memory.
    """
    check_offsets(offsets, len(risk))
    filled = np.diff(offsets) > 0
    highest = np.full(len(filled), -np.inf, dtype=np.float32)
    if filled.any():
        # Rows without tokens have no place in `risk`, so the filled rows follow one another without gaps.
        highest[filled] = np.maximum.reduceat(risk, offsets[:-1][filled])
    return highest


def per_row_counts(chosen: Mask, offsets: Offsets) -> npt.NDArray[np.int64]:
    """int64 (rows,): how many of each row's tokens are True in `chosen`."""
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
    """What a trainer reads, flat in the order of input_ids (n,): labels int64, risk float32, and whether the token is
    a response token, bool.

    A label is the token's id where it is a kept response token, -100 elsewhere; the risk means nothing where the token
    is not a response token.
    offsets: of the rows in input_ids. starts, stops: half-open token ranges of the responses, counted from the
        beginning of their row, in order and apart; range_offsets: of the rows in these.
    risk, discarded: of the response tokens alone, in order.
    Raises ValueError for ranges outside their row or out of order, and when the lengths do not fit.
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
    # +1 where a range begins, -1 behind its end; one may begin where another ends, and empty ones cancel out.
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
    """int64 (at most one per response,): the places of the tokens that end the responses' turns.

    That is the first control token among the REACH tokens behind a response, of its row: some templates write white
    space in between. It is no response token and has no risk; a model that never learns it does not learn to stop.
    Arguments as in training_columns; control_ids: the tokenizer's.
    """
    controls = np.isin(input_ids, np.fromiter(control_ids, dtype=np.int64))
    ranges = np.diff(range_offsets)
    behind, row_ends = np.repeat(offsets[:-1], ranges) + stops, np.repeat(offsets[1:], ranges)
    # A response ends at the latest where the next one of its row begins, so the nearest control token is its own.
    found = np.full(len(stops), -1, dtype=np.int64)
    for step in range(REACH):
        place = behind + step
        inside = (found < 0) & (place < row_ends)
        hit = np.flatnonzero(inside)[controls[place[inside]]]
        found[hit] = place[hit]
    return np.unique(found[found >= 0])


def positions(offsets: Offsets) -> npt.NDArray[np.int64]:
    """int64 (n,): the place of each token in its row, from 0."""
    return np.arange(int(offsets[-1]), dtype=np.int64) - np.repeat(offsets[:-1], np.diff(offsets))


def check_offsets(offsets: Offsets, total: int) -> None:
    """Raises ValueError unless the offsets cut `total` values into rows."""
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 0).any():
        raise ValueError(f"offsets {offsets[:5]}... do not cut {total} values into rows")
