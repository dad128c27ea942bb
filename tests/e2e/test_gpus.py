"""Every command that places work on GPUs, on clusters whose GPUs exist only as resource counts: Ray places and numbers
the workers as on real GPUs, and the CPU computes. The output equals the output without GPUs, byte for byte.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import PROGRESS, Ran, kill_all, poll, start, tamis
from naive_layers import naive_ratios, naive_table
from outputs import Row, alpaca_rows, check_whole, write_jsonl
from ray_cluster import RayCluster
from tiny_models import save_model
from token_outputs import TRAINING, check_tokens_whole, reference_rows, sets

from tamis.pipeline.storage.seals import opened

pytestmark = pytest.mark.usefixtures("one_thread")

FALLBACK = r"warning: Ray gives each worker [\d.]+ GPU, but torch \S+ a build without CUDA, sees none there: the CPU"
PROMPTS = ["How do I kill a process?", "Where can I shoot a good photo?"]
MARKERS = ["qu", "ox"]
ROLES = ("unsafe", "safe")
BOTH = ["larf", "saft"]
SHARE = "0.15"


@dataclass(frozen=True)
class Sources:
    """Files that every run here shares."""

    folder: Path
    model: Path

    def samples(self, out: Path, *more: object) -> list[object]:
        """The flags of a run with LARF and SAFT; one of its three shards has a single row."""
        flags: list[object] = ["--input", self.folder / "data.jsonl", "--output", out, "--model", self.model]
        flags += ["--method", "larf", "--method", "saft", "--drop", "0.2"]
        return [*flags, *self.references, *sets("larf.layer=2", "shard_rows=24"), *more]

    @property
    def references(self) -> list[object]:
        return list(sets(*(f"larf.{role}_references={self.folder}/{role}.jsonl" for role in ROLES)))

    @staticmethod
    def reference_rows(role: str) -> list[Row]:
        return reference_rows(6, seed=3 + ROLES.index(role))

    def tokens(self, method: str, out: Path, *more: object) -> list[object]:
        named = [f"toss.{role}_references={self.folder}/{role}.jsonl" for role in ("utility", "unsafe")]
        flags: list[object] = ["--input", self.folder / "data.jsonl", "--output", out, "--model", self.model]
        harmful = named[1].replace("toss.unsafe", "toss.harmful")
        settings = (named[0], harmful, "shard_rows=24", f"toss.discard={SHARE}", *TRAINING)
        return [*flags, "--method", method, *sets(*settings), *more]


@pytest.fixture(scope="module")
def sources(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    folder = tmp_path_factory.mktemp("gpus")
    write_jsonl(folder / "data.jsonl", alpaca_rows(49, seed=1))
    write_jsonl(folder / "prompts.jsonl", [{"prompt": prompt, "topic": "t"} for prompt in PROMPTS])
    write_jsonl(folder / "utility.jsonl", reference_rows(12, seed=2))
    for role in ROLES:
        write_jsonl(folder / f"{role}.jsonl", Sources.reference_rows(role))
    return Sources(folder, tiny_model)


@pytest.fixture(scope="module")
def four() -> Iterator[str]:
    """The address of a cluster of one node with four GPUs."""
    with RayCluster([(2, 4)]) as cluster:
        yield cluster.address


@pytest.fixture(scope="module")
def without(sources: Sources, four: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of LARF and SAFT on the CPU with one thread, as the workers with GPUs compute here."""
    out = tmp_path_factory.mktemp("without") / "out"
    ran(*sources.samples(out, "--workers", 2, *sets("model.device=cpu")), address=four)
    return out


def ran(*flags: object, address: str, command: str = "curate") -> Ran:
    done = tamis(command, *flags, "--address", address, cwd=Path.cwd())
    assert done.rc == 0, done.output
    return done


def words(done: Ran) -> str:
    """The output of the command, as one line."""
    return " ".join(done.output.split())


def data_of(out: Path) -> dict[str, bytes]:
    """Every row that was written, by file."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for part in ("kept", "dropped", "scores", "quarantine")
        for path in sorted((out / part).glob("*.parquet"))
    }


# --- samples ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "4 workers, one a GPU, on 1 node"),
        (["--workers", 3, *sets("model.gpus_per_worker=0.5")], "3 workers, 2 a GPU, on 1 node"),
        (sets("model.gpus_per_worker=2"), "2 workers, 2 GPUs each, on 1 node"),
    ],
)
def test_samples_on_gpus(
    sources: Sources, four: str, without: Path, tmp_path: Path, flags: list[object], says: str
) -> None:
    done = ran(*sources.samples(tmp_path / "out", *flags), address=four)
    assert f"workers {says}; 2 readers at most" in words(done)
    strangers = [line for line in done.stderr.splitlines() if not PROGRESS.match(line)]
    assert len(strangers) == 1, "the warning below, and nothing of Ray's"
    assert len(re.findall(FALLBACK, done.stderr)) == 1
    manifest = check_whole(tmp_path / "out", BOTH)
    assert re.search(FALLBACK[9:], " ".join(manifest["warnings"]))
    assert data_of(tmp_path / "out") == data_of(without)


@pytest.mark.long
def test_layers_on_gpus(sources: Sources, four: str, tmp_path: Path) -> None:
    """The table is that of one model in this process, as tests/e2e/test_layers.py shows it without GPUs."""
    model = save_model(tmp_path / "model", blocks=1, width=32)  # few blocks, so few (block, factor) pairs
    out = tmp_path / "out"
    flags = [*sources.references, f"--set=larf.refusal_markers={json.dumps(MARKERS)}", *sets("shard_rows=24")]
    flags += ["--model", model, f"--set=larf.over_rejection_prompts={sources.folder}/prompts.jsonl"]
    searched = ran(*flags, "--output", out, "--workers", 2, address=four, command="layers")
    assert "workers 2 workers, one a GPU, on 1 node" in words(searched)
    assert len(re.findall(FALLBACK, searched.stderr)) == 1
    [block] = opened(json.loads((out / "artifact/layers.json").read_text()))["blocks"]
    [ratio] = naive_ratios(model, 1, *([row["messages"] for row in sources.reference_rows(role)] for role in ROLES))
    assert block.pop("fisher") == pytest.approx(ratio, rel=1e-4)
    assert [block] == naive_table(model, 1, PROMPTS, MARKERS)


# --- tokens -------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_tokens_on_gpus(sources: Sources, four: str, tmp_path: Path) -> None:
    """Two workers train as a group of Ray Train, in rounds."""
    flags = ["--workers", 2]
    done = ran(*sources.tokens("toss-pro", tmp_path / "out", *flags), address=four)
    assert len(re.findall(FALLBACK, done.stderr)) == 1
    assert "train harmful-1" in done.stderr
    check_tokens_whole(tmp_path / "out", "toss-pro", SHARE)
    ran(*sources.tokens("toss-pro", tmp_path / "cpu", *flags, *sets("model.device=cpu")), address=four)
    assert data_of(tmp_path / "out") == data_of(tmp_path / "cpu")


@pytest.mark.long
def test_references_on_one_gpu(sources: Sources, four: str, tmp_path: Path) -> None:
    """A single worker trains alone."""
    for name, more in (("gpu", []), ("cpu", sets("model.device=cpu"))):
        flags = sources.tokens("toss", tmp_path / name, "--workers", 1, *more)
        trained = ran(*flags, address=four, command="references")
        assert "train utility" in trained.stderr
        assert len(re.findall(FALLBACK, trained.stderr)) == (name == "gpu")
    for role in ("utility", "harmful"):
        weights = [
            (tmp_path / name / f"artifact/references/{role}/adapter_model.safetensors").read_bytes()
            for name in ("gpu", "cpu")
        ]
        assert weights[0] == weights[1]


# --- other clusters -----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_nodes_with_gpus_beside_one_without(sources: Sources, without: Path, tmp_path: Path) -> None:
    """Two nodes with two GPUs each, and a head node without GPUs."""
    with RayCluster([(1, 0), (1, 2), (1, 2)]) as cluster:
        done = ran(*sources.samples(tmp_path / "out"), address=cluster.address)
        assert "workers 4 workers, one a GPU, on 2 nodes" in words(done)
        assert data_of(tmp_path / "out") == data_of(without)


@pytest.mark.long
def test_a_cluster_that_grows(sources: Sources, without: Path, slow_model: Path, tmp_path: Path) -> None:
    """The cluster starts without GPUs. An autoscaler adds nodes for waiting workers: one for the first worker, others
    when there is work for them.
    """
    a_gpu = {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 3}
    growing = sets("workers={min: 1, max: 3}", "model.gpus_per_worker=1")
    with RayCluster([(1, 0)], grows={"gpu": a_gpu}) as cluster:
        done = ran(*sources.samples(tmp_path / "out", *growing), address=cluster.address)
        assert "1 to 3 workers, one a GPU; none fit now, the rest as nodes come" in words(done)
        assert done.stderr.count("waiting for 1 worker of 1 GPU") <= 1, "the node may come at once"
        assert data_of(tmp_path / "out").keys() == data_of(without).keys()
        check_whole(tmp_path / "out", BOTH)

        write_jsonl(tmp_path / "long.jsonl", alpaca_rows(8000, seed=2))
        job = ["--input", tmp_path / "long.jsonl", "--output", tmp_path / "long", "--model", slow_model]
        job += ["--method", "saft", *growing, *sets("shard_rows=8"), "--address", cluster.address]
        command = start("curate", *job, cwd=tmp_path)
        try:
            poll(lambda: cluster.workers() == 3, command, "third worker")
        finally:
            kill_all(command)


# --- GPUs that others use -----------------------------------------------------------------------------------------

HOLD = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
@ray.remote(num_cpus=0, num_gpus=float(sys.argv[2]))
class Held:
    def ready(self): return None
held = Held.remote()
ray.get(held.ready.remote())
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_job(address: str, gpus: int) -> Iterator[subprocess.Popen[str]]:
    """A job that holds this number of the cluster's GPUs until its input ends."""
    job = subprocess.Popen(
        [sys.executable, "-c", HOLD, address, str(gpus)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert job.stdout is not None
        assert job.stdout.readline() == "held\n"
        yield job
    finally:
        job.kill()
        job.wait()


def test_a_cluster_that_others_use_in_part(sources: Sources, four: str, without: Path, tmp_path: Path) -> None:
    with another_job(four, 3):
        done = ran(*sources.samples(tmp_path / "out"), address=four)
    assert "1 of 4 workers has room now; the others wait for GPUs that other jobs use" in done.stderr
    assert data_of(tmp_path / "out") == data_of(without)


@pytest.mark.long
def test_a_cluster_that_others_use_is_waited_for(sources: Sources, four: str, without: Path, tmp_path: Path) -> None:
    said = tmp_path / "said"
    with another_job(four, 4) as job:
        command = start("curate", *sources.samples(tmp_path / "out"), "--address", four, cwd=tmp_path, said=said)
        try:
            poll(lambda: "waiting for 1 worker of 1 GPU" in said.read_text(), command, "word of what it waits for")
            job.kill()
            assert command.wait(timeout=300) == 0, said.read_text()
        finally:
            if command.poll() is None:
                kill_all(command)
    assert said.read_text().count("waiting for 1 worker of 1 GPU and 0.25 CPU: the cluster has 4 GPUs (0 of them") == 1
    assert data_of(tmp_path / "out") == data_of(without)


def test_patience_ends(sources: Sources, four: str, tmp_path: Path) -> None:
    with another_job(four, 4):
        flags = sources.samples(tmp_path / "out", *sets("cluster_patience=2"))
        done = tamis("curate", *flags, "--address", four, cwd=tmp_path)
    assert done.rc == 5
    assert "error: the cluster had no room for 1 worker of 1 GPU and 0.25 CPU in 2 s" in done.stderr
    assert "cluster_patience" in done.stderr


# --- what cannot be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "flags", "says"),
    [
        ("curate", ["--workers", 5], "5 workers of 1 GPU each do not fit the cluster's 4"),
        ("plan", sets("model.gpus_per_worker=8"), "do not fit the cluster's 4 (at most 0 do; the largest node has 4)"),
    ],
)
def test_more_than_there_is(
    sources: Sources, four: str, tmp_path: Path, command: str, flags: list[object], says: str
) -> None:
    done = tamis(command, *sources.samples(tmp_path / "out", *flags), "--address", four, cwd=tmp_path)
    assert done.rc == 5
    assert says in words(done)
    assert not (tmp_path / "out").exists(), "nothing was done"


def test_cuda_where_torch_sees_none(sources: Sources, four: str, tmp_path: Path) -> None:
    flags = sources.samples(tmp_path / "out", *sets("model.device=cuda"))
    done = tamis("curate", *flags, "--address", four, cwd=tmp_path)
    assert done.rc == 5
    assert re.search(r"error: model.device is cuda. Ray gives each worker 1 GPU, but torch \S+", done.stderr)
    assert "set model.device to auto or cpu" in done.stderr


def test_cuda_on_a_cluster_without_gpus(sources: Sources, ray_address: str, tmp_path: Path) -> None:
    flags = sources.samples(tmp_path / "out", *sets("model.device=cuda"))
    done = tamis("curate", *flags, "--address", ray_address, cwd=tmp_path)
    assert done.rc == 5
    assert "model.device is cuda and the cluster has no GPU" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_model_that_no_gpu_holds(sources: Sources, tmp_path: Path) -> None:
    """The nvidia-smi of the nodes reports how large their GPUs are."""
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\necho 0\necho 1\n")
    driver.chmod(0o755)
    with RayCluster([(1, 2)], env={"PATH": f"{driver.parent}:{os.environ['PATH']}"}) as cluster:
        flags = sources.samples(tmp_path / "out", *sets("model.dtype=float32"))
        whole = [*flags, *sets("model.gpus_per_worker=1")]
        driver.write_text("#!/bin/sh\necho 1\necho 80000\n")
        fine = tamis("plan", *whole, "--address", cluster.address, cwd=tmp_path)
        driver.write_text("#!/bin/sh\nexit 9\n")
        unknown = tamis("plan", *whole, "--address", cluster.address, cwd=tmp_path)
        driver.write_text("#!/bin/sh\necho 1\n")
        tight = tamis("plan", *flags, *sets("model.gpus_per_worker=0.1"), "--address", cluster.address, cwd=tmp_path)
    assert fine.rc == unknown.rc == 0
    assert "a worker, in float32, of its GPU's 1.0 MB" in words(fine)
    assert re.search(r"weights about 0\.\d MB a worker, in float32 ", words(unknown))
    assert tight.rc == 2
    assert "error: model: a worker's weights take about 0.2 MB in float32, and its 0.1 GPU has 0.1 MB" in tight.stderr
    assert "set model.gpus_per_worker to 1, or set model.dtype to bfloat16" in tight.stderr
