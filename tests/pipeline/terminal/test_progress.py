"""Progress: one line that is written over on a terminal, few lines in a log, numbers that are right."""

from __future__ import annotations

import io
import os
import re
import time
from itertools import pairwise
from typing import TextIO

import pytest

from tamis.pipeline.terminal import progress
from tamis.pipeline.terminal.progress import clock as duration
from tamis.pipeline.terminal.progress import phase, waiting
from tamis.pipeline.terminal.voice import Voice


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Time that passes when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def Progress(stage: str, total: int, *, stream: TextIO, unit: str = "rows", skipped: int = 0) -> progress.Progress:
    return progress.Progress(stage, total, unit, skipped, voice=Voice(stream, every=30.0))


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
    assert duration(seconds) == text


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


def test_what_lasts_is_named_on_a_terminal_and_gone_at_the_end(clock: Clock) -> None:
    screen = Terminal()
    voice = Voice(screen)
    with waiting("ray", "Ray is starting", voice=voice):
        voice.beat()
        assert screen.getvalue() == "", "what is short is not shown"
        clock.now += 1.0
        voice.beat()
        assert screen.getvalue() == "\rray      Ray is starting (1.0 s)"
        clock.now += 0.5
        voice.beat()
        assert screen.getvalue() == "\rray      Ray is starting (1.0 s)", "once a second"
        clock.now += 0.5
        voice.beat()
        assert screen.getvalue().endswith("\rray      Ray is starting (2.0 s)")
    assert screen.getvalue().endswith("(2.0 s)\r\x1b[2K")


def test_a_log_hears_of_what_lasts_long_only(clock: Clock) -> None:
    log = io.StringIO()
    voice = Voice(log, every=30.0)
    with waiting("workers", "waiting for 2 workers", 600.0, voice=voice):
        for _ in range(61):
            clock.now += 1.0
            voice.beat()
    clock.now += 100.0
    voice.beat()
    assert log.getvalue().splitlines() == [
        "workers  waiting for 2 workers (30 s of 10 min 00 s at most)",
        "workers  waiting for 2 workers (1 min 00 s of 10 min 00 s at most)",
    ]


def test_what_is_said_meanwhile_puts_the_next_beat_off(clock: Clock) -> None:
    log = io.StringIO()
    voice = Voice(log, every=30.0)
    phase("plan", "reading the input", voice)
    for said in (False, True, False, False):
        clock.now += 20.0
        if said:
            voice.say("a note")
        voice.beat()
    assert log.getvalue().splitlines() == ["a note", "plan     reading the input (1 min 20 s)"]


def test_a_phase_forgets_what_a_failed_stage_left(clock: Clock) -> None:
    log = io.StringIO()
    voice = Voice(log, every=30.0)
    progress.Progress("fit", 10, voice=voice)  # a damaged file ended it
    phase("mending", "looking for what else is damaged", voice)
    with waiting("ray", "asking for workers", voice=voice):
        pass
    clock.now += 30.0
    voice.beat()
    assert log.getvalue() == "mending  looking for what else is damaged (30 s)\n"
    voice.rest()
    clock.now += 100.0
    voice.beat()
    assert len(log.getvalue().splitlines()) == 1


def test_a_phase_says_how_many_parts_are_done(clock: Clock) -> None:
    log = io.StringIO()
    voice = Voice(log, every=30.0)
    voice.so_far(1, 2)  # by who is used without a phase
    phase("publish", "comparing every file", voice)
    for done, total in ((1, 1), (3, 1200)):
        voice.so_far(done, total)
        clock.now += 30.0
        voice.beat()
    assert log.getvalue().splitlines() == [
        "publish  comparing every file (30 s)",
        "publish  comparing every file: 3 of 1,200 parts (1 min 00 s)",
    ]


def test_a_brief_stage_is_heard_of_only_if_it_lasts(clock: Clock) -> None:
    log = io.StringIO()
    voice = Voice(log, every=30.0)
    progress.Progress("scan", 5, "MB", brief=True, voice=voice).finish()
    assert log.getvalue() == ""
    long = progress.Progress("scan", 5, "MB", brief=True, voice=voice)
    clock.now += 31.0
    long.advance(2)
    long.advance(3)
    long.finish()
    assert [line.split(" · ")[0] for line in log.getvalue().splitlines()] == [
        "scan     2 / 5 MB  40%",
        "scan     5 / 5 MB 100%",
    ]


def test_a_line_that_stays_stands_above_the_live_one(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    screen = Terminal()
    voice = Voice(screen)
    progress.Progress("capture", 10, voice=voice)
    voice.say("2 of 4 workers have room now", "workers")
    drawn = "\rcapture  0 / 10 rows   0%"
    assert screen.getvalue() == f"{drawn}\r\x1b[2K2 of 4 workers have room now\n{drawn}"
    voice.show(lambda: screen.write("<plan>"), "a plan", "plan")
    assert screen.getvalue().endswith(f"{drawn}\r\x1b[2K<plan>")


def test_the_heart_beats_by_itself_and_ends_with_the_voice() -> None:
    log = io.StringIO()
    voice = Voice(log, every=0.001, heart=True)
    phase("ray", "Ray is starting", voice)
    while log.getvalue().count("\n") < 3:
        time.sleep(0.001)
    voice.close()
    said = log.getvalue()
    assert re.fullmatch(r"(ray      Ray is starting \(\d\.\d s\)\n)+", said)
    assert voice._heart is not None
    voice._heart.join(10.0)
    assert not voice._heart.is_alive()
    assert log.getvalue() == said, "nothing is said after the last word"
