"""Waiting for room, and noticing that it is gone."""

from __future__ import annotations

import signal
import time

import pytest
import ray

from tamis.pipeline.cluster import pools
from tamis.pipeline.cluster import waiting as room
from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.cluster.waiting import GRACE_SECONDS, Places, wait_for_room
from tamis.pipeline.errors import ClusterError


def pool(workers: int, cpus: float, least: int = 1) -> Pool:
    return Pool(workers, cpus, 0.0, 1, 0.1, least=least, begin=workers)


@pytest.mark.usefixtures("session")
def test_where_all_have_room_nothing_is_said() -> None:
    said: list[str] = []
    free = int(ray.available_resources()["CPU"])
    assert wait_for_room(pool(free, 1.0), 60.0, said.append) == free
    assert said == []


@pytest.mark.usefixtures("session")
def test_those_that_have_room_begin() -> None:
    said: list[str] = []
    found = wait_for_room(Pool(40, 0.5, 0.0, 1, 0.1, begin=40), 60.0, said.append)
    assert 1 <= found <= 4
    assert said == [f"{found} of 40 workers {'has' if found == 1 else 'have'} room now; the others wait for CPUs that "
                    "other jobs use"]  # fmt: skip


@pytest.mark.usefixtures("session")
def test_what_is_waited_for_is_said_once() -> None:
    said: list[str] = []
    with pytest.raises(ClusterError, match=r"no room for 2 workers of 2 CPU each in 0\.5 s") as caught:
        wait_for_room(pool(2, 2.0, least=2), 0.5, said.append, settle=0.1)
    assert caught.value.exit_code == 5
    [line] = said
    assert line.startswith("waiting for 2 workers of 2 CPU each: the cluster has 0 GPUs (0 of them free) and 2 CPUs")
    assert line.endswith("on 1 node; for 0.5 s at most (cluster_patience)")
    # What was asked for is not held on to.
    assert wait_for_room(pool(1, 1.0), 60.0, said.append) == 1


def watching(
    patch: pytest.MonkeyPatch, patience: float = 600.0, workers: int = 3, begin: int = 3
) -> tuple[Places, list[str], list[float], list[int]]:
    """What watches, what it said, the clock, and the room that there is."""
    said: list[str] = []
    clock, there_is = [0.0], [begin]
    patch.setattr(room.time, "monotonic", lambda: clock[0])
    patch.setattr(room, "_offer", lambda: "the cluster has none")
    patch.setattr(room, "_is_free", lambda _: False)
    pool = Pool(workers, 1.0, 1.0, 1, 0.1, begin=begin)
    return Places(pool, patience, said.append, lambda _: there_is[0]), said, clock, there_is


def test_workers_that_lost_their_place_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    places, said, clock, there_is = watching(monkeypatch)
    clock[0] += 20
    assert not places.lost(lambda: 3)
    there_is[0] = 2  # a node has left
    assert not places.lost(lambda: 3)
    clock[0] += GRACE_SECONDS
    assert places.lost(lambda: 2)
    places.in_use(2)
    assert not places.lost(lambda: 2), "the others go on"
    assert said == []


def test_a_worker_in_place_of_a_dead_one_is_no_lost_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dead one counts for a while, and a large model loads for longer than the others are waited for."""
    places, _, clock, _ = watching(monkeypatch)
    clock[0] += 20
    assert not places.lost(lambda: 4)
    clock[0] += 2 * GRACE_SECONDS
    assert not places.lost(lambda: 4)


@pytest.mark.usefixtures("session")
def test_workers_that_crowd_out_their_readers_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two nodes of two CPUs, one is left: both workers are alive there, and leave no CPU for the tasks."""
    clock = [0.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: clock[0])
    both = Pool(2, 1.0, 0.0, 1, 0.5, begin=2)
    places, search = Places(both, 600.0, str), Places(both, 600.0, str, pools.room)
    clock[0] += GRACE_SECONDS + 1
    assert places.lost(lambda: 2)
    assert not search.lost(lambda: 2), "no task reads for the workers of the layer search"


def test_a_cluster_that_grew_while_work_went_on_may_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    places, _, clock, there_is = watching(monkeypatch, workers=8, begin=1)
    clock[0] += 20
    there_is[0] = 8
    places.in_use(8)
    there_is[0] = 4  # at once
    clock[0] += 20
    assert not places.lost(lambda: 8), "the dead ones are counted still"
    clock[0] += GRACE_SECONDS
    assert places.lost(lambda: 8)
    assert places.lost(lambda: 4)


def test_a_dead_worker_is_no_room_that_a_growing_cluster_had(monkeypatch: pytest.MonkeyPatch) -> None:
    places, _, clock, _ = watching(monkeypatch, workers=8, begin=1)
    clock[0] += 2 * GRACE_SECONDS
    assert not places.lost(lambda: 2)


def test_a_node_that_nobody_worked_on_may_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    places, _, clock, there_is = watching(monkeypatch)
    there_is[0] = 2
    clock[0] += 10 * GRACE_SECONDS
    assert not places.lost(lambda: 2)


def test_workers_that_wait_behind_another_job_are_told_of_and_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    places, said, clock, _ = watching(monkeypatch, patience=100.0)
    for _ in range(10):
        clock[0] += 10
        assert not places.lost(lambda: 0)
    assert said == [
        "waiting for 1 worker of 1 GPU and 1 CPU: the cluster has none; for 100 s at most (cluster_patience)"
    ]
    clock[0] += GRACE_SECONDS + 1
    with pytest.raises(ClusterError, match="no worker found room in 131 s: the cluster has none") as caught:
        places.lost(lambda: 0)
    assert caught.value.exit_code == 5


def test_workers_that_die_as_they_start_are_not_said_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    places, said, clock, _ = watching(monkeypatch, patience=100.0)
    monkeypatch.setattr(room, "_is_free", lambda _: True)
    clock[0] += 70
    assert not places.lost(lambda: 0)
    assert said == [
        "waiting for 1 worker of 1 GPU and 1 CPU: there is room for it, and none stays alive; the nodes may lack "
        "memory; for 100 s at most (cluster_patience)"
    ]
    clock[0] += 70
    with pytest.raises(
        ClusterError, match="no worker stayed alive in 140 s, though there is room for one; the nodes may"
    ):
        places.lost(lambda: 0)


@pytest.mark.usefixtures("session")
def test_a_wait_can_be_interrupted() -> None:
    """By a signal, as Ctrl-C is one."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 2.0)
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            wait_for_room(pool(1, 50.0), 600.0, lambda _: None)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 60
