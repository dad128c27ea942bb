"""Ray for one command: joined, or started on this machine and stopped again.

Ray takes seconds to start, mostly waiting, and the imports for a plan take seconds, too. So `ray_ahead` starts Ray in
the background as soon as a command is known to need it.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from tamis.pipeline.cluster.file_limit import check_file_limit
from tamis.pipeline.cluster.found import found
from tamis.pipeline.cluster.leaving import in_use, leave_running
from tamis.pipeline.cluster.machines import Cluster, alive
from tamis.pipeline.cluster.own_ray import environment, folder_in_use, native_log, own_ray
from tamis.pipeline.cluster.shortage import shortage
from tamis.pipeline.errors import ClusterError, TamisError, error_text
from tamis.pipeline.storage.retrying import WORKER
from tamis.pipeline.terminal.progress import waiting
from tamis.pipeline.terminal.voice import last_word, say

CONNECT_SECONDS = 10.0

_PATIENCE = (30.0, 90.0, 180.0)
"""Seconds that Ray has to start on this machine, for each try: on a busy machine it may take long."""

_LOOK_SECONDS, _NODE_SECONDS = 0.2, 2.0

_JOINING = {"RAY_OVERRIDE_JOB_RUNTIME_ENV": "1"}
"""A job of `ray job submit` may set the same variables for workers. Ray would refuse to join, with a message that
repeats all variables of the job, credentials included."""

_LOCAL = "local"
_STARTING = "Ray is starting"
_NODE = "raylet"

WORKER_ENVIRONMENT = {
    WORKER: "1",
    # A worker downloads only what models.fetch asks for, and prints no progress bars into logs.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Outside the main thread, glibc maps memory for large tensors again each time despite the settings of
    # operators/model/allocator.py, unless all threads share the main arena.
    "MALLOC_ARENA_MAX": "1",
    # Without this, Python looks for modules in the folder of the script or in the working folder.
    "PYTHONSAFEPATH": "1",
}


@contextmanager
def ray_session(address: str | None) -> Iterator[Cluster]:
    """Join the cluster at `address` (or RAY_ADDRESS), else start Ray on this machine; leave it as it was found.

    Raises ClusterError when there is no such cluster or Ray does not start.
    """
    global _joined
    where = _where(address)
    began = time.perf_counter()
    if where == _LOCAL and _ahead is not None and not _ahead.stopped:
        _ahead.wait()
        try:
            with _lost_ray():
                yield _cluster(where, began)
        finally:
            _ahead.stop()
        return
    if _joined == where:
        with _lost_ray():
            yield _cluster(where, began)
        return
    target = found(where)
    _check_reachable(target)
    with _native_stderr_aside(), _options(target) as options:
        with waiting("ray", _STARTING if where == _LOCAL else f"joining the cluster at {target}"):
            _init(target, options)
        _joined = where if where != _LOCAL else None
        try:
            with _lost_ray():
                yield _cluster(where, began)
        finally:
            _joined = None
            _shutdown()


@contextmanager
def ray_early(address: str | None, *, needed: bool = True) -> Iterator[None]:
    """For a command that will need Ray: a cluster is joined at once, and every `ray_session` inside uses it; on this
    machine, Ray starts in the background. needed: if False, nothing happens."""
    if needed and joins(address):
        with ray_session(address):
            yield
    else:
        with ray_ahead(address, needed=needed):
            yield


def cluster_now(address: str | None) -> Cluster | None:
    """The cluster inside `ray_early`, once Ray is up; None where Ray was not needed."""
    began = time.perf_counter()
    where = _where(address)
    if where == _LOCAL and _ahead is not None and not _ahead.stopped:
        _ahead.wait()
    elif _joined is None or _joined != where:
        return None
    return _cluster(where, began)


def joins(address: str | None) -> bool:
    """Whether there is a cluster to join, rather than Ray to start here."""
    return _where(address) != _LOCAL


@contextmanager
def ray_ahead(address: str | None, *, needed: bool = True) -> Iterator[None]:
    """If `ray_session(address)` will start Ray on this machine, start it now, in the background. It is stopped at the
    end if nobody has used it. needed: if False, nothing happens."""
    global _ahead
    if not needed or _ahead is not None or _where(address) != _LOCAL:
        yield
        return
    with waiting("ray", "loading Ray"):
        # Not in the other thread: two threads that import the same modules may wait for each other.
        import ray  # noqa: F401

    with _native_stderr_aside():
        _ahead = _Ahead()
        try:
            with _lost_ray():
                yield
        finally:
            _ahead.stop()
            _ahead = None


class _Ahead:
    """Ray's start in a thread that lives as long as Ray does. Ray asks Linux to end its processes when the thread that
    started them ends."""

    def __init__(self) -> None:
        self._ready, self._over = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ray", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with _options(_LOCAL) as options:
                _init(_LOCAL, options)
                self._ready.set()
                self._over.wait()
        except BaseException as error:
            self._error = error
            self._ready.set()
            self._over.wait()

    def wait(self) -> None:
        """Return when Ray is up; ClusterError if it does not start."""
        if not self._ready.is_set():
            with waiting("ray", _STARTING):
                self._ready.wait()
        if self._error is not None:
            raise self._error
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGTERM)
            if handler is signal.SIG_DFL:
                # As Ray does where it is started in this thread, so that clean-up code runs.
                signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
            elif callable(handler):
                # The command's own, again: Ray's C++ side has put one before it, which aborts the process 3 s later,
                # however far the clean-up is.
                signal.signal(signal.SIGTERM, handler)

    @property
    def stopped(self) -> bool:
        return self._over.is_set()

    def stop(self) -> None:
        """Stop Ray, unless it is stopped already."""
        if not self.stopped:
            self._ready.wait()
            if _shutdown():  # else the thread stays: Ray would end with it
                self._over.set()
                self._thread.join()


_ahead: _Ahead | None = None
_joined: str | None = None
_ending = threading.Event()
"""A process has only one Ray, so these are global."""


@contextmanager
def _lost_ray() -> Iterator[None]:
    """Turn an error of Ray itself, wherever it comes from, into ClusterError; errors of the code that Ray runs pass."""
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"Ray failed ({first_line(error)}); what is done stays done, run the same command again to go on"
        ) from None


def _where(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or _LOCAL


def _check_reachable(where: str) -> None:
    """ClusterError within seconds if the cluster does not answer; Ray itself would wait for minutes."""
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
    """Ray's C++ side writes to file descriptor 2, over the progress line. While Ray runs, send these writes to a log in
    the temporary folder and keep Python's stderr on the terminal. The log stays only if Ray or tamis itself failed."""
    sys.stderr.flush()
    terminal = os.dup(2)
    log = native_log()
    os.dup2(log.fileno(), 2)
    python_stderr = sys.stderr
    # Characters that this terminal cannot show are escaped, as on Python's own stderr.
    ours = os.fdopen(os.dup(terminal), "w", 1, encoding=python_stderr.encoding, errors="backslashreplace")
    sys.stderr = ours
    keep_log = True
    try:
        yield
        keep_log = False
    except TamisError as error:
        keep_log = isinstance(error, ClusterError)
        raise
    except (KeyboardInterrupt, SystemExit):  # stopped from outside
        keep_log = False
        raise
    finally:
        if not keep_log:
            with suppress(FileNotFoundError):
                os.unlink(log.name)
        if sys.stderr is ours:  # else something (a notebook, a test runner) has replaced it
            sys.stderr = python_stderr
        ours.close()
        os.dup2(terminal, 2)
        os.close(terminal)
        log.close()


@contextmanager
def _our_sigterm() -> Iterator[None]:
    """Keep the command's handler: Ray sets one of its own, which prints nothing and has another exit code."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _options(where: str) -> Iterator[dict[str, Any]]:
    """Options of `ray.init` for joining or starting Ray; the files they name exist until the end of the context."""
    # The driver's own environment decides which Python the workers run; Ray need not wrap it in `uv run` again.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The default from Ray 2.56 on; earlier versions print a notice that it will change.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if where != _LOCAL:
        joining: dict[str, Any] = {"runtime_env": {"env_vars": WORKER_ENVIRONMENT}}
        # A Ray client adds no folders, and does not accept these job settings.
        yield joining if where.startswith("ray://") else joining | {"job_config": _no_folder_of_code()}
        return
    with own_ray() as options:
        yield options | {"job_config": _no_folder_of_code()}


def _no_folder_of_code() -> Any:
    """A job configuration that adds no import folders. By default, workers import first from the folder in which the
    driver was started. That may be a folder of data, whose files must not be imported."""
    from ray.job_config import JobConfig

    config = JobConfig()
    config._py_driver_sys_path = _Nothing()
    return config


class _Nothing(list[str]):
    """A list that stays empty: Ray adds the folders to it when it connects."""

    def extend(self, _: Iterable[str]) -> None:
        pass


def _init(where: str, options: Mapping[str, Any]) -> None:
    """Start or join Ray. ClusterError if that fails in any way: Ray may also raise a bare Exception."""
    check_file_limit()
    import ray

    local = where == _LOCAL
    tries = _PATIENCE if local else (0.0,)
    for seconds in tries:
        try:
            # Workers of a Ray that starts here inherit the environment, so Ray need not restart them for it.
            patience = _patient(seconds) if local else nullcontext()
            with _our_sigterm(), environment(WORKER_ENVIRONMENT if local else _JOINING), patience:
                ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR, **options)
            if local:
                _ending.clear()
                threading.Thread(target=_speak_for, args=[options["_temp_dir"]], name="node", daemon=True).start()
            return
        except Exception as error:
            ray.shutdown()
            if local:
                # Ray ends what a failed start left running only with this process; it would block the next try.
                _kill(_processes_of(options["_temp_dir"]))
            if isinstance(error, ValueError) or seconds == tries[-1]:
                raise _not_started(where, error) from None
            words = "Ray has not started; the machine may be busy, it is tried again with more patience"
            say(words, level="warning", stage="ray")


@contextmanager
def _patient(seconds: float) -> Iterator[None]:
    """Let Ray wait this long for its own node to be up; it has no setting for this, and gives up after 30 seconds."""
    from ray._private import services

    get_node = services.get_node

    def get_node_in_time(*arguments: Any) -> Any:
        until = time.monotonic() + seconds
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                if not _node_runs():
                    raise ClusterError(f"its {_NODE} has ended") from None
                time.sleep(_LOOK_SECONDS)

    services.get_node = get_node_in_time
    try:
        yield
    finally:
        services.get_node = get_node


def _node_runs() -> bool:
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if child.name() == _NODE and child.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def _speak_for(folder: str) -> None:
    """Say why the command ends when Ray's node is killed: seconds later, Ray ends this process without a message."""
    while not _ending.wait(_NODE_SECONDS):
        # If all processes of the command were ended at once, this one is ending as well, with its own message.
        if _node_runs() or _ending.wait(_NODE_SECONDS):
            continue
        say(
            f"Ray's {_NODE} on this machine was killed; {shortage('memory may have run out')}. What is done stays "
            "done; run the same command again to go on",
            *("error", "error"),
            exit_code=ClusterError.exit_code,
        )
        last_word(ClusterError.exit_code)
        _end_own_ray(Path(folder).parent)
        os._exit(ClusterError.exit_code)


def _end_own_ray(folder: Path | None) -> None:
    """End the Ray in this folder without a word to it, and remove the folder. None: Ray is not ours, leave it alone."""
    if folder is not None:
        # Stopped processes write nothing into a folder that is being removed; killed at once, some still would.
        processes = _processes_of(str(folder))
        for process in processes:
            with suppress(psutil.Error):
                process.suspend()
        shutil.rmtree(folder, ignore_errors=True)
        _kill(processes)


def _processes_of(folder: str) -> list[psutil.Process]:
    """The processes that this one has started with this folder of Ray's."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(folder in word for word in child.cmdline()):
                found.append(child)
    return found


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def _not_started(where: str, error: Exception) -> ClusterError:
    local = where == _LOCAL
    what = "Ray did not start on this machine" if local else f"no Ray cluster answers at {where}"
    advice = "see `tamis doctor`"
    if not local and "RAY_AUTH_MODE" not in os.environ:
        # Ray joins without its token unless told to use it, and then reports only a failed connection.
        advice = "if it asks for a token, as Ray's clusters do by default, set RAY_AUTH_MODE=token and try again"
    return ClusterError(f"{what} ({first_line(error)}); {advice}")


def _cluster(where: str, began: float) -> Cluster:
    _messages_to_log()
    _quiet_ray_data()
    seconds = time.perf_counter() - began
    return Cluster(where, alive(), seconds)


def _shutdown() -> bool:
    """Whether Ray has ended; if it is still in use, it is left to the end of the process."""
    import ray

    _ending.set()
    if in_use():
        leave_running(partial(_end_own_ray, folder_in_use()))
        return False
    with waiting("ray", "Ray is stopping"):
        ray.shutdown()
    return True


def _messages_to_log() -> None:
    """Ray prints its messages about dead workers on stdout, among the results, and has no switch for it. Our own
    messages say what a person needs to know; Ray's messages go to the log of its C++ side."""
    from ray._private import worker

    def to_log(message: Mapping[str, Any], **_: Any) -> None:
        text = "\n".join(str(line) for line in message.get("lines", ()))
        with suppress(OSError):  # on a full disk, Ray would print a traceback on the terminal
            os.write(2, f"{text}\n".encode("utf-8", "backslashreplace"))

    worker.print_to_stdstream = to_log


def _quiet_ray_data() -> None:
    """Turn off Ray Data's progress bars: our progress line is the only one, also in a job's log."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    # Our own messages report errors: Ray Data would also print tracebacks.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL + 1)
    logging.getLogger("ray").setLevel(logging.ERROR)


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
