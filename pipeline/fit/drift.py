"""New data against the data that an artifact was made on: the frozen cut, and how far both corpora are apart.

statistics = {
    rows, scored, fell                          rows read, scored, and beyond the cut
    scores: {method: {edges, counts}}           bins between the exact tenths (operators/statistics/drift.py)
    lengths: {edges, counts}                    response tokens, in the same way
    quarantine: {code: rows}
}
drift = {
    artifact, limit, exceeded                   where it lies; the job's drift_limit; names of figures above it
    rows, scored, fell                          each {then, now}
    figures: [{name, psi, by_chance, then, now, bins}]
    quarantine: {code: {then, now}}
}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from tamis.operators.statistics.drift import (
    Bins,
    bins_of_lengths,
    bins_of_scores,
    by_chance,
    counted,
    counted_lengths,
    psi,
    tenths,
)
from tamis.operators.statistics.ranking import fine_histogram
from tamis.operators.statistics.selection import Threshold, tie_quotas
from tamis.pipeline.cluster.tasks import map_reduce
from tamis.pipeline.errors import ConfigError, DriftError
from tamis.pipeline.fit.exact_cut import Values, coarse_of, grouped, plus, ties_of
from tamis.pipeline.fit.scores import ScoreSums, Selection, count_above, read_scores
from tamis.pipeline.run.frozen import Frozen, FrozenCut
from tamis.pipeline.storage.store import Sealed, Store

SCORED = "scored"
"""The bin of the rows that are not quarantined."""
MAJORITY = "more than half beyond the cut"
"""Named in `exceeded` where the cut drops more than half of the rows."""

_FELL = ("kept", "dropped")


def select_at(cut: FrozenCut, store: Store, sums: ScoreSums) -> Selection:
    """What falls of new data at a frozen cut. The corpus has no part in where it lies."""
    files = sums.files
    none = (0,) * len(files)
    if cut.score is None:
        return Selection(Threshold(float("inf"), 0), none, 0, 0, sums)
    above = Threshold(cut.score)
    dropped = count_above(store, files, above)
    ties = ties_of(store, files, read_scores, above)
    at = sum(ties)
    falling = at if cut.ties is None else min(cut.ties, at)
    quotas = tuple(tie_quotas(ties, falling))
    return Selection(Threshold(cut.score, falling), quotas, dropped + falling, at, sums)


# --- statistics -----------------------------------------------------------------------------------------------------


def statistics_of(
    store: Store, methods: Iterable[str], selection: Selection, rows: int, quarantined: Mapping[str, int]
) -> dict[str, Any]:
    """The statistics that an artifact keeps of the corpus that it was made on, all of them exact. quarantined: rows by
    code."""
    sums = selection.sums
    return {
        "rows": rows,
        "scored": sums.count,
        "fell": selection.dropped,
        "scores": {name: _bins_of(store, sums.files, name) for name in methods},
        "lengths": _plain(bins_of_lengths(sums.lengths)),
        "quarantine": dict(sorted(quarantined.items())),
    }


def _bins_of(store: Store, files: Sequence[Sealed], method: str) -> dict[str, Any]:
    values = partial(read_scores, column=method)
    coarse = coarse_of(store, files, values)
    wanted = tenths(coarse)
    fine = map_reduce(_fine, plus, grouped(files), store, values, wanted)
    return _plain(bins_of_scores(coarse, dict(zip(wanted, fine, strict=True))))


def _fine(group: Sequence[Sealed], store: Store, values: Values, wanted: Sequence[int]) -> np.ndarray[Any, Any]:
    """int64 (wanted, 65536): `fine_histogram` of each of these bins."""
    scores = [values(store, file) for file in group]
    return np.stack([sum(fine_histogram(some, bin) for some in scores) for bin in wanted])


def _plain(bins: Bins) -> dict[str, Any]:
    return {"edges": list(bins.edges), "counts": list(bins.counts)}


# --- drift ----------------------------------------------------------------------------------------------------------


def drift_of(
    store: Store,
    frozen: Frozen,
    selection: Selection,
    rows: int,
    quarantined: Mapping[str, int],
    limit: float | None,
    *,
    allow_majority: bool,
) -> dict[str, Any]:
    """The drift of a run with an artifact, for its manifest. rows: of its corpus. allow_majority: of its selection."""
    then, sums = frozen.facts.statistics, selection.sums
    figures = []
    for name, bins in then["scores"].items():
        counts = map_reduce(_counted, plus, grouped(sums.files), store, name, bins["edges"])
        figures.append(_figure(f"{name} scores", bins["counts"], counts.tolist(), bins["edges"]))
    fell = [
        [each - beyond, beyond] for each, beyond in ((then["scored"], then["fell"]), (sums.count, selection.dropped))
    ]
    figures.append(_figure("share beyond the cut", fell[0], fell[1], _FELL))
    lengths = then["lengths"]
    counts = counted_lengths(sums.lengths, lengths["edges"])
    figures.append(_figure("answer lengths", lengths["counts"], counts.tolist(), lengths["edges"]))
    codes = sorted({*then["quarantine"], *quarantined})
    out = [[of.get(code, 0) for code in codes] for of in (then["quarantine"], quarantined)]
    placed = [[then["rows"] - sum(out[0]), *out[0]], [rows - sum(out[1]), *out[1]]]
    figures.append(_figure("quarantine", placed[0], placed[1], [SCORED, *codes]))
    drift = {
        "artifact": frozen.where,
        "limit": limit,
        "rows": {"then": then["rows"], "now": rows},
        "scored": {"then": then["scored"], "now": sums.count},
        "fell": {"then": then["fell"], "now": selection.dropped},
        "majority_allowed": allow_majority,
        "figures": figures,
        "quarantine": {code: {"then": a, "now": b} for code, a, b in zip(codes, *out, strict=True)},
    }
    return {**drift, "exceeded": exceeded(drift, limit)}


def _counted(group: Sequence[Sealed], store: Store, method: str, edges: Sequence[float]) -> np.ndarray[Any, Any]:
    return sum(counted(read_scores(store, file, method), edges) for file in group)  # type: ignore[return-value]


def _figure(name: str, then: Sequence[int], now: Sequence[int], bins: Sequence[Any]) -> dict[str, Any]:
    chance = by_chance(len(then), sum(then), sum(now))
    return {
        "name": name,
        "psi": psi(then, now),
        "by_chance": chance,
        "then": list(then),
        "now": list(now),
        "bins": list(bins),
    }


def exceeded(drift: Mapping[str, Any], limit: float | None) -> list[str]:
    """The names of the figures above the limit. A figure that chance alone may reach with so few rows is not above it.
    MAJORITY is among them where more than half fell and the job does not allow that."""
    if limit is None:
        return []
    names = [figure["name"] for figure in drift["figures"] if figure["psi"] > max(limit, figure["by_chance"])]
    most = drift["fell"]["now"] * 2 > drift["scored"]["now"] and not drift["majority_allowed"]
    return [*names, *([MAJORITY] if most else [])]


def refuse(drift: Mapping[str, Any] | None, limit: float | None, output: str) -> None:
    """DriftError, in one line, if figures exceed the limit. drift: of the manifest; None for a run without artifact."""
    above = [] if drift is None else exceeded(drift, limit)
    if drift is None or not above:
        return
    figures = {figure["name"]: f"{figure['name']} {figure['psi']:.2f}" for figure in drift["figures"]}
    fell, scored = drift["fell"]["now"], drift["scored"]["now"]
    figures[MAJORITY] = f"{fell:,} of {scored:,} scored rows are beyond the cut, more than half"
    raise DriftError(
        f"the data has drifted from that of the artifact: {'; '.join(figures[name] for name in above)} (PSI, "
        f"drift_limit {limit:g}); the output is in {output}, whole; look at its report before you use it"
    )


def check_majority(selection: Selection, limit: float | None, *, allow_majority: bool) -> None:
    """ConfigError where a frozen cut drops more than half and no drift limit would tell."""
    if limit is None and not allow_majority and selection.dropped * 2 > selection.sums.count:
        raise ConfigError(
            f"the cut of the artifact would drop {selection.dropped:,} of {selection.sums.count:,} scored rows, more "
            "than half; look at the data, set drift_limit, or set selection.allow_majority: true if that is meant"
        )
