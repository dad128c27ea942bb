"""Fixtures for all tests: small chat models made on the spot, and one local Ray cluster that real runs join."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from azurite_server import AzuriteServer, executable
from gcs_server import GcsServer
from moto_server import MotoServer
from object_store import S3
from ray_cluster import kill_family, start_node
from swift_server import SwiftServer, unusable
from tiny_models import save_model

# No test may use the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Every cluster of these tests, and everything that joins one, uses this token; no token is left in the home folder.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
# By default Ray's workers run at low priority; here the other test process would leave them almost no CPU time.
os.environ.setdefault("RAY_worker_niceness", "0")

# By default, a thread of torch that waits for another one keeps its core busy; here that core is wanted elsewhere.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A line is said of what lasts long, and how long anything lasts says how busy the machine is.
os.environ.setdefault("TAMIS_HEARTBEAT_SECONDS", "3600")

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")

_SERVERS = {"_ray_cluster", "swift", "moto", "gcs", "azurite", "hub"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks tests that need neither Ray nor a server as quick. The Makefile names the folders where that is enough.

    Among several processes, the files with long tests come first, so that none of them is alone at the end.
    """
    if hasattr(config, "workerinput"):
        long = {item.path for item in items if item.get_closest_marker("long") is not None}
        items.sort(key=lambda item: item.path not in long)
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if not fixtures & _SERVERS and item.get_closest_marker("long") is None:
            item.add_marker(pytest.mark.quick)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama (4 blocks, width 32) with tokenizer and template; its states distinguish texts."""
    return save_model(tmp_path_factory.mktemp("tiny_model"), blocks=4, width=32)


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like tiny_model, with 6 blocks and width 160: slow enough to be interrupted half way."""
    return save_model(tmp_path_factory.mktemp("slow_model"), blocks=6, width=160)


@pytest.fixture(scope="session")
def ray_address(_ray_cluster: tuple[str, Path]) -> str:
    """Address of a Ray cluster of one node with 2 CPUs, started with the `ray` command and stopped at the end."""
    return _ray_cluster[0]


@pytest.fixture(scope="module")
def driver(ray_address: str) -> Iterator[None]:
    """This process as a driver on that cluster for all tests of a file: what one has started is warm for the next."""
    from tamis.pipeline.cluster.session import ray_session

    with ray_session(ray_address):
        yield


@pytest.fixture
def session(ray_address: str) -> Iterator[None]:
    """This process as a driver on that cluster, anew for each test: its workers end with the test."""
    from tamis.pipeline.cluster.session import ray_session

    with ray_session(ray_address):
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One torch thread: on such small models threads only wait for each other, for minutes on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[Path]:
    """A short path, for the sockets of a Ray that is killed; removed with the files that it left there."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_logs(_ray_cluster: tuple[str, Path]) -> Path:
    """The folder with all logs of this cluster and its workers."""
    return _ray_cluster[1] / "session_latest" / "logs"


@pytest.fixture(scope="session")
def _ray_cluster() -> Iterator[tuple[str, Path]]:
    # A separate folder with a short name: it contains Ray's sockets, whose paths may not exceed 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--port=0", "--num-cpus=2"]
    command += ["--include-dashboard=false", "--dashboard-agent-listen-port=0", "--disable-usage-stats"]
    command += ["--object-store-memory=200000000", f"--temp-dir={folder}"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    found = folder / "ray_current_cluster"  # Ray writes the address there after it has said that it is started
    head = None
    try:
        head = start_node(
            command, folder / "start.log", environment, lambda: found.exists() and found.read_text() != ""
        )
        yield found.read_text().strip(), folder
    finally:
        # Only what was started here: `ray stop` would end every cluster on the machine.
        if head is not None:
            kill_family(head.pid)
            head.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A real S3 server on disk. Its clients need `storage_environment`."""
    folder = tmp_path_factory.mktemp("swift")
    if reason := unusable(folder):
        pytest.skip(reason)
    server = SwiftServer(folder)
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """S3 in memory, with conditional writes; it accepts the credentials of any other store."""
    server = MotoServer(tmp_path_factory.mktemp("moto"))
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsServer]:
    """Google Cloud Storage's protocol; clients use its own `environment`."""
    server = GcsServer(tmp_path_factory.mktemp("gcs"))
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzuriteServer]:
    """Azure Blob Storage, if npm has installed Azurite; clients use its own `environment`."""
    if executable() is None:
        pytest.skip("needs Azurite: npm install azurite, and AZURITE=.../node_modules/.bin/azurite-blob")
    server = AzuriteServer(tmp_path_factory.mktemp("azurite"))
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture
def storage_environment(swift: S3, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment with the clients' credentials for `swift` and `moto`, set while the test runs."""
    for name, value in swift.environment.items():
        monkeypatch.setenv(name, value)
    return swift.environment
