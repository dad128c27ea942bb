"""`tamis tune`: every method x block x position x k that the kept vectors of a run allow, against labels.

Half of the labelled rows, drawn at random within each class, choose; the other half confirms, because the best of many
looks better on the rows that chose it than it is. Every way is fitted and scored by the method's own class, in this
process, on the whole corpus; labels only rank the ways.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from tamis.operators.methods import Method
from tamis.operators.methods.protocol import CORPUS, Features, reduce_in_process
from tamis.operators.statistics.labelled import Ranking, Within, interval, resamples
from tamis.operators.statistics.telling import EQUAL_LENGTH
from tamis.pipeline.commands.evaluate import (
    FEW,
    by_stratum,
    codes_of_lengths,
    figure,
    length_alone,
    number_of_resamples,
    some_unlabelled,
)
from tamis.pipeline.commands.kept_vectors import KeptVectors, Shards, kept_vectors
from tamis.pipeline.errors import ConfigError, DamagedError, InputError
from tamis.pipeline.job.methods import known, section_of, settings_of
from tamis.pipeline.labels.read import Labels, finished_run, read_labels, undamaged
from tamis.pipeline.labels.texts import check_texts
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import Progress, at_work, phase

KS = (1, 2, 4, 8)
"""Numbers of directions that are tried, besides the job's."""
SPLIT_SEED, BOOTSTRAP_SEED = 0, 1

Bools = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Way:
    """A method with its settings, and the shards of its sources. current: whether the run decided so."""

    method: Method
    sources: Mapping[str, Shards]
    current: bool

    @property
    def name(self) -> str:
        return self.method.name

    def setting(self, name: str) -> Any:
        return getattr(self.method, name, None)


@at_work()
def tune(store: Store, source: str) -> dict[str, Any]:
    """The ways, best first, with their figures on both halves, as plain values for JSON.

    Raises as `read_labels` and `kept_vectors`; InputError for fewer than two rows of a class that have vectors;
    ConfigError if no method can be computed.
    """
    manifest = finished_run(store)
    labels = read_labels(source, store)
    labels.need_both()
    with undamaged(store):
        check_texts(store, manifest, labels)
    phase("tune", "looking for the vectors that the run has kept")
    kept = kept_vectors(store, manifest)
    there = kept.has_vectors(labels.places)
    harmful, places = labels.harmful[there], labels.places[there]
    first = halves(harmful)
    ways, left_out = _ways(manifest, kept)
    scored, failed = _scores(ways, kept, places, int(manifest["model"]["blocks"]), store)
    if not scored:
        raise ConfigError(f"{store.path()}: no method can be computed from its vectors: {'; '.join(failed)}")
    lengths = labels.rows.column("n_response_tokens").to_numpy(zero_copy_only=False)[there].astype(np.float64)
    columns = [*(scores for _, scores in scored), lengths]
    judged = [
        {"chosen": chosen, "confirmed": confirmed}
        for chosen, confirmed in zip(
            *(_judged(columns, harmful, lengths, half) for half in (first, ~first)), strict=True
        )
    ]
    order = sorted(range(len(scored)), key=lambda n: (-judged[n]["chosen"]["auroc"]["value"], not scored[n][0].current))
    found = [{**_about(scored[n][0]), **judged[n]} for n in order]
    counts = [
        {"harmful": int(harmful[half].sum()), "harmless": int((~harmful[half]).sum())} for half in (first, ~first)
    ]
    result: dict[str, Any] = {
        "output": store.path(),
        "labels": {
            "from": labels.source,
            "labelled": len(labels),
            "rows": labels.total,
            "without_vectors": int((~there).sum()),
        },
        "halves": {"chosen": counts[0], "confirmed": counts[1], "seed": SPLIT_SEED},
        "captured": [request.column for request in kept.requests],
        "ways": [_without_draws(way) for way in found],
        "answer_length": _without_draws(judged[-1]),
        "left_out": [*left_out, *failed],
        "interval": {"level": 0.95, "resamples": number_of_resamples(int(first.sum())), "seed": BOOTSTRAP_SEED},
    }
    others: dict[str, Mapping[str, Any] | None] = {
        "next": found[1] if len(found) > 1 else None,
        "current": next((w for w in found if w["current"]), None),
    }
    result |= {f"above_{name}": _above(found[0], other) for name, other in others.items()}
    return {
        **result,
        "notes": [
            *by_stratum(labels, source, store),
            *_overlaps(found[0], others, result),
            *_notes(found[0], result, labels, manifest),
        ],
        "fragment": fragment(scored[order[0]][0].method, manifest["job"], found[0], counts),
    }


def halves(harmful: Bools) -> Bools:
    """bool (n,): the rows that choose; half of either class, one more where a number is odd. InputError if a half would
    lack a class."""
    chosen = np.zeros(len(harmful), dtype=bool)
    rng = np.random.default_rng(SPLIT_SEED)
    for name, rows in (("harmful", np.flatnonzero(harmful)), ("harmless", np.flatnonzero(~harmful))):
        if len(rows) < 2:
            raise InputError(
                f"--labels: {len(rows)} {name} row(s) with vectors are labelled; tune needs at least two of either "
                "class, one half to choose by and the other to confirm"
            )
        chosen[rng.permutation(rows)[: (len(rows) + 1) // 2]] = True
    return chosen


# --- the ways -----------------------------------------------------------------------------------------------------


def _ways(manifest: Mapping[str, Any], kept: KeptVectors) -> tuple[list[Way], list[str]]:
    """Every way that the vectors allow, and the methods that they do not."""
    blocks, job = int(manifest["model"]["blocks"]), manifest["job"]
    found, left_out = [], []
    for name, item in known().items():
        if not issubclass(item.kind, Method):
            continue
        ours = []
        for method in _variants(item.kind, job, kept):
            try:
                sources = kept.sources_of(method, blocks, job)
            except ValueError:  # no such block for this method
                continue
            if sources is not None:
                ours.append(Way(method, sources, _is_current(method, manifest)))
        found.extend(ours)
        if not ours:
            left_out.append(f"{name}: the run has not captured what it reads")
    return found, left_out


def _variants(kind: type[Method], job: Mapping[str, Any], kept: KeptVectors) -> Iterator[Method]:
    """The method as the job has it, at every block and position that was captured, and with every k."""
    section = section_of(kind)
    given = {key: value for key, value in (job.get(kind.name) or {}).items() if key in section.model_fields}
    base: Any = kind(**settings_of(kind, section(**given)))
    names = {item.name for item in dataclasses.fields(base)}
    blocks = sorted({request.block for request in kept.requests})
    positions = sorted({request.position for request in kept.requests})
    axes: dict[str, list[Any]] = {}
    if "layer" in names:
        axes["layer"] = list(blocks)
    if "position" in names:
        axes["position"] = list(positions)
    if "k" in names:
        axes["k"] = sorted({*KS, int(base.k)})
    settings: list[dict[str, Any]] = [{}]
    for name, values in axes.items():
        settings = [{**before, name: value} for before in settings for value in values]
    for setting in settings:
        try:
            yield dataclasses.replace(base, **setting)
        except (TypeError, ValueError):  # a method of a distribution may mean something else by the name
            return


def _is_current(method: Method, manifest: Mapping[str, Any]) -> bool:
    """Whether the run decided by this method, at this block, position and k, fitted on its own corpus."""
    if method.name != manifest["selected_by"] or _had_artifact(manifest):
        return False
    theirs = next(each for each in manifest["methods"] if each["name"] == method.name)
    facts = theirs.get("facts") or {}
    if facts.get("models"):  # a mean over several models, and here are the vectors of one
        return False
    if "corpus_sample" in facts:  # it was fitted to rows drawn from the corpus, and here it is to all of it
        return False
    return all(
        getattr(method, name, None) in (None, facts.get(name, theirs.get(name))) for name in ("layer", "position", "k")
    )


def _had_artifact(manifest: Mapping[str, Any]) -> bool:
    return manifest["job"].get("artifact") is not None


def _scores(
    ways: Sequence[Way], kept: KeptVectors, places: npt.NDArray[np.int64], blocks: int, store: Store
) -> tuple[list[tuple[Way, Scores]], list[str]]:
    """The scores of the labelled rows by each way, and which ways cannot be computed, with why."""
    rows = kept.of_rows(places)
    found: list[tuple[Way, Scores]] = []
    failed = []
    progress = Progress("tune", len(ways), unit="ways")
    for way in ways:
        settings = [(key, way.setting(key)) for key in ("layer", "position", "k")]
        name = ", ".join([way.name, *(f"{key} {value}" for key, value in settings if value is not None)])
        try:
            artifact = way.method.fit(reduce_in_process(way.sources), blocks)
            parts = [
                way.method.score(artifact, _some(features, chosen))
                for features, chosen in zip(way.sources[CORPUS], rows, strict=True)
                if len(chosen)
            ]
        except ValueError as error:
            failed.append(f"{name}: {error}")
        except DamagedError as error:
            raise InputError(f"{store.path()}: {error}; run the job again in another folder") from None
        else:
            scores = np.concatenate(parts).astype(np.float64)
            if np.isfinite(scores).all():
                found.append((way, scores))
            else:
                failed.append(f"{name}: a score is too large for float32")
        progress.advance(1)
    progress.finish()
    return found, failed


def _some(features: Features, rows: npt.NDArray[np.int64]) -> Features:
    return {column: values[rows] for column, values in features.items()}


def _about(way: Way) -> dict[str, Any]:
    return {
        "method": way.name,
        "layer": way.setting("layer"),
        "position": way.setting("position"),
        "k": way.setting("k"),
        "current": way.current,
    }


# --- the figures --------------------------------------------------------------------------------------------------

_DRAWN = "drawn"


def _without_draws(way: Mapping[str, Any]) -> dict[str, Any]:
    halves = {half: {key: value for key, value in way[half].items() if key != _DRAWN} for half in _HALVES}
    return {**way, **halves}


_HALVES = ("chosen", "confirmed")


def _judged(columns: Sequence[Scores], harmful: Bools, lengths: Scores, half: Bools) -> list[dict[str, Any]]:
    """The figures of each column of scores on one half. The same resamples for all, so that differences can be told."""
    labels, alike = harmful[half], codes_of_lengths(lengths[half])
    count = int(alike.max(initial=-1)) + 1
    rankings = [Ranking.of(scores[half], labels) for scores in columns]
    strata = [Within.of(scores[half], labels, alike, count) for scores in columns]
    drawn = np.zeros((number_of_resamples(len(labels)), len(columns), 2))
    progress = Progress("tune", len(drawn), unit="resamples", brief=True)
    for number, weights in enumerate(resamples(labels, len(drawn), BOOTSTRAP_SEED)):
        for place, (ranking, within) in enumerate(zip(rankings, strata, strict=True)):
            drawn[number, place] = ranking.curve(weights).auroc, within.auroc(weights)[0]
        progress.advance(1)
    progress.finish()
    found = []
    for place, (ranking, within) in enumerate(zip(rankings, strata, strict=True)):
        values = (ranking.curve().auroc, within.auroc()[0])
        auroc, equal = (
            figure(value, None if math.isnan(value) else interval(drawn[:, place, which]))
            for which, value in enumerate(values)
        )
        found.append({"auroc": auroc, "equal_length": equal, _DRAWN: drawn[:, place, 0]})
    return found


def _above(best: Mapping[str, Any], other: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """By how much the AUROC of the best is above that of another way on the half that chose nothing, in paired
    resamples. None where there is no other."""
    if other is None or other is best:
        return None
    ours, theirs = best["confirmed"], other["confirmed"]
    return figure(ours["auroc"]["value"] - theirs["auroc"]["value"], interval(ours[_DRAWN] - theirs[_DRAWN]))


def overlap(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether the intervals of two figures have a value in common."""
    (low_a, high_a), (low_b, high_b) = a["interval"], b["interval"]
    return bool(low_a <= high_b and low_b <= high_a)


def _overlaps(
    best: Mapping[str, Any], others: Mapping[str, Mapping[str, Any] | None], result: Mapping[str, Any]
) -> Iterator[str]:
    """Which intervals overlap that of the best, and whether it is above all the same, resample by resample."""
    for name, words in (("current", "the run's own way"), ("next", "the next")):
        other, above = others[name], result[f"above_{name}"]
        if other is None or above is None or not overlap(best["chosen"]["auroc"], other["chosen"]["auroc"]):
            continue
        low, high = above["interval"]
        if low <= 0:
            so = "these labels do not tell which is better"
        else:
            by = f"{low:.3f} to {high:.3f}"
            so = f"on the half that confirms, though, the best is above it by {by} in paired resamples"
        yield f"the intervals of the best and of {words} overlap: {so}"


def _notes(
    best: Mapping[str, Any], result: Mapping[str, Any], labels: Labels, manifest: Mapping[str, Any]
) -> Iterator[str]:
    """What to know before the fragment is used, in sentences."""
    few = min(min(half.values()) for half in (result["halves"]["chosen"], result["halves"]["confirmed"]))
    if few < FEW:
        yield f"a half has only {few:,} rows of a class; label more before you decide by these figures"
    yield (
        "the half that chose flatters the best; the other half is the one to quote, and rows that were in neither are "
        "better still"
    )
    yield from beyond_length(best["confirmed"], result["answer_length"]["confirmed"]["auroc"]["value"])
    if _had_artifact(manifest):
        yield "the run scored with an artifact of another run; the ways here are fitted on this corpus"
    if some_unlabelled(labels, manifest):
        yield (
            f"{len(labels):,} of {labels.total:,} rows are labelled; unless they were drawn at random, the figures say "
            "little about the others"
        )
    if result["labels"]["without_vectors"]:
        yield (f"{result['labels']['without_vectors']:,} labelled rows have no vectors, and are left out")
    yield "labels that chose a way cannot certify its cut: draw others with another `tamis sample`"


def beyond_length(best: Mapping[str, Any], length: float) -> Iterator[str]:
    """Whether the best is of more use than the length of the answer, whose AUROC is `length`. best: its figures on the
    half that confirms."""
    if best["auroc"]["interval"][0] <= max(length, 1 - length):
        yield f"{length_alone(length, 3)}: the best may be no better"
    alike = best["equal_length"]["interval"]
    if alike is not None and alike[0] <= EQUAL_LENGTH:
        yield (
            f"among answers of equal length the AUROC of the best may be no more than {EQUAL_LENGTH}, which the last "
            "tenth of length can give"
        )


# --- the fragment -------------------------------------------------------------------------------------------------


def fragment(
    method: Method, job: Mapping[str, Any], best: Mapping[str, Any], halves: Sequence[Mapping[str, int]]
) -> str:
    """The keys of a job file that choose this way, with its figures as a comment."""
    section = section_of(type(method))
    theirs = job.get(method.name) or {}
    values = {}
    for name in section.model_fields:
        value = getattr(method, name, theirs.get(name))
        if isinstance(value, str | int | float | bool) or (isinstance(value, list) and value):
            values[name] = value
    if "sample" in values and method.corpus_sample() is not None:
        values["sample"] = "all"  # as its figures are
    tree = {"method": method.name, method.name: values}
    figures = [
        f"{best[half]['auroc']['value']:.3f} ({best[half]['auroc']['interval'][0]:.3f} to "
        f"{best[half]['auroc']['interval'][1]:.3f})"
        for half in _HALVES
    ]
    words = [
        f"# tamis tune: AUROC {figures[1]} on {halves[1]['harmful']:,} harmful and {halves[1]['harmless']:,} harmless "
        "labelled rows",
        f"# that did not choose it; {figures[0]} on those that did.",
    ]
    return "\n".join([*words, yaml.safe_dump(tree, sort_keys=False).rstrip(), ""])


def check_free(path: str) -> None:
    """ConfigError if the file is there, or cannot be written. Before the work is done."""
    if os.path.lexists(path):
        raise ConfigError(f"--write {path}: is there already; choose another name")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise ConfigError(f"--write {path}: its folder is not there, or may not be written to")
