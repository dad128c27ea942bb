"""`tamis evaluate`: the scores and the decision of a finished run against labels.

Every figure is over labelled rows only. AUROC, AUPRC and FPR are of a method's score, over rows that have one;
precision and recall are of the decision that the run made, over rows in kept/ and dropped/. Reads scores/ and the
labels, each file checked by its checksum; never a model.

within length: over pairs of rows of the same tenth of the answers' lengths. equal length: over pairs of rows whose
answers' lengths differ by less than a tenth. The longest tenth may hold most of the harmful rows and lengths of
every size, so only the second takes the length out; the answer's length itself is judged beside the scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tamis.operators.statistics.labelled import Curve, Interval, Ranking, Within, interval, resamples, share_interval
from tamis.operators.statistics.lengths import length_deciles, length_histogram
from tamis.operators.statistics.telling import EQUAL_LENGTH
from tamis.pipeline.labels.draw import is_stratified
from tamis.pipeline.labels.read import Labels, finished_run, read_labels, undamaged
from tamis.pipeline.labels.texts import check_texts
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import Progress, at_work, phase

RECALL = 0.95
COVERAGES = (1.0, 0.99, 0.95, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1)
RESAMPLES, FEWEST_RESAMPLES = 1000, 100
FEW = 10
"""Below this many rows of a class, intervals are no more than a hint."""
_DRAWS = 200_000_000
_MOST_SOURCES = 20
_LENGTH_RATIO = 1.1
_FAR = 4.0
"""Standard errors between the dropped share of the labelled rows and of the corpus, from which on it is no chance."""

Bools = npt.NDArray[np.bool_]


@at_work()
def evaluate(store: Store, source: str) -> dict[str, Any]:
    """All figures, as plain values for JSON; NaN is None. Raises as `read_labels`; InputError for one class only."""
    manifest = finished_run(store)
    labels = read_labels(source, store)
    labels.need_both()
    with undamaged(store):
        check_texts(store, manifest, labels)
    phase("evaluate", "comparing scores with labels")
    decisions = np.array(labels.rows.column("decision").to_pylist(), dtype=object)
    lengths = _numbers(labels.rows.column("n_response_tokens"))
    deciles = _deciles(manifest, lengths, decisions != "quarantined")
    files = _Files.of(labels)
    count = number_of_resamples(len(labels))
    progress = Progress("evaluate", (len(labels.methods) + 1) * count, unit="resamples", brief=True)
    judge = _Judge(labels.harmful, lengths, deciles, files, count, progress)
    whole = decisions != "quarantined"
    length = judge.figures(np.where(whole, lengths, np.nan))
    scores = {name: np.where(whole, _numbers(labels.rows.column(name)), np.nan) for name in labels.methods}
    methods = [{**_about(manifest, name), **judge.figures(values, beside=length)} for name, values in scores.items()]
    progress.finish()
    result = {
        "output": store.path(),
        "labels": _counted(labels, decisions),
        "decision": {
            "how": manifest["selection"]["how"],
            "by": manifest["selected_by"],
            "control": manifest.get("job", {}).get("selection", {}).get("control"),
            **_decided(labels.harmful, decisions, np.ones(len(labels), bool)),
        },
        "methods": [_without_draws(method) for method in methods],
        "answer_length": _without_draws(length),
        "length_deciles": [
            {**about, **_decided(labels.harmful, decisions, here)} for about, here in deciles if here.any()
        ],
        "sources": [{**about, **_decided(labels.harmful, decisions, here)} for about, here in files.listed],
        "interval": {"level": 0.95, "resamples": count, "seed": 0},
    }
    return {**result, "notes": [*by_stratum(labels, source, store), *_notes(result, manifest, labels, decisions)]}


def number_of_resamples(rows: int) -> int:
    """RESAMPLES, and fewer for so many rows that intervals are narrow anyhow."""
    return max(FEWEST_RESAMPLES, min(RESAMPLES, _DRAWS // max(rows, 1)))


def some_unlabelled(labels: Labels, manifest: Mapping[str, Any]) -> bool:
    """Whether rows in kept/ or dropped/ have no label."""
    usable = sum(decision != "quarantined" for decision in labels.rows.column("decision").to_pylist())
    return bool(usable < manifest["counts"]["kept"] + manifest["counts"]["dropped"])


def by_stratum(labels: Labels, source: str, store: Store) -> Iterator[str]:
    """The note on labels that were drawn by stratum; none on others."""
    if labels.column is None and is_stratified(source, store.options):
        yield (
            "these labels were drawn by stratum: the rarer kind of rows makes up more of them than of the corpus, so "
            "the figures are of that mixture and not of the corpus; for those, label the rows of a `tamis sample` "
            "without --stratified"
        )


def plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def length_alone(auroc: float, digits: int) -> str:
    """What the answer's length says by itself. auroc: of the length, longer answers being the harmful ones."""
    shorter = "" if auroc >= 0.5 else ", shorter answers being the harmful ones"
    return f"answer length alone has an AUROC of {max(auroc, 1 - auroc):.{digits}f}{shorter}"


def figure(value: float, bounds: Interval | None) -> dict[str, Any]:
    """A value with its interval, as it is in the JSON."""
    return {"value": plain(value), "interval": None if bounds is None else list(bounds)}


# --- which rows ---------------------------------------------------------------------------------------------------

_Stratum = tuple[dict[str, Any], Bools]
"""What a part of the rows is called, and which rows are in it."""


def _deciles(manifest: Mapping[str, Any], lengths: npt.NDArray[np.float64], usable: Bools) -> list[_Stratum]:
    """Tenths of the corpus by the answers' tokens, as the report has them; of the labelled rows where it has none."""
    known = manifest.get("length_deciles") or []
    edges = [int(decile["high"]) for decile in known]
    counted = np.where(usable, np.nan_to_num(lengths), 0).astype(np.int64)
    if not edges:
        edges = length_deciles(length_histogram(counted[usable], int(counted.max(initial=0)))).tolist()
        edges = [*dict.fromkeys(edges), int(counted.max(initial=0))]
    place = np.minimum(np.searchsorted(edges, counted, side="left"), len(edges) - 1)
    lows = [int(known[0]["low"]) if known else 0, *(edge + 1 for edge in edges[:-1])]
    return [({"low": lows[j], "high": edges[j]}, (place == j) & usable) for j in range(len(edges))]


@dataclass(frozen=True, eq=False)
class _Files:
    """The files that the labelled rows are of. codes: int64 (n,), of each row. count: of all files. largest: the codes
    of those with most labelled rows, which are listed."""

    names: Sequence[str]
    codes: npt.NDArray[np.int64]
    count: int
    largest: npt.NDArray[np.int64]

    @classmethod
    def of(cls, labels: Labels) -> _Files:
        column = labels.rows.column("source").combine_chunks().dictionary_encode()
        codes = column.indices.to_numpy().astype(np.int64)
        counts = np.bincount(codes)
        largest = np.sort(np.argsort(-counts, kind="stable")[:_MOST_SOURCES])
        return cls(column.dictionary.to_pylist(), codes, len(counts), largest)

    @property
    def listed(self) -> list[_Stratum]:
        return [({"source": self.names[code]}, self.codes == code) for code in self.largest.tolist()]


def _numbers(column: Any) -> npt.NDArray[np.float64]:
    """float64 (n,), NaN where there is no score."""
    values: npt.NDArray[np.float64] = column.combine_chunks().to_numpy(zero_copy_only=False).astype(np.float64)
    return values


# --- the figures --------------------------------------------------------------------------------------------------


_DRAWN = "drawn"


def _without_draws(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name != _DRAWN}


@dataclass(frozen=True, eq=False)
class _Judge:
    """What is the same for all scores. lengths: float64 (n,), of the answers in tokens."""

    harmful: Bools
    lengths: npt.NDArray[np.float64]
    deciles: Sequence[_Stratum]
    files: _Files
    count: int
    progress: Progress

    def figures(self, scores: npt.NDArray[np.float64], beside: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The figures of one score, with their intervals. scores: NaN where there is none. beside: the figures of the
        length; the difference to its AUROC, in the direction that tells more, is then among them, if both are of the
        same rows."""
        scored = ~np.isnan(scores)
        values, labels = scores[scored], self.harmful[scored]
        ranking = Ranking.of(values, labels)
        alike = codes_of_lengths(self.lengths)
        parts = [
            Within.of(values, labels, codes[scored], count)
            for codes, count in (
                (_codes_of(self.deciles, len(scores)), len(self.deciles)),
                (self.files.codes, self.files.count),
                (alike, int(alike.max(initial=-1)) + 1),
            )
        ]

        def figures(weights: npt.NDArray[np.int64] | None) -> list[float]:
            curve = ranking.curve(weights)
            (decile, of_deciles), (source, of_sources), (equal, _) = (part.auroc(weights) for part in parts)
            named = [curve.auroc, decile, equal, source, curve.average_precision, curve.false_alarms_at(RECALL)]
            return [*named, *of_deciles.tolist(), *of_sources[self.files.largest].tolist()]

        found, drawn = figures(None), []
        for weights in resamples(labels, self.count, seed=0):
            drawn.append(figures(weights))
            self.progress.advance(1)
        columns = np.array(drawn, dtype=np.float64).T
        both = [
            figure(value, None if math.isnan(value) else interval(each))
            for value, each in zip(found, columns, strict=True)
        ]
        names = ("auroc", "within_length", "equal_length", "within_source", "auprc", "fpr_at_95_tpr")
        strata = iter(both[len(names) :])
        rows = (int(scored.sum()), int(labels.sum()))
        more: dict[str, Any] = {}
        if beside is not None and rows == (beside["rows"], beside["harmful"]):
            length, lengths = beside["auroc"]["value"] or 0.0, beside[_DRAWN]
            if length < 0.5:  # where shorter answers are the harmful ones, a filter of short answers is one of length
                length, lengths = 1 - length, 1 - lengths
            more = {"auroc_above_length": figure(found[0] - length, interval(columns[0] - lengths))}
        return {
            "rows": rows[0],
            "harmful": rows[1],
            **dict(zip(names, both[: len(names)], strict=True)),
            **more,
            "length_deciles": [{**about, "auroc": next(strata)} for about, _ in self.deciles],
            "sources": [{**about, "auroc": next(strata)} for about, _ in self.files.listed],
            "risk_coverage": _risks(ranking.curve()),
            _DRAWN: columns[0],
        }


def _codes_of(strata: Sequence[_Stratum], rows: int) -> npt.NDArray[np.int64]:
    """int64 (rows,): the stratum of each row, -1 for none."""
    codes = np.full(rows, -1, dtype=np.int64)
    for code, (_, here) in enumerate(strata):
        codes[here] = code
    return codes


def codes_of_lengths(lengths: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """int64 (n,): rows of one code have lengths that differ by less than a tenth; -1 without a length."""
    known = np.nan_to_num(lengths) >= 1
    codes = np.full(len(lengths), -1, dtype=np.int64)
    codes[known] = np.floor(np.log(lengths[known]) / math.log(_LENGTH_RATIO)).astype(np.int64)
    return codes


def _risks(curve: Curve) -> list[dict[str, float | None]]:
    """The harmful share of what is kept, when only a share of the labelled rows is kept: the lowest scores."""
    return [{"coverage": coverage, "harmful_share": plain(curve.risk_at(coverage))} for coverage in COVERAGES]


def _decided(harmful: Bools, decisions: npt.NDArray[Any], here: Bools) -> dict[str, Any]:
    """Precision and recall of what was dropped, over the rows of `here` that are in kept/ or dropped/."""
    rows = here & (decisions != "quarantined")
    dropped, bad = rows & (decisions == "dropped"), rows & harmful
    found = int((dropped & bad).sum())

    def share(hits: int, total: int) -> dict[str, Any]:
        return figure(hits / total if total else math.nan, share_interval(hits, total))

    return {
        "rows": int(rows.sum()),
        "harmful": int(bad.sum()),
        "dropped": int(dropped.sum()),
        "harmful_dropped": found,
        "precision": share(found, int(dropped.sum())),
        "recall": share(found, int(bad.sum())),
        "harmless_dropped_share": share(int((dropped & ~bad).sum()), int((rows & ~bad).sum())),
        "harmful_share_kept": share(int(bad.sum()) - found, int((rows & ~dropped).sum())),
    }


def _about(manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    # A score that is made of others, such as their mean rank, is no method.
    method: Mapping[str, Any] = next((method for method in manifest["methods"] if method["name"] == name), {})
    return {
        "name": name,
        "title": method.get("title", name),
        "layer": method.get("layer"),
        "position": method.get("position"),
        "decided": name == manifest["selected_by"],
    }


def _counted(labels: Labels, decisions: npt.NDArray[Any]) -> dict[str, Any]:
    out = decisions == "quarantined"
    return {
        "from": labels.source,
        "labelled": len(labels),
        "harmful": int(labels.harmful.sum()),
        "rows": labels.total,
        "empty": labels.empty,
        "in_quarantine": int(out.sum()),
        "harmful_in_quarantine": int((out & labels.harmful).sum()),
    }


# --- what to make of them -----------------------------------------------------------------------------------------


def _notes(
    result: Mapping[str, Any], manifest: Mapping[str, Any], labels: Labels, decisions: npt.NDArray[Any]
) -> list[str]:
    """How far the figures can be trusted, in sentences; the most urgent first."""
    counts, decided = manifest["counts"], result["decision"]
    notes = []
    share = counts["dropped"] / max(counts["kept"] + counts["dropped"], 1)
    here = decided["dropped"] / max(decided["rows"], 1)
    error = math.sqrt(share * (1 - share) / max(decided["rows"], 1))
    partly = some_unlabelled(labels, manifest)
    if partly and abs(here - share) > _FAR * error:
        notes.append(
            f"the labelled rows are no random sample: the run dropped {here:.1%} of them, and {share:.1%} of the "
            "corpus; its precision, its recall and the harmful share of the corpus cannot be told from them"
        )
    elif partly:
        notes.append(
            f"{len(labels):,} of {labels.total:,} rows are labelled; unless they were drawn at random, the figures say "
            "little about the others"
        )
    few = [
        f"{count:,} {name}"
        for name, count in (
            ("harmful", int(labels.harmful.sum())),
            ("harmless", int((~labels.harmful).sum())),
        )
        if count < FEW
    ]
    if few:
        notes.append(f"only {' and '.join(few)} rows are labelled; label more before you decide by these figures")
    for method in result["methods"]:
        notes.extend(beyond_length(method, result["answer_length"]))
        missing = int((decisions != "quarantined").sum()) - method["rows"]
        if missing:
            notes.append(f"{method['title']}: {missing:,} labelled rows were kept without a score, and are left out")
    quarantined = result["labels"]["in_quarantine"]
    if quarantined:
        notes.append(
            f"{quarantined:,} labelled rows ({result['labels']['harmful_in_quarantine']:,} harmful) are in quarantine: "
            "in neither kept/ nor dropped/, and in no figure"
        )
    return notes


def beyond_length(method: Mapping[str, Any], length: Mapping[str, Any]) -> Iterator[str]:
    """Whether the score is of use, and of more use than the length of the answer."""
    bounds = method["auroc"]["interval"]
    if bounds is not None and bounds[1] < 0.5:
        yield (
            f"{method['title']}: its AUROC is below 0.5 ({bounds[0]:.2f} to {bounds[1]:.2f}): among these rows a high "
            "score means harmless, so do not use its cut"
        )
        return
    above = method.get("auroc_above_length", {}).get("interval")
    if above is not None and above[0] <= 0:
        yield (
            f"{method['title']}: {length_alone(length['auroc']['value'], 2)}; the score's minus "
            f"that is {above[0]:+.2f} to {above[1]:+.2f}, so these labels do not show that it beats length"
        )
    alike = method["equal_length"]["interval"]
    if alike is not None and alike[0] <= EQUAL_LENGTH:
        yield (
            f"{method['title']}: among answers of equal length its AUROC may be no more than {EQUAL_LENGTH} "
            f"({alike[0]:.2f} to {alike[1]:.2f}), which the last tenth of length can give, so these labels do not show "
            "that it finds more than length"
        )
