"""The samples that the report shows, with their conversations, read from the output: what people browse and label.

Riskiest and borderline samples are those of the whole corpus; the manifest lists them. The rest is drawn here, from the
scores of at most SHARDS shards, evenly spaced: rows kept and rows dropped at random, and rows that the methods rank
most unlike each other. So the work does not grow with the corpus, and the same output gives the same samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tamis.operators.conversation.messages import Dialect, normalise
from tamis.operators.problems import RowProblem
from tamis.pipeline.emit.own_sources import COLUMN, OWN, own_values
from tamis.pipeline.inputs.shards import rows_of
from tamis.pipeline.job.sections import RANKS
from tamis.pipeline.labels.texts import digest_of, text_of
from tamis.pipeline.report.sample_data import NAME_LIMIT, TEXT_LIMIT
from tamis.pipeline.run.paths import MANIFEST, SCORES, table_of
from tamis.pipeline.run.row_places import RowPlaces, shard_of
from tamis.pipeline.storage.safe_names import safe_name
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import Progress

SHARDS = 32
"""At most so many shards are read for the rows that are drawn: some 65,000 rows."""
RANDOM, UNLIKE = 400, 200
"""Rows drawn of kept/ and of dropped/ each, and rows on which the methods differ most."""
BINS = 60
"""Of the histogram of each method that did not decide."""
LISTED = ("riskiest", "borderline_dropped", "borderline_kept")
"""The lists of samples in a manifest."""

_COLUMNS = ("sample_id", "source", "row", "decision", "n_response_tokens")


@dataclass(eq=False)
class _Shard:
    """scores: its table of scores/. values: float64 (methods, rows), NaN without a score. at: likewise, the place of
    each row in the order of each method; None where it is not compared. apart: float64 (rows,), how far those places
    lie apart; None with one method."""

    name: str
    scores: pa.Table
    values: npt.NDArray[np.float64]
    at: npt.NDArray[np.float64] | None = None
    apart: npt.NDArray[np.float64] | None = None
    texts: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def decisions(self) -> npt.NDArray[np.object_]:
        return np.array(self.scores.column("decision").to_pylist(), dtype=object)


def with_samples(store: Store, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary with the conversations of its samples, and under `browse` those that are drawn (`Browse` in
    report/summary.py). Only the report contains them. Raises as `Store.read_table`."""
    names = sorted(file["name"] for file in summary["files"] if file["name"].startswith(f"{SCORES}/"))
    named = list(dict.fromkeys([*(method["name"] for method in summary["methods"]), summary["selected_by"]]))
    compared = [_opened(store, shard_of(name), named) for name in _spaced(names)]
    shards = {shard.name: shard for shard in compared}
    methods = _score_columns(compared, named)
    _rank(compared, [name != RANKS for name in methods])
    groups = _drawn(compared, methods)
    listed = {}
    for name in LISTED:
        places = []
        for sample in summary[name]:
            shard = safe_name(sample["shard"], MANIFEST)
            if shard not in shards:
                shards[shard] = _opened(store, shard, named)
            places.append((shard, pc.index(shards[shard].scores.column("row"), sample["row"]).as_py()))
        listed[name] = places
    _read_texts(RowPlaces(store, summary["files"]), shards, [*groups.values(), *listed.values()], _dialects(summary))

    def described(shard: str, place: int) -> dict[str, Any]:
        return _sample(shards[shard], place, methods, summary["selected_by"])

    return {
        **summary,
        **{
            name: [{**described(*place), **sample} for sample, place in zip(summary[name], listed[name], strict=True)]
            for name in LISTED
        },
        "browse": {
            **{name: [described(*place) for place in places] for name, places in groups.items()},
            "methods": methods,
            "rows": sum(shard.scores.num_rows for shard in compared),
            "histograms": {
                method: found
                for number, method in enumerate(methods)
                if method != summary["selected_by"] and (found := _histogram(compared, number)) is not None
            },
        },
    }


def _spaced(names: Sequence[str]) -> list[str]:
    """At most SHARDS of the names, evenly spaced."""
    if len(names) <= SHARDS:
        return list(names)
    return [names[number * len(names) // SHARDS] for number in range(SHARDS)]


def _opened(store: Store, shard: str, named: Sequence[str]) -> _Shard:
    table = store.read_table(table_of(SCORES, shard))
    present = [name for name in named if name in table.schema.names]
    values = np.full((len(named), table.num_rows), np.nan)
    for number, name in enumerate(named):
        if name in present:
            column = table.column(name).cast(pa.float64()).combine_chunks().fill_null(float("nan"))
            values[number] = column.to_numpy(zero_copy_only=False)
    keep = [number for number, name in enumerate(named) if name in present]
    return _Shard(shard, table, values[keep])


def _score_columns(shards: Sequence[_Shard], named: Sequence[str]) -> list[str]:
    """The columns of scores/ that hold the methods' scores, in the order of `values`."""
    return [name for name in named if shards and name in shards[0].scores.schema.names]


def _rank(shards: Sequence[_Shard], alone: Sequence[bool]) -> None:
    """Set `at`, the share of the rows that are compared that score lower, ties counted half; and `apart`. alone: which
    methods are no mean of others."""
    if not shards:
        return
    values = np.concatenate([shard.values for shard in shards], axis=1)
    at = np.stack([middle_ranks(row) for row in values]) if len(values) else values
    stops = np.cumsum([shard.scores.num_rows for shard in shards])
    for shard, part in zip(shards, np.split(at, stops[:-1], axis=1), strict=True):
        shard.at = part
        if sum(alone) > 1:
            shard.apart = np.ptp(part[np.array(alone)], axis=0)


def middle_ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64 (n,) -> float64 (n,): the share of the finite values that lie below, equal ones counted half; NaN for a
    value that is not finite."""
    at = np.full(len(values), np.nan)
    finite = np.isfinite(values)
    if finite.any():
        _, where, counts = np.unique(values[finite], return_inverse=True, return_counts=True)
        at[finite] = ((np.cumsum(counts) - counts / 2) / counts.sum())[where]
    return at


def _drawn(shards: Sequence[_Shard], methods: Sequence[str]) -> dict[str, list[tuple[str, int]]]:
    """(shard, place) of the samples of each group, in the order in which they are shown."""
    found: dict[str, list[tuple[Any, str, int]]] = {"random_dropped": [], "random_kept": [], "unlike": []}
    for shard in shards:
        scored = np.isfinite(shard.values).all(axis=0) & bool(len(methods))
        for name, decision in (("random_dropped", "dropped"), ("random_kept", "kept")):
            places = np.flatnonzero(scored & (shard.decisions == decision))
            ids = shard.scores.column("sample_id").take(pa.array(places)).to_pylist()
            found[name] += [(_key(each), shard.name, place) for each, place in zip(ids, places.tolist(), strict=True)]
        if shard.apart is not None:
            places = np.flatnonzero(scored)
            far = (-shard.apart[places]).tolist()
            found["unlike"] += [(much, shard.name, place) for much, place in zip(far, places.tolist(), strict=True)]
    most = {"random_dropped": RANDOM, "random_kept": RANDOM, "unlike": UNLIKE}
    return {name: [(shard, place) for _, shard, place in sorted(rows)[: most[name]]] for name, rows in found.items()}


def _key(sample_id: str) -> bytes:
    """Pseudo-random, of the id alone: the same output is always drawn from in the same way."""
    return hashlib.blake2b(sample_id.encode(), digest_size=8, person=b"tamis report").digest()


def _histogram(shards: Sequence[_Shard], method: int) -> dict[str, Any] | None:
    """Kept and dropped rows by one method's score; None where no row has one, or where float64 cannot part them: equal
    scores beyond 1e15."""
    values = np.concatenate([shard.values[method] for shard in shards])
    decisions = np.concatenate([shard.decisions for shard in shards])
    finite = np.isfinite(values)
    if not finite.any():
        return None
    try:
        edges = np.histogram_bin_edges(values[finite], bins=BINS)
    except ValueError:
        return None
    parts = {
        name: np.histogram(values[finite & (decisions == name)], edges)[0].tolist() for name in ("kept", "dropped")
    }
    return {"edges": edges.tolist(), **parts}


def _dialects(summary: Mapping[str, Any]) -> dict[str, Dialect]:
    return {file["path"]: Dialect.from_dict(file["columns"]) for file in summary["input"]["files"]}


def _read_texts(
    places: RowPlaces,
    shards: Mapping[str, _Shard],
    groups: Sequence[Sequence[tuple[str, int]]],
    dialects: Mapping[str, Dialect],
) -> None:
    """Set `texts` of every shard of which rows are shown."""
    wanted: dict[str, set[int]] = {}
    for name, place in (each for group in groups for each in group):
        wanted.setdefault(name, set()).add(place)
    progress = Progress("report", len(wanted), unit="shards", brief=True)
    for name, chosen in sorted(wanted.items()):
        shard = shards[name]
        dialect = dialects[shard.scores.column("source")[0].as_py()]
        for decision in ("kept", "dropped"):
            there = np.flatnonzero(shard.decisions == decision)
            here = sorted(chosen & set(there.tolist()))
            if here:
                rows = places.peek(decision, name, list(dict.fromkeys([*dialect.reads, COLUMN])))
                for place, at in zip(here, np.searchsorted(there, here).tolist(), strict=True):
                    # A slice, as Arrow cannot take rows of every type.
                    shard.texts[place] = _text(rows.slice(at, 1), dialect)
        progress.advance(1)
    progress.finish()


def _text(table: pa.Table, dialect: Dialect) -> dict[str, Any]:
    """Of one row its messages, the digest of its text as in a sheet of `tamis sample`, and its own source."""
    own = own_values(table)
    said = {} if own is None else {OWN: own[0]}
    columns = [name for name in dialect.reads if name in table.schema.names]
    [row] = rows_of(table.select(columns), 0)
    try:
        if isinstance(row.value, RowProblem):
            raise row.value
        conversation = normalise(row.value, dialect)
    except RowProblem as problem:
        return {"messages": [{"role": "note", "content": f"(the text cannot be shown: {problem.code})"}], **said}
    # The driver holds a thousand of these: no more of each text than the page shows, and its length.
    messages = [
        {
            "role": message["role"][:NAME_LIMIT],
            "content": message["content"][:TEXT_LIMIT],
            "length": len(message["content"]),
        }
        for message in conversation.for_people()
    ]
    return {"messages": messages, "text_digest": digest_of(text_of(conversation)), **said}


def _sample(shard: _Shard, place: int, methods: Sequence[str], by: str) -> dict[str, Any]:
    """A `Sample` of the report."""
    scores = dict(zip(methods, shard.values[:, place].tolist(), strict=True))
    at = None if shard.at is None else shard.at[:, place]
    return {
        **{name: shard.scores.column(name)[place].as_py() for name in _COLUMNS},
        "shard": shard.name,
        "score": scores.get(by),
        "scores": scores,
        "apart": None if shard.apart is None else float(shard.apart[place]),
        "places": {} if at is None else dict(zip(methods, at.tolist(), strict=True)),
        **shard.texts.get(place, {}),
    }
