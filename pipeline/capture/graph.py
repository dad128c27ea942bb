"""One execution of the capture graph on Ray Data: from the start of its workers until all shards are done, or until
too many workers or nodes are lost to continue.

Ray Data restarts actors and moves their tasks by itself. The driver does the rest here: it kills workers that hang,
and it ends a graph whose workers no longer fit the cluster, so that a smaller one can start.
"""

from __future__ import annotations

import json
import queue
import threading
import time
import warnings
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from tamis.pipeline.capture.parcels import BATCH_SIZE, ONE_ROW, portions
from tamis.pipeline.capture.signs import Signs
from tamis.pipeline.capture.spec import CaptureSpec
from tamis.pipeline.capture.tokenise import PackedTokenizer, tokenise_portion
from tamis.pipeline.capture.worker import ModelWorker
from tamis.pipeline.cluster.leaving import GRAPH
from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.cluster.tasks import let_end, own_error
from tamis.pipeline.cluster.waiting import GRACE_SECONDS, Places
from tamis.pipeline.cluster.watchdog import TRIES, Guard, kill_stalled
from tamis.pipeline.errors import ClusterError, TamisError, error_text, from_facts
from tamis.pipeline.inputs.shards import Shard

ACTOR_RESTARTS = 3 * TRIES
"""Restarts of one actor: enough for three shards that kill it. After that the graph ends and a new one starts."""

_POLL_SECONDS = 1.0
_JOIN_SECONDS, _LOOK_SECONDS = 10.0, 0.2
_END = object()


class GraphLost(Exception):
    """Workers or nodes are gone, and the graph with them; the remaining shards need a new graph. of_memory: the
    workers ran out of memory."""

    def __init__(self, reason: str, *, of_memory: bool = False) -> None:
        super().__init__(reason)
        self.of_memory = of_memory


def run_graph(
    spec: CaptureSpec,
    tokenizer: PackedTokenizer,
    shards: Sequence[Shard],
    pool: Pool,
    worker: type[ModelWorker],
    guard: Guard,
    timeout: float,
    patience: float,
    tell: Callable[[str], None],
    on_signs: Callable[[Signs], None] | None = None,
) -> Generator[dict[str, Any]]:
    """Yield the workers' outcome for every shard, in any order. timeout: seconds without progress after which a worker
    counts as hung. patience: seconds to wait until at least one worker has a place. tell: called with a message when
    that wait is long. on_signs: called every second with the workers' progress.

    Raises TamisError as a worker raised it, GraphLost, or ClusterError for any other error of a worker.
    """
    dataset = _graph(spec, tokenizer, shards, pool, worker, guard)
    outcomes: queue.Queue[Any] = queue.Queue()

    def consume() -> None:
        try:
            for row in dataset.iter_rows():
                outcomes.put(row["receipt"])
            outcomes.put(_END)
        except BaseException as error:
            outcomes.put(error)

    # In a thread of its own, because nothing can interrupt Ray Data while it waits.
    others = _executors()
    consumer = threading.Thread(target=consume, name=GRAPH, daemon=True)
    consumer.start()
    ended = False
    looked = time.monotonic()
    places = Places(pool, patience, tell)
    signs = Signs(guard, spec.stage)
    try:
        while True:
            if time.monotonic() - looked > min(timeout / 4, GRACE_SECONDS):
                looked = time.monotonic()
                kill_stalled(guard, timeout)
            if signs.look() and on_signs is not None:
                on_signs(signs)
            try:
                outcome = outcomes.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                if places.lost(lambda: signs.there):
                    raise GraphLost("the cluster has become too small for the workers") from None
                continue
            places.in_use(signs.there)
            if outcome is _END:
                ended = True
                return
            if isinstance(outcome, BaseException):
                ended = True
                raise _meaning(outcome) from None
            said = json.loads(outcome)
            if "error" in said:
                raise from_facts(said["error"])
            signs.done(said["shard"] if "shard" in said else said["set_aside"]["shard"])
            yield said
    finally:
        if not ended:
            _stop(consumer, others)


def _graph(
    spec: CaptureSpec,
    tokenizer: PackedTokenizer,
    shards: Sequence[Shard],
    pool: Pool,
    worker: type[ModelWorker],
    guard: Guard,
) -> Any:
    from ray.data import ActorPoolStrategy

    dataset = parcels(spec, tokenizer, shards, pool, guard)
    with _finite_retries():
        return dataset.map_batches(
            worker,
            fn_constructor_kwargs={"spec": spec, "guard": guard},
            batch_size=BATCH_SIZE,
            batch_format="pyarrow",
            num_cpus=pool.cpus_per_worker,
            num_gpus=pool.gpus_per_worker or None,
            compute=ActorPoolStrategy(min_size=pool.begin, max_size=pool.workers, max_tasks_in_flight_per_actor=2),
            max_restarts=ACTOR_RESTARTS,
            max_task_retries=ACTOR_RESTARTS,
            # Without this, several models may land on one node while other nodes are idle.
            scheduling_strategy="SPREAD",
        )


def parcels(
    spec: CaptureSpec, tokenizer: PackedTokenizer, shards: Sequence[Shard], pool: Pool, guard: Guard | None
) -> Any:
    """The first half of the graph: a dataset of parcels, one per block."""
    import ray
    from ray.data import TaskPoolStrategy

    rows = portions(shards)
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = ONE_ROW
    # A worker that is idle for a moment keeps its model: loading it again takes longer than waiting.
    context.autoscaling_config.actor_pool_util_downscaling_threshold = 0.0
    with _finite_retries():
        return ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            tokenise_portion,
            fn_kwargs={"spec": spec, "tokenizer": tokenizer, "guard": guard},
            batch_size=BATCH_SIZE,
            batch_format="pyarrow",
            num_cpus=pool.task_cpus,
            compute=TaskPoolStrategy(pool.readers and min(pool.readers, len(rows))),
            max_retries=ACTOR_RESTARTS,
        )


@contextmanager
def _finite_retries() -> Iterator[None]:
    """Ray 2.60 accepts a retry limit only through an API that Ray 2.64 removes; its default is to retry for ever."""
    import ray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ray.util.annotations.RayDeprecationWarning)
        yield


def _meaning(error: BaseException) -> Exception:
    """The error to raise for an error that ended the graph."""
    import ray
    from ray.exceptions import UserCodeException

    found = own_error(error)
    if isinstance(found, TamisError):
        return found
    text = f"{type(found).__name__}: {error_text(found)}"
    causes = list(_causes(error))
    if not isinstance(error, UserCodeException) and any(isinstance(e, ray.exceptions.RayError) for e in causes):
        of_memory = any(isinstance(cause, ray.exceptions.OutOfMemoryError) for cause in causes)
        return GraphLost(text, of_memory=of_memory)
    return ClusterError(f"the capture stopped: {text}. What is captured stays; run the same command again to go on")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        yield current
        inner = getattr(current, "cause", None)
        current = inner if isinstance(inner, BaseException) else current.__cause__


def _executors() -> set[Any]:
    """The executors of Ray Data that run in this process; each is a thread."""
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

    return {thread for thread in threading.enumerate() if isinstance(thread, StreamingExecutor)}


def _stop(consumer: threading.Thread, others: Collection[Any]) -> None:
    """Kill the graph's actors and drop its tasks, also before its first outcome. Ray Data has no public API for this;
    it does the same when it is interrupted. others: executors of other graphs."""
    from ray.data._internal.execution.operators.task_pool_map_operator import TaskPoolMapOperator

    until = time.monotonic() + _JOIN_SECONDS
    stopped = set(others)
    while True:
        for executor in _executors() - stopped:
            for operator in list(executor._topology or ()):
                if isinstance(operator, TaskPoolMapOperator):
                    operator._cancel_active_tasks = partial(_cancel_readers, operator)
            executor.shutdown(force=True)
            if executor._shutdown:  # else it was just about to start
                stopped.add(executor)
        consumer.join(_LOOK_SECONDS)
        if not consumer.is_alive() or time.monotonic() > until:
            return


def _cancel_readers(operator: Any, force: bool) -> None:
    """Replaces Ray Data's own method: cancel the tasks of this operator, except those that are about to end."""
    import ray

    tasks = {}
    for task in operator.get_active_tasks():
        waitable = task.get_waitable()
        tasks[waitable.completed() if isinstance(waitable, ray.ObjectRefGenerator) else waitable] = task
    for reference in let_end(list(tasks)):
        tasks[reference]._cancel(force=force)
