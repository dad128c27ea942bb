"""Train a reference model: data parallel over the pool's workers, resumed from our own checkpoints.

The computation is in operators/training/sft.py; group.py starts the processes. A checkpoint is two files in the
output's work folder. When a worker dies, this module starts all workers again, and they continue from the checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from typing import Any

from tamis.operators.methods.toss import Training
from tamis.operators.tokens.tokenised import Tokenised
from tamis.operators.training.recipe import Recipe
from tamis.pipeline.cluster.metrics import ledger
from tamis.pipeline.cluster.pools import Pool, room
from tamis.pipeline.cluster.shortage import shortage
from tamis.pipeline.cluster.waiting import PATIENCE_SECONDS, wait_for_room
from tamis.pipeline.errors import ClusterError, TamisError
from tamis.pipeline.job.sections import ModelSpec
from tamis.pipeline.models.fetch import ModelSource
from tamis.pipeline.models.handle import handle_of
from tamis.pipeline.references.group import WorkerDied, messages
from tamis.pipeline.references.rows import rows_digest, write_rows
from tamis.pipeline.references.worker import ReferenceSpec
from tamis.pipeline.run.paths import REFERENCES
from tamis.pipeline.storage import seals
from tamis.pipeline.storage.store import Sealed, Store, Written
from tamis.pipeline.terminal.progress import Progress, waiting
from tamis.pipeline.terminal.text import without_quotations
from tamis.pipeline.terminal.voice import say_damaged, say_workers, warn_once

__all__ = ["TRAINING", "reference_key", "train_reference", "write_rows"]

TRAINING = "training.json"

_SETTLE_SECONDS = 30.0
"""How long to wait for room for all workers of a group, before it starts with fewer."""

RESTARTS = 3
"""How many times a group of workers is restarted when one of them died. Errors raised by code are not retried."""


def reference_key(fingerprint: Any, training: Training, rows: Sequence[Tokenised]) -> str:
    """Digest of everything that the trained model depends on. fingerprint: JSON that describes the base model and how
    it is read."""
    facts = [fingerprint, asdict(_recipe(training)), rows_digest(rows)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def train_reference(
    store: Store,
    name: str,
    key: str,
    model: ModelSource,
    spec: ModelSpec,
    training: Training,
    rows: Sequence[Tokenised],
    pool: Pool,
    timeout: float,
    notes: Mapping[str, Any] | None = None,
    patience: float = PATIENCE_SECONDS,
) -> dict[str, Any]:
    """Train a LoRA adapter of the model on `rows` and write it to artifact/references/NAME; Ray must be running.

    key: digest of everything that the result depends on; a training that was finished under it is not repeated, and a
    training that was begun under it continues. timeout: seconds without a step after which workers count as hung and
    are restarted. notes: extra facts for training.json, e.g. about the tokenizer. patience: seconds to wait for room on
    the cluster. Returns the content of training.json, with "files": all written files in the form of
    Written.to_dict(), and "seconds": for loading and training, empty if nothing was trained.
    Raises InputError for rows that cannot be used, ConfigError for a model or recipe that does not work, ClusterError
    when workers keep dying.
    """
    folder = f"{REFERENCES}/{name}"
    done = _finished(store, folder, key)
    if done is not None:
        return done
    store.remove(f"{folder}/{TRAINING}")  # it is of another key, and must not stay beside the new adapter
    written = write_rows(store, name, rows)
    work = _spec(store, name, key, model, spec, training, rows, written.sealed, pool)
    # A model that is spread over several GPUs uses all visible ones, and Ray Train also shows those of other workers.
    most = 1 if pool.gpus_per_worker > 1 else max(1, min(pool.workers, training.batch_size, len(rows)))
    group = replace(pool, workers=most, least=1, begin=min(most, max(room(pool), 1)))
    workers, outcome = _train(work, group, timeout, patience)
    facts = {
        "key": key,
        "name": name,
        "base": spec.name,
        "revision": model.revision,
        "rows_digest": work.digest,
        "workers": workers,
        **(notes or {}),
        **outcome["done"],
    }
    written = store.write_facts(f"{folder}/{TRAINING}", facts)
    return {**facts, "files": [*facts["files"], written.to_dict()], "seconds": outcome["seconds"]}


def _finished(store: Store, folder: str, key: str) -> dict[str, Any] | None:
    """The result of an earlier train_reference under `key`; None if there is none, or its files have changed."""
    try:
        data = store.read(f"{folder}/{TRAINING}")
        facts = seals.opened(json.loads(data))
        if facts["key"] != key:
            return None
        for file in facts["files"]:
            if hashlib.sha256(store.read(file["name"])).hexdigest() != file["sha256"]:
                say_damaged(
                    f"damaged: {file['name']} is not as it was written; the {facts['name']} model is trained again"
                )
                return None
        own = Written(f"{folder}/{TRAINING}", len(data), hashlib.sha256(data).hexdigest())
        return {**facts, "files": [*facts["files"], own.to_dict()], "seconds": {}}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _spec(
    store: Store,
    name: str,
    key: str,
    model: ModelSource,
    spec: ModelSpec,
    training: Training,
    rows: Sequence[Tokenised],
    written: Sealed,
    pool: Pool,
) -> ReferenceSpec:
    return ReferenceSpec(
        store=store,
        name=name,
        key=key,
        digest=rows_digest(rows),
        rows=written,
        model=handle_of(spec, model, pool, store.options),
        token_budget=None if spec.token_budget == "auto" else spec.token_budget,
        recipe=_recipe(training),
        checkpoint_steps=training.checkpoint_steps,
    )


def _recipe(training: Training) -> Recipe:
    targets = training.target_modules
    return Recipe(
        rank=training.rank,
        alpha=float(training.alpha),
        dropout=training.dropout,
        target_modules="auto" if targets == "auto" else tuple(targets),
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        batch_size=training.batch_size,
        epochs=training.epochs,
        clip=training.clip,
        seed=training.seed,
    )


def _train(spec: ReferenceSpec, pool: Pool, timeout: float, patience: float) -> tuple[int, dict[str, Any]]:
    """Run the workers until a run succeeds. Returns the number of its workers, and the last message of worker 0.

    The workers of a group start together, so there are only as many as have room.
    """
    last: WorkerDied | None = None
    with closing(_Shown(spec.name)) as shown:
        for _ in range(1 + RESTARTS):
            workers = wait_for_room(pool, patience, say_workers, settle=_SETTLE_SECONDS)
            try:
                with closing(messages(spec, pool, workers, timeout)) as said:
                    for message in said:
                        shown.take(message)
            except WorkerDied as death:
                last = death
                continue
            except TamisError:
                raise
            except Exception as error:
                words = without_quotations(" ".join(str(error).split()))[:300]
                raise _stopped(spec, f"{type(error).__name__}: {words}") from error
            shown.finish()
            return workers, shown.last
    raise _stopped(spec, f"its workers died {1 + RESTARTS} times; {shortage()} (the last time: {last})")


def _stopped(spec: ReferenceSpec, why: str) -> ClusterError:
    return ClusterError(
        f"the training of the {spec.name} model stopped: {why}. Its checkpoints stay; run the same command again to go "
        "on"
    )


class _Shown:
    """The progress line. A restarted run repeats the steps since its checkpoint; they count once.

    The messages about the last steps of a killed worker may be lost, even for steps before its checkpoint. So the
    progress counts the distance of each step from the last one that was reported.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._progress: Progress | None = None
        self._loading = ExitStack()
        self._loading.enter_context(waiting(f"train {name}", "the model is loading"))
        self._step = 0
        self.last: dict[str, Any] = {}

    def take(self, message: dict[str, Any]) -> None:
        self.last = message
        if "warns" in message:
            warn_once(message["warns"])
        if "begins" in message:
            self.close()
        if "begins" in message and self._progress is None:
            self._step = message["begins"]
            self._progress = Progress(f"train {self._name}", message["steps"], unit="steps", skipped=self._step)
        elif "begins" in message:
            self._advance(message["begins"])
        if "point" in message:
            point = message["point"]
            self._advance(point["step"], point["tokens"], f"loss {point['loss']:.3f}")

    def close(self) -> None:
        """End the waiting message that is shown until the progress line begins."""
        self._loading.close()

    def _advance(self, step: int, tokens: int = 0, note: str = "") -> None:
        if self._progress is not None and step > self._step:
            steps, self._step = step - self._step, step
            ledger().trained(self._name, steps)
            self._progress.advance(steps, tokens, note)

    def finish(self) -> None:
        if self._progress is not None:
            self._progress.finish()
