"""A command in a process of its own: what it says arrives, its failure is an exception, Ctrl-C ends it in order."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tamis import errors
from tamis.command import Said, error_of, follow, run
from tamis.shown import Display

SPEAK = """
import json, os, signal, sys, time
def say(event, message, level="info", **more):
    os.write(2, (json.dumps({"event": event, "level": level, "message": message, **more}) + "\\n").encode())
"""


def spoken(code: str, quiet: bool = False) -> Said:
    return follow([sys.executable, "-c", SPEAK + code], os.environ, Display(quiet))


TALK = """
say("command", "tamis curate")
say("plan", "3 rows", rows=3)
say("note", "a note")
say("progress", "1 / 3")
say("warning", "look at this", "warning")
say("result", "2 kept", kept=2)
print("for machines")
say("end", "ended")
"""


def test_what_is_said_arrives_and_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    said = spoken(TALK)
    assert (said.code, said.out, said.warnings, said.notes) == (0, "for machines\n", ["look at this"], ["a note"])
    assert said.plan is not None
    assert said.result is not None
    assert (said.plan["rows"], said.result["kept"]) == (3, 2)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == ["3 rows", "a note", "1 / 3", "warning: look at this", "2 kept"]


def test_quiet_leaves_warnings(capfd: pytest.CaptureFixture[str]) -> None:
    assert spoken(TALK, quiet=True).result is not None
    assert capfd.readouterr().err == "warning: look at this\n"


def test_text_from_outside_is_shown_harmless(capfd: pytest.CaptureFixture[str]) -> None:
    spoken('say("note", "a\\x1b[2Jb\\nc")')
    assert capfd.readouterr().err == "a\\x1b[2Jb\\nc\n"


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("say('error', 'fix it', 'error', kind='ConfigError'); sys.exit(2)", errors.ConfigError, "fix it"),
        ("say('error', 'full', 'error', kind='StorageError'); sys.exit(5)", errors.StorageError, "full"),
        ("say('error', 'no Ray', 'error', kind='ClusterError'); sys.exit(5)", errors.ClusterError, "no Ray"),
        ("say('error', 'drifted', 'error', kind='DriftError'); sys.exit(6)", errors.DriftError, "drifted"),
        ("say('error', 'disk', 'error'); sys.exit(5)", errors.StorageError, "disk"),
        ("say('error', 'unforeseen', 'error'); sys.exit(70)", errors.InternalError, "unforeseen"),
        ("say('error', 'new', 'error', kind='Unknown'); sys.exit(99)", errors.InternalError, "new"),
        ("os.kill(os.getpid(), 9)", errors.ClusterError, "was killed (SIGKILL"),
        ("sys.exit(143)", errors.ClusterError, "stopped from outside (exit code 143)"),
        ("print('No module named tamis', file=sys.stderr); sys.exit(1)", errors.InternalError, "No module named tamis"),
    ],
)
def test_how_it_ends_is_an_error_of_ours(code: str, kind: type[errors.TamisError], words: str) -> None:
    error = error_of(spoken(code))
    assert type(error) is kind
    assert words in str(error)


def test_an_error_has_its_lines_and_problems() -> None:
    first = errors.InputError("2 files are wrong:", ["a.jsonl: no", "b\x1b.jsonl: no"])
    error = error_of(spoken(f"say('error', {str(first)!r}, 'error', kind='InputError'); sys.exit(3)"))
    assert str(error) == str(first)
    assert isinstance(error, errors.InputError)
    assert error.problems == ("a.jsonl: no", "b\\x1b.jsonl: no")


PARENT = """
import os, signal, sys
from tamis.command import follow
from tamis.shown import Display
class Hears(Display):
    def event(self, facts):
        super().event(facts)
        if facts["event"] == "note":  # so this process listens, and the command is ready
            os.kill(os.getpid(), signal.SIGINT)
        if facts["event"] == "warning":
            raise ValueError("cannot be shown")
in_background = sys.argv[2:] == ["background"]
signal.signal(signal.SIGINT, signal.SIG_IGN if in_background else signal.default_int_handler)
try:
    follow([sys.executable, "-c", sys.argv[1]], os.environ, Hears(False))
except KeyboardInterrupt:
    print("interrupted", os.getsid(0))
except ValueError as error:
    print(error)
"""
WAIT = """
while True:
    time.sleep(0.01)  # and not signal.pause, which may begin just after the signal
"""


def interrupted(code: str, tmp_path: Path, *words: str) -> str:
    """What a caller prints that gets Ctrl-C with each note of its child, which runs `code` and notes in files what it
    does."""
    command = [sys.executable, "-c", PARENT, SPEAK + code, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ctrl_c_ends_the_command_in_order_and_then_the_call(tmp_path: Path) -> None:
    code = f"""
try:
    open("session", "w").write(str(os.getsid(0)))
    say("note", "now")
    {WAIT.strip().replace("    ", "        ")}
except KeyboardInterrupt:
    open("tidied", "w").close()
    sys.exit(130)
"""
    [word, session] = interrupted(code, tmp_path).split()
    assert word == "interrupted"
    assert (tmp_path / "tidied").exists()
    assert (tmp_path / "session").read_text() != session  # Ctrl-C in the terminal reaches the caller alone


def test_a_second_ctrl_c_reaches_the_command_too(tmp_path: Path) -> None:
    code = """
heard = []
def hear(*_):
    heard.append(1)
    if len(heard) == 2:
        open("twice", "w").close()
        os._exit(130)
    say("note", "again")
signal.signal(signal.SIGINT, hear)
say("note", "now")
"""
    assert interrupted(code + WAIT, tmp_path).split()[0] == "interrupted"
    assert (tmp_path / "twice").exists()


@pytest.mark.parametrize(("words", "number"), [((), "SIGINT"), (("background",), "SIGTERM")])
def test_a_command_is_stopped_by_a_signal_that_it_hears(words: tuple[str, ...], number: str, tmp_path: Path) -> None:
    """In the background of a shell, Ctrl-C is ignored by the caller, and so by the command."""
    code = f"""
def hear(*_):
    open("heard", "w").close()
    os._exit(0)
signal.signal(signal.{number}, hear)
say("warning", "cannot be shown", "warning")
"""
    assert interrupted(code + WAIT, tmp_path, *words) == "cannot be shown\n"
    assert (tmp_path / "heard").exists()


def test_a_command_does_not_outlive_a_caller_that_cannot_listen(tmp_path: Path) -> None:
    code = """
open("id", "w").write(str(os.getpid()))
signal.signal(signal.SIGINT, lambda *_: say("warning", "nor this", "warning"))
say("warning", "not this", "warning")
"""
    assert interrupted(code + WAIT, tmp_path) == "cannot be shown\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "id").read_text()), 0)


def test_a_command_ends_in_order_when_its_caller_is_killed(tmp_path: Path) -> None:
    code = """
from tamis.pipeline.commands.followed import FOLLOWED, watch
from tamis.pipeline.commands.stopping import listen
told = os.open("told", os.O_WRONLY)
open("id", "w").write(str(os.getpid()))
listen()
watch()
assert FOLLOWED not in os.environ  # which Ray and its workers would have, too
os.kill(os.getppid(), signal.SIGKILL)
try:
    while True:
        time.sleep(0.01)
except SystemExit as ending:
    os.write(told, b"tidied %d" % ending.code)
    os._exit(0)
"""
    os.mkfifo(tmp_path / "told")
    told = os.open(tmp_path / "told", os.O_RDONLY | os.O_NONBLOCK)
    try:
        command = [sys.executable, "-c", PARENT, SPEAK + code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=60)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert select.select([told], [], [], 30)[0]
        assert os.read(told, 100) == b"tidied 143"
    finally:
        os.close(told)
        with suppress(OSError):  # it has ended already
            os.kill(int((tmp_path / "id").read_text()), signal.SIGKILL)


def test_a_real_command_fails_with_its_own_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(errors.ConfigError, match="no finished run here") as raised:
        run(["evaluate", str(tmp_path), "--labels=harmful", "--json"], quiet=False)
    assert raised.value.exit_code == 2
    assert capfd.readouterr().out == ""
