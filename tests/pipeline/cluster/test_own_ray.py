"""The Ray that tamis starts: what of it others on the machine can reach, and what is left of it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray_cluster import kill_family

from tamis.pipeline.cluster import own_ray
from tamis.pipeline.errors import ClusterError

STRANGER = 54_321
"""A user that no machine has."""

SESSION = """
import json, os, sys
import ray
from tamis.pipeline.cluster.session import ray_session

def here():
    import os, sys
    return {"path": sys.path, "nice": os.nice(0), "waits": os.environ.get("OMP_WAIT_POLICY")}

with ray_session(None):
    node = ray._private.worker._global_node
    folder = getattr(node, "temp_dir", None) or node._temp_dir  # as older Rays have it
    said = {"gcs": node.gcs_address, "folder": folder, "token": os.environ["RAY_AUTH_TOKEN"]}
    print(json.dumps(said | ray.get(ray.remote(here).remote())), flush=True)
    sys.stdin.read()
"""

ATTACK = """
import os, sys
gcs, raylet_folder, stranger = sys.argv[1], sys.argv[2], int(sys.argv[3])
import ray
from ray._raylet import GcsClient

def attempt(what, how):
    try:
        how()
        print(what, "done")
    except BaseException as error:
        print(what, type(error).__name__)

# Without the token nobody may run one, whoever he is.
attempt("task", lambda: (ray.init(gcs, log_to_driver=False), ray.get(ray.remote(os.getpid).remote())))
os.setgroups([]); os.setgid(stranger); os.setuid(stranger)
os.environ["HOME"] = "/"

def replace():
    with open(os.path.join(raylet_folder, "planted"), "w"):
        pass

attempt("list", lambda: os.listdir(raylet_folder))
attempt("remove", lambda: os.rename(raylet_folder, raylet_folder + "-gone"))
attempt("replace", replace)
attempt("ask", lambda: GcsClient(gcs))
"""


@dataclass(frozen=True)
class Live:
    """A session that goes on meanwhile. said: what it knows of itself."""

    process: subprocess.Popen[str]
    said: dict[str, Any]
    home: Path

    @property
    def folder(self) -> Path:
        return Path(self.said["folder"])


def begun(home: Path, **environment: str) -> Live:
    told = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OMP_"))}
    process = subprocess.Popen(
        [sys.executable, "-c", SESSION],
        env=told | {"HOME": str(home)} | environment,
        cwd=home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "it did not start"
    return Live(process, json.loads(line), home)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    home = tmp_path_factory.mktemp("a home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("0" * 64)
    found = begun(home, TMPDIR=str(home))
    yield found
    kill_family(found.process.pid)


def test_it_listens_on_loopback_only(live: Live) -> None:
    family = [psutil.Process(live.process.pid), *psutil.Process(live.process.pid).children(recursive=True)]
    addresses = {
        connection.laddr.ip
        for member in family
        for connection in (getattr(member, "net_connections", None) or member.connections)(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert len(family) > 4


def test_it_has_no_job_server_and_no_exporter_where_ray_brings_them(live: Live) -> None:
    from ray._private.utils import get_dashboard_dependency_error

    assert get_dashboard_dependency_error() is None  # ray[default] is installed, and changes nothing here
    children = psutil.Process(live.process.pid).children(recursive=True)
    [agent] = [child for child in children if any("DashboardAgent" in word for word in child.cmdline())]
    ports = [each for each in (getattr(agent, "net_connections", None) or agent.connections)(kind="inet")
             if each.status == psutil.CONN_LISTEN]  # fmt: skip
    assert len(ports) == 1  # for Ray's own processes


def test_its_token_is_its_own(live: Live) -> None:
    assert len(live.said["token"]) == 64
    assert live.said["token"] not in {"0" * 64, os.environ.get("RAY_AUTH_TOKEN")}
    assert [path.read_text() for path in (live.home / ".ray").iterdir()] == ["0" * 64], "it leaves none"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be another user")
def test_another_user_gets_nowhere(live: Live) -> None:
    command = [sys.executable, "-c", ATTACK, live.said["gcs"], str(live.folder), str(STRANGER)]
    told = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OMP_"))}
    told |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    told |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # else Ray asks at the outer address, where nobody is
    done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=100)
    assert done.stdout.splitlines() == [
        "task ConnectionError",
        "list PermissionError",
        "remove PermissionError",
        "replace PermissionError",
        "ask AuthenticationError",
    ], done.stderr
    assert live.process.poll() is None


def test_its_folder_is_closed_though_ray_opens_what_is_in_it(live: Live) -> None:
    assert stat.S_IMODE(live.folder.parent.stat().st_mode) == 0o700
    assert live.folder.parent.parent != live.home, "Ray's sockets can have no path with a space in it"


def test_its_workers_are_not_behind_everything_else(live: Live) -> None:
    assert live.said["nice"] == os.nice(0)
    assert live.said["waits"] == "PASSIVE"


def test_its_workers_import_nothing_from_the_working_folder(live: Live) -> None:
    assert str(live.home) not in live.said["path"]
    assert "" not in live.said["path"]


def test_a_killed_run_is_swept_and_a_live_one_is_not(live: Live, tmp_path: Path) -> None:
    assert (live.folder / "session_latest").exists()
    own_ray.sweep(live.folder.parent.parent)
    assert (live.folder / "session_latest").exists()
    killed = begun(tmp_path)
    kill_family(killed.process.pid)
    assert killed.folder.exists()
    own_ray.sweep(killed.folder.parent.parent)
    assert not killed.folder.parent.exists()


def test_the_users_own_settings_win(tmp_path: Path) -> None:
    found = begun(tmp_path, RAY_worker_niceness="3", OMP_WAIT_POLICY="ACTIVE", RAY_AUTH_MODE="disabled")
    assert found.said["nice"] == os.nice(0) + 3
    assert found.said["waits"] == "ACTIVE"
    assert len(found.said["token"]) == 64, "nobody else has any business with this Ray"
    found.process.send_signal(signal.SIGTERM)
    found.process.wait(60)
    assert not found.folder.parent.exists(), "the folder is removed at the end"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path


def test_only_what_is_dead_ours_and_a_folder_is_swept(base: Path) -> None:
    dead, half, other = base / "tamis.dead", base / "tamis.half", base / "elsewhere"
    for folder in (dead, half, other):
        folder.mkdir()
        (folder / "lock").touch()
    (half / "lock").unlink()
    (base / "tamis.link").symlink_to(other)
    (base / "tamis-ray-empty.log").touch()
    (base / "tamis-ray-said.log").write_text("of a failure, for a person")
    own_ray.sweep(base)
    assert sorted(path.name for path in base.iterdir()) == ["elsewhere", "tamis-ray-said.log", "tamis.link"]
    assert (other / "lock").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be another user")
def test_what_another_user_has_planted_is_let_be(base: Path) -> None:
    planted = base / "tamis.planted"
    planted.mkdir()
    (planted / "lock").touch()
    os.chown(planted, STRANGER, STRANGER)
    own_ray.sweep(base)
    assert planted.exists()


def test_the_folder_has_a_short_path_without_spaces_wherever_the_temporary_one_is(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    for place in (base / "a space", base / ("long" * 30), base / "missing"):
        monkeypatch.setattr(own_ray.tempfile, "tempdir", str(place))
        if place.name != "missing":
            place.mkdir()
        assert own_ray._base() in {Path("/tmp"), Path("/var/tmp")}


def test_a_folder_that_the_user_has_named_is_taken_or_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(base / "no such"))
    with pytest.raises(ClusterError, match=r"Ray finds no folder for its files: .* set RAY_TMPDIR"):
        own_ray._base()
    monkeypatch.setenv("RAY_TMPDIR", "/dev/shm")
    assert own_ray._base() == Path("/dev/shm")
    monkeypatch.setattr(own_ray, "LEAST_BYTES", 1 << 60)
    with pytest.raises(ClusterError, match=r"/dev/shm is full \(\d+ MB are free\)"):
        own_ray._base()
