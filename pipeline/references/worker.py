"""One worker of a reference model's training: loads model and rows, continues from the newest checkpoint, and trains.

Worker 0 also writes: a checkpoint every few steps, and the adapter at the end. A checkpoint is a safetensors file and a
JSON file that is written after it and holds its digest, so an incomplete checkpoint does not count.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from tamis.operators.model.allocator import return_freed_memory
from tamis.operators.training.recipe import Recipe
from tamis.operators.training.rows import TrainingRows
from tamis.operators.training.sft import AllReduce, Trainer, TrainingError, alone
from tamis.pipeline.cluster.watchdog import Guard
from tamis.pipeline.errors import ClusterError, ConfigError, InputError
from tamis.pipeline.models.handle import ModelHandle
from tamis.pipeline.references.rows import read_rows, work_folder
from tamis.pipeline.run.paths import REFERENCES
from tamis.pipeline.storage.store import Sealed, Store


@dataclass(frozen=True)
class ReferenceSpec:
    """All that a worker needs. name: of the reference model. rows: the file with them. digest: of the rows."""

    store: Store
    name: str
    key: str
    digest: str
    rows: Sealed
    model: ModelHandle
    token_budget: int | None
    recipe: Recipe
    checkpoint_steps: int

    @property
    def folder(self) -> str:
        return work_folder(self.name)

    @property
    def stamp(self) -> dict[str, str]:
        """The values that a checkpoint must agree with."""
        return {"key": self.key, "rows": self.digest}


def train_alone(spec: ReferenceSpec, guard: Guard) -> Iterator[dict[str, Any]]:
    """The task of a single worker; its process may read and write shards when the training is done."""
    yield from _watched(spec, guard, 0, 1, alone)
    return_freed_memory()


def train_loop(config: dict[str, Any]) -> None:
    """The function that Ray Train runs in every worker of a group. config: spec, guard, the queue that the driver
    reads, and for a group on one machine how its workers meet."""
    import ray.train
    import ray.train.torch
    import torch.distributed as distributed

    if config["meeting"] is not None:
        from tamis.pipeline.references.one_machine import meet

        meet(*config["meeting"])
    spec: ReferenceSpec = config["spec"]
    devices = ray.train.torch.get_devices()
    if devices[0].type == "cuda" and len(devices) == 1:
        # Ray Train lets workers see the GPUs of all on their node.
        spec = replace(spec, model=replace(spec.model, device=str(devices[0])))
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()

    def reduce(tensor: torch.Tensor) -> None:
        if distributed.get_backend() != "gloo":
            distributed.all_reduce(tensor)
            return
        host = tensor.cpu()
        distributed.all_reduce(host)
        tensor.copy_(host)

    for message in _watched(spec, config["guard"], rank, workers, reduce):
        if rank == 0:
            config["queue"].put(message)


def _watched(spec: ReferenceSpec, guard: Guard, rank: int, workers: int, reduce: AllReduce) -> Iterator[dict[str, Any]]:
    """`run`, with the watchdog from the first step to the end: before that, a model may be downloaded for hours."""
    works = [f"{spec.name} {number}" for number in range(workers)]
    for message in run(spec, rank=rank, workers=workers, reduce=reduce, on_batch=guard.beats(*works)):
        if "begins" in message:
            guard.begin(works[rank])
        yield message
    guard.end(works[rank])


def run(
    spec: ReferenceSpec,
    *,
    rank: int = 0,
    workers: int = 1,
    reduce: AllReduce = alone,
    on_batch: Callable[[], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Train to the end. Yields messages: that the worker has started, the step at which it begins, every step, and, for
    worker 0, the result.

    on_batch: called after each micro-batch.
    Raises ConfigError for a model or recipe that does not work, InputError for rows that cannot be used.
    """
    yield {"loads": spec.model.name}
    if (fallback := spec.model.take_place()) is not None:
        yield {"warns": fallback}
    began = time.perf_counter()
    trainer = _load(spec)
    try:
        rows = TrainingRows.checked(*read_rows(spec.store, spec.rows), trainer.info)
    except ValueError as error:
        raise InputError(f"{spec.name} references: {error}") from None
    restore_newest(trainer, spec)
    _require_agreement(trainer, workers, reduce)
    loaded = time.perf_counter()
    steps = spec.recipe.steps(len(rows))
    yield {"begins": trainer.step, "steps": steps}
    try:
        for point in trainer.train(rows, rank=rank, workers=workers, reduce=reduce, on_batch=on_batch):
            if rank == 0 and (point.step % spec.checkpoint_steps == 0 or point.step == steps):
                save_checkpoint(trainer, spec)
            yield {"point": asdict(point)}
    except TrainingError as error:
        raise ConfigError(f"toss.training of the {spec.name} model: {error}") from None
    if rank == 0:
        folder = f"{REFERENCES}/{spec.name}"
        files = [spec.store.write(f"{folder}/{name}", data).to_dict() for name, data in trainer.adapter().items()]
        facts = {
            "recipe": {**asdict(spec.recipe), "target_modules": list(trainer.targets)},
            "rows": len(rows),
            "response_tokens": int(rows.targets.sum()),
            "steps": trainer.step,
            "curve": [asdict(point) for point in trainer.curve],
            "precision": f"{str(trainer.dtype).removeprefix('torch.')} on {trainer.device.type}",
            "files": files,
        }
        yield {"done": facts, "seconds": {"load": loaded - began, "train": time.perf_counter() - loaded}}


def _load(spec: ReferenceSpec) -> Trainer:
    folder = spec.model.fetch()
    try:
        return Trainer.load(
            folder,
            spec.recipe,
            **spec.model.loading,
            base_name=spec.model.name,
            base_revision=spec.model.revision,
            token_budget=spec.token_budget,
        )
    except ValueError as error:
        raise ConfigError(f"model {spec.model.name}: {error}") from None


def _require_agreement(trainer: Trainer, workers: int, reduce: AllReduce) -> None:
    """Refuse workers with different states: if they saw different states of the storage, they would add the gradients
    of different models."""
    steps = torch.tensor([trainer.step], dtype=torch.float64, device=trainer.device)
    reduce(steps)
    if float(steps) != workers * trainer.step:
        raise ClusterError("the workers found different checkpoints; all of them must see the same output folder")


def save_checkpoint(trainer: Trainer, spec: ReferenceSpec) -> None:
    """Write the state, then remove the checkpoints of all other steps."""
    store, own = spec.store, f"step-{trainer.step}"
    tensors, facts = trainer.state()
    written = store.write(f"{spec.folder}/{own}.safetensors", tensors)
    record = {**spec.stamp, "sha256": written.sha256, **facts}
    store.write_facts(f"{spec.folder}/{own}.json", record)
    for name in store.list(spec.folder):
        if name.startswith("step-") and name.partition(".")[0] != own:
            store.remove(f"{spec.folder}/{name}")


def restore_newest(trainer: Trainer, spec: ReferenceSpec) -> None:
    """Continue from the newest complete checkpoint of exactly this training, if there is one."""
    names = spec.store.list(spec.folder)
    numbers = [name[5:-5] for name in names if name.startswith("step-") and name.endswith(".json")]
    for number in sorted((int(number) for number in numbers if number.isdecimal()), reverse=True):
        try:
            facts = spec.store.read_facts(f"{spec.folder}/step-{number}.json")
            tensors = spec.store.read(f"{spec.folder}/step-{number}.safetensors")
            if any(facts.get(name) != value for name, value in spec.stamp.items()):
                continue
            if hashlib.sha256(tensors).hexdigest() == facts["sha256"]:
                trainer.restore(tensors, facts)
                return
        except (FileNotFoundError, ValueError, KeyError):
            continue  # an incomplete checkpoint, cut off while it was written or removed, does not count
