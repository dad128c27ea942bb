"""The workers of a reference model's training: one plain task, or a group that Ray Train starts and connects.

A single worker needs no connections, and Ray Train's controller, queue and helpers are six more processes that take
many seconds to start. The numbers are the same: both call worker.run.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from tamis.pipeline.cluster.machines import alive
from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.cluster.session import first_line
from tamis.pipeline.cluster.tasks import own_error
from tamis.pipeline.cluster.watchdog import Guard, kill_stalled, start_watch
from tamis.pipeline.cluster.worker_gpu import missing_gpu
from tamis.pipeline.errors import ClusterError, TamisError
from tamis.pipeline.references.worker import ReferenceSpec, train_alone, train_loop

START_MINUTES = 10
"""How long the workers wait for room on the cluster."""

_LISTEN_SECONDS, _LOOK_SECONDS = 0.2, 30.0


class WorkerDied(Exception):
    """A worker or its machine was lost; its checkpoints still exist."""


class _HangDetector:
    """Kills workers that hang. reason: why a worker was killed last; None if none was."""

    def __init__(self, guard: Guard, timeout: float) -> None:
        self._guard, self._timeout = guard, timeout
        self.seconds = min(timeout / 4, _LOOK_SECONDS)
        self._looked = time.monotonic()
        self.reason: str | None = None

    def look(self) -> None:
        """Called often; checks once every `seconds`."""
        import ray

        if time.monotonic() - self._looked >= self.seconds:
            self._looked = time.monotonic()
            with suppress(ray.exceptions.RayActorError):  # without the watchdog no worker counts as hung
                self.reason = kill_stalled(self._guard, self._timeout) or self.reason


def messages(spec: ReferenceSpec, pool: Pool, workers: int, timeout: float) -> Generator[dict[str, Any]]:
    """The messages of worker 0 as they come, until the training has ended.

    timeout: seconds without progress in a step after which the workers count as hung and are killed.
    Raises WorkerDied, or an error that a worker raised: a TamisError rather than others, because workers that wait for
    the failed one raise errors, too.
    """
    guard = start_watch()
    detector = _HangDetector(guard, timeout)
    return _alone(spec, pool, guard, detector) if workers == 1 else _together(spec, pool, workers, guard, detector)


def _alone(spec: ReferenceSpec, pool: Pool, guard: Guard, detector: _HangDetector) -> Generator[dict[str, Any]]:
    import ray

    said = _task(pool).remote(spec, guard)
    try:
        if not ray.wait([said], timeout=60 * START_MINUTES)[0]:
            raise ClusterError(
                f"the cluster had no room for the training of the {spec.name} model in {START_MINUTES} minutes; see "
                "`ray status`, and run the same command again to go on"
            )
        while True:
            if not ray.wait([said], timeout=detector.seconds)[0]:
                detector.look()
                continue
            following = next(said, None)
            if following is None:
                return
            yield ray.get(following)
    except ray.exceptions.RayTaskError as error:
        raise _unwrapped(error) from None
    except ray.exceptions.RayError as error:
        raise _lost(error, detector.reason) from None
    except BaseException:  # the caller has stopped, or the task never began
        ray.cancel(said, force=True)
        raise


def _task(pool: Pool) -> Any:
    import ray

    # Given here, not as .options(): only then does Ray end a process that has used a GPU when its task is done. A
    # process that has used no GPU is reused.
    return ray.remote(
        num_cpus=pool.cpus_per_worker, num_gpus=pool.gpus_per_worker, num_returns="streaming", max_retries=0
    )(train_alone)


def _together(
    spec: ReferenceSpec, pool: Pool, workers: int, guard: Guard, detector: _HangDetector
) -> Generator[dict[str, Any]]:
    from ray.util.queue import Queue

    queue = Queue(actor_options={"num_cpus": 0})
    try:
        with tempfile.TemporaryDirectory(prefix="tamis-train-") as folder:
            running = _in_background(partial(_fit, spec, pool, workers, guard, queue, folder))
            yield from _heard(queue, running, detector)
            error = running.exception()
            if error is not None:
                raise _meaning(error, detector.reason) from None
    finally:
        queue.shutdown(force=True)


def _heard(queue: Any, running: Future[None], detector: _HangDetector) -> Generator[dict[str, Any]]:
    """The messages from the queue until the run has ended."""
    import ray

    while True:
        ended = running.done()
        try:
            waiting = queue.qsize()
            yield from queue.get_nowait_batch(waiting) if waiting else []
        except ray.exceptions.RayError as error:
            while not running.done():  # worker 0 cannot send messages any more, so it ends, unless it hangs
                detector.look()
                time.sleep(_LISTEN_SECONDS)
            raise _lost(error, detector.reason) from None
        if ended:
            return
        detector.look()
        time.sleep(0 if waiting else _LISTEN_SECONDS)


def _in_background(function: Callable[[], None]) -> Future[None]:
    """Run the function in a thread: in the main thread, Ray Train would replace the handler of Ctrl-C."""
    future: Future[None] = Future()

    def work() -> None:
        try:
            function()
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="train", daemon=True).start()
    return future


def _fit(spec: ReferenceSpec, pool: Pool, workers: int, guard: Guard, queue: Any, folder: str) -> None:
    """One run of the group. folder: for Ray Train's own files. Raises ray.train.TrainingFailedError."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from tamis.pipeline.references.one_machine import OneMachine

    resources = {"CPU": pool.cpus_per_worker}
    # Ray Train puts a worker that has a GPU on CUDA; where torch sees none, it may not be told of one.
    gpus = pool.gpus_per_worker if _have_cuda(pool, spec.model.device) else 0.0
    if gpus:
        resources["GPU"] = gpus
    backend = "nccl" if gpus >= 1 else "gloo"  # NCCL refuses two workers on one GPU
    together = len(alive()) == 1
    # The interval at which its controller checks the workers; the default of two seconds is long for a small training.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    TorchTrainer(
        train_loop,
        train_loop_config={
            "spec": spec,
            "guard": guard,
            "queue": queue,
            "meeting": (folder, backend) if together else None,
        },
        torch_config=OneMachine(backend=backend) if together else TorchConfig(backend=backend),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus > 0,
            resources_per_worker=resources,
            placement_strategy="PACK" if gpus else "SPREAD",
        ),
        run_config=RunConfig(
            name="run",
            storage_path=folder,
            failure_config=FailureConfig(
                max_failures=0,
                controller_failure_limit=START_MINUTES,  # it retries once per minute
                **_no_try_after_preemption(FailureConfig),
            ),
        ),
    ).fit()


def _have_cuda(pool: Pool, device: str) -> bool:
    """Whether torch finds CUDA where Ray counts GPUs. ClusterError where it does not and the job requires CUDA."""
    import ray

    if not pool.gpus_per_worker:
        return False
    # Given here, not as .options(), so that the process ends with its task and releases the GPU's memory.
    look = ray.remote(num_cpus=0, num_gpus=pool.gpus_per_worker)(missing_gpu)
    try:
        return ray.get(look.remote(device, pool.gpus_per_worker), timeout=60 * START_MINUTES) is None
    except ray.exceptions.RayTaskError as error:
        raise _unwrapped(error) from None


def _no_try_after_preemption(failure_config: Any) -> dict[str, int]:
    """Ray 2.58 and later count losses by preempted machines separately; earlier, they are failures like any other."""
    name = "max_preemption_failures"
    return {name: 0} if name in failure_config.__dataclass_fields__ else {}


def _meaning(error: BaseException, reason: str | None = None) -> BaseException:
    """The error to raise for an error of Ray Train, which lists the failure of each worker of a group. reason: why
    workers were killed."""
    import ray

    failures = list(getattr(error, "worker_failures", {}).values())
    # Exceptions of our code are inside Ray Train's wrapper; for a death, nothing is inside.
    raised = [_unwrapped(failure._base_exc) for failure in failures if hasattr(failure, "_base_exc")]
    for found in raised or [_unwrapped(error)]:
        if isinstance(found, TamisError):
            return found
    if reason is not None:  # when one worker is killed, the others raise errors that look like errors of code
        return WorkerDied(reason)
    if isinstance(error, ray.exceptions.RayError):
        return _lost(error)
    deaths = [failure for failure in failures if not hasattr(failure, "_base_exc")]
    if deaths:
        return _lost(deaths[0])
    return raised[0] if raised else error


def _lost(error: BaseException, reason: str | None = None) -> BaseException:
    """WorkerDied, unless it is an error of Ray that would come again every time. reason: of the death, if known."""
    import ray

    lasting = (ray.exceptions.RuntimeEnvSetupError, ray.exceptions.UnserializableException)
    return error if isinstance(error, lasting) else WorkerDied(reason or first_line(error))


def _unwrapped(error: BaseException) -> BaseException:
    """Our own error inside it, or the original exception rather than Ray's wrapper."""
    found, cause = own_error(error), getattr(error, "cause", None)
    return cause if found is error and isinstance(cause, Exception) else found
