"""Waiting for room, and noticing that it is gone."""

from __future__ import annotations

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from tamis.pipeline import room
from tamis.pipeline.errors import ClusterError
from tamis.pipeline.pools import Pool
from tamis.pipeline.room import GRACE_SECONDS, Shrinking, wait_for_room


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


@given(
    rooms=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 20), st.booleans()), max_size=40),
    begin=st.integers(1, 4),
)
def test_a_cluster_shrinks_when_it_has_less_room_than_ever_before(
    rooms: list[tuple[int, int, bool]], begin: int
) -> None:
    """Against the whole history: room was lost, it stays lost, and nothing got done for longer than the grace."""
    with pytest.MonkeyPatch.context() as patch:
        clock = 0.0
        patch.setattr(room.time, "monotonic", lambda: clock)
        shrinking = Shrinking(Pool(6, 1.0, 0.0, 1, 0.1, begin=begin))
        most, short_since = begin, None
        for now, seconds, done in rooms:
            clock += seconds
            if done:
                shrinking.end()
                short_since = None
            if now >= most:
                most, short_since = now, None
            elif short_since is None:
                short_since = clock
            expected = short_since is not None and clock - short_since > GRACE_SECONDS
            assert shrinking.for_too_long(now) == expected
