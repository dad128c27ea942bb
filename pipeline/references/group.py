"""The workers of a reference model's training: one plain task, or a group that Ray Train starts and connects.

One worker has nobody to be connected with, and Ray Train's controller, queue and helpers are six more processes and
many seconds to start. The numbers are the same: both are reference_worker.run.
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

from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.cluster.session import first_line
from tamis.pipeline.cluster.tasks import own_error
from tamis.pipeline.cluster.watchdog import Guard, kill_stalled, start_watch
from tamis.pipeline.cluster.worker_gpu import missing_gpu
from tamis.pipeline.errors import ClusterError, TamisError
from tamis.pipeline.references.worker import ReferenceSpec, train_alone, train_loop

START_MINUTES = 10
"""How long the workers wait for room in the cluster."""

_LISTEN_SECONDS, _LOOK_SECONDS = 0.2, 30.0


class WorkerDied(Exception):
    """A worker, or the machine under it, was lost; its checkpoints are not."""


class _Lookout:
    """Kills workers that hang. reason: why some were killed."""

    def __init__(self, guard: Guard, timeout: float) -> None:
        self._guard, self._timeout = guard, timeout
        self.seconds = min(timeout / 4, _LOOK_SECONDS)
        self._looked = time.monotonic()
        self.reason: str | None = None

    def look(self) -> None:
        """To be called often; looks every `seconds`."""
        import ray

        if time.monotonic() - self._looked >= self.seconds:
            self._looked = time.monotonic()
            with suppress(ray.exceptions.RayActorError):  # without the watch nobody is taken for hung
                self.reason = kill_stalled(self._guard, self._timeout) or self.reason


def messages(spec: ReferenceSpec, pool: Pool, workers: int, timeout: float) -> Generator[dict[str, Any]]:
    """What worker 0 says, as it says it, until the training has ended.

    timeout: seconds without progress in a step after which the workers are taken for hung, and killed.
    Raises WorkerDied, or what a worker has raised: TamisError before others, as workers that wait for the one that
    failed raise errors, too.
    """
    guard = start_watch()
    lookout = _Lookout(guard, timeout)
    return _alone(spec, pool, guard, lookout) if workers == 1 else _together(spec, pool, workers, guard, lookout)


def _alone(spec: ReferenceSpec, pool: Pool, guard: Guard, lookout: _Lookout) -> Generator[dict[str, Any]]:
    import ray

    said = _task(pool).remote(spec, guard)
    try:
        if not ray.wait([said], timeout=60 * START_MINUTES)[0]:
            raise ClusterError(
                f"the cluster had no room for the training of the {spec.name} model in {START_MINUTES} minutes; see "
                "`ray status`, and run the same command again to go on"
            )
        while True:
            if not ray.wait([said], timeout=lookout.seconds)[0]:
                lookout.look()
                continue
            following = next(said, None)
            if following is None:
                return
            yield ray.get(following)
    except ray.exceptions.RayTaskError as error:
        raise _unwrapped(error) from None
    except ray.exceptions.RayError as error:
        raise _lost(error, lookout.reason) from None
    except BaseException:  # nobody listens any more, or it never began
        ray.cancel(said, force=True)
        raise


def _task(pool: Pool) -> Any:
    import ray

    # Given here, not as .options(): only so does Ray end a process that has used a GPU when its task is done. One that
    # has used none is used again by what comes next.
    return ray.remote(
        num_cpus=pool.cpus_per_worker, num_gpus=pool.gpus_per_worker, num_returns="streaming", max_retries=0
    )(train_alone)


def _together(
    spec: ReferenceSpec, pool: Pool, workers: int, guard: Guard, lookout: _Lookout
) -> Generator[dict[str, Any]]:
    from ray.util.queue import Queue

    queue = Queue(actor_options={"num_cpus": 0})
    try:
        with tempfile.TemporaryDirectory(prefix="tamis-train-") as folder:
            running = _in_background(partial(_fit, spec, pool, workers, guard, queue, folder))
            yield from _heard(queue, running, lookout)
            error = running.exception()
            if error is not None:
                raise _meaning(error, lookout.reason) from None
    finally:
        queue.shutdown(force=True)


def _heard(queue: Any, running: Future[None], lookout: _Lookout) -> Generator[dict[str, Any]]:
    """What comes through the queue until the run has ended."""
    import ray

    while True:
        ended = running.done()
        try:
            waiting = queue.qsize()
            yield from queue.get_nowait_batch(waiting) if waiting else []
        except ray.exceptions.RayError as error:
            while not running.done():  # worker 0 cannot say anything any more, and ends, unless it hangs
                lookout.look()
                time.sleep(_LISTEN_SECONDS)
            raise _lost(error, lookout.reason) from None
        if ended:
            return
        lookout.look()
        time.sleep(0 if waiting else _LISTEN_SECONDS)


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


def _fit(spec: ReferenceSpec, pool: Pool, workers: int, guard: Guard, queue: Any, folder: str) -> None:
    """One run of the group. folder: for what Ray Train wants to keep. Raises ray.train.TrainingFailedError."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    resources = {"CPU": pool.cpus_per_worker}
    # Ray Train puts a worker that has a GPU on CUDA; where torch sees none, it may not be told of one.
    gpus = pool.gpus_per_worker if _have_cuda(pool, spec.model.device) else 0.0
    if gpus:
        resources["GPU"] = gpus
    # How long its controller waits between two looks at the workers; two seconds are long beside a small training.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    TorchTrainer(
        train_loop,
        train_loop_config={"spec": spec, "guard": guard, "queue": queue},
        # NCCL refuses two workers on one GPU.
        torch_config=TorchConfig(backend="nccl" if gpus >= 1 else "gloo"),
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
                controller_failure_limit=START_MINUTES,  # it tries again each minute
                **_no_try_after_preemption(FailureConfig),
            ),
        ),
    ).fit()


def _have_cuda(pool: Pool, device: str) -> bool:
    """Whether torch finds CUDA where Ray counts GPUs. ClusterError where it does not and the job wants nothing else."""
    import ray

    if not pool.gpus_per_worker:
        return False
    # Given here, not as .options(), so that the process ends with its task, as the GPU's memory it may have taken.
    look = ray.remote(num_cpus=0, num_gpus=pool.gpus_per_worker)(missing_gpu)
    try:
        return ray.get(look.remote(device, pool.gpus_per_worker), timeout=60 * START_MINUTES) is None
    except ray.exceptions.RayTaskError as error:
        raise _unwrapped(error) from None


def _no_try_after_preemption(failure_config: Any) -> dict[str, int]:
    """Ray 2.58 and later count apart what is lost with a machine that is taken away; before, it is a failure as any."""
    name = "max_preemption_failures"
    return {name: 0} if name in failure_config.__dataclass_fields__ else {}


def _meaning(error: BaseException, reason: str | None = None) -> BaseException:
    """What an error of Ray Train means; of a group each failure is told apart. reason: why workers were killed."""
    import ray

    failures = list(getattr(error, "worker_failures", {}).values())
    # Code's own exceptions lie in what Ray Train wraps around them; a death has nothing inside.
    raised = [_unwrapped(failure._base_exc) for failure in failures if hasattr(failure, "_base_exc")]
    for found in raised or [_unwrapped(error)]:
        if isinstance(found, TamisError):
            return found
    if reason is not None:  # the others raise, when one of them is killed, what looks like errors of code
        return WorkerDied(reason)
    if isinstance(error, ray.exceptions.RayError):
        return _lost(error)
    deaths = [failure for failure in failures if not hasattr(failure, "_base_exc")]
    if deaths:
        return _lost(deaths[0])
    return raised[0] if raised else error


def _lost(error: BaseException, reason: str | None = None) -> BaseException:
    """A death, unless it is an error of Ray that would come again and again. reason: of the death, where we know it."""
    import ray

    lasting = (ray.exceptions.RuntimeEnvSetupError, ray.exceptions.UnserializableException)
    return error if isinstance(error, lasting) else WorkerDied(reason or first_line(error))


def _unwrapped(error: BaseException) -> BaseException:
    """Our own error in it, or the exception itself rather than Ray's text of it."""
    found, cause = own_error(error), getattr(error, "cause", None)
    return cause if found is error and isinstance(cause, Exception) else found
