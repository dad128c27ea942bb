"""Progress: one line that is written over on a terminal, few lines in a log, numbers that are right."""

from __future__ import annotations

import io
import os
import re
import time
from itertools import pairwise

import pytest

from tamis.pipeline.terminal import progress as module
from tamis.pipeline.terminal.progress import Progress, _clock, waiting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Time that passes when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_log_gets_a_line_every_thirty_seconds_at_most(clock: Clock) -> None:
    log = io.StringIO()
    progress = Progress("capture", 1000, stream=log)
    assert log.getvalue() == ""
    for _ in range(100):
        clock.now += 1.0
        progress.advance(10, tokens=50)
    assert progress.finish() == 100.0
    lines = log.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0] == "capture  300 / 1,000 rows  30% · 10 rows/s · 50 tokens/s · 1 min 10 s left"
    assert lines[-1] == "capture  1,000 / 1,000 rows 100% · 10 rows/s · 50 tokens/s · took 1 min 40 s"
    assert "\r" not in log.getvalue()


def test_a_terminal_has_one_line_that_is_written_over(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    screen = Terminal()
    progress = Progress("emit", 100_000, stream=screen)
    for _ in range(50):
        clock.now += 0.05
        progress.advance(2000)
    progress.finish()
    text = screen.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    drawn = text[:-1].split("\r")[1:]
    assert 15 <= len(drawn) <= 26  # at most ten a second
    # Every line covers the one before it.
    assert all(len(after) >= len(before.rstrip()) for before, after in pairwise(drawn))


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_a_line_never_wraps(clock: Clock, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = Terminal()
    progress = Progress("capture", 10_000_000, skipped=1_000_000, stream=screen)
    clock.now += 100
    progress.advance(1_234_567, tokens=123_456_789)
    progress.finish()
    assert max(len(line) for line in re.split(r"[\r\n]", screen.getvalue())) < columns


def test_what_was_done_before_counts_as_done_and_not_as_speed(clock: Clock) -> None:
    log = io.StringIO()
    progress = Progress("capture", 1000, skipped=600, stream=log)
    clock.now += 40
    progress.advance(200)
    assert log.getvalue() == ("capture  800 / 1,000 rows  80% · 600 were done before · 5 rows/s · 40 s left\n")


def test_a_note_stands_on_the_line(clock: Clock) -> None:
    log = io.StringIO()
    progress = Progress("train", 10, unit="steps", stream=log)
    clock.now += 40
    progress.advance(2, note="loss 1.234")
    assert log.getvalue() == "train    2 / 10 steps  20% · 0.05 steps/s · loss 1.234 · 2 min 40 s left\n"


def test_nothing_to_do(clock: Clock) -> None:
    log = io.StringIO()
    assert Progress("emit", 0, unit="shards", stream=log).finish() == 0.0
    assert log.getvalue() == "emit     0 / 0 shards · took 0.0 s\n"
    log = io.StringIO()
    Progress("emit", 10, skipped=10, stream=log).finish()
    assert "10 / 10 rows 100% · 10 were done before · took 0.0 s" in log.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (10.4, "10 s"),
        (59.4, "59 s"),
        (59.9, "1 min 00 s"),
        (60, "1 min 00 s"),
        (3599.4, "59 min 59 s"),
        (3599.9, "1 h 00 min"),
        (3600, "1 h 00 min"),
        (90_061, "25 h 01 min"),
    ],
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert _clock(seconds) == text


def test_a_pipe_is_no_terminal() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader) as out, os.fdopen(writer, "w") as stream:
        Progress("fit", 5, unit="shards", stream=stream).finish()
        stream.flush()
        line = out.readline()
    assert line.startswith("fit      0 / 5 shards   0%")


def test_rows_of_shards_that_are_not_done_count_and_the_load_of_the_model_does_not(clock: Clock) -> None:
    log = io.StringIO()
    progress = Progress("capture", 1000, stream=log)
    for second in range(1, 121):
        clock.now += 1
        progress.within(0.0, 0, "the model is loading")
        assert len(log.getvalue().splitlines()) == second // 30, "a line every 30 seconds"
    for second in range(1, 41):
        clock.now += 1
        progress.within(second * 5.0, second * 50)
    progress.advance(200, tokens=2000)
    progress.within(0.0, 0)
    assert log.getvalue().splitlines() == [
        "capture  0 / 1,000 rows   0% · the model is loading (30 s)",
        "capture  0 / 1,000 rows   0% · the model is loading (1 min 00 s)",
        "capture  0 / 1,000 rows   0% · the model is loading (1 min 30 s)",
        "capture  0 / 1,000 rows   0% · the model is loading (2 min 00 s)",
        "capture  150 / 1,000 rows  15% · 5 rows/s · 50 tokens/s · 2 min 50 s left",
    ]
    assert progress.finish() == 160.0
    assert log.getvalue().splitlines()[-1] == (
        "capture  200 / 1,000 rows  20% · 1.2 rows/s · 12 tokens/s · took 2 min 40 s"
    )


def test_in_the_first_seconds_nobody_knows_how_long_it_will_take(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    screen = Terminal()
    progress = Progress("capture", 1000, stream=screen)
    clock.now += 4
    progress.within(1.0, 10)
    assert " left" not in screen.getvalue()
    clock.now += 1
    progress.within(10.0, 100)
    assert screen.getvalue().rstrip().endswith("8 min 15 s left")


def test_what_lasts_is_named_on_a_terminal_and_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAITING_SECONDS", 0.001)
    screen = Terminal()
    with waiting("Ray is starting", screen):
        while "Ray is starting" not in screen.getvalue():
            time.sleep(0.001)
    assert screen.getvalue().startswith("\rRay is starting (0.0 s)")
    assert screen.getvalue().endswith("\r\x1b[2K")


def test_a_log_hears_of_what_lasts_long_only(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    with waiting("Ray is starting", log):
        pass
    assert log.getvalue() == ""
    monkeypatch.setattr(module, "LOG_SECONDS", 0.001)
    with waiting("Ray is starting", log):
        while not log.getvalue():
            time.sleep(0.001)
    assert log.getvalue().splitlines()[0] == "Ray is starting (0.0 s)"
