"""LARF's search for the safety-sensitive block, on a pool of actors: one cell per block and factor.

Every actor holds the chat model and prepares the prompts once; cells are independent. A finished cell has a receipt,
a small JSON file, so an interrupted search continues with the cells that have none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from tamis.operators.statistics.sensitivity import FACTORS
from tamis.pipeline.cluster.metrics import ledger
from tamis.pipeline.cluster.pools import Pool, room
from tamis.pipeline.cluster.shortage import shortage
from tamis.pipeline.cluster.tasks import own_error
from tamis.pipeline.cluster.waiting import PATIENCE_SECONDS, Places, wait_for_room
from tamis.pipeline.errors import ClusterError, ConfigError, TamisError
from tamis.pipeline.job.job_file import LayersJob
from tamis.pipeline.models.fetch import ModelSource, chat_template
from tamis.pipeline.models.handle import ModelHandle, handle_of
from tamis.pipeline.run import receipts
from tamis.pipeline.run.receipts import Receipt
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.voice import say_workers, warn_once

if TYPE_CHECKING:
    from tamis.operators.generation.scaled_answers import ScaledAnswers

STAGE = "layers"
_FIRST = "the model is loading and answers the prompts unscaled"
ACTOR_RESTARTS = 3

MAX_FAILED_ROUNDS = 3
"""Give up after this many rounds in a row that were lost before they finished a cell: that is no accident."""

_POLL_SECONDS = 1.0


class Cell(NamedTuple):
    """One run over all prompts with this block's weights times this factor; for the unscaled model, both are None."""

    block: int | None = None
    factor: float | None = None

    @property
    def name(self) -> str:
        return "unscaled" if self.block is None else f"block_{self.block:02d}-x{self.factor}"


@dataclass(frozen=True)
class SearchSpec:
    """All that a worker needs besides the prompts: plain values, so that a restarted actor can be built from them."""

    model: ModelHandle
    template: str | None
    markers: tuple[str, ...]


def search_spec(job: LayersJob, markers: tuple[str, ...], model: ModelSource, pool: Pool) -> SearchSpec:
    return SearchSpec(
        model=handle_of(job.model, model, pool, job.storage_options),
        template=chat_template(job.model.template, job.storage_options),
        markers=markers,
    )


def all_cells(blocks: int) -> list[Cell]:
    """The unscaled run and the whole grid, in block order: the lowest blocks take longest."""
    return [Cell(), *(Cell(block, factor) for block in range(blocks) for factor in FACTORS)]


def search(
    spec: SearchSpec,
    prompts: Sequence[str],
    cells: Sequence[Cell],
    pool: Pool,
    store: Store,
    key: str,
    *,
    resize: Callable[[], Pool] | None = None,
    patience: float = PATIENCE_SECONDS,
    tell: Callable[[str], None] = say_workers,
    on_wait: Callable[[str], None] = lambda what: None,
) -> Iterator[Receipt]:
    """Run every cell on the actors, write its receipt, and yield it, in any order.

    resize: gives the pool for the rest of the cluster when nodes were lost. patience: seconds to wait for room on the
    cluster. tell: called with what the search is waiting for. on_wait: called every second with the work in progress,
    until the first cell is done. Raises TamisError as a worker raised it, ClusterError when workers keep dying.
    """
    left, failed_rounds = list(cells), 0
    while left:
        before = len(left)
        wait_for_room(pool, patience, tell)
        with closing(_round(spec, prompts, left, pool, Places(pool, patience, tell, room), on_wait)) as found:
            for cell, facts in found:
                left.remove(cell)
                if facts["fallback"] is not None:
                    warn_once(facts["fallback"])
                receipt = receipts.write_cell(store, STAGE, cell.name, key, facts)
                ledger().searched()
                yield receipt
        failed_rounds = 0 if len(left) < before else failed_rounds + 1
        if failed_rounds == MAX_FAILED_ROUNDS:
            raise ClusterError(
                f"the workers of the layer search could not be kept alive; {shortage()}. The cells that are "
                "done stay; run the same command again to go on"
            )
        if left:
            pool = pool if resize is None else resize()


def _round(
    spec: SearchSpec,
    prompts: Sequence[str],
    cells: Sequence[Cell],
    pool: Pool,
    places: Places,
    on_wait: Callable[[str], None],
) -> Generator[tuple[Cell, dict[str, Any]]]:
    """Yield cells and their facts, until all are done or the cluster has no more room for workers that have cells."""
    import ray

    actor = ray.remote(Searcher).options(
        num_cpus=pool.cpus_per_worker,
        num_gpus=pool.gpus_per_worker,
        max_restarts=ACTOR_RESTARTS,
        max_task_retries=ACTOR_RESTARTS,
        scheduling_strategy="SPREAD",
    )
    actors = [actor.remote(spec) for _ in range(min(pool.workers, len(cells)))]
    texts = ray.put(list(prompts))
    waiting = iter(cells)
    # A worker that waits for a GPU gets no cell: it may have to wait long.
    coming = {worker.is_there.remote(): worker for worker in actors}
    running: dict[Any, tuple[Any, Cell]] = {}

    def there() -> int:
        return len(actors) - len(coming)

    def give_work(worker: Any) -> None:
        cell = next(waiting, None)
        if cell is not None:
            running[worker.run.remote(texts, cell)] = (worker, cell)

    try:
        done = 0
        while done < len(cells):
            ready, _ = ray.wait([*running, *coming], num_returns=1, timeout=_POLL_SECONDS)
            on_wait("" if done else _FIRST if running else "workers are starting")
            if not ready and places.lost(there):
                return
            for reference in ready:
                places.in_use(there())
                if reference in coming:
                    _result(reference)
                    give_work(coming.pop(reference))
                    continue
                worker, cell = running.pop(reference)
                facts = _result(reference)
                give_work(worker)
                done += 1
                yield cell, facts
    finally:
        for worker in actors:
            ray.kill(worker)


class Searcher:
    """The chat model in one actor. It loads with the first cell, so that an error fails the task and not the actor."""

    def __init__(self, spec: SearchSpec) -> None:
        self.spec = spec
        self.answers: ScaledAnswers | None = None
        self.unscaled = 0
        self.precision = ""
        self.load_seconds = 0.0
        self.fallback: str | None = None

    def is_there(self) -> None:
        """Returns as soon as the worker has a place."""

    def run(self, prompts: Sequence[str], cell: Cell) -> dict[str, Any]:
        """The refusals in one cell. unscaled: the count of the same worker without scaling."""
        answers = self.answers or self._prepare(prompts)
        began = time.perf_counter()
        refusals = self.unscaled if cell.block is None else answers.refusals(cell.block, cell.factor or 1.0)
        return {
            "refusals": refusals,
            "unscaled": self.unscaled,
            "precision": self.precision,
            "fallback": self.fallback,
            "seconds": time.perf_counter() - began,
            "load_seconds": self.load_seconds,
        }

    def _prepare(self, prompts: Sequence[str]) -> ScaledAnswers:
        # Not above: the driver needs none of it, and to import it takes seconds.
        from tamis.operators.generation.scaled_answers import ScaledAnswers

        spec = self.spec
        self.fallback = spec.model.take_place()
        began = time.perf_counter()
        folder = spec.model.fetch()
        try:
            answers = ScaledAnswers.load(folder, **spec.model.loading, template=spec.template)
            self.unscaled = answers.prepare(prompts, markers=spec.markers)
        except ValueError as error:
            raise ConfigError(f"model {spec.model.name}: {error}") from None
        self.precision = f"{str(answers.dtype).removeprefix('torch.')} on {answers.device.type}"
        self.load_seconds = time.perf_counter() - began
        self.answers = answers
        return answers


def _result(reference: Any) -> Any:
    import ray

    try:
        facts = ray.get(reference)
    except Exception as error:
        _give_up(error)
    return facts


def _give_up(error: Exception) -> NoReturn:
    import ray

    found = own_error(error)
    if isinstance(found, TamisError):
        raise found from None
    if isinstance(error, ray.exceptions.RayActorError):
        what = f"a worker died {ACTOR_RESTARTS + 1} time(s); {shortage()}"
    else:
        cause = getattr(error, "cause", None) or error
        what = f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
    raise ClusterError(
        f"the layer search stopped: {what}. The cells that are done stay; run the same command again to go on"
    ) from error
