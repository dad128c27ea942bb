"""The progress of the run in an output folder: done, failed and remaining, stage by stage, and who works on it."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from tamis.pipeline.commands import showing
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.run import lease, receipts
from tamis.pipeline.run.folder import facts_in, layers_in
from tamis.pipeline.run.paths import (
    FITTED,
    INCOMPLETE,
    LAYERS,
    LAYERS_RUN,
    MANIFEST,
    REFERENCES,
    RUN,
    SCORED_STAGE,
    SET_ASIDE,
    TRAINING_WORK,
    VECTORS_STAGE,
)
from tamis.pipeline.run.set_aside import SetAside, lines
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import at_work, phase
from tamis.pipeline.terminal.text import shown
from tamis.pipeline.terminal.voice import VOICE


@at_work()
def show_status(store: Store) -> None:
    """Print the progress. ConfigError if the folder holds no run."""
    phase("status", "reading the output folder")
    if VOICE.answers:
        _answer(store)
    elif store.exists(MANIFEST):
        manifest = facts_in(store, MANIFEST)
        _say(f"complete since {manifest['created']}", "")
        showing.outcome(manifest, store)
    elif store.exists(RUN):
        _say(*_of_run(store, facts_in(store, RUN)))
    elif store.exists(LAYERS):
        searched = layers_in(store)
        _say(f"layer search complete since {searched['created']}; no run yet", "")
        showing.layers(searched, store, did_nothing=False)
    elif store.exists(LAYERS_RUN):
        _say(f"unfinished layer search: {_cells(store)}", *_at_work(store, "`tamis layers` (or `tamis curate`)"))
    elif store.exists(INCOMPLETE):
        _say(*_of_incomplete(store), *_at_work(store, "`tamis curate`"))
    else:
        raise ConfigError(f"{store.path()}: no run of tamis has been here")


def _say(*lines: str) -> None:
    showing.in_lines([shown(line) for line in lines])


def _of_run(store: Store, run: Mapping[str, Any]) -> Iterator[str]:
    shards, references = run["shards"], run["reference_shards"]
    selected_from, vectors_of = run.get("selected_from"), run.get("vectors_of")
    what = f"(and {references} of references)" if selected_from is None else f"selected anew from {selected_from}"
    what = what if vectors_of is None else f"with the vectors of {vectors_of}"
    yield f"unfinished: {run['rows']:,} rows in {shards:,} shards {what}"
    if receipts.count(store, "layers") and not store.exists(LAYERS):
        yield f"  {_cells(store)}"
    aside = dict(_set_aside(store))
    if run.get("masks_tokens"):
        yield from _trainings(store, run["fingerprint"])
    yield from map(_line, _stages(store, run, aside))
    for stage, items in aside.items():
        yield from _reasons(f"set aside in {stage}", items)
    if store.exists(INCOMPLETE):
        yield from _of_incomplete(store)
    command = "`tamis curate`" if vectors_of is None else "`tamis curate --from`"
    yield from _at_work(store, command if selected_from is None else "`tamis select`")


class _Stage(NamedTuple):
    """How many shards of a stage are done, of how many, and how many are set aside. round: of toss-pro."""

    name: str
    done: int
    total: int
    set_aside: int
    round: int = 0


def _stages(store: Store, run: Mapping[str, Any], aside: Mapping[str, Sequence[SetAside]]) -> Iterator[_Stage]:
    shards, references = run["shards"], run["reference_shards"]
    if run.get("masks_tokens"):
        rounds = [name for name in store.list(receipts.folder("")) if name.startswith("losses")]
        for number, stage in enumerate(rounds):
            yield _Stage("scored", receipts.count(store, stage), shards, len(aside.get(stage, ())), number)
    else:
        if run.get("selected_from") is None and run.get("vectors_of") is None:
            failed = [*aside.get(VECTORS_STAGE, ()), *aside.get(SCORED_STAGE, ())]
            # Where an earlier command kept vectors and this one scores, a shard has both.
            captured = receipts.count(store, VECTORS_STAGE) + receipts.count(store, SCORED_STAGE)
            for stage in store.list(receipts.folder("")):
                if stage.startswith(f"{SCORED_STAGE}-"):  # a further model of CSA
                    number = int(stage.rpartition("-")[2]) + 1
                    yield _Stage(f"model {number}", receipts.count(store, stage), shards, len(aside.get(stage, ())))
            yield _Stage("captured", min(captured, shards + references), shards + references, len(failed))
        fitted = sum(name.endswith(".parquet") for name in store.list(FITTED))
        if fitted:
            yield _Stage("fitted", fitted, shards, 0)
    yield _Stage("emitted", receipts.count(store, "emit"), shards, len(aside.get("emit", ())))


def _line(stage: _Stage) -> str:
    line = f"  {stage.name:<8} {stage.done:,} of {stage.total:,}"
    if stage.set_aside:
        line += f", {stage.set_aside:,} set aside"
    left = stage.total - stage.done - stage.set_aside
    line = f"{line}, {left:,} left" if stage.done and left > 0 else line
    return f"{line} (round {stage.round})" if stage.round else line


# --- as one object --------------------------------------------------------------------------------------------------


def _answer(store: Store) -> None:
    """Print the state as JSON. `state`: complete, unfinished, incomplete, layers_complete or layers_unfinished."""
    if store.exists(MANIFEST):
        manifest = facts_in(store, MANIFEST)
        showing.outcome(manifest, store, also={"state": "complete", "created": manifest["created"]})
        return
    if store.exists(LAYERS) and not store.exists(RUN):
        searched = layers_in(store)
        also = {"state": "layers_complete", "created": searched["created"]}
        showing.layers(searched, store, did_nothing=False, also=also)
        return
    if not any(store.exists(name) for name in (RUN, LAYERS_RUN, INCOMPLETE)):
        raise ConfigError(f"{store.path()}: no run of tamis has been here")
    facts: dict[str, Any] = {"state": "incomplete", "output": store.path(), "layer_cells": None}
    if store.exists(RUN):
        facts |= {"state": "unfinished", **_facts_of(store, facts_in(store, RUN))}
    elif store.exists(LAYERS_RUN):
        facts |= {"state": "layers_unfinished", "layer_cells": receipts.count(store, "layers")}
    if store.exists(INCOMPLETE):
        ended = facts_in(store, INCOMPLETE)
        counts = ended["counts"]
        facts["incomplete"] = {
            "created": ended.get("created"),
            "rows_in": counts["rows_in"],
            "failed": counts.get("failed", 0),
        }
    driver = lease.read(store)
    alive = driver is not None and lease.is_alive(store, driver)
    VOICE.answer({"event": "result", **facts, "at_work": str(driver) if alive else None})


def _facts_of(store: Store, run: Mapping[str, Any]) -> dict[str, Any]:
    aside = dict(_set_aside(store))
    stages = [stage._asdict() for stage in _stages(store, run, aside)]
    trainings = list(_training_steps(store, run["fingerprint"])) if run.get("masks_tokens") else []
    failed = {stage: {"shards": len(items), "rows": sum(i.rows for i in items)} for stage, items in aside.items()}
    cells = receipts.count(store, "layers")
    return {
        **{key: run.get(key) for key in ("rows", "shards", "reference_shards", "selected_from", "vectors_of")},
        "layer_cells": cells if cells and not store.exists(LAYERS) else None,
        "stages": stages,
        "trainings": [training._asdict() for training in trainings] or None,
        "set_aside": failed or None,
    }


def _cells(store: Store) -> str:
    return f"{receipts.count(store, 'layers'):,} cells of the layer search are done"


def _at_work(store: Store, command: str) -> Iterator[str]:
    driver = lease.read(store)
    if driver is not None and lease.is_alive(store, driver):
        yield f"a tamis is at work on it now: {driver}"
    else:
        yield f"nobody is at work on it; run the same {command} command again to go on"


# --- failed shards ------------------------------------------------------------------------------------------------


def _set_aside(store: Store) -> Iterator[tuple[str, list[SetAside]]]:
    """Each stage with its failed shards."""
    for stage in store.list(SET_ASIDE):
        items: list[SetAside] = []
        for name in store.list(f"{SET_ASIDE}/{stage}"):
            with suppress(FileNotFoundError):  # a driver is retrying it at this moment
                items.extend(_read([store.read_json(f"{SET_ASIDE}/{stage}/{name}")]))
        if items:
            yield stage, items


def _read(entries: Iterable[Mapping[str, Any]]) -> Iterator[SetAside]:
    """The failed shards among the entries; entries of another form are skipped."""
    for entry in entries:
        with suppress(TypeError):
            yield SetAside(**entry)


def _reasons(title: str, items: Sequence[SetAside]) -> Iterator[str]:
    yield f"{title}: {len(items):,} shards with {sum(item.rows for item in items):,} rows"
    yield from (f"  - {line}" for line in lines(items))


def _of_incomplete(store: Store) -> Iterator[str]:
    facts = facts_in(store, INCOMPLETE)
    counts = facts["counts"]
    since = facts.get("created", "an unknown time")
    yield f"ended incomplete at {since}: {counts.get('failed', 0):,} of {counts['rows_in']:,} rows are in no output"
    yield from _reasons("missing", list(_read(facts.get("failed", ()))))


# --- training -----------------------------------------------------------------------------------------------------


def _trainings(store: Store, fingerprint: Mapping[str, Any]) -> Iterator[str]:
    """The progress of each reference model, by its newest checkpoint."""
    for training in _training_steps(store, fingerprint):
        if training.trained:
            yield f"  trained  {training.name} model"
        else:
            of = f" of {training.total:,}" if training.total else ""
            yield f"  training {training.name} model: step {training.done or 0:,}{of}"


class _Training(NamedTuple):
    """done, total: steps; None where they are not known, or of no more interest."""

    name: str
    trained: bool
    done: int | None = None
    total: int | None = None


def _training_steps(store: Store, fingerprint: Mapping[str, Any]) -> Iterator[_Training]:
    for name in store.list(TRAINING_WORK):
        if store.exists(f"{REFERENCES}/{name}/training.json"):
            yield _Training(name, True)
            continue
        names = store.list(f"{TRAINING_WORK}/{name}")
        steps = [int(file[5:-5]) for file in names if file.startswith("step-") and file.endswith(".json")]
        yield _Training(name, False, max(steps, default=0), _steps(store, name, fingerprint.get("toss.training")))


def _steps(store: Store, name: str, training: Any) -> int | None:
    """How many steps the training has; None if its rows or its recipe are not known yet."""
    with suppress(FileNotFoundError, KeyError, TypeError, ValueError):
        rows: int = pq.read_metadata(io.BytesIO(store.read(f"{TRAINING_WORK}/{name}/rows.parquet"))).num_rows
        batches = math.ceil(rows / int(training["batch_size"]))
        return int(training["epochs"]) * batches
    return None
