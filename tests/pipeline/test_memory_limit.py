"""A bound on memory: what asks for more gets an error and goes on, and afterwards nothing is bounded."""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from tamis.pipeline.memory_limit import limited_memory

MB = 1 << 20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the memory of a process")


@pytest.fixture(autouse=True)
def _nothing_stays_bounded() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    yield
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_what_fits_is_given_and_more_is_refused() -> None:
    with limited_memory(300 * MB):
        assert np.ones(100 * MB, dtype=np.uint8).all()
        with pytest.raises(MemoryError):
            np.empty(301 * MB, dtype=np.uint8)
        assert np.ones(100 * MB, dtype=np.uint8).all()
    assert len(np.empty(301 * MB, dtype=np.uint8)) == 301 * MB


def test_an_error_inside_ends_the_bound() -> None:
    with pytest.raises(ZeroDivisionError), limited_memory(MB):
        _ = 1 / 0


def test_threads_share_what_all_of_them_may_take() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with limited_memory(300 * MB):
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(60)
    with limited_memory(100 * MB):
        assert len(np.empty(350 * MB, dtype=np.uint8)) == 350 * MB
        leave.set()
        thread.join()
        with pytest.raises(MemoryError):
            np.empty(350 * MB, dtype=np.uint8)


def test_a_lower_bound_from_elsewhere_stays() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    with limited_memory(100 * MB):
        low = resource.getrlimit(resource.RLIMIT_DATA)[0]
    assert soft == resource.RLIM_INFINITY or low <= soft
    resource.setrlimit(resource.RLIMIT_DATA, (low, hard))
    try:
        with limited_memory(1000 * MB):
            assert resource.getrlimit(resource.RLIMIT_DATA)[0] == low
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
