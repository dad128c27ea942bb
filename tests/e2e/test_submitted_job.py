"""A job by `ray job submit` on two nodes, as docs/cluster.md and deploy/ tell it: its own ports and GPUs for each node,
input, model and output in a bucket, credentials in the environment of the nodes, a token on everything.

The nodes stand in two network namespaces where the machine allows that, else on two addresses of its loopback.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command import TAMIS, Ran, tamis
from networks import Networks, why_not
from object_store import S3
from outputs import alpaca_rows
from ray_cluster import RayCluster

pytestmark = [pytest.mark.long, pytest.mark.cluster]

ROWS, SHARD_ROWS = 120, 3
SHARDS = ROWS // SHARD_ROWS
BUCKET = "two-nodes"
SECRET = "xK3-secret-of-the-nodes-9QwZ"
"""In the environment of the nodes, where it belongs."""
DEADLINE = 900.0
RAY_JOB = Path(__file__).parents[2] / "deploy" / "ray_job.py"
RAY = Path(sys.executable).with_name("ray")
PARTS = ("kept", "dropped", "quarantine", "scores")


@dataclass(frozen=True)
class Site:
    """The cluster, the bucket, and a folder with the job file."""

    cluster: RayCluster
    s3: S3
    folder: Path

    def command(self, *words: object) -> list[str]:
        """On the head, where the job server has its loopback."""
        return [*self.cluster.inside(0), *map(str, words)]

    def curate(self, out: str) -> list[str]:
        return [str(TAMIS), "curate", "--address", "auto", "job.yaml", "--output", f"s3://{BUCKET}/{out}"]

    def submit(self, *job: object) -> list[str]:
        """By Ray's own command."""
        flags = ["--address", self.cluster.job_server, "--working-dir", self.folder]
        return self.command(RAY, "job", "submit", *flags, *job)

    def ray_job(self, *job: object) -> list[str]:
        """By the script that ends as the command does."""
        flags = ["--address", self.cluster.job_server, "--working-dir", self.folder]
        return self.command(sys.executable, RAY_JOB, *flags, "--", *job)

    def names(self, out: str) -> list[str]:
        """Of the objects of an output that lie on the store now."""
        pages = self.s3.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{out}/")
        return [each["Key"].removeprefix(f"{out}/") for page in pages for each in page.get("Contents", ())]

    def captured(self, out: str) -> int:
        """Receipts of shards that the model has read."""
        return sum(name.startswith("_work/receipts/capture/") for name in self.names(out))

    def rows(self, out: str) -> dict[str, bytes]:
        """Every row that was written, by file."""
        read = self.s3.client().get_object
        names = [name for name in self.names(out) if name.split("/")[0] in PARTS]
        return {name: read(Bucket=BUCKET, Key=f"{out}/{name}")["Body"].read() for name in names}

    def verify(self, out: str) -> Ran:
        where = f"s3://{BUCKET}/{out}"
        option = f"--storage-options=endpoint_url={self.s3.endpoint}"
        return tamis("verify", where, option, cwd=self.folder, env=self.s3.environment)


@pytest.fixture(scope="module")
def site(moto: S3, slow_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("jobs")
    client = moto.client()
    client.create_bucket(Bucket=BUCKET)
    # Long rows: the model must not be done before a stop or a kill takes effect.
    rows = [{**row, "output": f"{row['output']} " * 10} for row in alpaca_rows(ROWS, seed=1)]
    data = "".join(f"{json.dumps(row)}\n" for row in rows)
    client.put_object(Bucket=BUCKET, Key="in/data.jsonl", Body=data.encode())
    for path in slow_model.iterdir():
        client.put_object(Bucket=BUCKET, Key=f"model/{path.name}", Body=path.read_bytes())
    job = {
        "input": f"s3://{BUCKET}/in/*.jsonl",
        "output": f"s3://{BUCKET}/out",
        "model": {"name": f"s3://{BUCKET}/model", "gpus_per_worker": 2},
        "method": "saft",
        "selection": {"drop": 0.2},
        "shard_rows": SHARD_ROWS,
        "storage_options": dict(moto.storage_options),
    }
    (folder / "job.yaml").write_text(json.dumps(job))
    with ExitStack() as stack:
        networks = None
        if reason := why_not():
            print(f"two nodes on addresses of one loopback: {reason}")
        else:
            print("two nodes in network namespaces of their own")
            networks = stack.enter_context(Networks([int(moto.endpoint.rpartition(":")[2])]))
        env = moto.environment | {"AWS_SECRET_ACCESS_KEY": SECRET, "TAMIS_CACHE": str(folder / "cache")}
        nodes = RayCluster([(1, 2), (1, 2)], env=env, networks=networks, job_server=True)
        cluster = stack.enter_context(nodes)
        yield Site(cluster, moto, folder)


def ran(command: Sequence[str]) -> Ran:
    done = subprocess.run(
        command, capture_output=True, text=True, env=_environment(), stdin=subprocess.DEVNULL, timeout=DEADLINE
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def begun(command: Sequence[str], said: Path) -> subprocess.Popen[bytes]:
    with said.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=_environment(), stdin=subprocess.DEVNULL)


def until(condition: Callable[[], Any], process: subprocess.Popen[bytes], said: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.05)


def _environment() -> dict[str, str]:
    """Of a person at the head: the token, and no credentials of the store."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_ADDRESS"))}


@pytest.fixture(scope="module")
def calm(site: Site) -> Ran:
    """An undisturbed run. Its job sets a variable that tamis sets for its workers, too."""
    told = {"env_vars": {"TOKENIZERS_PARALLELISM": "true", "NOTE": "of-this-job-alone"}}
    named = ["--submission-id", "calm", "--runtime-env-json", json.dumps(told)]
    done = ran(site.submit(*named, "--", *site.curate("calm")))
    assert done.rc == 0, done.output
    return done


def test_a_job_joins_its_cluster_and_its_log_is_readable(site: Site, calm: Ran) -> None:
    [log] = [path.read_text() for path in site.cluster.logs.rglob("job-driver-calm.log")]
    assert set(log.splitlines()) <= set(calm.stdout.splitlines()), "it can be read from afar"
    assert f"auto: joining the Ray cluster at {site.cluster.address}, as RAY_ADDRESS says\n" in log
    assert "2 workers, 2 GPUs each, on 2 nodes" in log
    assert not re.search(r"[\r\x1b]|it/s|\|#|Traceback|of-this-job-alone", log), "no bars, nothing that moves"
    assert re.search(rf"^kept +{ROWS * 4 // 5} +80\.0%", log, re.MULTILINE)
    assert site.verify("calm").rc == 0


def test_a_job_that_was_stopped_goes_on_and_outlives_a_node(site: Site, calm: Ran, tmp_path: Path) -> None:
    """Stopped at its third receipt, it leaves in order. Submitted again, it loses a node of two four receipts later."""
    said = tmp_path / "first"
    job = begun(site.ray_job(*site.curate("out")), said)
    until(lambda: site.captured("out") >= 3, job, said)
    job.send_signal(signal.SIGTERM)
    assert job.wait(DEADLINE) == 143, said.read_text()
    assert "stopping (SIGTERM); what is done stays done" in said.read_text()
    left = site.names("out")
    assert "_work/driver.json" not in left, "whoever leaves in order gives its lease back"
    done = site.captured("out")
    assert 3 <= done < SHARDS - 8, "it was stopped too late to be resumed"

    said = tmp_path / "second"
    job = begun(site.submit("--", *site.curate("out")), said)
    until(lambda: site.captured("out") >= done + 4 and site.cluster.workers(1) == 1, job, said)
    site.cluster.kill(1)
    assert done + 4 <= site.captured("out") < SHARDS, "the node died too late to matter"
    assert job.wait(DEADLINE) == 0, said.read_text()
    assert "(begun, will go on)" in said.read_text()
    assert site.verify("out").rc == 0
    rows = site.rows("calm")
    assert {name.split("/")[0] for name in rows} >= {"kept", "dropped", "scores"}
    assert site.rows("out") == rows


def test_a_schedule_is_told_the_exit_code_of_the_job(site: Site) -> None:
    done = ran(site.ray_job(*site.curate("refused"), "--input", f"s3://{BUCKET}/nothing/*.jsonl"))
    assert done.rc == 3, done.output
    assert "error: " in done.stdout


def test_no_credential_of_the_nodes_is_written(site: Site, calm: Ran) -> None:
    """Into no log of Ray or of its workers, on no node."""
    files = [path for path in site.cluster.logs.rglob("*") if path.is_file()]
    assert any("job-driver-" in path.name for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
