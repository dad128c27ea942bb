"""A few rounds of chaos in every test run; `make chaos` has many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from harness import Harness
from rounds import Kill, draw
from swift_server import unusable

pytestmark = pytest.mark.long

SEED = 1
KILLS = [Kill.DRIVER, Kill.ACTOR, Kill.NODE]
RATE = 0.05


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    folder = tmp_path_factory.mktemp("chaos")
    if reason := unusable(folder):
        pytest.skip(reason)
    with Harness(folder, SEED) as running:
        yield running


@pytest.mark.parametrize("number", range(3))
def test_after_a_round_of_chaos_every_byte_is_that_of_a_calm_run(harness: Harness, number: int) -> None:
    drawn = draw(SEED, number, KILLS, ["s3", "s3", "local"], RATE)
    # Early enough that there is surely something left to kill.
    done = harness.round(replace(drawn, stage="capture", receipts=min(drawn.receipts, 4), delay=0.0))
    assert not done.complaints, str(done)
    # Else nothing was tried.
    assert done.killed is not None, str(done)
