"""Ray for the stages: start or join it, size the pools, map over shards, reduce over a fixed tree.

Everything here bounds what is in flight, so neither the driver nor the object store grows with the corpus.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from tamis.operators.methods.protocol import tree_reduce
from tamis.pipeline.errors import ClusterError, TamisError, error_text

T = TypeVar("T")
R = TypeVar("R")

TASK_RETRIES = 3
"""How often Ray tries a task again when its worker died. Exceptions of our own code are not retried."""

CONNECT_SECONDS = 10.0

WORKER_ENVIRONMENT = {
    # A worker downloads nothing but what models.fetch asks for, and prints no bars into logs.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Outside the main thread glibc maps large tensors anew each time, whatever operators/allocator.py asks of it,
    # unless all threads share the main arena.
    "MALLOC_ARENA_MAX": "1",
}


@dataclass(frozen=True)
class Cluster:
    """What Ray offers now."""

    address: str
    nodes: int
    cpus: float
    gpus: float
    seconds_to_start: float


@dataclass(frozen=True)
class Pool:
    """How many copies of the model run, and what each takes. threads: of the forward pass on a CPU."""

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    threads: int | None
    task_cpus: float


@contextmanager
def ray_session(address: str | None) -> Iterator[Cluster]:
    """Join the cluster at `address` (or RAY_ADDRESS), else start Ray on this machine; leave it as it was found.

    Raises ClusterError when there is no such cluster or Ray does not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The driver's own environment decides which Python the workers run; Ray need not wrap it again.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    import ray

    where = address or os.environ.get("RAY_ADDRESS") or "local"
    _check_reachable(where)
    began = time.perf_counter()
    with _native_stderr_aside():
        yield from _session(ray, where, began)


def _check_reachable(where: str) -> None:
    """Ray itself waits for minutes for a cluster that is not there. ClusterError within seconds."""
    match = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d+)", where)
    if match is None:
        return
    try:
        socket.create_connection((match[1], int(match[2])), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster answers at {where} ({error_text(error)}); check --address or RAY_ADDRESS, or leave both "
            "out to start Ray on this machine"
        ) from None


@contextmanager
def _native_stderr_aside() -> Iterator[None]:
    """Ray's C++ side writes to file descriptor 2, over the progress line. While Ray runs, send that to a log in the
    temporary folder and give Python's own stderr the terminal. The file stays only if Ray or tamis itself failed."""
    sys.stderr.flush()
    terminal = os.dup(2)
    log = tempfile.NamedTemporaryFile(prefix="tamis-ray-", suffix=".log", delete=False)  # noqa: SIM115
    os.dup2(log.fileno(), 2)
    python_stderr, ours = sys.stderr, os.fdopen(os.dup(terminal), "w", buffering=1)
    sys.stderr = ours
    keep_log = True
    try:
        yield
        keep_log = False
    except TamisError as error:
        keep_log = isinstance(error, ClusterError)
        raise
    finally:
        if not keep_log:
            os.unlink(log.name)
        if sys.stderr is ours:  # else someone (a notebook, a test runner) has put another in its place
            sys.stderr = python_stderr
        ours.close()
        os.dup2(terminal, 2)
        os.close(terminal)
        log.close()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _session(ray: Any, where: str, began: float) -> Iterator[Cluster]:
    try:
        # Workers of a Ray that starts here inherit the environment, and need not be started anew for it.
        with _environment(WORKER_ENVIRONMENT if where == "local" else {}):
            ray.init(
                address=where,
                include_dashboard=False if where == "local" else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env=None if where == "local" else {"env_vars": WORKER_ENVIRONMENT},
            )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError, ray.exceptions.RayError) as error:
        what = "Ray did not start on this machine" if where == "local" else f"no Ray cluster answers at {where}"
        advice = "see `tamis doctor`"
        if where != "local" and "RAY_AUTH_MODE" not in os.environ:
            # Ray joins without its token unless told so, and then speaks of a failed connection only.
            advice = "if it asks for a token, as Ray's clusters do by default, set RAY_AUTH_MODE=token and try again"
        raise ClusterError(f"{what} ({_first_line(error)}); {advice}") from None
    try:
        _messages_to_log()
        _quiet_ray_data()
        resources = ray.cluster_resources()
        nodes = sum(1 for node in ray.nodes() if node["Alive"])
        seconds = time.perf_counter() - began
        yield Cluster(where, nodes, resources.get("CPU", 0.0), resources.get("GPU", 0.0), seconds)
    finally:
        ray.shutdown()


def size_pool(cluster: Cluster, workers: int | None, device: str, gpus_per_worker: float) -> Pool:
    """One worker per GPU share, or one per node on CPUs, unless `workers` says otherwise.

    On CPUs a worker reserves part of its node only, so that reading and writing always find room beside it: an actor
    that holds every CPU would wait for tasks that wait for the actor. Raises ClusterError when it cannot fit.
    """
    if not cluster.cpus:
        raise ClusterError("the cluster has no CPU for tasks; let it have a worker node before the job starts")
    if cluster.gpus and device != "cpu":
        # A worker's share lies on one GPU: three of 0.6 need three GPUs, and 0.2 fits five times despite its float.
        a_gpu = int(1 / gpus_per_worker + 1e-9)
        most = int(cluster.gpus) * a_gpu if a_gpu else int(cluster.gpus / gpus_per_worker)
        count = workers or most
        if count > most or not most:
            raise ClusterError(
                f"{count} workers of {gpus_per_worker:g} GPU each do not fit the cluster's {cluster.gpus:g}; "
                "lower workers or model.gpus_per_worker"
            )
        cpus = min(1.0, cluster.cpus / (2 * count))
        return Pool(count, cpus, gpus_per_worker, None, min(1.0, cluster.cpus - cpus * count))
    if device == "cuda":
        raise ClusterError("model.device is cuda and the cluster has no GPU; use auto or cpu, or join another cluster")
    count = workers or cluster.nodes
    per_node = max(cluster.cpus / cluster.nodes, 1)
    threads = max(int(per_node * cluster.nodes / count), 1)
    cpus = min(1.0, cluster.cpus / (2 * count))
    return Pool(count, cpus, 0.0, threads, min(1.0, max(cluster.cpus - cpus * count, 0.25)) / 2)


def refit(cluster: Cluster, pool: Pool, workers: int | None, device: str, gpus_per_worker: float) -> Pool:
    """The pool for what is left of the cluster. threads: as they were, as a forward pass rounds by them."""
    import ray

    resources = ray.cluster_resources()
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    now = replace(cluster, nodes=nodes, cpus=resources.get("CPU", 0.0), gpus=resources.get("GPU", 0.0))
    try:
        found = size_pool(now, workers, device, gpus_per_worker)
    except ClusterError:
        found = size_pool(now, None, device, gpus_per_worker)
    return replace(found, threads=pool.threads)


def fits(pool: Pool) -> bool:
    """Whether the cluster, as it is now, has room for the pool and one task beside it."""
    import ray

    resources = ray.cluster_resources()
    cpus = pool.workers * pool.cpus_per_worker + pool.task_cpus
    gpus = pool.workers * pool.gpus_per_worker
    return bool(resources.get("CPU", 0.0) >= cpus - 1e-6 and resources.get("GPU", 0.0) >= gpus - 1e-6)


def stream(
    function: Callable[..., R],
    items: Sequence[T],
    *shared: Any,
    cpus: float = 1.0,
    window: int | None = None,
    on_lost: Callable[[int, str], None] | None = None,
) -> Iterator[tuple[int, R]]:
    """(index, function(item, *shared)) for every item as it is done, in any order; a bounded number in flight.

    `shared` values travel to the object store once. on_lost: told of an item whose workers all died (index, reason);
    without it that is a ClusterError.
    """
    import ray

    task = ray.remote(function).options(num_cpus=cpus, max_retries=TASK_RETRIES)
    common = [ray.put(value) for value in shared]
    limit = window or _window(cpus)
    running: dict[Any, int] = {}
    waiting = iter(enumerate(items))
    try:
        while True:
            while len(running) < limit and (following := next(waiting, None)) is not None:
                running[task.remote(following[1], *common)] = following[0]
            if not running:
                return
            [ready], _ = ray.wait(list(running), num_returns=1)
            index = running.pop(ready)
            try:
                result = _get(ready)
            except ClusterError as error:
                if on_lost is None:
                    raise
                on_lost(index, f"every worker that had it died ({_first_line(error.__context__ or error)})")
                continue
            yield index, result
    finally:
        for reference in running:
            ray.cancel(reference, force=False)


def map_reduce(
    map: Callable[..., T],
    combine: Callable[[T, T], T],
    groups: Sequence[Any],
    *shared: Any,
    on_done: Callable[[int], None] | None = None,
    cpus: float = 1.0,
) -> T:
    """combine over map(group, *shared), on the fixed tree of `tree_reduce`: the same bits however tasks are placed.

    Maps run a window ahead of the combining, so that at most window + log2(n) partial results exist at a time.
    """
    import ray

    map_task = ray.remote(map).options(num_cpus=cpus, max_retries=TASK_RETRIES)
    combine_task = ray.remote(combine).options(num_cpus=cpus, max_retries=TASK_RETRIES)
    common = [ray.put(value) for value in shared]
    limit = _window(cpus)

    def parts() -> Iterator[Any]:
        ahead: list[Any] = []
        for number in range(len(groups) + limit):
            if number < len(groups):
                ahead.append(map_task.remote(groups[number], *common))
            if number >= limit:
                oldest = ahead.pop(0)
                ray.wait([oldest], num_returns=1)
                if on_done is not None:
                    on_done(number - limit)
                yield oldest

    result: T = _get(tree_reduce(parts(), combine_task.remote))
    return result


def _window(cpus: float) -> int:
    import ray

    return max(int(2 * ray.cluster_resources().get("CPU", 1.0) / max(cpus, 0.25)), 2)


def _get(reference: Any) -> Any:
    """The task's value, or its own exception rather than Ray's wrapping of it."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        found = own_error(error)
        # Of any other error too: the exception itself, not one whose message is a worker's traceback.
        cause = getattr(error, "cause", None)
        raise (cause if found is error and isinstance(cause, Exception) else found) from None
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"Ray lost a task for good ({_first_line(error)}); run the same command again to go on"
        ) from None


def own_error(error: BaseException) -> BaseException:
    """The error that our code raised, dug out of what Ray or Ray Data wrapped around it; else `error` itself."""
    seen: BaseException | None = error
    while seen is not None:
        inner = getattr(seen, "cause", None)
        if isinstance(inner, TamisError):
            return inner
        if isinstance(seen, TamisError):
            return seen
        following = inner if isinstance(inner, BaseException) else seen.__cause__
        seen = following if following is not seen else None
    return error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _messages_to_log() -> None:
    """Ray prints what it has to say of dead workers among the results, on stdout, and has no switch for it. What a
    person needs to know of them is in our own messages; the rest goes where Ray's C++ side writes."""
    from ray._private import worker

    def to_log(message: Mapping[str, Any], **_: Any) -> None:
        text = "\n".join(str(line) for line in message.get("lines", ()))
        os.write(2, f"{text}\n".encode("utf-8", "backslashreplace"))

    worker.print_to_stdstream = to_log


def _quiet_ray_data() -> None:
    """Our progress line is the only one; a job log is no place for Ray's bars."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    # A shard must stay one block from end to end; its size is bounded by the plan.
    context.target_max_block_size = None
    # Errors are ours to tell: it would print tracebacks of its own.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL + 1)
    logging.getLogger("ray").setLevel(logging.ERROR)
