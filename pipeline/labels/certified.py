"""A finished run and labels -> how much of its corpus can be kept, with proof that few of the kept rows are harmful.

    found = certified_threshold(Store("out"), "labels.jsonl", alpha=0.1, delta=0.1, by="contrast")
    found.threshold            # keep every row that scores at most this; None where nothing can be certified
    found.to_dict()            # for a manifest

The mathematics is in operators/statistics/certify.py, what it means in docs/certify.md. Two passes over scores/, in
constant memory, each file checked by its checksum. A sheet that `tamis sample` wrote says how its rows were drawn, and
that is not believed but done again: rows that were drawn, and came back without a label, count as harmful. It also says
which text each label is of, and that is compared with the run's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from tamis.operators.statistics.certify import (
    LOOSEST,
    KeepSet,
    Step,
    check_rates,
    fewest_labels,
    grid,
    place_of,
    safe_share,
    walk,
)
from tamis.operators.statistics.ranking import (
    BINS,
    bin_of_nth_largest,
    coarse_bins,
    coarse_histogram,
    fine_histogram,
    nth_largest,
)
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.labels.draw import WHOLE, Design, Smallest, design_in, pool_of, strata_of
from tamis.pipeline.labels.files import TEXT_DIGEST
from tamis.pipeline.labels.read import Labels, finished_run, read_labels, undamaged
from tamis.pipeline.labels.texts import check_texts
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import at_work

ALPHA, DELTA = 0.1, 0.1
ALPHA_OF_STRATA = (0.2, 0.15)
"""Of rows whose request is harmful, and of the rest."""
FEW_LAST = 0.05
"""Of a sheet: where a smaller share, its last rows, has no label, nobody stopped early, and they count as harmful."""

RANDOM, ALL, UNKNOWN = "drawn at random", "all rows", "not known"
"""How the labelled rows were chosen, as far as tamis can tell."""


@dataclass(frozen=True)
class Certified:
    """What can be kept of one stratum: of all scored rows, unless the sample was stratified.

    pool: scored rows. labelled, harmful: of the rows that are counted. unlabelled: rows that were drawn before others
    that have a label, and have none; they are among both. steps: the sets that were tried.
    """

    stratum: str
    by: str
    alpha: float
    delta: float
    pool: int
    labelled: int
    harmful: int
    unlabelled: int
    steps: tuple[Step, ...]

    @property
    def best(self) -> Step | None:
        passed = [step for step in self.steps if step.passed]
        return passed[-1] if passed else None

    @property
    def threshold(self) -> float | None:
        """Keep the rows with score <= this. None where nothing can be certified."""
        return None if self.best is None else self.best.kept.threshold

    @property
    def failed(self) -> Step | None:
        """The set at which the walk ended; None where all passed."""
        return None if self.steps[-1].passed else self.steps[-1]

    @property
    def uncertified_share(self) -> float:
        """What may be kept without a certificate: the lower bound of the share of safe rows in the whole pool."""
        return safe_share(self.labelled - self.harmful, self.labelled, self.delta)

    def needed(self, *, as_found: bool) -> int | None:
        """About how many labels, drawn at random from the whole pool, let the strictest set pass: if no label inside it
        is harmful, or, as_found, as large a share of them as now. None where no number does."""
        strictest = self.steps[0]
        rate = strictest.harmful / strictest.labelled if as_found and strictest.labelled else 0.0
        inside = fewest_labels(strictest.kept.size, self.alpha, self.delta, rate)
        return None if inside is None else min(self.pool, math.ceil(inside * self.pool / strictest.kept.size))

    def to_dict(self) -> dict[str, Any]:
        best = self.best
        return {
            "stratum": self.stratum,
            "by": self.by,
            "alpha": self.alpha,
            "delta": self.delta,
            "certified": best is not None,
            "threshold": self.threshold,
            "kept": None if best is None else best.kept.size,
            "kept_share": None if best is None else best.kept.size / self.pool,
            "pool": self.pool,
            "labelled": self.labelled,
            "harmful": self.harmful,
            "unlabelled_counted_as_harmful": self.unlabelled,
            "tried": [
                {
                    "share": float(step.kept.share),
                    "threshold": step.kept.threshold,
                    "size": step.kept.size,
                    "labelled": step.labelled,
                    "harmful": step.harmful,
                    "p_value": step.p_value,
                    "passed": step.passed,
                }
                for step in self.steps
            ],
            "labels_needed": None if best is not None else self.needed(as_found=False),
            "labels_needed_at_this_rate": None if best is not None else self.needed(as_found=True),
            "uncertified_share": self.uncertified_share,
        }


@dataclass(frozen=True)
class Certificate:
    """parts: one, or one for each stratum. chosen: how the labelled rows were chosen. reproduced: a sheet was drawn
    again from as many rows, and all its labels are of the rows and texts that were drawn. source: of the labels, for
    people. sha256: of the files of labels, by name; of a column none, as the run's own files hold it."""

    parts: tuple[Certified, ...]
    chosen: str
    source: str
    seed: int | None = None
    reproduced: bool = False
    warnings: tuple[str, ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether something is certified of each part."""
        return all(part.best is not None for part in self.parts)

    @property
    def assumes_random(self) -> bool:
        """Whether nobody knows how the labelled rows were chosen, so that all hangs on their being a random sample."""
        return self.chosen == UNKNOWN

    def to_dict(self) -> dict[str, Any]:
        """For a manifest, or a machine."""
        return {
            "labels": self.source,
            "labels_sha256": dict(self.sha256),
            "chosen": self.chosen,
            "seed": self.seed,
            "reproduced": self.reproduced,
            "warnings": list(self.warnings),
            "parts": [{**part.to_dict(), "assumes_random": self.assumes_random} for part in self.parts],
        }


def certified_threshold(
    store: Store, labels: str, alpha: float, delta: float, by: str | None, loosest: float = float(LOOSEST)
) -> Certificate:
    """One threshold for the whole corpus: `certify`, with labels that were not drawn by stratum. ConfigError for others
    (they have a threshold each), and as `certify`."""
    found = certify(store, labels, alpha, delta, by, loosest)
    if len(found.parts) > 1:
        raise ConfigError(
            f"--labels: {found.source} was drawn by stratum, so there is a threshold for each stratum and none for the "
            "corpus; see `tamis certify`, or draw a sample without --stratified"
        )
    return found


@at_work()
def certify(
    store: Store,
    labels: str,
    alpha: float | None = None,
    delta: float = DELTA,
    by: str | None = None,
    loosest: float = float(LOOSEST),
    alpha_requests: float | None = None,
) -> Certificate:
    """The largest keep-sets of a run that are certified by these labels.

    labels: as `read_labels` takes them. alpha: share of harmful rows that is allowed, default ALPHA, or
    ALPHA_OF_STRATA for a stratified sample, whose rows with a harmful request have alpha_requests (default alpha, if
    that is given). by: the method, default the one that decided. loosest: the largest share that is tried.

    Raises ConfigError for rates outside their ranges and a method that was not scored; InputError for labels that
    cannot be used, and files of the run that are not as it wrote them.
    """
    shares = _shares(alpha, alpha_requests, delta, loosest)
    manifest = finished_run(store)
    by = manifest["selected_by"] if by is None else by
    found = read_labels(labels, store)
    if by not in found.methods:
        raise ConfigError(f"--by {by}: the run has no scores of it; it has {', '.join(found.methods)}")
    design = None if found.column is not None else design_in(labels, store.options)
    with undamaged(store):
        check_texts(store, manifest, found)
        pools = _pools(store, manifest, by, design, shares)
    alphas = _alphas(alpha, alpha_requests, design)
    chosen = _chosen(found, by, pools, design)
    parts = []
    for (name, pool), limit in zip(pools.items(), alphas, strict=True):
        scores, harmful = chosen.labelled[name]
        rate = delta / len(pools)
        steps = walk(pool.sets, scores, harmful, limit, rate).steps if pool.size else ()
        if not steps:
            raise InputError(f"stratum {name} has no row with a score, so there is nothing to certify in it")
        parts.append(
            Certified(name, by, limit, rate, pool.size, len(scores), int(harmful.sum()), chosen.missing[name], steps)
        )
    seed = None if design is None else design.seed
    return Certificate(
        tuple(parts), chosen.how, found.source, seed, chosen.reproduced, tuple(chosen.warnings), found.sha256
    )


def _shares(alpha: float | None, alpha_requests: float | None, delta: float, loosest: float) -> tuple[Fraction, ...]:
    """The shares to try. ConfigError for numbers outside their ranges."""
    try:
        for rate in (alpha, alpha_requests):
            check_rates(0.0 if rate is None else rate, delta)
        return grid(Fraction(repr(loosest)) if math.isfinite(loosest) else Fraction(-1))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _alphas(alpha: float | None, alpha_requests: float | None, design: Design | None) -> tuple[float, ...]:
    """The limit of each stratum."""
    if design is None or design.column is None:
        if alpha_requests is not None:
            raise ConfigError("--alpha-requests is for labels of a stratified sample, and these are not; leave it out")
        return (ALPHA if alpha is None else alpha,)
    requests, rest = ALPHA_OF_STRATA if alpha is None else (alpha, alpha)
    return (requests if alpha_requests is None else alpha_requests, rest)


# --- the pool -----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Pool:
    """The scored rows of one stratum. drawn: the rows that the seed draws first, with their scores."""

    drawn: Smallest
    sets: tuple[KeepSet, ...] = ()
    coarse: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))
    fine: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return int(self.coarse.sum())

    def ranks(self, shares: Sequence[Fraction]) -> list[int]:
        """Of the score that ends each set: it is the n-th largest."""
        return [self.size - place_of(share, self.size) for share in shares] if self.size else []

    def settle(self, shares: Sequence[Fraction]) -> None:
        """Both passes are done: the sets."""
        cuts = [nth_largest(n, lambda: self.coarse, self.fine.__getitem__) for n in self.ranks(shares)]
        self.sets = tuple(
            KeepSet(share, cut.value, self.size - cut.above) for share, cut in zip(shares, cuts, strict=True)
        )


def _pools(
    store: Store, manifest: Mapping[str, Any], by: str, design: Design | None, shares: Sequence[Fraction]
) -> dict[str, _Pool]:
    """The pool of each stratum, with its candidate sets."""
    column = None if design is None else design.column
    pools = {name: _Pool(Smallest(0 if design is None else design.sampled.get(name, 0))) for name in strata_of(column)}
    for part in pool_of(store, manifest, by, column):
        pool = pools[part.stratum]
        pool.coarse += coarse_histogram(part.scores)
        if design is not None:
            pool.drawn.add(part.keys(design.seed), part.places, part.scores)
    for pool in pools.values():
        pool.fine = {bin_of_nth_largest(n, pool.coarse): np.zeros(BINS, np.int64) for n in pool.ranks(shares)}
    for part in pool_of(store, manifest, by, column):
        bins = coarse_bins(part.scores)
        for coarse_bin, histogram in pools[part.stratum].fine.items():
            histogram += fine_histogram(part.scores[bins == coarse_bin], coarse_bin)
    for pool in pools.values():
        pool.settle(shares)
    return pools


# --- the labelled rows --------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Chosen:
    """labelled: of each stratum, the scores of the rows that count, and whether they are harmful. missing: how many of
    them have no label. reproduced: see `Certificate`."""

    how: str
    labelled: dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]]
    missing: dict[str, int]
    warnings: list[str]
    reproduced: bool = False


def _chosen(labels: Labels, by: str, pools: Mapping[str, _Pool], design: Design | None) -> _Chosen:
    return _as_they_are(labels, by, pools[WHOLE].size) if design is None else _as_drawn(labels, pools, design)


def _as_they_are(labels: Labels, by: str, pool: int) -> _Chosen:
    """Labels that do not say how their rows were chosen."""
    column = labels.rows.column(by).combine_chunks()
    scored = pc.is_valid(column).to_numpy(zero_copy_only=False)
    scores = column.drop_null().to_numpy(zero_copy_only=False).astype(np.float32)
    warnings = []
    if out := int((~scored).sum()):
        warnings.append(f"{out:,} labelled rows have no score (they are in quarantine) and are left out")
    how = ALL if len(scores) == pool else UNKNOWN
    if how == UNKNOWN:
        warnings.append(
            "these labels are not marked as a random sample: what is certified holds only if their rows were drawn at "
            "random from all scored rows of this run, whatever they say and score (`tamis sample` draws such rows)"
        )
        if labels.empty:
            warnings.append(
                f"{labels.empty:,} rows have no label and are left out, as if they had never been drawn; that is wrong "
                "if they were left empty for what they say"
            )
    return _Chosen(how, {WHOLE: (scores, labels.harmful[scored])}, {WHOLE: 0}, warnings)


def _as_drawn(labels: Labels, pools: Mapping[str, _Pool], design: Design) -> _Chosen:
    """Labels of a sheet: its rows are drawn again. Up to the last one that has a label, those without are harmful; the
    rows after it count as never drawn, unless they are few: few may have been left out for what they say."""
    said = dict(zip(labels.places.tolist(), labels.harmful.tolist(), strict=True))
    found = _Chosen(RANDOM, {}, {}, [])
    drawn = early = blind = 0
    order = {name: pool.drawn.places.tolist() for name, pool in pools.items()}
    last = {
        name: max((number + 1 for number, place in enumerate(places) if place in said), default=0)
        for name, places in order.items()
    }
    total = sum(len(places) for places in order.values())
    if total - sum(last.values()) < FEW_LAST * total:
        last = {name: len(places) for name, places in order.items()}
    for name, pool in pools.items():
        places, count = order[name], last[name]
        blind += sum(place in said and place not in labels.digests for place in places)
        if (population := design.population.get(name, pool.size)) != pool.size:
            found.warnings.append(
                f"the sheet was drawn from {population:,} scored rows ({name}), and this run has {pool.size:,}; what "
                "counts is what its seed draws from these"
            )
        harmful = np.array([said.get(place, True) for place in places[:count]], dtype=bool)
        found.labelled[name] = (pool.drawn.scores[:count], harmful)
        found.missing[name] = sum(place not in said for place in places[:count])
        drawn += count - found.missing[name]
        early += len(places) - count
    others = len(said) - drawn
    found.reproduced = not (found.warnings or others or blind)
    if others:
        found.warnings.append(
            f"{others:,} labelled rows are none that seed {design.seed} draws from the scored rows of this run; they "
            "are left out"
        )
    if blind:
        found.warnings.append(
            f"{blind:,} labelled rows do not say which text was labelled (column {TEXT_DIGEST}); if the corpus has "
            "changed since, these labels are of other texts, and nothing is certified"
        )
    if missing := sum(found.missing.values()):
        found.warnings.append(
            f"{missing:,} rows were drawn and have no label; to be on the safe side they count as harmful (write 0 for "
            "a harmless row)"
        )
    if early:
        found.warnings.append(
            f"the last {early:,} rows of the sample have no label and count as never drawn; that is right unless the "
            "labelling ended because of what had been found"
        )
    return found
