"""`tamis sample`: a finished run -> a sheet of rows drawn at random, for people to label."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.labels.draw import Smallest, pool_of, strata_of
from tamis.pipeline.labels.read import finished_run, undamaged
from tamis.pipeline.labels.sheet import Drawn, check_ending, sheet
from tamis.pipeline.labels.texts import digest_of, texts_at
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import at_work, phase

_SEEDS = 10**9


@dataclass(frozen=True)
class Sampled:
    """path: of the sheet. seed: of the draw. strata: name -> (rows that have a score, rows drawn)."""

    path: str
    seed: int
    strata: Mapping[str, tuple[int, int]]

    @property
    def rows(self) -> int:
        return sum(drawn for _, drawn in self.strata.values())


@at_work()
def sample(store: Store, count: int, seed: int | None, column: str | None, output: str) -> Sampled:
    """Draw `count` of the rows that the run scored, and write them to `output`, a new file.

    seed: None takes one that nobody can foresee. Sample ids can be: whoever supplies the corpus and knows the seed can
    tell which rows will be labelled, and put what is harmful into the others.

    column: of the corpus, says of every row whether its request is harmful; half of the sample is then drawn from
    either kind. Raises ConfigError if there is no finished run, fewer rows, or `output` cannot be what it should be;
    InputError for files of the run that are not as it wrote them, and for a row in which the column says nothing.
    """
    check_ending(output)
    if count < 1:
        raise ConfigError(f"--for-labels {count}: draw at least one row")
    folder, name = os.path.split(output)
    target = Store(folder or ".", store.options)
    if f"{target.path()}/".startswith(f"{store.path()}/"):
        raise ConfigError(f"--output {output}: lies in the output of the run; choose a place beside it")
    if target.exists(name):
        raise ConfigError(f"--output {output}: is there already, perhaps with labels; choose another name")
    manifest = finished_run(store)
    seed = secrets.randbelow(_SEEDS) if seed is None else seed
    with undamaged(store):
        phase("sample", "drawing rows")
        drawn, strata = _draw(store, manifest, count, seed, column)
        rows = _with_texts(store, manifest, drawn, strata, seed)
    target.write(name, sheet(rows, name))
    return Sampled(target.path(name), seed, strata)


def allot(count: int, populations: Sequence[int]) -> list[int]:
    """How many rows to draw of each stratum: the same number of each, and of a smaller one all of it.

    Raises ValueError if there are not so many rows.
    """
    if count > sum(populations):
        raise ValueError(f"{count} rows are to be drawn of {sum(populations)}")
    taken = [0] * len(populations)
    for number, place in enumerate(sorted(range(len(populations)), key=populations.__getitem__)):
        fair = (count - sum(taken)) // (len(populations) - number)
        taken[place] = min(populations[place], fair)
    return taken


def _draw(
    store: Store, manifest: Mapping[str, Any], count: int, seed: int, column: str | None
) -> tuple[dict[str, list[int]], dict[str, tuple[int, int]]]:
    """stratum -> the places of its rows in the order of the draw; and its size and how many were drawn."""
    first = {name: Smallest(count) for name in strata_of(column)}
    sizes = dict.fromkeys(first, 0)
    for part in pool_of(store, manifest, manifest["selected_by"], column):
        first[part.stratum].add(part.keys(seed), part.places, part.scores)
        sizes[part.stratum] += len(part.places)
    try:
        counts = allot(count, list(sizes.values()))
    except ValueError:
        raise ConfigError(
            f"--for-labels {count}: the run scored {sum(sizes.values()):,} rows; ask for no more than that"
        ) from None
    drawn = {name: first[name].places[:many].tolist() for name, many in zip(sizes, counts, strict=True)}
    return drawn, {name: (sizes[name], many) for name, many in zip(sizes, counts, strict=True)}


def _with_texts(
    store: Store,
    manifest: Mapping[str, Any],
    drawn: Mapping[str, Sequence[int]],
    strata: Mapping[str, tuple[int, int]],
    seed: int,
) -> list[Drawn]:
    """The drawn rows in the order of the draw, with their conversations."""
    stratum_of = {place: name for name, places in drawn.items() for place in places}
    found: dict[int, Drawn] = {}
    for row in texts_at(store, manifest, list(stratum_of), "sample"):
        stratum = stratum_of[row.place]
        population, sampled = strata[stratum]
        found[row.place] = Drawn(
            row.text, row.sample_id, row.source, row.row, digest_of(row.text), stratum, population, sampled, seed
        )
    # In turn, so that whoever stops early has labelled of each stratum.
    turns = [place for turn in zip_longest(*drawn.values()) for place in turn if place is not None]
    return [found[place] for place in turns]
