"""Ray for the stages: map over shards, reduce over a fixed tree.

Everything here bounds what is in flight, so neither the driver nor the object store grows with the corpus.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from tamis.operators.methods.protocol import tree_reduce
from tamis.pipeline.cluster.session import first_line
from tamis.pipeline.errors import ClusterError, TamisError, TooLargeError
from tamis.pipeline.terminal.voice import VOICE

T = TypeVar("T")
R = TypeVar("R")

TASK_RETRIES = 3
"""How many times Ray retries a task when its worker died. Exceptions of our own code are not retried."""

_END_SECONDS = 5.0

_MISSING = re.compile(r"No module named '([\w.]+)'")
"""What Python says, and what Ray repeats when a worker cannot open what it was sent."""


def stream(
    function: Callable[..., R],
    items: Sequence[T],
    *shared: Any,
    cpus: float = 1.0,
    window: int | None = None,
    ahead: int | None = None,
    on_lost: Callable[[int, str], None] | None = None,
    timeout: float | None = None,
) -> Iterator[tuple[int, R]]:
    """Yield (index, function(item, *shared)) for every item when it is done, in any order; a bounded number is in
    flight.

    `shared` values go to the object store once. ahead: no item starts this far after the oldest unfinished item, for a
    caller that needs them in order and keeps early results. on_lost: called with (index, reason) of an item whose
    workers all died or whose rows are too large; without it that is an error. timeout: seconds in which some item must
    finish; otherwise the workers count as hung and are killed, and their items are retried, at most TASK_RETRIES times.
    """
    import ray

    task = ray.remote(function).options(num_cpus=cpus, max_retries=TASK_RETRIES)
    common = [ray.put(value) for value in shared]
    limit = window or _window(cpus)
    running: dict[Any, int] = {}
    begun = 0
    stalls: Counter[int] = Counter()
    try:
        while True:
            while len(running) < limit and begun < len(items):
                if ahead is not None and running and begun - min(running.values()) >= ahead:
                    break
                running[task.remote(items[begun], *common)] = begun
                begun += 1
            if not running:
                return
            done, _ = ray.wait(list(running), num_returns=1, timeout=timeout)
            if not done:
                stalled = list(running.values())
                for reference in running:
                    ray.cancel(reference, force=True)
                running.clear()
                # Other items have waited behind the hung ones: they come first now, and will finish.
                for index in reversed(stalled):
                    stalls[index] += 1
                    if stalls[index] < TASK_RETRIES:
                        running[task.remote(items[index], *common)] = index
                        continue
                    reason = f"no progress in {timeout:g} s, {TASK_RETRIES} times"
                    if on_lost is None:
                        raise ClusterError(f"a task hangs: {reason}; run the same command again to go on")
                    on_lost(index, reason)
                continue
            [ready] = done
            index = running.pop(ready)
            try:
                result = _get(ready)
            except (ClusterError, TooLargeError) as error:
                if on_lost is None:
                    raise
                dead = f"every worker that had it died ({first_line(error.__context__ or error)})"
                on_lost(index, error.reason if isinstance(error, TooLargeError) else dead)
                continue
            VOICE.so_far(begun - len(running), len(items))
            yield index, result
    finally:
        for reference in let_end(list(running)):
            ray.cancel(reference, force=False)


def let_end(references: Sequence[Any]) -> list[Any]:
    """Wait some seconds for tasks that are no longer needed; return the tasks that still run, which may be cancelled.

    Ray 2.60 ends the driver's whole process without a message if a task is cancelled at the moment its result arrives
    ("Check failed: Tried to complete task that was not pending").
    """
    import ray

    if not references:
        return []
    _, left = ray.wait(list(references), num_returns=len(references), timeout=_END_SECONDS, fetch_local=False)
    return list(left)


def map_reduce(
    map: Callable[..., T],
    combine: Callable[[T, T], T],
    groups: Sequence[Any],
    *shared: Any,
    on_done: Callable[[int], None] | None = None,
    cpus: float = 1.0,
) -> T:
    """Combine map(group, *shared) over all groups on the fixed tree of `tree_reduce`: bit-identical for any placement
    of the tasks.

    Maps run a window ahead of the combining, so that at most window + log2(n) partial results exist at a time.
    """
    import ray

    map_task = ray.remote(_function(map)).options(num_cpus=cpus, max_retries=TASK_RETRIES)
    combine_task = ray.remote(_function(combine)).options(num_cpus=cpus, max_retries=TASK_RETRIES)
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
                VOICE.so_far(number - limit + 1, len(groups))
                if on_done is not None:
                    on_done(number - limit)
                yield oldest

    result: T = _get(tree_reduce(parts(), combine_task.remote))
    return result


def _function(call: Callable[..., T]) -> Callable[..., T]:
    """A plain function around `call`: Ray accepts only functions, and a method may combine with other callables, such
    as numpy.add."""
    if inspect.isfunction(call):
        return call

    def function(*arguments: Any) -> T:
        return call(*arguments)

    return function


def _window(cpus: float) -> int:
    import ray

    return max(int(2 * ray.cluster_resources().get("CPU", 1.0) / max(cpus, 0.25)), 2)


def _get(reference: Any) -> Any:
    """The task's value; its own exception rather than Ray's wrapper."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        found = own_error(error)
        # For any other error, too: the exception itself, not a wrapper whose message is a worker's traceback.
        cause = getattr(error, "cause", None)
        if missing := _MISSING.search(str(cause)):
            raise ClusterError(
                f"a worker of the cluster has no module {missing[1]}; what this machine needs for the job, such as a "
                "distribution that offers a method, must be installed on every node, in the same version"
            ) from None
        raise (cause if found is error and isinstance(cause, Exception) else found) from None
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"Ray lost a task for good ({first_line(error)}); run the same command again to go on"
        ) from None


def own_error(error: BaseException) -> BaseException:
    """The error that our code raised, without the wrappers of Ray and Ray Data; else `error` itself."""
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
