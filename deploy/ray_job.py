"""`ray job submit` with the exit code of the command, for schedules: retry 4 and 5, page a person for 2 and 3.

    python ray_job.py --address http://127.0.0.1:8265 --working-dir jobs -- tamis curate --address auto larf.yaml

`ray job submit` itself ends with 1 for every failure, and with 0 for a job that somebody stopped; and after Ctrl-C or
SIGTERM the job goes on. This stops the job, once it has had `--stop-seconds` to leave in order. Needs tamis[cluster].

Exit codes: the command's own; 5 if the cluster lost the job or the job server does not answer; 2 if it refuses the job;
143 if somebody else stopped it; 130 or 143 after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import shlex
import signal
import sys
import time
from types import FrameType

from ray.exceptions import RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

LOOK_SECONDS = 2.0
LOST = 5
REFUSED = 2
STOPPED = 128 + signal.SIGTERM


class Asked:
    """The first signal is noted, and the second ends this script at once, as if there were no handler."""

    def __init__(self) -> None:
        self.number = 0
        self._woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def wait(self, seconds: float) -> None:
        """Sleep, but not through a signal."""
        if select.select([self._woken], [], [], seconds)[0]:
            os.read(self._woken, 64)

    def __call__(self, number: int, _: FrameType | None) -> None:
        self.number = number
        signal.signal(number, signal.SIG_DFL)


def exit_code(status: JobStatus, code: int | None) -> int:
    """Of a job that has ended. code: of its command, None if nobody has seen it end."""
    if status == JobStatus.SUCCEEDED:
        return 0
    if status == JobStatus.STOPPED:
        return STOPPED
    if code is None:
        return LOST
    return 128 - code if code < 0 else code or LOST


def follow(client: JobSubmissionClient, job: str, asked: Asked, patience: float) -> int:
    """Print the job's log until it ends; its exit code. patience: seconds for a job server that does not answer."""
    seen, stopping, answered = 0, False, time.monotonic()
    while True:
        try:
            if asked.number and not stopping:
                _say("the job is asked to stop")
                client.stop_job(job)
                stopping = True
            info: JobDetails = client.get_job_info(job)
            log = client.get_job_logs(job)
        except (OSError, RuntimeError) as error:
            if time.monotonic() - answered > patience:
                _say(f"the job server does not answer ({_first_line(error)})")
                return LOST
            asked.wait(LOOK_SECONDS)
            continue
        answered = time.monotonic()
        print(log[seen:], end="", flush=True)
        seen = len(log)
        if info.status.is_terminal():
            code = exit_code(info.status, info.driver_exit_code)
            if stopping and info.status == JobStatus.STOPPED:
                code = 128 + asked.number
            _say(f"job {job}: {info.status.value.lower()}, exit code {code}")
            return code
        asked.wait(LOOK_SECONDS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="of the job server, http://HOST:8265; else RAY_API_SERVER_ADDRESS")
    parser.add_argument("--working-dir", help="folder that the command runs in, on the cluster; Ray copies it")
    parser.add_argument("--stop-seconds", type=int, default=60, help="for the command to leave in order (60)")
    parser.add_argument("--patience", type=float, default=300, help="seconds for a server that does not answer (300)")
    parser.add_argument("command", nargs="+", help="after --; on the cluster, and with whole paths")
    told = parser.parse_args()

    # Ray notes down a job's variables in its logs: no credentials among these.
    runtime = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(told.stop_seconds)}}
    if told.working_dir is not None:
        runtime["working_dir"] = told.working_dir
    logging.getLogger("ray").setLevel(logging.ERROR)
    asked = Asked()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, asked)
    try:
        client = JobSubmissionClient(told.address)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        _say(f"no job server ({_first_line(error)})")
        return REFUSED if isinstance(error, RayError) else LOST
    try:
        job = client.submit_job(entrypoint=shlex.join(told.command), runtime_env=runtime)
    except OSError as error:
        _say(f"the job server does not answer ({_first_line(error)})")
        return LOST
    except (RuntimeError, ValueError, RayError) as error:
        _say(f"the job is refused ({_first_line(error)})")
        return REFUSED
    _say(f"job {job}: submitted")
    return follow(client, job, asked, told.patience)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _say(line: str) -> None:
    print(f"ray_job: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
