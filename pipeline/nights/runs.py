"""The nights under the root of a schedule, as their manifests and claims tell.

Only a finished run with a whole manifest counts. A night writes its claim, the files that it has taken, when its plan
is made: a night that has not ended goes on with these, and the next night can say whose files it takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tamis.pipeline.nights.coverage import Entry
from tamis.pipeline.run.paths import ARTIFACTS, INCOMPLETE, MANIFEST, NIGHT, REFIT, RUN
from tamis.pipeline.storage.store import Store

DEEPEST = 4
"""The most folders between a root and a run that are looked through where no pattern of names is given."""

_AT_A_TIME = 16


@dataclass(frozen=True)
class Claim:
    """What a night that was begun has taken. night: see `Night.facts`."""

    entries: tuple[Entry, ...]
    night: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A folder under the root. why: of one that does not count, the reason. curated: of a finished one. created: when
    its manifest was written, ISO 8601. artifact: the folder under the root, or the address, of the artifact that it
    used; None if it fitted its own. drops: whether it drops samples, so that it has an artifact. taken_over: the nights
    whose files it took."""

    name: str
    why: str = ""
    curated: tuple[Entry, ...] = ()
    created: str = ""
    artifact: str | None = None
    drops: bool = True
    taken_over: tuple[str, ...] = ()
    claim: Claim | None = None

    @property
    def finished(self) -> bool:
        return not self.why


@dataclass(frozen=True)
class Refit:
    """An artifact under the root that was fitted from nights."""

    name: str
    created: str


def below(root: Store, name: str) -> Store:
    """A folder under the root."""
    return Store(f"{root.url.rstrip('/')}/{name}", root.options)


def read_runs(root: Store, levels: int) -> list[Run]:
    """Every run under the root, by name. levels: how many folders deep the names of nights are."""
    names = [""]
    for _ in range(levels):
        names = [f"{above}/{name}" if above else name for above in names for name in _folders(root, above)]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        found = list(pool.map(lambda name: _run(below(root, name), name), names))
    return [run for run in found if run is not None]


def nights_at(place: Store) -> tuple[list[Store], list[Run]]:
    """The finished runs that drop samples at a place, the oldest first: a run itself, or all that lie at most DEEPEST
    folders below a root. And those below it that do not count."""
    if place.exists(MANIFEST):
        return [place], []
    for levels in range(1, DEEPEST + 1):
        runs = read_runs(place, levels)
        finished = sorted((run for run in runs if run.finished and run.drops), key=lambda run: (run.created, run.name))
        if finished:
            return [below(place, run.name) for run in finished], [run for run in runs if not run.finished]
    return [], []


def read_refits(root: Store) -> list[Refit]:
    """The artifacts that were fitted from nights, the oldest first. A damaged one does not count."""
    found = []
    for name in _folders(root, ARTIFACTS):
        folder = f"{ARTIFACTS}/{name}"
        try:
            facts = below(root, folder).read_facts(REFIT)
            found.append(Refit(folder, str(facts["created"])))
        except (FileNotFoundError, ValueError, KeyError):
            continue
    return sorted(found, key=lambda refit: (refit.created, refit.name))


def _folders(root: Store, above: str) -> list[str]:
    found = root.details(above)
    return [name for name, info in found.items() if info["type"] != "file" and not name.startswith(("_", "."))]


def _run(store: Store, name: str) -> Run | None:
    """The run in a folder; None if no tamis was there."""
    try:
        return finished_run(store.read_facts(MANIFEST), name)
    except FileNotFoundError:
        pass
    except ValueError:
        return Run(name, f"its {MANIFEST} is damaged, or was not written by tamis", claim=_claim(store, name))
    claim = _claim(store, name)
    taken_over = tuple(claim.night.get("taken_over", ())) if claim is not None else ()
    if store.exists(INCOMPLETE):
        return Run(name, "it is incomplete: shards were set aside", taken_over=taken_over, claim=claim)
    if claim is not None or store.exists(RUN):
        return Run(name, "it was begun and has not ended", taken_over=taken_over, claim=claim)
    return None


def finished_run(manifest: Mapping[str, Any], name: str) -> Run:
    """What a manifest says of the files that its run has curated."""
    if manifest.get("parent") is not None:
        return Run(name, "it was made of another run")
    night = manifest.get("night") or {}
    try:
        curated = [Entry.from_dict(item, name) for item in [*manifest["input"]["files"], *night.get("empty", ())]]
        for seen, own in (("touched", True), ("duplicates", False)):
            curated += [Entry.from_dict(item, str(item["run"]), own=own) for item in night.get(seen, ())]
        return Run(
            name,
            curated=tuple(curated),
            created=str(manifest["created"]),
            artifact=night["artifact"] if night else manifest["job"].get("artifact"),
            drops=manifest.get("kind") != "tokens",
            taken_over=tuple(night.get("taken_over", ())),
        )
    except (KeyError, TypeError, ValueError):
        return Run(name, f"its {MANIFEST} does not say which files it read: another version of tamis wrote it")


def _claim(store: Store, name: str) -> Claim | None:
    """What the night has taken; None if it was never said, or is damaged."""
    try:
        facts = store.read_facts(NIGHT)
        return Claim(tuple(Entry.from_dict(item, name) for item in facts["files"]), facts["night"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def write_claim(store: Store, entries: Sequence[Entry], night: Mapping[str, Any]) -> None:
    """Say what a night takes, unless that is said already."""
    facts = {"files": [entry.to_dict() for entry in entries], "night": dict(night)}
    try:
        if store.read_facts(NIGHT) == json.loads(json.dumps(facts)):
            return
    except (FileNotFoundError, ValueError):
        pass
    store.write_facts(NIGHT, facts)
