"""Pools that fit their cluster, machine by machine, with room for tasks beside the workers."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tamis.pipeline.cluster.machines import Cluster, Machine, on_gpus, room_beside_a_task, room_for
from tamis.pipeline.cluster.pools import Pool, at_most, describe, pool_of, refit, room, size_pool
from tamis.pipeline.errors import ClusterError
from tamis.pipeline.job.job_file import LayersJob, load_layers_job
from tamis.pipeline.job.sections import WorkerRange


def alike(nodes: int, cpus: float, gpus: float = 0.0) -> Cluster:
    """So many nodes, among which the CPUs and GPUs are shared out evenly."""
    return Cluster("local", (Machine(cpus / nodes, gpus / nodes),) * nodes)


@pytest.mark.parametrize(
    ("nodes", "cpus", "workers", "expected"),
    [
        (1, 1, None, Pool(1, 0.5, 0.0, 1, 0.25)),
        (1, 2, None, Pool(1, 1.0, 0.0, 2, 0.5)),
        (1, 16, None, Pool(1, 1.0, 0.0, 16, 0.5)),
        (1, 16, 4, Pool(4, 1.0, 0.0, 4, 0.5, begin=4)),
        (1, 2, 4, Pool(4, 0.25, 0.0, 1, 0.5, begin=4)),
        (10, 80, None, Pool(10, 1.0, 0.0, 8, 0.5, begin=10)),
        (3, 24, 6, Pool(6, 1.0, 0.0, 4, 0.5, begin=6)),
        (3, 24, 2, Pool(2, 1.0, 0.0, 12, 0.5, begin=2)),
    ],
)
def test_pools_of_cpus(nodes: int, cpus: float, workers: int | None, expected: Pool) -> None:
    assert size_pool(alike(nodes, cpus), workers, "auto", 1.0) == expected
    assert size_pool(alike(nodes, cpus), workers, "cpu", 1.0) == expected


def test_a_gpu_cluster_may_run_on_its_cpus() -> None:
    assert size_pool(alike(1, 16, 8), None, "cpu", 1.0) == Pool(1, 1.0, 0.0, 16, 0.5)


@pytest.mark.parametrize(
    ("machines", "share", "workers", "count", "cpus_per_worker"),
    [
        ([(16, 8)], 1.0, None, 8, 1.0),
        ([(8, 8)], 1.0, None, 8, 0.5),
        ([(1, 1)], 1.0, None, 1, 0.5),
        ([(32, 4)] * 2, 0.5, None, 16, 1.0),
        ([(32, 4)] * 2, 2.0, None, 4, 1.0),
        ([(32, 3), (32, 4)], 2.0, None, 3, 1.0),
        ([(32, 3)] * 2, 2.0, None, 2, 1.0),  # not three: a worker's GPUs are of one node
        ([(64, 3)], 0.2, None, 15, 1.0),  # 1 / 0.2 is 5, whatever floats say
        ([(64, 3)], 0.1, None, 30, 1.0),
        ([(64, 3)], 0.6, None, 3, 1.0),  # not 5: a share lies on one GPU
        ([(64, 2)], 0.4, None, 4, 1.0),
        ([(64, 8)], 1.0, 3, 3, 1.0),
        ([(16, 0), (2, 4)], 1.0, None, 4, 0.25),  # the CPUs beside the GPUs are few, however many others there are
        ([(0, 0), (3, 8)], 1.0, None, 8, 0.1875),
        ([(4, 0), (0, 2)], 1.0, None, 2, 0.0),
    ],
)
def test_pools_of_gpus(
    machines: list[tuple[float, float]], share: float, workers: int | None, count: int, cpus_per_worker: float
) -> None:
    cluster = Cluster("local", tuple(Machine(*machine) for machine in machines))
    pool = size_pool(cluster, workers, "auto", share)
    assert (pool.workers, pool.gpus_per_worker, pool.cpus_per_worker) == (count, share, cpus_per_worker)
    assert (pool.least, pool.begin) == (1, count)
    assert room_for(cluster.machines, pool.cpus_per_worker, share) >= count
    assert pool == size_pool(cluster, workers, "cuda", share)


@pytest.mark.parametrize(
    ("found", "workers", "device", "share", "says"),
    [
        (alike(1, 8, 2), 3, "auto", 1.0, "3 workers of 1 GPU each do not fit the cluster's 2"),
        (alike(1, 8, 2), 5, "cuda", 0.5, "5 workers of 0.5 GPU each do not fit the cluster's 2 .at most 4"),
        (alike(1, 8, 1), None, "auto", 2.0, "do not fit the cluster's 1"),
        (alike(2, 8, 2), None, "auto", 2.0, r"do not fit the cluster's 2 .*the largest node has 1\)"),
        (alike(1, 8), None, "cuda", 1.0, "no GPU"),
        (alike(1, 0), None, "auto", 1.0, "no CPU"),
        (alike(1, 0, 1), None, "auto", 1.0, "no CPU"),
        (Cluster("local", ()), 3, "auto", 1.0, "no CPU"),
    ],
)
def test_a_pool_that_does_not_fit_is_refused(
    found: Cluster, workers: int | None, device: str, share: float, says: str
) -> None:
    with pytest.raises(ClusterError, match=says) as caught:
        size_pool(found, workers, device, share)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("found", "workers", "device", "expects", "sizes"),
    [
        # (gpus_per_worker, least, begin, workers)
        (alike(1, 2), WorkerRange(min=1, max=4), "cuda", True, (1.0, 1, 1, 4)),
        (alike(1, 2), WorkerRange(min=1, max=4), "auto", True, (1.0, 1, 1, 4)),
        (alike(1, 2), WorkerRange(min=1, max=4), "auto", False, (0.0, 1, 1, 4)),  # nobody has spoken of GPUs
        (alike(1, 2), WorkerRange(min=1, max=4), "cpu", True, (0.0, 1, 1, 4)),
        (alike(2, 8, 4), WorkerRange(min=1, max=2), "auto", False, (1.0, 1, 2, 2)),
        (alike(2, 8, 4), WorkerRange(min=6, max=8), "auto", False, (1.0, 6, 6, 8)),
        (alike(1, 0, 0), WorkerRange(min=1, max=8), "cuda", True, (1.0, 1, 1, 8)),
        (alike(3, 12), WorkerRange(min=1, max=8), "auto", False, (0.0, 1, 3, 8)),
    ],
)
def test_pools_of_clusters_that_grow(
    found: Cluster, workers: WorkerRange, device: str, expects: bool, sizes: tuple[float, int, int, int]
) -> None:
    pool = size_pool(found, workers, device, 1.0, expects_gpus=expects)
    assert (pool.gpus_per_worker, pool.least, pool.begin, pool.workers) == sizes


@pytest.mark.parametrize(
    ("settings", "share"),
    [([], 0.0), (["model.gpus_per_worker=1"], 1.0), (["model.gpus_per_worker=2"], 2.0), (["model.device=cuda"], 1.0)],
)
def test_a_job_says_that_gpus_are_to_come(settings: list[str], share: float) -> None:
    flags = {"output": "o", "model": "m", "workers": {"min": 1, "max": 2}}
    assert pool_of(alike(1, 2), load_layers_job(None, flags, settings)).gpus_per_worker == share


@given(cpus=st.integers(1, 64), nodes=st.integers(1, 9))
def test_workers_of_a_range_stand_one_on_a_node(cpus: int, nodes: int) -> None:
    pool = size_pool(alike(nodes, nodes * cpus), WorkerRange(min=1, max=20), "cpu", 1.0)
    assert room_for([Machine(cpus)], pool.cpus_per_worker, 0.0) == 1
    assert pool.cpus_per_worker + pool.task_cpus <= cpus
    assert pool.threads == cpus


@given(
    nodes=st.integers(1, 50),
    cpus_a_node=st.integers(1, 64),
    gpus_a_node=st.integers(0, 16),
    workers=st.none() | st.integers(1, 200),
    share=st.sampled_from([0.1, 0.25, 0.3, 0.5, 1.0, 2.0]),
)
@example(1, 1, 0, None, 1.0)
@example(1, 1, 1, None, 0.1)
def test_a_task_always_finds_room_beside_the_workers(
    nodes: int, cpus_a_node: int, gpus_a_node: int, workers: int | None, share: float
) -> None:
    found = alike(nodes, nodes * cpus_a_node, nodes * gpus_a_node)
    try:
        pool = size_pool(found, workers, "auto", share)
    except ClusterError:
        assert gpus_a_node
        return
    assert pool.workers >= 1
    assert pool.task_cpus > 0
    assert pool.workers * pool.cpus_per_worker + pool.task_cpus <= found.cpus * (1 + 1e-9)
    assert pool.threads is not None
    assert pool.threads >= 1
    if gpus_a_node:
        # No GPU holds more than itself, and no worker has GPUs of two nodes.
        a_node = gpus_a_node * math.floor(1 / share + 1e-9) if share <= 1 else gpus_a_node // share
        assert pool.workers <= nodes * a_node
        assert pool.cpus_per_worker * min(a_node, pool.workers) + pool.task_cpus <= cpus_a_node * (1 + 1e-9)
    else:
        assert workers is not None or pool.threads == cpus_a_node


@given(gpus=st.integers(0, 32), tenths=st.integers(1, 10))
def test_a_share_lies_on_one_gpu(gpus: int, tenths: int) -> None:
    assert on_gpus(gpus, tenths / 10) == gpus * (10 // tenths)


@pytest.mark.parametrize(
    ("cluster", "workers", "share", "says"),
    [
        (alike(2, 8, 4), None, 1.0, "4 workers, one a GPU, on 2 nodes"),
        (alike(2, 8, 4), None, 0.5, "8 workers, 2 a GPU, on 2 nodes"),
        (alike(2, 8, 4), None, 2.0, "2 workers, 2 GPUs each, on 2 nodes"),
        (alike(2, 8, 4), 1, 1.0, "1 worker, one a GPU, on 1 node"),
        (Cluster("x", (Machine(8), Machine(4, 2))), None, 1.0, "2 workers, one a GPU, on 1 node"),
        (alike(1, 2), None, 1.0, "1 worker on the CPUs of 1 node"),
        (alike(3, 6), None, 1.0, "3 workers on the CPUs of 3 nodes"),
        (
            alike(1, 2),
            WorkerRange(min=1, max=8),
            1.0,
            "1 to 8 workers, one a GPU; none fit now, the rest as nodes come",
        ),
        (
            alike(1, 8, 1),
            WorkerRange(min=1, max=4),
            1.0,
            "1 to 4 workers, one a GPU, on 1 node; 1 fits now, the rest as nodes come",
        ),
    ],
)
def test_where_the_workers_will_be(
    cluster: Cluster, workers: int | WorkerRange | None, share: float, says: str
) -> None:
    pool = size_pool(cluster, workers, "auto", share, expects_gpus=isinstance(workers, WorkerRange))
    assert describe(pool, cluster.machines) == says


def blocked(machines: list[Machine], counts: tuple[int, ...], cpus: float, task_cpus: float) -> bool:
    """Whether no machine has room for a task beside so many workers each."""
    return all(m.cpus - count * cpus < task_cpus - 1e-9 for m, count in zip(machines, counts, strict=True))


@given(
    machines=st.lists(st.builds(Machine, st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]), st.sampled_from([0.0, 1.0, 2.0])),
                      min_size=1, max_size=3),
    cpus=st.sampled_from([0.25, 0.5, 0.51, 1.0]),
    gpus=st.sampled_from([0.0, 0.0, 0.5, 1.0]),
    task_cpus=st.sampled_from([0.25, 0.5, 1.0]),
)  # fmt: skip
@example(machines=[Machine(1.0)], cpus=0.5, gpus=0.0, task_cpus=0.5)  # two workers fit, and a task fits beside one
def test_room_beside_a_task_is_that_of_the_worst_placement(
    machines: list[Machine], cpus: float, gpus: float, task_cpus: float
) -> None:
    most = [room_for([machine], cpus, gpus) for machine in machines]
    placements = list(itertools.product(*(range(count + 1) for count in most)))
    if not any(machine.cpus for machine in machines):
        placements = []
    bad = [sum(counts) for counts in placements if blocked(machines, counts, cpus, task_cpus)]
    assert room_beside_a_task(machines, cpus, gpus, task_cpus) == (max(min(bad) - 1, 0) if bad else sum(most))


@given(
    machines=st.lists(st.builds(Machine, st.sampled_from([0.5, 1.0, 2.0, 4.0, 16.0]), st.sampled_from([0.0, 1.0, 4.0])),
                      min_size=1, max_size=4),
    workers=st.one_of(st.none(), st.integers(1, 9), st.just(WorkerRange(min=1, max=4))),
    share=st.sampled_from([0.5, 1.0, 2.0]),
    device=st.sampled_from(["auto", "cpu"]),
)  # fmt: skip
def test_a_task_has_room_beside_the_workers_that_begin(
    machines: list[Machine], workers: int | WorkerRange | None, share: float, device: str
) -> None:
    """Else they would wait for tasks that wait for them."""
    try:
        pool = size_pool(Cluster("local", tuple(machines)), workers, device, share)
    except ClusterError:
        return
    there = min(pool.begin, room_for(machines, pool.cpus_per_worker, pool.gpus_per_worker))
    assert room_beside_a_task(machines, pool.cpus_per_worker, pool.gpus_per_worker, pool.task_cpus) >= there


@pytest.mark.parametrize(("work", "expected"), [(1, (1, 1, 1)), (3, (3, 2, 3)), (9, (4, 2, 4))])
def test_no_more_workers_than_work(work: int, expected: tuple[int, int, int]) -> None:
    pool = at_most(Pool(4, 1.0, 1.0, 1, 1.0, least=2, begin=4), work)
    assert (pool.workers, pool.least, pool.begin) == expected


def job(workers: str) -> LayersJob:
    return load_layers_job(None, {"output": "o", "model": "m"}, [f"workers={workers}"])


@pytest.mark.usefixtures("session")
def test_what_is_left_of_a_cluster() -> None:
    """Of one that had two nodes and four CPUs, a node of two CPUs is left."""
    before = Pool(2, 1.0, 0.0, 2, 0.5, begin=2)
    assert room(Pool(8, 1.0, 0.0, 1, 1.0)) == 2
    assert room(Pool(1, 0.5, 1.0, None, 0.5)) == 0
    after = refit(before, job("2"))
    assert room(after) == after.workers == 2
    assert after.threads == before.threads, "a forward pass rounds by its threads"
    assert refit(before, job("null")).workers == 1


@pytest.mark.usefixtures("session")
def test_what_is_left_of_a_range() -> None:
    """No more begin than there is room for, however many must find room at first."""
    after = refit(Pool(4, 1.01, 0.0, 2, 0.4, least=2, begin=2), job("{min: 2, max: 4}"))
    assert (after.least, after.begin, after.workers) == (1, 1, 4)


@pytest.mark.usefixtures("session")
def test_workers_whose_gpus_are_all_gone_wait_for_others() -> None:
    before = Pool(4, 0.5, 1.0, 1, 0.5, begin=4)
    after = refit(before, job("null"))
    assert (after.workers, after.gpus_per_worker, after.least, after.begin) == (4, 1.0, 1, 1)
