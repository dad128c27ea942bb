"""Ray for one command: joined, started, or started ahead; and what must not be imported before that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tamis.pipeline.cluster.session import ray_session
from tamis.pipeline.errors import ClusterError


def run(program: str) -> str:
    """What `program` prints. Ray is one for a process, so each has one of its own."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_cluster_that_does_not_answer_is_named_at_once() -> None:
    with pytest.raises(ClusterError, match=r"no Ray cluster answers at 127\.0\.0\.1:1 "), ray_session("127.0.0.1:1"):
        pass


@pytest.mark.parametrize(
    ("slow", "says"),
    [
        (1, "started after 2 tries"),
        (3, "Ray did not start on this machine (The current node timed out during startup.); see `tamis doctor`"),
    ],
)
def test_a_ray_that_takes_too_long_is_tried_again_and_then_named(slow: int, says: str) -> None:
    """Ray gives up on its own node after 30 seconds with a bare Exception, which stands here for so slow a machine."""
    printed = run(
        f"""
import os
os.environ.pop("RAY_ADDRESS", None)
import ray
from tamis.pipeline.errors import ClusterError
from tamis.pipeline.cluster.session import ray_session

tries, init = [], ray.init

def slow(**options):
    tries.append(1)
    if len(tries) <= {slow}:
        raise Exception("The current node timed out during startup.")
    return init(**options)

ray.init = slow
try:
    with ray_session(None):
        print("started after", len(tries), "tries")
except ClusterError as error:
    print(error)
"""
    )
    assert printed == f"{says}\n"


def test_a_node_that_is_slow_is_waited_for_and_one_that_has_ended_is_not() -> None:
    """By the side of Ray that asks for it: it gives up by itself after 30 seconds."""
    printed = run(
        """
import time
from ray._private import services
from tamis.pipeline.cluster import session as ray_start
from tamis.pipeline.errors import ClusterError

asked = []

def get_node(address, node):
    asked.append(node)
    if len(asked) % 3:
        raise RuntimeError("no such node yet")
    return {"node": node}

services.get_node = get_node
ray_start._LOOK_SECONDS = 0.001
ray_start._node_runs = lambda: True
with ray_start._patient(60.0):
    print(services.get_node("127.0.0.1:1", "a"), len(asked))
with ray_start._patient(0.0):
    try:
        services.get_node("127.0.0.1:1", "b")
    except RuntimeError as error:
        print(error)
ray_start._node_runs = lambda: False
with ray_start._patient(60.0):
    try:
        services.get_node("127.0.0.1:1", "c")
    except ClusterError as error:
        print(error)
print(services.get_node is get_node)
"""
    )
    assert printed.splitlines() == ["{'node': 'a'} 3", "no such node yet", "its raylet has ended", "True"]


def test_a_session_takes_the_ray_that_was_started_ahead() -> None:
    printed = run(
        """
import os, signal
os.environ.pop("RAY_ADDRESS", None)
import psutil, ray
from tamis.pipeline.cluster.session import ray_ahead, ray_session

with ray_ahead(None):
    with ray_session(None) as cluster:
        raylets = [child for child in psutil.Process().children(recursive=True) if child.name() == "raylet"]
        print(len(raylets), cluster.nodes, ray.get(ray.remote(lambda: 6 * 7).remote()))
        print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
    print(ray.is_initialized(), len(psutil.wait_procs(raylets, timeout=30)[1]))
    with ray_session(None) as cluster:  # one after another, as a session that was not started ahead
        print(ray.is_initialized())
print(ray.is_initialized())
"""
    )
    assert printed.split() == ["1", "1", "42", "False", "False", "0", "True", "False"]


def test_the_clean_up_of_a_stopped_command_has_more_than_three_seconds() -> None:
    printed = run(
        """
import os, signal, time
os.environ.pop("RAY_ADDRESS", None)
from tamis.pipeline.cluster.session import ray_ahead, ray_session

left = []
# Ray's own handler, where it is left before this one, sets an alarm that aborts the process.
signal.signal(signal.SIGTERM, lambda *_: left.append(signal.alarm(0)))
with ray_ahead(None), ray_session(None):
    os.kill(os.getpid(), signal.SIGTERM)
    deadline = time.monotonic() + 60
    while not left and time.monotonic() < deadline:
        time.sleep(0.01)
print(left)
"""
    )
    assert printed.split() == ["[0]"]


def test_nobody_uses_the_ray_that_starts_here_without_its_token() -> None:
    printed = run(
        """
import os, subprocess, sys
os.environ.pop("RAY_ADDRESS", None)
os.environ.pop("RAY_AUTH_MODE")  # as it is for users; without it the token, too, would be left in the home folder
import ray
from tamis.pipeline.cluster.session import ray_session

JOIN = "import sys; from ray._raylet import GcsClient; GcsClient(sys.argv[1]); print('let in')"

def join(**environment):
    told = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | environment
    command = [sys.executable, "-c", JOIN, address]
    done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=100)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1].split()[0]

with ray_session(None):
    address = ray.get_runtime_context().gcs_address
    print(join(), join(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64), sep="\\n")
    print(join(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=os.environ["RAY_AUTH_TOKEN"]))
"""
    )
    assert printed.splitlines() == ["ray.exceptions.AuthenticationError:"] * 2 + ["let in"]


def test_a_ray_that_nobody_asked_for_is_stopped() -> None:
    printed = run(
        """
import os
os.environ.pop("RAY_ADDRESS", None)
import psutil, ray
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.cluster.session import ray_ahead

try:
    with ray_ahead(None):
        raise ConfigError("the model cannot be used")
except ConfigError as error:
    print(error)
left = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=30)[1]  # older Rays wait for all but one
print(ray.is_initialized(), [child.name() for child in left])
"""
    )
    assert printed == "the model cannot be used\nFalse []\n"


@pytest.mark.parametrize("arguments", ["None, needed=False", "'127.0.0.1:1'", "None"])
def test_nothing_is_started_ahead_where_it_is_not_needed(arguments: str) -> None:
    printed = run(
        f"""
import os, sys
os.environ["RAY_ADDRESS"] = "127.0.0.1:1" if {arguments == "None"} else ""
from tamis.pipeline.cluster.session import ray_ahead

with ray_ahead({arguments}):
    print("ray" in sys.modules)
"""
    )
    assert printed == "False\n"


def test_a_mistake_in_a_job_or_its_input_is_answered_before_anything_large_is_imported(tmp_path: Path) -> None:
    """By the command itself; torch and Ray take seconds."""
    printed = run(
        f"""
import contextlib, io, sys
from tamis.pipeline.cli import main

sys.argv = ["tamis", "curate", "--input", "{tmp_path}/none.jsonl", "--model", "m", "--method", "larf"]
sys.argv += ["--output", "{tmp_path}/out"]
said = io.StringIO()
with contextlib.suppress(SystemExit), contextlib.redirect_stderr(said):
    main()
print("no such file" in said.getvalue(), {{"torch", "ray", "transformers", "datasets"}} & set(sys.modules))
"""
    )
    assert printed == "True set()\n"


def test_a_log_without_room_brings_no_traceback() -> None:
    printed = run(
        """
import errno, logging, os, sys
from ray._private import worker
from tamis.pipeline.cluster.session import _messages_to_log
from tamis.pipeline.terminal.streams import prepare

class Full:
    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")

def full(number, data):
    Full().write(data)

prepare()
_messages_to_log()
os.write, sys.stderr = full, sys.stdout
worker.print_to_stdstream({"lines": ["a worker died"]})
logger = logging.getLogger("ray")
logger.handlers = [logging.StreamHandler(Full())]
logger.error("a worker died")
"""
    )
    assert printed == ""


def test_no_ray_starts_but_the_one_that_was_asked_for() -> None:
    printed = run(
        """
import os
os.environ.pop("RAY_ADDRESS", None)
from tamis.pipeline.cli import _quiet_libraries
_quiet_libraries()
import ray
try:
    ray.cluster_resources()
except Exception:
    print(ray.is_initialized())
"""
    )
    assert printed == "False\n"
