"""Train a reference model on Ray Train: data parallel over the pool's workers, resumed from our own checkpoints.

The numbers are the operators' (operators/sft.py); Ray Train starts the processes and connects them. Of its own
checkpoints, retries and reports nothing is used: a checkpoint is two files in the output's work folder, and a group of
workers that dies is started again here, where an error of ours can be told from a death.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from functools import partial
from typing import Any, NoReturn

from tamis.operators.recipe import Recipe
from tamis.operators.tokens import Tokenised
from tamis.pipeline.engine import Pool, own_error
from tamis.pipeline.errors import ClusterError, TamisError
from tamis.pipeline.models import ModelSource
from tamis.pipeline.progress import Progress
from tamis.pipeline.reference_rows import rows_digest, write_rows
from tamis.pipeline.reference_worker import REFERENCES, ReferenceSpec, train_loop
from tamis.pipeline.settings import ModelSpec, TrainingSpec
from tamis.pipeline.store import Store, Written

__all__ = ["REFERENCES", "TRAINING", "reference_key", "train_reference", "write_rows"]

TRAINING = "training.json"

RESTARTS = 3
"""How often a group of workers is started again when one of them died. Errors that code raised are not retried."""

START_ATTEMPTS = 10
"""How often Ray Train waits, a minute each time, for the cluster to have room for the workers."""

_LISTEN_SECONDS = 0.2


def reference_key(fingerprint: Any, training: TrainingSpec, rows: Sequence[Tokenised]) -> str:
    """Digest of what the trained model depends on. fingerprint: JSON that tells the base model and how it is read."""
    facts = [fingerprint, asdict(_recipe(training)), rows_digest(rows)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def train_reference(
    store: Store,
    name: str,
    key: str,
    model: ModelSource,
    spec: ModelSpec,
    training: TrainingSpec,
    rows: Sequence[Tokenised],
    pool: Pool,
    notes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a LoRA adapter of the model on `rows` and write it to artifact/references/NAME; Ray must be running.

    key: digest of all that the result depends on; what was finished under it is not trained again, and what was begun
    under it goes on. notes: what else training.json is to say, e.g. of the tokenizer.
    Returns the content of training.json, with "files": all that was written, as Written.to_dict() gives it, and
    "seconds": of loading and training, empty if nothing was trained.
    Raises InputError for rows that cannot be used, ConfigError for a model or recipe that does not work, ClusterError
    when workers keep dying.
    """
    folder = f"{REFERENCES}/{name}"
    done = _finished(store, folder, key)
    if done is not None:
        return done
    store.remove(f"{folder}/{TRAINING}")  # of another key: it must not stand beside the new adapter
    write_rows(store, name, rows)
    work = _spec(store, name, key, model, spec, training, rows, pool)
    # A model that is spread over several GPUs takes all that it sees, and Ray Train shows it those of other workers.
    workers = 1 if pool.gpus_per_worker > 1 else max(1, min(pool.workers, training.batch_size, len(rows)))
    outcome = _train(work, pool, workers)
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
    written = store.write_json(f"{folder}/{TRAINING}", facts)
    return {**facts, "files": [*facts["files"], written.to_dict()], "seconds": outcome["seconds"]}


def _finished(store: Store, folder: str, key: str) -> dict[str, Any] | None:
    """What train_reference returned when it finished under `key`; None if it did not, or the files are not those."""
    try:
        data = store.read(f"{folder}/{TRAINING}")
        facts = json.loads(data)
        if facts["key"] != key:
            return None
        for file in facts["files"]:
            if hashlib.sha256(store.read(file["name"])).hexdigest() != file["sha256"]:
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
    training: TrainingSpec,
    rows: Sequence[Tokenised],
    pool: Pool,
) -> ReferenceSpec:
    local = model.revision == "local"
    return ReferenceSpec(
        store=store,
        name=name,
        key=key,
        digest=rows_digest(rows),
        model=model.path if local else spec.name,
        # The commit that the plan saw, so that every worker reads the same files.
        revision=None if local else model.revision,
        shown=spec.name,
        trust_remote_code=spec.trust_remote_code,
        allow_pickle_weights=spec.allow_pickle_weights,
        dtype=spec.dtype,
        device=spec.device,
        threads=pool.threads,
        token_budget=None if spec.token_budget == "auto" else spec.token_budget,
        recipe=_recipe(training),
        checkpoint_steps=training.checkpoint_steps,
    )


def _recipe(training: TrainingSpec) -> Recipe:
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


def _train(spec: ReferenceSpec, pool: Pool, workers: int) -> dict[str, Any]:
    """Run the group of workers until one of its runs ends well; what worker 0 said last."""
    from ray.util.queue import Queue

    queue = Queue(actor_options={"num_cpus": 0})
    shown = _Shown(spec.name)
    try:
        with tempfile.TemporaryDirectory(prefix="tamis-train-") as folder:
            for attempt in range(RESTARTS + 1):
                running = _in_background(partial(_fit, spec, pool, workers, queue, f"{folder}/{attempt}"))
                for message in _messages(queue, running):
                    shown.take(message)
                error = running.exception()
                if error is None:
                    shown.finish()
                    return shown.last
                if attempt == RESTARTS or not _is_death(error):
                    _give_up(spec, error, attempt)
    finally:
        queue.shutdown(force=True)
    raise AssertionError("the last attempt returns or gives up")


def _in_background(function: Callable[[], None]) -> Future[None]:
    """Ray Train would put its own handler in the place of Ctrl-C's, were it called in the main thread."""
    future: Future[None] = Future()

    def work() -> None:
        try:
            function()
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="train", daemon=True).start()
    return future


def _fit(spec: ReferenceSpec, pool: Pool, workers: int, queue: Any, folder: str) -> None:
    """One run of the group. folder: for what Ray Train wants to keep. Raises ray.train.TrainingFailedError."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    resources = {"CPU": pool.cpus_per_worker}
    if pool.gpus_per_worker:
        resources["GPU"] = pool.gpus_per_worker
    # How long its controller waits between two looks at the workers; two seconds are long beside a small training.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    TorchTrainer(
        train_loop,
        train_loop_config={"spec": spec, "queue": queue},
        # NCCL refuses two workers on one GPU.
        torch_config=TorchConfig(backend="nccl" if pool.gpus_per_worker >= 1 else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=pool.gpus_per_worker > 0,
            resources_per_worker=resources,
            placement_strategy="PACK" if pool.gpus_per_worker else "SPREAD",
        ),
        run_config=RunConfig(
            name="run",
            storage_path=folder,
            failure_config=FailureConfig(
                max_failures=0, controller_failure_limit=START_ATTEMPTS, max_preemption_failures=0
            ),
        ),
    ).fit()


def _messages(queue: Any, running: Future[None]) -> Iterator[dict[str, Any]]:
    """What worker 0 says, as it says it, until the run has ended."""
    while True:
        ended = running.done()
        waiting = queue.qsize()
        yield from queue.get_nowait_batch(waiting) if waiting else []
        if ended:
            return
        time.sleep(0 if waiting else _LISTEN_SECONDS)


class _Shown:
    """The progress line. A run that was started again repeats the steps since its checkpoint; they count once.

    A killed worker may take the word of its last steps with it, and they may lie before its checkpoint; so what is
    counted is how far a step is from the last one that was told of.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._progress: Progress | None = None
        self._step = 0
        self.last: dict[str, Any] = {}

    def take(self, message: dict[str, Any]) -> None:
        self.last = message
        if "begins" in message and self._progress is None:
            self._step = message["begins"]
            self._progress = Progress(f"train {self._name}", message["steps"], unit="steps", skipped=self._step)
        if "point" in message and self._progress is not None and message["point"]["step"] > self._step:
            point = message["point"]
            steps, self._step = point["step"] - self._step, point["step"]
            self._progress.advance(steps, point["tokens"], note=f"loss {point['loss']:.3f}")

    def finish(self) -> None:
        if self._progress is not None:
            self._progress.finish()


def _failures(error: BaseException) -> list[BaseException]:
    """What each worker failed with; code's own exceptions without what Ray wrapped around them."""
    found = getattr(error, "worker_failures", {})
    return [getattr(failure, "_base_exc", failure) for failure in found.values()] or [error]


def _is_death(error: BaseException) -> bool:
    """Whether a worker, or the machine under it, was lost; the workers that waited for it raise errors, too."""
    import ray

    if any(isinstance(own_error(failure), TamisError) for failure in _failures(error)):
        return False
    failures = getattr(error, "worker_failures", {}).values()
    return isinstance(error, ray.exceptions.RayError) or any(not hasattr(failure, "_base_exc") for failure in failures)


def _give_up(spec: ReferenceSpec, error: BaseException, attempt: int) -> NoReturn:
    failures = _failures(error)
    for failure in failures:
        own = own_error(failure)
        if isinstance(own, TamisError):
            raise own from None
    if _is_death(error):
        what = f"its workers died {attempt + 1} times; they may lack memory"
    else:
        what = f"{type(failures[0]).__name__}: {' '.join(str(failures[0]).split())[:300]}"
    raise ClusterError(
        f"the training of the {spec.name} model stopped: {what}. Its checkpoints stay; run the same command again to "
        "go on"
    ) from error
