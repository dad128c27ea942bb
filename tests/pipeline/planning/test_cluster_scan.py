"""A scan by the tasks of a real Ray finds what the scan in one process finds, and fails as it does."""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import ray
from command import PROGRESS
from object_store import S3

from tamis.pipeline import curate
from tamis.pipeline.cluster.machines import Cluster, Machine, alive
from tamis.pipeline.cluster.session import ray_session
from tamis.pipeline.errors import ClusterError, ConfigError, InputError, StorageError
from tamis.pipeline.inputs import shards as sources
from tamis.pipeline.inputs.files import SourceFile, resolve
from tamis.pipeline.inputs.line_ranges import Range
from tamis.pipeline.inputs.shards import Scanned, make_shards
from tamis.pipeline.job.job_file import Job, load_job
from tamis.pipeline.planning import cluster_scan, plan_cache, scan_progress
from tamis.pipeline.planning.cluster_scan import scan_on_cluster
from tamis.pipeline.planning.plan import find_inputs, list_inputs
from tamis.pipeline.planning.plan_cache import KnownRows
from tamis.pipeline.planning.scanning import scan_files
from tamis.pipeline.run.paths import RUN
from tamis.pipeline.storage.store import Store

ROWS = [{"prompt": f"question {i}", "response": "word " * (i % 17)} for i in range(300)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
RANGE = 1000
"""Bytes: LINES are then some 40 ranges."""


def job_over(data: str | Path, output: str | Path = "out", **changes: Any) -> Job:
    flags = {"input": str(data), "output": str(output), "model": "m", "method": "saft", "shard_rows": 20}
    return load_job(None, {**flags, **changes}, [])


def plain(found: Sequence[Scanned]) -> list[Any]:
    """Problems are compared by what they say."""
    return [(s.file, s.header, s.spans, s.schema, s.head, [(p.code, str(p)) for p in s.head_problems]) for s in found]


def write_corpus(folder: Path) -> list[str]:
    """A file of each kind; their names."""
    table = pa.Table.from_pylist(ROWS)
    files: dict[str, bytes] = {
        "blank.jsonl": b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n", 50).replace(b"\n", b"\n \t\n\n", 100),
        "long.jsonl": b"\n".join([b'{"prompt": "%s", "response": ""}' % (b"x" * 5000), LINES.rstrip(b"\n")] * 3),
        "broken.jsonl": b"nonsense\n[1]\n" + LINES,
        "plain.jsonl": LINES,
        "small.jsonl": LINES[:500],
        "packed.jsonl.gz": gzip.compress(LINES),
        "packed.jsonl.zst": pa.compress(LINES, "zstd", asbytes=True),
        "array.json": json.dumps(ROWS).encode(),
        "table.csv": b"prompt,response\n" + b'"a\nb",c\n' * 150 + b"only one\n",
        "table.tsv": b"prompt\tresponse\n" + b"a\tb\n" * 150,
        "array.jsonl": json.dumps(ROWS, indent=1).encode(),
        "under.json": json.dumps({"version": 1, "data": ROWS}).encode(),
        "semicolons.csv": b"prompt;response\n" + b"a, b;c\n" * 150,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    pq.write_table(table, folder / "table.parquet")
    feather.write_feather(table, str(folder / "table.arrow"))
    return [*files, "table.parquet", "table.arrow"]


@pytest.fixture(scope="module")
def session(ray_address: str) -> Iterator[None]:
    """This process as a driver, once for all these tests: their workers have then started."""
    module = sys.modules[__name__]
    ray.cloudpickle.register_pickle_by_value(module)  # workers cannot import a test module
    with ray_session(ray_address):
        yield
    ray.cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    write_corpus(data)
    return data


# --- what it finds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("range_bytes", [100, RANGE, 1 << 20])
def test_it_finds_what_one_process_finds(session: None, corpus: Path, range_bytes: int) -> None:
    job = job_over(corpus)
    files = resolve(job.input.path, "auto", {})
    found = scan_on_cluster(files, job, range_bytes=range_bytes)
    assert plain(found) == plain(scan_files(files, job))
    assert len(found) == 15


def test_it_finds_the_same_on_an_object_store(
    session: None, swift: S3, storage_environment: Mapping[str, str], corpus: Path
) -> None:
    bucket = swift.make_bucket("cluster-scan")
    client = swift.client()
    for path in corpus.iterdir():
        client.put_object(Bucket="cluster-scan", Key=f"data/{path.name}", Body=path.read_bytes())
    options = {**swift.storage_options, "key": swift.access_key, "secret": swift.secret_key}
    job = job_over(f"{bucket}/data", storage_options=swift.storage_options).model_copy(
        update={"storage_options": options}  # the workers of this Ray were started without the credentials
    )
    files = resolve(job.input.path, "auto", job.storage_options)
    assert plain(scan_on_cluster(files, job, range_bytes=RANGE)) == plain(scan_files(files, job))


def test_a_command_scans_what_is_worth_it_on_its_cluster(
    session: None, ray_address: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_over(corpus, tmp_path / "out")
    files, here = list_inputs(job).files, find_inputs(job)
    assert not cluster_scan.worth_it(files)
    monkeypatch.setattr(cluster_scan, "_WORTH_FILES", 1)
    monkeypatch.setattr(curate, "scan_files", None)
    assert plain(curate._scan(files, job, {}, Cluster(ray_address, alive()))) == plain(here)


def test_a_cluster_without_cpus_scans_nothing(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_over(corpus, tmp_path / "out")
    monkeypatch.setattr(cluster_scan, "_WORTH_FILES", 1)
    monkeypatch.setattr(curate, "scan_on_cluster", None)
    for cluster in (None, Cluster("x", ()), Cluster("x", (Machine(0.0, 4.0),))):
        assert plain(curate._scan(list_inputs(job).files, job, {}, cluster)) == plain(find_inputs(job))


def test_no_files_are_no_work(session: None, tmp_path: Path) -> None:
    assert scan_on_cluster([], job_over(tmp_path)) == []


def test_many_small_files(session: None, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in range(300):
        (data / f"{number:03d}.jsonl").write_bytes(LINES[: 200 + 10 * number])
    job = job_over(data)
    files = resolve(job.input.path, "auto", {})
    assert plain(scan_on_cluster(files, job)) == plain(scan_files(files, job))


def test_it_tells_every_byte_once(
    session: None, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scan_progress, "SHOWN_FILES", 1)
    monkeypatch.setattr(scan_progress, "_MB", 1)
    job = job_over(corpus)
    files = resolve(job.input.path, "auto", {})
    scan_on_cluster(files, job, range_bytes=RANGE)
    [line] = capsys.readouterr().err.splitlines()
    size = f"{sum(file.bytes for file in files):,}"
    assert PROGRESS.match(line)
    assert line.startswith(f"scan     {size} / {size} MB 100%")


# --- what was found before ----------------------------------------------------------------------------------------


def test_what_was_found_before_is_looked_at_only(
    session: None, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_over(corpus, tmp_path / "out")
    files = resolve(job.input.path, "auto", {})
    first = scan_files(files, job)
    store = Store(str(tmp_path / "out"))
    store.write_facts(RUN, {})
    plan_cache.keep(store, job, [shard for scanned in first for shard in make_shards(scanned, "corpus", {}, 0)])
    known = plan_cache.load(job)
    assert len(known) == 13
    # What is remembered is taken, so that a span that is no more than remembered is seen in the result.
    plainly = next(file for file in files if file.name == "plain.jsonl")
    known[plainly] = KnownRows((), known[plainly].spans[:3])
    found = {scanned.file.name: scanned for scanned in scan_on_cluster(files, job, known, RANGE)}
    assert found["plain.jsonl"].spans == known[plainly].spans
    assert plain([found[s.file.name] for s in first if s.file != plainly]) == plain(
        [s for s in first if s.file != plainly]
    )


def test_a_file_that_has_changed_is_scanned_again(session: None, corpus: Path) -> None:
    job = job_over(corpus)
    files = resolve(job.input.path, "auto", {})
    known = {s.file: KnownRows(s.header, s.spans) for s in scan_files(files, job) if s.file.name != "table.parquet"}
    changed = corpus / "plain.jsonl"
    changed.write_bytes(LINES[: len(LINES) // 2])
    again = [file for file in files if file.name in {"plain.jsonl", "long.jsonl"}]
    assert plain(scan_on_cluster(again, job, known, RANGE)) == plain(scan_files(again, job, known))


@pytest.mark.parametrize("change", [LINES[:4000], LINES * 2, LINES.replace(b"\n", b" ")])
def test_a_large_file_that_changes_after_it_was_listed(session: None, tmp_path: Path, change: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    job = job_over(path)
    files = resolve(job.input.path, "auto", {})
    path.write_bytes(change)
    os.utime(path, ns=(1, 1))
    assert plain(scan_on_cluster(files, job, range_bytes=RANGE)) == plain(scan_files(files, job))


# --- errors -------------------------------------------------------------------------------------------------------


def break_all(folder: Path) -> None:
    """Every file that is broken as a whole in its own way, and good ones between."""
    for name, data in {
        "cut.jsonl.gz": gzip.compress(LINES)[:-30],
        "none.jsonl.gz": LINES,
        "blank.jsonl": b" \n" * 3000,
        "open.json": b'[{"a": 1}, {"a": 2}',
        "empty.json": b" [ ] ",
        "twice.csv": b"a,a\n1,2\n",
        "header.csv": b"a,b\n",
        "quote.csv": b'a,b\n1,"2\n',
        "cut.parquet": b"PAR1 and no more",
        "cut.arrow": b"ARROW1",
        "good.jsonl": LINES,
    }.items():
        (folder / name).write_bytes(data)


def failure(scan: Callable[[], Any]) -> tuple[type[BaseException], str, Any]:
    with pytest.raises(Exception) as caught:
        scan()
    return caught.type, str(caught.value), getattr(caught.value, "problems", None)


def test_every_broken_file_is_listed_as_in_one_process(session: None, tmp_path: Path) -> None:
    break_all(tmp_path)
    gone = tmp_path / "gone.jsonl"
    gone.write_bytes(LINES)
    job = job_over(tmp_path, "/nowhere/out")
    files = resolve(job.input.path, "auto", {})
    gone.unlink()
    kind, message, problems = failure(lambda: scan_on_cluster(files, job, range_bytes=RANGE))
    assert (kind, message, problems) == failure(lambda: scan_files(files, job))
    assert kind is InputError
    without_rows = {"blank.jsonl", "empty.json", "header.csv"}
    assert len(problems) == len(files) - len({"good.jsonl"} | without_rows)


@pytest.mark.parametrize("range_bytes", [RANGE, 1 << 20])
def test_a_storage_that_cannot_be_opened_is_the_same_error(session: None, tmp_path: Path, range_bytes: int) -> None:
    url = "nonsense://bucket/a.jsonl"
    files = [SourceFile(url, "a.jsonl", "jsonl", None, 10 * RANGE, "")]
    job = job_over(tmp_path)
    expected = failure(lambda: scan_files(files, job))
    assert failure(lambda: scan_on_cluster(files, job, range_bytes=range_bytes)) == expected
    assert expected[0] is ConfigError


def _refused(part: Any, *rest: Any) -> Any:
    raise StorageError("s3://bucket: the storage did not answer")


@pytest.mark.parametrize(("name", "range_bytes"), [("lines_of", RANGE), ("_look_at", RANGE), ("_look_over", 1 << 20)])
def test_an_outage_of_the_storage_is_no_fault_of_a_file(
    name: str, range_bytes: int, session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    job = job_over(path)
    monkeypatch.setattr(cluster_scan, name, _refused)
    with pytest.raises(StorageError, match=r"^s3://bucket: the storage did not answer$"):
        scan_on_cluster(resolve(job.input.path, "auto", {}), job, range_bytes=range_bytes)


# --- workers that die or hang -------------------------------------------------------------------------------------

_look_over, _look_at, _lines_of = cluster_scan._look_over, cluster_scan._look_at, cluster_scan.lines_of


def _first_time(path: str) -> bool:
    try:
        Path(f"{path}.seen").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _look_over_dying(group: Sequence[Any], *rest: Any) -> Any:
    if _first_time(group[0].url):
        os._exit(1)
    return _look_over(group, *rest)


def _look_at_dying(group: Sequence[Any], *rest: Any) -> Any:
    if _first_time(group[0][0].url):
        os._exit(1)
    return _look_at(group, *rest)


def _lines_of_dying(part: Range, *rest: Any) -> Any:
    if part.number == 2 and _first_time(part.file.url):
        os._exit(1)
    return _lines_of(part, *rest)


def _look_over_dead(group: Sequence[Any], *rest: Any) -> Any:
    os._exit(1)


def _lines_of_hanging(part: Range, *rest: Any) -> Any:
    if part.number == 2 and _first_time(part.file.url):
        time.sleep(600)
    return _lines_of(part, *rest)


@pytest.mark.parametrize(
    ("name", "function", "range_bytes"),
    [
        ("_look_over", _look_over_dying, 1 << 20),
        ("lines_of", _lines_of_dying, RANGE),
        ("_look_at", _look_at_dying, RANGE),
    ],
)
def test_what_a_dead_worker_had_is_scanned_by_another(
    name: str,
    function: Callable[..., Any],
    range_bytes: int,
    session: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    job = job_over(path)
    files = resolve(job.input.path, "auto", {})
    monkeypatch.setattr(cluster_scan, name, function)
    assert plain(scan_on_cluster(files, job, range_bytes=range_bytes)) == plain(scan_files(files, job))
    assert Path(f"{path}.seen").exists()


@pytest.mark.long
def test_a_file_that_kills_every_worker_is_an_error(
    session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    job = job_over(path)
    monkeypatch.setattr(cluster_scan, "_look_over", _look_over_dead)
    with pytest.raises(ClusterError, match="Ray lost a task for good"):
        scan_on_cluster(resolve(job.input.path, "auto", {}), job)


@pytest.mark.long
def test_a_range_that_hangs_is_read_again(session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    job = job_over(path, worker_timeout=15.0)  # long enough for a worker to start on a busy machine
    files = resolve(job.input.path, "auto", {})
    monkeypatch.setattr(cluster_scan, "lines_of", _lines_of_hanging)
    assert plain(scan_on_cluster(files, job, range_bytes=RANGE)) == plain(scan_files(files, job))


# --- when, and in what pieces -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("costs", "cpus", "groups"),
    [
        ([], 2, []),
        ([5], 2, [[0]]),
        ([10] * 8, 2, [[place] for place in range(8)]),
        ([10, 30, 10, 10, 20], 1, [[1], [4], [0, 2], [3]]),
    ],
)
def test_files_are_grouped_by_what_they_cost(costs: list[int], cpus: int, groups: list[list[int]]) -> None:
    assert cluster_scan._grouped(costs, cpus) == groups


def test_small_files_keep_every_cpu_busy_and_no_group_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = cluster_scan._grouped([1 << 20] * 50_000, 8)
    assert sorted(place for group in groups for place in group) == list(range(50_000))
    assert max(map(len, groups)) <= cluster_scan.GROUP_BYTES >> 20
    assert len(cluster_scan._grouped([1 << 20] * 64, 8)) == 32
    assert sources.SHARD_BYTES <= cluster_scan.GROUP_BYTES


def test_a_cluster_is_worth_it_for_much_that_is_not_known() -> None:
    large = SourceFile("a.jsonl", "a.jsonl", "jsonl", None, 10**9, "")
    assert cluster_scan.worth_it([large])
    assert not cluster_scan.worth_it([large], {large: KnownRows((), ())})
    assert not cluster_scan.worth_it([replace(large, bytes=10**8)])
    assert not cluster_scan.worth_it([replace(large, format="parquet")])  # whose footer says it all
    assert cluster_scan.worth_it([replace(large, format="parquet", name=str(i)) for i in range(1000)])
