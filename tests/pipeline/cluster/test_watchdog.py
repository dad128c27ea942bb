"""The record of who works on what: how often a shard may be begun, and who gives no sign of life."""

from __future__ import annotations

import pytest

from tamis.pipeline.cluster import watchdog as module
from tamis.pipeline.cluster.watchdog import TRIES, Beats, Guard, Part, Process, Watch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_shard_may_be_begun_so_often_and_no_more() -> None:
    watch = Watch()
    for worker in range(TRIES):
        assert watch.begin("a", Process(worker, 0.5, "node")) is None
        assert watch.begin(f"b{worker}", Process(worker, 0.5, "node")) is None
    assert watch.begin("a", Process(9, 0.5, "node")) == f"each of {TRIES} workers died while it was at work on it"
    watch.end("a")
    assert watch.begin("a", Process(9, 0.5, "node")) is None, "a shard that is done starts anew"


def test_the_last_known_cause_is_told() -> None:
    watch = Watch()
    for worker in range(TRIES):
        watch.begin("a", Process(worker, 0.5, "node"))
    watch.blame("a", "CUDA error: device-side assert triggered")
    assert str(watch.begin("a", Process(9, 0.5, "node"))).endswith(
        "(the last time: CUDA error: device-side assert triggered)"
    )


def test_who_gives_no_sign_hangs_and_is_told_of_once_in_as_long(clock: list[float]) -> None:
    watch = Watch()
    watch.begin("a", Process(1, 0.5, "here"))
    watch.begin("b", Process(2, 0.5, "there"))
    watch.begin("c", Process(3, 0.5, "there"))
    clock[0] = 8.0
    watch.beat("b")
    watch.end("c")
    watch.beat("never begun")
    clock[0] = 11.0
    assert watch.stalled(10.0) == {"a": Process(1, 0.5, "here")}
    assert watch.stalled(10.0) == {}
    clock[0] = 19.0
    assert watch.stalled(10.0) == {"b": Process(2, 0.5, "there")}
    clock[0] = 22.0
    assert watch.stalled(10.0) == {"a": Process(1, 0.5, "here")}, "it could not be killed, and is told of again"


def test_who_has_a_place_says_so_again_and_again(clock: list[float]) -> None:
    watch = Watch()
    assert watch.there() == 0
    for _ in range(40):
        watch.attend(Process(1, 0.5, "here"))
        watch.attend(Process(2, 0.5, "here"))
        clock[0] += 5
    assert watch.there() == 2
    for _ in range(40):
        watch.attend(Process(2, 0.5, "here"))
        clock[0] += 5
    assert watch.there() == 1, "the other one has died"


def test_a_shard_that_was_refused_stays_so() -> None:
    """A task that was at several shards is done again as a whole when it dies at one of them."""
    watch = Watch()
    for worker in range(TRIES):
        watch.begin("a", Process(worker, 0.5, "node"))
    for _ in range(2):
        assert str(watch.begin("a", Process(9, 0.5, "node"))).startswith(f"each of {TRIES} workers died")


def test_what_is_done_of_a_shard_is_known_until_it_ends() -> None:
    watch = Watch()
    watch.begin("a", Process(1, 0.5, "here"))
    watch.begin("b", Process(2, 0.5, "here"))
    watch.beat("a", Part(2.5, 100))
    watch.beat("a")
    assert watch.report().running == {"a": Part(2.5, 100), "b": Part()}
    watch.end("a")
    assert watch.report().running == {"b": Part()}


def test_beats_count_rows_by_their_tokens(clock: list[float]) -> None:
    said: list[tuple[str, Part | None]] = []

    class Line:
        class beat:
            @staticmethod
            def remote(work: str, part: Part | None) -> None:
                said.append((work, part))

    beats = Beats(Guard(Line), ["a"], Part(8, 1000), 2000)  # two models read each token
    beats(500)
    clock[0] = 6.0
    beats(500)
    clock[0] = 12.0
    beats(5000)
    Beats(Guard(Line), ["b"], None, 0)()
    assert said == [("a", Part(4.0, 500)), ("a", Part(8.0, 1000))]
