"""`tamis compare`: two or more finished runs, or selections, of the same rows side by side.

Exact: no figure is estimated. Of the rows that all runs have (compared_runs.py), in the order of the first run:

    overlap       which rows fall in both of two runs, in exactly which of all of them
    ranks         Spearman's correlation of every score of one run with every score of another, over the rows that
                  have a score in all runs; ties by midrank
    shares        of the rows that a run kept or dropped: what fell, by source, and by tenth of the answers' lengths as
                  the first run counted them
    alone         what one run drops and no other does, the riskiest first by that run's own score

The figures hold no texts; the page does (compare_page.py).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from tamis.operators.statistics.lengths import decile_of, length_deciles, length_histogram
from tamis.operators.statistics.overlap import group_counts, midranks, overlap, patterns, spearman
from tamis.pipeline.commands.compared_runs import (
    DECISIONS,
    DROPPED,
    QUARANTINED,
    Matched,
    Run,
    bytes_a_row,
    match,
    read_runs,
)
from tamis.pipeline.labels.read import undamaged
from tamis.pipeline.labels.texts import texts_at
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import at_work, phase

MOST_SOURCES = 50
"""Sources with figures of their own, those with most rows; the others are counted together."""

MOST_PATTERNS = 64
"""Combinations of runs that drop a row, the most frequent ones; of six runs these are all there can be."""

MOST_SHOWN = 20
"""Rows that one run drops alone which the page shows with their texts."""


@dataclass(frozen=True, eq=False)
class Compared:
    """figures: plain JSON, without texts. matched: what they are of. alone: of each run, the rows to show, as places
    in that run, the riskiest first."""

    figures: dict[str, Any]
    matched: Matched
    alone: tuple[tuple[int, ...], ...]


@at_work()
def compare(stores: Sequence[Store], *, shared_only: bool = False, most_shown: int = MOST_SHOWN) -> Compared:
    """Raises ConfigError for runs that cannot be compared, InputError for damaged ones (compared_runs.py)."""
    matched = match(read_runs(stores), shared_only=shared_only)
    return compared(matched, most_shown)


def compared(matched: Matched, most_shown: int = MOST_SHOWN) -> Compared:
    """The figures of runs that were read. Pure."""
    phase("compare", "counting what the runs share")
    runs = matched.runs
    decisions = [matched.of(number, run.decisions) for number, run in enumerate(runs)]
    fell = [each == DROPPED for each in decisions]
    judged = [each != QUARANTINED for each in decisions]
    scored = np.ones(matched.shared, dtype=bool)
    for number, run in enumerate(runs):
        for scores in run.scores.values():
            scored &= ~np.isnan(matched.of(number, scores))
    alone, shown = _alone(matched, decisions, fell, most_shown)
    sources = matched.of(0, runs[0].sources)
    lengths = matched.of(0, runs[0].lengths)
    figures = {
        "tamis_version": importlib.metadata.version("tamis"),
        "runs": [_facts(run, decisions[number]) for number, run in enumerate(runs)],
        "rows": {
            "shared": matched.shared,
            "in": {run.name: len(run) for run in runs},
            "scored_in_all": int(scored.sum()),
            "unproven": matched.unproven,
        },
        "pairs": [_pair(runs, fell, a, b) for a, b in combinations(range(len(runs)), 2)],
        "patterns": [
            {"dropped_by": [runs[at].name for at in found], "rows": count}
            for found, count in patterns(fell, MOST_PATTERNS).items()
        ],
        "ranks": _ranks(matched, scored),
        **_by_source(runs[0].source_names, sources, judged, fell),
        "length_deciles": _by_length(lengths, _with_score(matched), judged, fell),
        "alone": alone,
        "bytes_a_row": bytes_a_row([len(run.methods) for run in runs]),
        "notes": [*matched.notes],
    }
    return Compared(figures, matched, shown)


def texts_of(found: Compared, most: int) -> list[dict[int, str]]:
    """Of each run, the whole texts of the rows to show, by their place in it. InputError for damaged files."""
    texts = []
    for run, places in zip(found.matched.runs, found.alone, strict=True):
        with undamaged(run.store):
            rows = texts_at(run.store, run.manifest, places[:most], f"texts {run.name}")
            texts.append({row.place: row.text for row in rows})
    return texts


def _facts(run: Run, decisions: npt.NDArray[np.int8]) -> dict[str, Any]:
    manifest = run.manifest
    parent = manifest.get("parent") or {}
    return {
        "name": run.name,
        "path": run.store.path(),
        "run_id": manifest.get("run_id"),
        "created": manifest.get("created"),
        "methods": list(run.methods),
        "selected_by": run.decided_by,
        "how": manifest["selection"]["how"],
        "cut": manifest["selection"]["cut"],
        "selected_from": parent.get("path"),
        "rows": len(run),
        **{name: int((decisions == number).sum()) for number, name in enumerate(DECISIONS)},
    }


def _pair(runs: Sequence[Run], fell: Sequence[npt.NDArray[np.bool_]], a: int, b: int) -> dict[str, Any]:
    found = overlap(fell[a], fell[b])
    return {
        "runs": [runs[a].name, runs[b].name],
        "both": found.both,
        "only": list(found.only),
        "jaccard": found.jaccard,
        "both_by_chance": found.by_chance,
    }


def _ranks(matched: Matched, scored: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Of every two scores of different runs. same: they are of one method. identical: equal to the bit in every row, as
    those of a run and a selection of it are."""
    phase("compare", "ranking the scores")
    runs = matched.runs
    names = [(number, method) for number, run in enumerate(runs) for method in run.methods]
    columns: dict[tuple[int, str], npt.NDArray[np.float32]] = {}
    ranks: dict[tuple[int, str], npt.NDArray[np.float64]] = {}
    for number, method in names:
        scores = matched.of(number, runs[number].scores[method])[scored]
        # Equal columns have equal ranks: a run and its selections are ranked once.
        twin = next((name for name, column in columns.items() if np.array_equal(column, scores)), None)
        columns[number, method] = scores if twin is None else columns[twin]
        ranks[number, method] = midranks(scores) if twin is None else ranks[twin]
    return [
        {
            "a": {"run": runs[a[0]].name, "method": a[1]},
            "b": {"run": runs[b[0]].name, "method": b[1]},
            "same_method": a[1] == b[1],
            "identical": columns[a] is columns[b],
            "spearman": spearman(ranks[a], ranks[b]),
        }
        for a, b in combinations(names, 2)
        if a[0] != b[0]
    ]


def _by_source(
    names: Sequence[str],
    sources: npt.NDArray[np.int32],
    judged: Sequence[npt.NDArray[np.bool_]],
    fell: Sequence[npt.NDArray[np.bool_]],
) -> dict[str, Any]:
    sizes = np.bincount(sources, minlength=len(names))
    rows = [group_counts(sources, each, len(names)) for each in judged]
    dropped = [group_counts(sources, each, len(names)) for each in fell]
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    shown, others = order[:MOST_SOURCES].tolist(), order[MOST_SOURCES:]
    found: dict[str, Any] = {
        "sources": [
            {
                "source": names[at],
                "shared": int(sizes[at]),
                "rows": [int(each[at]) for each in rows],
                "dropped": [int(each[at]) for each in dropped],
            }
            for at in shown
        ]
    }
    if len(others):
        found["other_sources"] = {
            "sources": len(others),
            "shared": int(sizes[others].sum()),
            "rows": [int(each[others].sum()) for each in rows],
            "dropped": [int(each[others].sum()) for each in dropped],
        }
    return found


def _with_score(matched: Matched) -> npt.NDArray[np.bool_]:
    """Of the shared rows, those that the first run has a score for: others were not read for their answer's length."""
    first = matched.runs[0]
    scored: npt.NDArray[np.bool_] = ~np.isnan(matched.of(0, first.scores[first.decided_by]))
    return scored


def _by_length(
    lengths: npt.NDArray[np.int32],
    scored: npt.NDArray[np.bool_],
    judged: Sequence[npt.NDArray[np.bool_]],
    fell: Sequence[npt.NDArray[np.bool_]],
) -> list[dict[str, Any]]:
    """Tenths of the rows that the first run has scored. Empty tenths, where many lengths tie, are left out."""
    known = lengths[scored]
    if not len(known):
        return []
    histogram = length_histogram(known, int(known.max()))
    deciles = np.where(scored, decile_of(lengths, length_deciles(histogram)), -1)
    rows = [group_counts(deciles, each, 10) for each in judged]
    dropped = [group_counts(deciles, each, 10) for each in fell]
    found = []
    for tenth in range(10):
        inside = lengths[deciles == tenth]
        if len(inside):
            found.append(
                {
                    "low": int(inside.min()),
                    "high": int(inside.max()),
                    "shared": len(inside),
                    "rows": [int(each[tenth]) for each in rows],
                    "dropped": [int(each[tenth]) for each in dropped],
                }
            )
    return found


def _alone(
    matched: Matched,
    decisions: Sequence[npt.NDArray[np.int8]],
    fell: Sequence[npt.NDArray[np.bool_]],
    most: int,
) -> tuple[list[dict[str, Any]], tuple[tuple[int, ...], ...]]:
    """What each run drops and no other does; and the places in the run of the rows to show."""
    times = np.sum([each.astype(np.uint8) for each in fell], axis=0)
    found: list[dict[str, Any]] = []
    shown: list[tuple[int, ...]] = []
    for number, run in enumerate(matched.runs):
        here = np.flatnonzero(fell[number] & (times == 1))
        scores = matched.of(number, run.scores[run.decided_by])[here]
        order = here[np.argsort(-scores, kind="stable")[:most]]
        places = matched.places[number]
        in_run = (order if places is None else places[order]).tolist()
        shown.append(tuple(in_run))
        rows = [
            {
                "sample_id": f"{int(run.ids[place]):016x}",
                "source": run.source_names[run.sources[place]],
                "score": float(run.scores[run.decided_by][place]),
                "n_response_tokens": int(run.lengths[place]),
                "elsewhere": {
                    other.name: _elsewhere(matched, at, decisions, int(shared))
                    for at, other in enumerate(matched.runs)
                    if at != number
                },
            }
            for place, shared in zip(in_run, order.tolist(), strict=True)
        ]
        found.append({"run": run.name, "by": run.decided_by, "rows": len(here), "riskiest": rows})
    return found, tuple(shown)


def _elsewhere(matched: Matched, run: int, decisions: Sequence[npt.NDArray[np.int8]], shared: int) -> Mapping[str, Any]:
    """What became of a shared row in a run, and its deciding score there."""
    other = matched.runs[run]
    places = matched.places[run]
    place = shared if places is None else int(places[shared])
    score = float(other.scores[other.decided_by][place])
    return {"decision": DECISIONS[decisions[run][shared]], "score": None if np.isnan(score) else score}
