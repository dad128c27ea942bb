"""What `--address auto` joins, and what it says of it. A process named raylet stands for the node of a cluster."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tamis.pipeline.cluster.found import _choose, found, starters
from tamis.pipeline.errors import ClusterError

OTHER = "daemon"
"""A user that every machine has."""

FAKE = "127.0.0.77:{port}"
Node = Callable[[int, bool], str]


@pytest.fixture
def node() -> Iterator[Node]:
    """Starts what looks like a node of a cluster at that port, by the other user if told; gives the address."""
    started: list[subprocess.Popen[bytes]] = []

    def start(port: int, other: bool) -> str:
        address = FAKE.format(port=port)
        command = ["/opt/ray/raylet/raylet", "-c", "read line", "raylet", f"--gcs-address={address}"]
        user = OTHER if other else None
        started.append(subprocess.Popen(command, executable="/bin/sh", stdin=subprocess.PIPE, user=user))
        return address

    yield start
    for process in started:
        process.communicate()


root = pytest.mark.skipif(os.getuid() != 0, reason="only root may start a process as another user")


@root
def test_a_cluster_of_another_user_is_told_from_ones_own(node: Node) -> None:
    assert starters(node(1, True)) == [pwd.getpwnam(OTHER).pw_name]
    assert starters(node(2, False)) == [psutil.Process().username()]
    assert starters(FAKE.format(port=3)) == []


def test_an_address_is_taken_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert (found("10.0.0.1:6379"), found("local"), capsys.readouterr().err) == ("10.0.0.1:6379", "local", "")


def test_of_several_clusters_the_one_that_ray_start_noted_down_is_taken() -> None:
    assert _choose({"a:1", "b:2"}, "b:2") == "b:2"
    assert _choose({"a:1"}, "gone:3") == "a:1"


def test_without_such_a_note_nothing_is_guessed(node: Node) -> None:
    addresses = {node(4, False), node(5, False)}
    with pytest.raises(
        ClusterError, match=r"several .*127\.0\.0\.77:4, started by you; .*:5.* --address 127\.0\.0\.77:4$"
    ):
        _choose(addresses, None)
    with pytest.raises(ClusterError, match="no Ray cluster runs on this machine"):
        _choose([], None)


@root
def test_it_says_whose_cluster_is_joined_before_it_is(node: Node, tmp_path: Path) -> None:
    """By Ray's own search. Other clusters may run on this machine meanwhile, so this one is also noted down."""
    address = node(6, True)
    noted = tmp_path / "ray" / "ray_current_cluster"
    noted.parent.mkdir()
    noted.write_text(address)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    program = "from tamis.pipeline.cluster.found import found; print(found('auto'))"
    told = environment | {"RAY_TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=told, timeout=120)
    assert done.stdout == f"{address}\n", done.stderr
    assert done.stderr == f"auto: joining the Ray cluster at {address}, started by another user, {OTHER}\n"


def test_a_command_joins_what_it_has_named(ray_address: str, tmp_path: Path) -> None:
    noted = tmp_path / "ray" / "ray_current_cluster"
    noted.parent.mkdir()
    noted.write_text(ray_address)
    program = """
import ray
from tamis.pipeline.cluster.session import ray_session
with ray_session(None) as cluster:
    print(ray.get_runtime_context().gcs_address, cluster.nodes)
"""
    told = os.environ | {"RAY_TMPDIR": str(tmp_path), "RAY_ADDRESS": "auto"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=told, timeout=120)
    assert done.stdout == f"{ray_address} 1\n", done.stderr
    assert done.stderr == f"auto: joining the Ray cluster at {ray_address}, started by you\n"


def test_what_the_environment_names_is_said_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray itself prefers RAY_ADDRESS to `auto`: a job of `ray job submit` has it."""
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert found("auto") == "10.0.0.2:6379"
    assert capsys.readouterr().err == "auto: joining the Ray cluster at 10.0.0.2:6379, as RAY_ADDRESS says\n"


@pytest.mark.parametrize("where", ["auto", "http://127.0.0.1:8265", "https://user:secret@10.0.0.1"])
def test_the_address_of_a_job_server_is_refused_and_not_repeated(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray job` reads RAY_ADDRESS, too, and wants such a one there."""
    monkeypatch.setenv("RAY_ADDRESS", "http://user:secret@127.0.0.1:8265")
    with pytest.raises(ClusterError, match=r"ray job submit .*HOST:6379") as raised:
        found(where)
    assert "secret" not in str(raised.value)
