"""TOSS and TOSS-Pro: which response tokens not to learn from (arXiv 2603.01185).

    S(i, j) = CE(token j of sample i | theta_u) - CE(same | theta_h)       higher = riskier

theta_u is fine-tuned on utility data, theta_h on harmful data. The share `discard` of all response tokens, those with
the largest S, stay in the input but lose their labels. The tokens of a shard are a ragged array: flat values, and
int64 offsets (rows + 1,) from 0 to the number of values. Flat arrays in shard order are in tie order (sample, then
position), so ranking.py and selection.py make the corpus-wide cut directly on `risk`; this module has only what those
two lack.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

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
