"""The figures that test a filter, when its output is written: the key "trust" of the manifest, but for the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tamis.operators.statistics.ranks import rho
from tamis.pipeline.emit.totals import EmitTotals
from tamis.pipeline.fit.demonstrations import counted, tables_of
from tamis.pipeline.fit.score_agreement import score_agreement
from tamis.pipeline.fit.scores import Selection
from tamis.pipeline.run.paths import SCORES
from tamis.pipeline.storage.store import Sealed, Store


def trust_figures(
    store: Store,
    methods: Sequence[str],
    tests: Sequence[Mapping[str, Any]],
    selection: Selection,
    emitted: EmitTotals,
    demonstrations: Sealed | None,
    missing: str,
) -> dict[str, Any]:
    """tests: of the methods, from pipeline/fit/reference_tests.py. emitted: it lists the tables of scores/.
    demonstrations: the table of the safety demonstrations; without one, `missing` says why."""
    agreement = None
    if not emitted.failed:  # else rows that were cut are in no table
        named = {file["name"]: file["sha256"] for file in emitted.files if file["name"].startswith(f"{SCORES}/")}
        tables = [Sealed(name, sha256) for name, sha256 in named.items()]
        tables.sort(key=lambda table: table.name)
        alone = rho(emitted.final_rank_sums())
        lengths = selection.sums.lengths
        agreement = score_agreement(store, methods, tables, selection.dropped, lengths, alone)
    refusing = {name: emitted.refusing[name] for name in ("kept", "dropped")} if emitted.all_counted else None
    found = counted(store, demonstrations, tables_of(emitted.files), missing)
    return {"tests": list(tests), "agreement": agreement, "refusing": refusing, "demonstrations": found}
