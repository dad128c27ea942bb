"""Small trainings of a reference model: rows, settings, and the processes that are at work on them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tamis.operators.methods.toss import Training
from tamis.operators.tokens.tokenised import Tokenised
from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.job.sections import ModelSpec
from tamis.pipeline.models.fetch import ModelSource
from tamis.pipeline.references import training as reference_training
from tamis.pipeline.references.rows import write_rows
from tamis.pipeline.references.training import train_reference
from tamis.pipeline.references.worker import ReferenceSpec, run
from tamis.pipeline.storage.store import Store

POOL = Pool(workers=1, cpus_per_worker=0.5, gpus_per_worker=0.0, threads=1, task_cpus=0.5)
PAIR = Pool(workers=2, cpus_per_worker=0.5, gpus_per_worker=0.0, threads=1, task_cpus=0.5)
TRAINING = Training(rank=4, alpha=8, learning_rate=1e-3, batch_size=3, epochs=2, checkpoint_steps=2)
LONG = replace(TRAINING, epochs=60, checkpoint_steps=20)
STEPS = 8
FOLDER, WORK = "artifact/references/utility", "_work/references/utility"
WEIGHTS = f"{FOLDER}/adapter_model.safetensors"


def sample(length: int, *responses: tuple[int, int], seed: int = 0) -> Tokenised:
    ids = np.random.default_rng([seed, length]).integers(6, 300, length).astype(np.int32)
    return Tokenised(ids, responses, False)


def samples(count: int = 10) -> list[Tokenised]:
    return [sample(8 + 3 * row, (2, 4), (6, 8 + 2 * row), seed=row) for row in range(count)]


ROWS = samples()


def train(
    store: Store,
    model: Path,
    rows: Sequence[Tokenised] = ROWS,
    pool: Pool = POOL,
    key: str = "key",
    training: Training = TRAINING,
    timeout: float = 600.0,
) -> dict[str, Any]:
    source, spec = ModelSource(str(model), "local"), ModelSpec(name="models/tiny", dtype="float32", device="cpu")
    return train_reference(store, "utility", key, source, spec, training, rows, pool, timeout)


def worker_spec(store: Store, model: Path, training: Training = TRAINING, key: str = "key") -> ReferenceSpec:
    written = write_rows(store, "utility", ROWS)
    source, spec = ModelSource(str(model), "local"), ModelSpec(name="models/tiny", dtype="float32", device="cpu")
    return reference_training._spec(store, "utility", key, source, spec, training, ROWS, written.sealed, POOL)


def run_here(store: Store, model: Path, **changes: Any) -> list[dict[str, Any]]:
    return list(run(worker_spec(store, model, **changes)))


def workers_of(folder: Path, title: str) -> list[psutil.Process]:
    """The workers of the tests' own cluster, whose files lie in `folder`, that are at work on `title`."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess):
            if "".join(process.cmdline()).startswith(f"ray::{title}") and any(
                f"{folder}/" in " ".join(parent.cmdline()) for parent in process.parents()
            ):
                found.append(process)
    return found
