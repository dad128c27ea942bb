"""A new artifact from the kept captures of several nights, without the model: what one run over all of their rows would
fit, and the cut that it would make.

The shards are taken in the order of one corpus (by file, then by row), and reduced over the same tree. So where one
listing would have had the files in this order, the result is that of the one run to the bit; otherwise sums are added
in another order, and differ by rounding.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from tamis.operators.methods import Larf, Method
from tamis.operators.methods.protocol import CORPUS
from tamis.pipeline.capture.spec import STAGE
from tamis.pipeline.cluster.session import ray_session
from tamis.pipeline.errors import ConfigError, DamagedError
from tamis.pipeline.fit.drift import statistics_of
from tamis.pipeline.fit.scores import ScoreSpec, fit_methods, save_artifacts, score_shards, select_by
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.inputs.shards import Shard, role_of
from tamis.pipeline.inputs.spans import Span
from tamis.pipeline.job.methods import known, section_of, settings_of
from tamis.pipeline.job.sections import RANKS, SelectionSpec
from tamis.pipeline.nights.runs import nights_at
from tamis.pipeline.run import folder as run_folder
from tamis.pipeline.run import receipts
from tamis.pipeline.run.frozen import Frozen, FrozenCut, freeze, read_frozen
from tamis.pipeline.run.paths import ARTIFACT, FITTED, MANIFEST, REFIT, SCORES, WORK
from tamis.pipeline.run.row_places import shard_of
from tamis.pipeline.storage.store import Sealed, Store
from tamis.pipeline.terminal.progress import Progress, at_work, phase
from tamis.pipeline.terminal.voice import say

_RULES = ("drop", "drop_count", "threshold")


@dataclass(frozen=True)
class Part:
    """A captured shard. source, start_row: of its rows in the corpus."""

    role: str
    source: str
    start_row: int
    rows: int
    file: Sealed


@dataclass(frozen=True, eq=False)
class Captures:
    """What a night has kept. parts: in the order of its corpus, references too. quarantined: rows by code, without
    those of references. precision: of the forward passes, e.g. "float32 on cpu"."""

    store: Store
    frozen: Frozen
    blocks: int
    parts: tuple[Part, ...]
    quarantined: Mapping[str, int]
    precision: str

    @property
    def corpus(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.role == CORPUS)


@at_work()
def refit(
    nights: Sequence[Store], references: Sequence[Store], output: Store, address: str | None = None
) -> dict[str, Any]:
    """Fit the methods of these finished nights on all of their rows, and write the artifact below output/artifact.
    Returns its facts.

    references: other runs in which the captures of the reference sets may be looked for. Raises ConfigError that names
    each night whose captures are gone or were made with other settings.
    """
    phase("fit", f"reading what {len(nights):,} nights have captured")
    _check_free(output, nights)
    gathered = gather(nights, references)
    found, methods, shared, files = gathered.nights, gathered.methods, gathered.shared, gathered.files
    first, parts = found[0], gathered.parts
    steps = sum(
        len(files[role])
        for name, method in methods.items()
        for role in [role_of(name, source) for source in method.sources()] or [CORPUS]
    )
    shards = [_shard(number, part) for number, (_, part) in enumerate(parts)]
    with ray_session(address), _named_damage(shared):
        progress = Progress("fit", len(shards) + steps, unit="shards")
        artifacts = fit_methods(shared, methods, first.blocks, files, progress.advance)
        settings = first.frozen.facts.settings
        by = first.frozen.facts.selected_by
        spec = ScoreSpec(output, methods, artifacts, by, None, int(settings["max_tokens"]), shared)
        sums = score_shards(spec, shards, files[CORPUS], progress.advance)
        selection = select_by(selection_of(first.frozen), output, sums)
        progress.finish()
        names = [captures.store.path() for captures in found]
        rows = sum(part.rows for _, part in parts)
        quarantined = sum((Counter(captures.quarantined) for captures in found), Counter[str]())
        statistics = statistics_of(output, artifacts, selection, rows, quarantined)
    key = run_folder.key_of({"settings": dict(settings), "files": [list(file) for file in files[CORPUS]]})
    entries = save_artifacts(output, artifacts, {"key": key, "fingerprint": dict(settings), "blocks": first.blocks})
    cut = FrozenCut.of(selection.threshold, selection.at_cut)
    dtype, _, device = first.precision.partition(" on ")
    # The tests of the first night's fit say nothing of this one.
    facts = replace(first.frozen.facts, cut=cut, statistics=statistics, dtype=dtype, device=device, tests=())
    entries.append(freeze(output, facts, entries))
    made = {
        "created": datetime.now(UTC).isoformat(timespec="microseconds"),
        "nights": names,
        "rows": rows,
        "scored": sums.count,
        "fell": selection.dropped,
        "cut": cut.score,
        "files": [{name: entry[name] for name in ("name", "bytes", "sha256")} for entry in entries],
    }
    output.remove(WORK)
    output.write_facts(REFIT, made)
    return made


@contextmanager
def _named_damage(shared: Store) -> Iterator[None]:
    """A capture that is not as it was written can only be made again by its own run: another try does not help."""
    try:
        yield
    except DamagedError as error:
        raise ConfigError(f"refit: {shared.path()}: {error}; leave that night out") from None


@dataclass(frozen=True, eq=False)
class Gathered:
    """All that a fit needs. shared: the folder that holds all runs. parts: the shards of the union, in order. files: by
    role, below shared; those of the corpus are those of parts."""

    nights: tuple[Captures, ...]
    methods: Mapping[str, Method]
    shared: Store
    parts: tuple[tuple[Store, Part], ...]
    files: Mapping[str, Sequence[Sealed]]


def gather(nights: Sequence[Store], references: Sequence[Store] = ()) -> Gathered:
    """Find the captures of these nights, and check that they belong together. Reads no capture. Raises as `refit`."""
    if not nights:
        raise ConfigError("refit: there is no finished night to fit from")
    found = tuple(captures_in(store) for store in nights)
    check_alike(found)
    methods = methods_in(found[0])
    shared = common([*(captures.store for captures in found), *references])
    parts = tuple(in_order(found))
    files = {CORPUS: [_seen_from(shared, store, part.file) for store, part in parts]}
    for role in [role_of(name, source) for name, method in methods.items() for source in method.sources()]:
        files[role] = [_seen_from(shared, store, part.file) for store, part in _references(role, found, references)]
    return Gathered(found, methods, shared, parts, files)


def runs_at(places: Sequence[Store]) -> list[Store]:
    """The runs to fit from, each once. ConfigError for a place that holds none; those below a root that are not
    finished are named, and left out."""
    found: dict[str, Store] = {}
    for place in places:
        stores, others = nights_at(place)
        if not stores:
            raise ConfigError(f"refit: {place.path()} holds no finished run, and is no root of such")
        for run in others:
            say(f"refit: {place.path(run.name)} is left out: {run.why}")
        found.update((store.path(), store) for store in stores)
    return list(found.values())


# --- the nights ---------------------------------------------------------------------------------------------------


def captures_in(store: Store) -> Captures:
    """What a finished run has kept. ConfigError if it is not finished, has no artifact, or its captures are gone."""
    if not store.exists(MANIFEST):
        raise ConfigError(f"refit: {store.path()} holds no finished run; leave it out, or finish it")
    manifest = run_folder.facts_in(store, MANIFEST)
    frozen = read_frozen(store.url, store.options)
    if "csa.models" in frozen.facts.settings:
        raise ConfigError(
            f"refit: {store.path()} was made with csa.models, and of further models no run keeps vectors; leave it out"
        )
    try:
        files = [(str(item["path"]), int(item["rows"])) for item in manifest["input"]["files"]]
        blocks = int(manifest["model"]["blocks"])
        wanted = {
            shard_of(str(file["name"])) for file in manifest["files"] if str(file["name"]).startswith(f"{SCORES}/")
        }
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"refit: {store.path(MANIFEST)} is damaged, or of another version of tamis") from None
    kept = sorted(receipts.whole(store, STAGE), key=lambda receipt: int(receipt["index"]))
    corpus = [receipt for receipt in kept if receipt["role"] == CORPUS and receipt["shard"] in wanted]
    if not wanted or {receipt["shard"] for receipt in corpus} != wanted:
        raise ConfigError(
            f"refit: {store.path()} has kept the captures of {len(corpus):,} of its {len(wanted):,} shards; only runs "
            "with keep_captures: vectors keep them. Leave it out"
        )
    precisions = {str(receipt["precision"]) for receipt in corpus}
    if len(precisions) > 1:
        raise ConfigError(f"refit: {store.path()} was captured in {' and '.join(sorted(precisions))}; leave it out")
    parts = [
        Part(CORPUS, source, start, int(receipt["rows"]), _sealed(receipt))
        for receipt, (source, start) in zip(corpus, places(files, [int(r["rows"]) for r in corpus], store), strict=True)
    ]
    parts += [
        Part(str(receipt["role"]), "", number, int(receipt["rows"]), _sealed(receipt))
        for number, receipt in enumerate(kept)
        if receipt["role"] != CORPUS
    ]
    quarantined: Counter[str] = Counter()
    for receipt in corpus:
        quarantined.update(receipt["quarantined"])
    return Captures(store, frozen, blocks, tuple(parts), quarantined, precisions.pop())


def places(files: Sequence[tuple[str, int]], shards: Sequence[int], store: Store) -> list[tuple[str, int]]:
    """The file and the first row of each shard. files: name and rows of each, in corpus order. shards: their rows, in
    the same order. ConfigError if the shards are not those of the files."""
    found: list[tuple[str, int]] = []
    left = iter(shards)
    for name, rows in files:
        row = 0
        while row < rows:
            count = next(left, rows + 1)
            if row + count > rows:
                raise ConfigError(f"refit: the captures in {store.path()} are not of the files in its manifest")
            found.append((name, row))
            row += count
    if next(left, None) is not None:
        raise ConfigError(f"refit: the captures in {store.path()} are not of the files in its manifest")
    return found


def check_alike(nights: Sequence[Captures]) -> None:
    """ConfigError that names each night whose vectors or cut are not comparable with those of the first."""
    first = nights[0]
    lines = []
    for other in nights[1:]:
        differing = differences(first, other)
        if differing:
            lines.append(f"  - {other.store.path()}: {', '.join(differing)}")
    if lines:
        raise ConfigError(
            f"refit: these nights were made with other settings than {first.store.path()}, so their rows cannot be "
            "fitted together; leave them out:",
            *lines,
        )
    settings = first.frozen.facts.settings
    if first.frozen.facts.selected_by == RANKS or settings.get("selection.within") is not None:
        raise ConfigError(
            "refit: the cut of these nights was made among their own rows (selection.by: ranks, or selection.within); "
            "there is none to fit"
        )
    drawn = [name for name, artifact in first.frozen.artifacts.items() if "corpus_sample" in artifact.facts]
    if drawn:
        raise ConfigError(
            f"refit: {drawn[0]} was fitted to rows drawn from the corpus of these nights, and a refit reads all rows: "
            f"begin another schedule.root with {drawn[0]}.sample: all"
        )
    if first.frozen.facts.settings.get("selection.control"):
        raise ConfigError("refit: the cut of these nights was made by chance (selection.control); there is none to fit")


def differences(first: Captures, other: Captures) -> list[str]:
    """The settings that differ, by name; empty if the vectors and the cut are comparable."""
    ours, theirs = first.frozen.facts, other.frozen.facts
    keys = [key for key in {**ours.settings, **theirs.settings} if ours.settings.get(key) != theirs.settings.get(key)]
    for name, a, b in (
        ("method", ours.methods, theirs.methods),
        ("selection.by", ours.selected_by, theirs.selected_by),
        ("model.dtype", *(each.precision.partition(" on ")[0] for each in (first, other))),
        ("blocks", first.blocks, other.blocks),
    ):
        if a != b and name not in keys:
            keys.append(name)
    return keys


def in_order(nights: Sequence[Captures]) -> list[tuple[Store, Part]]:
    """The shards of all corpora in the order of one: by file, then by row."""
    parts = [(captures.store, part) for captures in nights for part in captures.corpus]
    return sorted(parts, key=lambda item: (item[1].source, item[1].start_row))


def methods_in(captures: Captures) -> dict[str, Method]:
    """The methods with the settings of the night's artifact, and LARF's block as it was found there."""
    made: dict[str, Method] = {}
    for name in captures.frozen.facts.methods:
        if name not in known():
            raise ConfigError(f"refit: {captures.store.path()} used {name}, which is not installed here")
        kind = known()[name].kind
        given = {
            key.removeprefix(f"{name}."): value
            for key, value in captures.frozen.facts.settings.items()
            if key.startswith(f"{name}.")
        }
        section = section_of(kind)
        given = {key: value for key, value in given.items() if key in section.model_fields}
        method = kind(**settings_of(kind, section(**given)))
        assert isinstance(method, Method), "an artifact is of methods that score samples"
        facts = captures.frozen.artifacts[name].facts
        if isinstance(method, Larf):
            method = replace(method, layer=facts["layer"], layer_chosen=facts["layer_chosen"])
        made[name] = method
    return made


def selection_of(frozen: Frozen) -> SelectionSpec:
    """The rule by which the night's artifact was cut."""
    settings = frozen.facts.settings
    [rule] = [rule for rule in _RULES if f"selection.{rule}" in settings]
    # A share of the union above one half was allowed, or refused, when the nights were curated.
    return SelectionSpec(**{rule: settings[f"selection.{rule}"]}, allow_majority=True)


# --- where they lie -----------------------------------------------------------------------------------------------


def common(stores: Sequence[Store]) -> Store:
    """The deepest folder that holds all of these. ConfigError if they are on different storages."""
    urls = [store.url.rstrip("/") for store in stores]
    schemes = {url.partition("://")[0] if "://" in url else "" for url in urls}
    if len(schemes) > 1:
        raise ConfigError(f"refit: nights on different storages ({', '.join(sorted(schemes))}); copy them to one")
    scheme = schemes.pop()
    paths = [url.partition("://")[2] if scheme else url for url in urls]
    path = posixpath.commonpath(paths)
    if not path:
        raise ConfigError("refit: the nights lie in different buckets; copy them to one")
    return Store(f"{scheme}://{path}" if scheme else path, stores[0].options)


def _seen_from(shared: Store, store: Store, file: Sealed) -> Sealed:
    """The file of a store, by its name below a folder that holds the store."""
    inside = store.url.rstrip("/").removeprefix(shared.url.rstrip("/")).strip("/")
    return Sealed(f"{inside}/{file.name}" if inside else file.name, file.sha256)


def _references(role: str, nights: Sequence[Captures], others: Sequence[Store]) -> list[tuple[Store, Part]]:
    """The captures of one reference set, from the first night that has them. A run with an artifact captures none."""
    for captures in _with_others(nights, others):
        parts = [(captures.store, part) for part in captures.parts if part.role == role]
        if parts:
            return parts
    raise ConfigError(
        f"refit: no night has kept the captures of the references {role}; name the run that fitted the artifact, too"
    )


def _with_others(nights: Sequence[Captures], others: Sequence[Store]) -> Iterator[Captures]:
    yield from nights
    for store in others:
        with suppress(ConfigError):  # its captures are gone; another run may have them
            captures = captures_in(store)
            if not differences(nights[0], captures):
                yield captures


def _check_free(output: Store, nights: Sequence[Store]) -> None:
    """ConfigError if the output is a night, or holds something."""
    if output.path() in {store.path() for store in nights}:
        raise ConfigError(f"--output {output.path()} is one of the nights; choose another folder")
    ours = {ARTIFACT, WORK, posixpath.basename(FITTED)}  # what a fit that was interrupted leaves
    strangers = [name for name in [*output.list(""), *output.list(WORK)] if name not in ours and name[0] != "."]
    if strangers:
        raise ConfigError(f"--output {output.path()} is not empty (it holds {strangers[0]}); choose a new folder")


def _shard(number: int, part: Part) -> Shard:
    """A shard of the union, as the scoring needs it: a name, and where its rows lie."""
    source = SourceFile("", part.source, "", None, 0, "")
    span = Span(part.start_row, part.start_row + part.rows, 0, 0)
    return Shard(number, CORPUS, source, (), span, {}, part.file.sha256[:16])


def _sealed(receipt: Mapping[str, Any]) -> Sealed:
    return Sealed(str(receipt["file"]["name"]), str(receipt["file"]["sha256"]))
