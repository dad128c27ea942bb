"""`tamis curate` from and to object stores: real servers on loopback, and one that sometimes fails."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import Ran, tamis
from fault_proxy import FaultProxy
from faults import TRANSIENT, Faults
from object_store import S3
from outputs import alpaca_rows, check_whole, merged, pair, sentence, write_jsonl

pytestmark = pytest.mark.long

METHODS = ["larf"]
ROWS = 24
OPTIONAL = ("gs", "abfs")
STORES = ("s3", "moto", *OPTIONAL)


@dataclass(frozen=True)
class Store:
    """A bucket and what its clients need: options in the job, credentials in the environment."""

    url: str
    environment: dict[str, str]
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Curated:
    """A run from the bucket into the bucket. copy: its output, on the local disk. logs: the folder where Ray and its
    workers write, in which nothing should remain.
    """

    store: Store
    arguments: list[object]
    environment: dict[str, str]
    first: Ran
    copy: Path
    logs: Path


@pytest.fixture(scope="module", params=STORES)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """For s3, a store that fails on every tenth request, and at least once in every way."""
    if request.param == "s3":
        s3: S3 = request.getfixturevalue("swift")
        with FaultProxy(s3.endpoint, Faults(seed=6, rate=0.1, kinds=TRANSIENT)) as proxy:
            yield Store(s3.make_bucket("curated"), s3.environment, {"endpoint_url": proxy.endpoint})
            assert set(proxy.injected) >= {*TRANSIENT[:2]}, proxy.injected
    elif request.param in OPTIONAL and not os.environ.get("TAMIS_TEST_ALL_STORES"):
        pytest.skip("optional, half a minute each: set TAMIS_TEST_ALL_STORES=1")
    else:
        server = request.getfixturevalue({"moto": "moto", "gs": "gcs", "abfs": "azurite"}[request.param])
        options = {"endpoint_url": server.endpoint} if isinstance(server, S3) else {}
        yield Store(server.make_bucket("curated"), server.environment, options)


@pytest.fixture(scope="module")
def curated(store: Store, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Curated]:
    folder = tmp_path_factory.mktemp("curated")
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as ray_folder:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        filesystem, bucket = fsspec.url_to_fs(store.url, **store.options)
        for path in write_inputs(folder / "given"):
            filesystem.pipe_file(f"{bucket}/given/{path.relative_to(folder / 'given')}", path.read_bytes())
        for path in tiny_model.iterdir():
            filesystem.pipe_file(f"{bucket}/given/model/{path.name}", path.read_bytes())
        arguments = arguments_for(f"{store.url}/given", f"{store.url}/given/model", f"{store.url}/out")
        arguments += [f"--set=storage_options.{name}={value}" for name, value in store.options.items()]
        environment = store.environment | {"RAY_TMPDIR": ray_folder, "TMPDIR": ray_folder}
        environment["TAMIS_CACHE"] = str(folder / "cache")
        first = tamis(*arguments, cwd=folder, env=environment)
        filesystem.invalidate_cache()
        fetch(filesystem, f"{bucket}/out", folder / "copy")
        yield Curated(store, arguments, environment, first, folder / "copy", Path(ray_folder))


def arguments_for(given: object, model: object, output: object) -> list[object]:
    arguments: list[object] = ["curate", "--input", f"{given}/corpus", "--model", model, "--output", output]
    arguments += ["--method", "larf", "--set", "larf.layer=3", "--set", "shard_rows=4"]
    return arguments + [f"--set=larf.{role}_references={given}/{role}.jsonl" for role in ("unsafe", "safe")]


@pytest.fixture(scope="module")
def local(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the same job on the same machine, with all files on its disk."""
    folder = tmp_path_factory.mktemp("local")
    write_inputs(folder / "given")
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as ray_folder:
        environment = {"RAY_TMPDIR": ray_folder, "TMPDIR": ray_folder}
        ran = tamis(*arguments_for(folder / "given", tiny_model, folder / "out"), cwd=folder, env=environment)
    assert ran.rc == 0, ran.output
    return folder / "out"


def contents(output: Path, part: str) -> list[bytes]:
    """The files of one folder of an output, in the order of the corpus. Their names contain the input's identity."""
    return [path.read_bytes() for path in sorted((output / part).iterdir())]


def write_inputs(folder: Path) -> list[Path]:
    """Half of the corpus as JSON lines and half as Parquet, and the references."""
    chance = random.Random(3)
    rows = alpaca_rows(ROWS, seed=4)
    files = [write_jsonl(folder / "corpus" / "a.jsonl", rows[: ROWS // 2]), folder / "corpus" / "b.parquet"]
    pq.write_table(pa.Table.from_pylist(rows[ROWS // 2 :]), files[-1])
    for role in ("unsafe", "safe"):
        turns = [{"messages": pair(sentence(chance), sentence(chance))} for _ in range(3)]
        files.append(write_jsonl(folder / f"{role}.jsonl", turns))
    return files


def fetch(filesystem: fsspec.AbstractFileSystem, folder: str, to: Path) -> None:
    """Downloads every object below `folder`; the manifest comes last, as in a run."""
    names = [name.split(f"{folder}/", 1)[1] for name in filesystem.find(folder)]
    for name in sorted(names, key=lambda name: name == "manifest.json"):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(10):  # not all drivers retry by themselves
            try:
                (to / name).write_bytes(filesystem.cat_file(f"{folder}/{name}"))
                break
            except OSError:
                if attempt == 9:
                    raise


def test_it_ends_well_and_whole(curated: Curated) -> None:
    assert curated.first.rc == 0, curated.first.output
    check_whole(curated.copy, METHODS)
    assert sorted(row["output"] for _, row in merged(curated.copy)) == sorted(
        row["output"] for row in alpaca_rows(ROWS, seed=4)
    )


def test_the_bytes_are_those_of_a_local_run(curated: Curated, local: Path) -> None:
    for part in ("kept", "dropped", "scores"):
        assert contents(curated.copy, part) == contents(local, part), part


def test_no_credential_is_said_or_written(curated: Curated) -> None:
    secrets = [value for name, value in curated.store.environment.items() if "SECRET" in name or "CONNECTION" in name]
    files = [path for top in (curated.copy, curated.logs) for path in top.rglob("*") if path.is_file()]
    assert any(path.suffix == ".html" for path in files)
    written = b"".join(path.read_bytes() for path in files)
    assert secrets or curated.store.url.startswith("gs:")  # gs: its emulator has no secrets
    for secret in secrets:
        assert secret not in curated.first.output
        assert secret.encode() not in written


def test_the_same_command_again_does_nothing(curated: Curated) -> None:
    again = tamis(*curated.arguments, cwd=curated.copy.parent, env=curated.environment)
    assert again.rc == 0, again.output
    assert "complete already; nothing was done" in again.stdout


def test_status_and_verify_look_into_the_bucket(curated: Curated) -> None:
    options = [f"--storage-options={name}={value}" for name, value in curated.store.options.items()]
    for command, said in (("status", "complete since"), ("verify", "")):
        ran = tamis(command, f"{curated.store.url}/out", *options, cwd=curated.copy.parent, env=curated.environment)
        assert ran.rc == 0, ran.output
        assert said in ran.stdout


def test_the_output_of_a_wrong_secret_is_one_line(swift: S3, tiny_model: Path, tmp_path: Path) -> None:
    environment = swift.environment | {"AWS_SECRET_ACCESS_KEY": "not-the-secret-of-this-store"}
    corpus = write_jsonl(tmp_path / "corpus.jsonl", alpaca_rows(3, seed=1))
    flags: list[object] = ["--input", corpus, "--model", tiny_model, "--output", "s3://refused/out", "--method", "saft"]
    flags += ["--set", f"storage_options.endpoint_url={swift.endpoint}"]
    ran = tamis("curate", *flags, cwd=tmp_path, env=environment)
    assert ran.rc == 2, ran.output
    assert len(ran.stderr.splitlines()) == 1
    assert "not-the-secret-of-this-store" not in ran.output
