"""Which samples fall: scores + cut -> what becomes of each row of a shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis.operators.statistics.lengths import decile_of
from tamis.operators.statistics.ranks import RankSums, rank_bins, rank_sums
from tamis.operators.statistics.selection import Threshold, decide
from tamis.pipeline.capture.spec import Captured
from tamis.pipeline.emit.own_sources import own_sources
from tamis.pipeline.emit.refusing import refusing
from tamis.pipeline.emit.shard import Decided, EmitSpec
from tamis.pipeline.fit.scores import DECIDING
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.storage.store import Sealed

SHOWN_RISKIEST, SHOWN_BORDERLINE = 20, 10


class Made(NamedTuple):
    """The results of the earlier stages for one shard."""

    captured: Captured
    scores: Sealed


@dataclass(frozen=True, eq=False)
class SampleSpec(EmitSpec):
    """edges: of the score histogram; rank_edges: of the bins in which scores are ranked; score_ranks, length_ranks:
    midranks by those bins and by number of response tokens. within: the groups that have cuts of their own, if any."""

    methods: tuple[str, ...]
    decided_by: str
    control: str | None
    threshold: Threshold
    scored: int
    edges: np.ndarray[Any, Any]
    rank_edges: np.ndarray[Any, Any]
    score_ranks: np.ndarray[Any, Any]
    length_ranks: np.ndarray[Any, Any]
    decile_edges: np.ndarray[Any, Any]
    within: str | None = None
    keeps_unscored: ClassVar[bool] = True

    def decide(self, shard: Shard, quota: int, made: Made) -> Decided:
        columns = ["code", "message", "n_tokens", "n_response_tokens", "truncated"]
        captured = self.store.read_table(made.captured.file, columns)
        scores = self.store.read_table(made.scores)
        valid = pc.is_null(captured.column("code")).to_numpy()
        dropped = np.zeros(len(valid), dtype=bool)
        dropped[valid] = decide(_plain(scores.column(DECIDING))[valid], self.threshold, quota)
        shown = _plain(scores.column(self.decided_by))
        return Decided(
            captured=captured,
            input=made.captured.input,
            dropped=dropped,
            reasons=_reasons(shown[dropped], self),
            scores={name: scores.column(name) for name in self.methods},
            facts=_facts(shown, dropped, valid, captured.column("n_response_tokens").to_numpy(), self),
        )

    def observed(
        self, shard: Shard, rows: pa.Table, scored: np.ndarray[Any, Any], dropped: np.ndarray[Any, Any]
    ) -> Mapping[str, Any]:
        own = own_sources(rows.filter(pa.array(scored)), dropped[scored])
        return {"refusing": refusing(shard, rows, dropped), "own_sources": own}


def _reasons(scores: np.ndarray[Any, Any], spec: SampleSpec) -> dict[str, pa.Array]:
    if spec.control is None and spec.within is not None:
        group = spec.within.replace("_", " ")
        reasons = [f"{spec.decided_by} score {score:.6g} is at or above the cut of its {group}" for score in scores]
    elif spec.control is None:
        cut = spec.threshold.value
        reasons = [
            f"{spec.decided_by} score {score:.6g} is {'above' if score > cut else 'at'} the cut {cut:.6g}"
            for score in scores
        ]
    else:
        reasons = [f"{spec.control} control: removed without regard to its score"] * len(scores)
    # The share of scored rows that are less risky; ties count half.
    quantiles = (spec.score_ranks[rank_bins(scores, spec.rank_edges)] - 0.5) / spec.scored
    return {
        "method": pa.array([spec.decided_by] * len(scores), pa.string()),
        "score": pa.array(scores, pa.float32()),
        "quantile": pa.array(quantiles, pa.float64()),
        "reason": pa.array(reasons, pa.string()),
    }


def _plain(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """float32 (rows,) with 0 where there is no score."""
    values: np.ndarray[Any, Any] = column.combine_chunks().fill_null(0).to_numpy(zero_copy_only=False)
    return values.astype(np.float32)


# --- the numbers --------------------------------------------------------------------------------------------------


def _facts(
    scores: np.ndarray[Any, Any],
    dropped: np.ndarray[Any, Any],
    valid: np.ndarray[Any, Any],
    lengths: np.ndarray[Any, Any],
    spec: SampleSpec,
) -> dict[str, Any]:
    kept = valid & ~dropped
    deciles = decile_of(lengths[valid], spec.decile_edges)
    sums = rank_sums(
        rank_bins(scores[valid], spec.rank_edges), lengths[valid], spec.score_ranks, spec.length_ranks, spec.scored
    )
    return {
        "histogram": {
            "kept": _histogram(scores[kept], spec.edges),
            "dropped": _histogram(scores[dropped], spec.edges),
        },
        "deciles": {
            "rows": np.bincount(deciles, minlength=10).tolist(),
            "dropped": np.bincount(deciles[dropped[valid]], minlength=10).tolist(),
        },
        "rank_sums": [sums.count, sums.squares_a, sums.squares_b, sums.products],
        "riskiest": _extreme(scores, valid, lengths, SHOWN_RISKIEST, highest=True),
        "borderline_dropped": _extreme(scores, dropped, lengths, SHOWN_BORDERLINE, highest=False),
        "borderline_kept": _extreme(scores, kept, lengths, SHOWN_BORDERLINE, highest=True),
    }


def _histogram(scores: np.ndarray[Any, Any], edges: np.ndarray[Any, Any]) -> list[int]:
    inside = np.clip(scores.astype(np.float64), edges[0], edges[-1])
    return np.histogram(inside, bins=edges)[0].tolist()  # type: ignore[no-any-return]


def _extreme(
    scores: np.ndarray[Any, Any],
    among: np.ndarray[Any, Any],
    lengths: np.ndarray[Any, Any],
    count: int,
    *,
    highest: bool,
) -> list[tuple[float, int, int]]:
    """(score, place in the shard, response tokens) of the `count` most extreme rows, the most extreme first."""
    # Ties are dropped in corpus order from the top: the last of equal scores is the lowest.
    places = np.flatnonzero(among) if highest else np.flatnonzero(among)[::-1]
    order = np.argsort(-scores[places] if highest else scores[places], kind="stable")[:count]
    return [(float(scores[p]), int(p), int(lengths[p])) for p in places[order]]


def add_sums(a: RankSums, values: Sequence[float]) -> RankSums:
    """`a` plus the sums of one receipt."""
    return a + RankSums(int(values[0]), *(float(value) for value in values[1:]))
