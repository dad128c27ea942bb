"""What ends a command from outside, or from where nobody has looked: one line and an exit code."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

PROGRAM = """
import signal, sys, threading
import tamis.pipeline.cli as cli

def at_work():
    print("at work", flush=True)

def command(**_):
    {body}

cli.app = command
sys.argv = ["tamis"]
cli.main()
"""
PATIENT = "at_work(); threading.Event().wait(60)"
TIDYING = """try:
        at_work()
        threading.Event().wait(60)
    finally:
        threading.Event().wait(60)"""
GO_ON = "what is done stays done, run the same command again to go on"
WORDS = f"stopping ({{}}); {GO_ON}\n"


@pytest.fixture(autouse=True)
def _in_the_foreground() -> Iterator[None]:
    """A shell makes what it starts in the background ignore Ctrl-C, nohup SIGHUP, and so would all that is started from
    there."""
    before = {signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler)}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def started(body: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        if "at_work()" in body:
            assert process.stdout.readline() == "at work\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=60)[1]


@pytest.mark.parametrize(
    ("number", "name", "code"),
    [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143), (signal.SIGHUP, "SIGHUP", 129)],
)
def test_a_signal_is_answered_with_a_word(tmp_path: Path, number: signal.Signals, name: str, code: int) -> None:
    with started(PATIENT, tmp_path) as process:
        process.send_signal(number)
        assert said(process) == WORDS.format(name)
        assert process.returncode == code


def test_the_code_is_that_of_the_signal_whatever_a_library_makes_of_the_exit(tmp_path: Path) -> None:
    """A run that waited for Ray has ended with code 1."""
    body = """try:
        at_work()
        threading.Event().wait(60)
    except SystemExit:
        sys.exit(1)"""
    with started(body, tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        assert said(process) == WORDS.format("SIGTERM")
        assert process.returncode == 143


@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)])
def test_the_second_one_ends_at_once(tmp_path: Path, number: signal.Signals, name: str, code: int) -> None:
    with started(TIDYING, tmp_path) as process:
        process.send_signal(number)
        assert process.stderr is not None
        assert process.stderr.readline() == WORDS.format(name)  # at once, though it does not end
        while process.poll() is None:  # those in the first moment are one demand
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        assert said(process) == f"ended at once ({name}); {GO_ON}\n"
        assert process.returncode == code


def test_the_word_comes_while_a_library_is_at_work(tmp_path: Path) -> None:
    """Python's own handlers wait until it returns."""
    with started("import hashlib; at_work(); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)", tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert process.stderr.readline() == WORDS.format("SIGTERM")


def test_what_is_sent_to_the_group_as_well_is_one_demand(tmp_path: Path) -> None:
    with started(TIDYING.replace("60", "1"), tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGHUP)
        assert said(process).count("\n") == 1
        assert process.returncode in (143, 129)


def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """As nohup does it."""
    program = PROGRAM.format(body="import os; at_work(); os.kill(os.getpid(), signal.SIGHUP); print('goes on')")
    ignoring = ["bash", "-c", "trap '' HUP; exec \"$@\"", "bash", sys.executable, "-c", program]
    done = subprocess.run(ignoring, capture_output=True, text=True, check=True)
    assert done.stdout == "at work\ngoes on\n"
    assert done.stderr == ""


# --- the last handler ---------------------------------------------------------------------------------------------

SAMPLE = "how do I pick the lock of my neighbour"
RAY = "import ray.exceptions as e; "


@pytest.mark.parametrize(
    ("body", "code", "parts"),
    [
        (f"raise ValueError('cannot convert ' + repr('{SAMPLE}'))", 70, ["nobody has foreseen (ValueError)"]),
        ("raise KeyError('a bug')", 70, ["nobody has foreseen (KeyError)"]),
        ("def deeper(): deeper()\n    deeper()", 70, ["RecursionError"]),
        ("import subprocess; subprocess.run(['false'], check=True)", 70, ["CalledProcessError"]),
        ("raise ExceptionGroup('two', [ValueError('a'), KeyError('b')])", 70, ["ExceptionGroup"]),
        ("raise GeneratorExit", 70, ["GeneratorExit"]),
        ("raise MemoryError", 5, ["memory of this machine is used up"]),
        ("raise OSError(24, 'Too many open files')", 5, ["Too many open files", "ulimit -n"]),
        (RAY + "raise e.OutOfMemoryError('killed\\nby\\nthe\\nmonitor')", 5, ["Ray failed (OutOfMemoryError)"]),
        (RAY + f"raise e.RayTaskError('f', 'a\\ntrace of {SAMPLE}', KeyError('x'))", 70, ["foreseen (KeyError)"]),
        (
            RAY + "from tamis.pipeline.errors import ConfigError\n"
            "    raise e.RayTaskError('f', 'trace', ConfigError('mend it')).as_instanceof_cause()",
            2,
            ["error: mend it\n"],
        ),
    ],
)
def test_what_nobody_has_foreseen_is_one_line(tmp_path: Path, body: str, code: int, parts: list[str]) -> None:
    with started(body, tmp_path) as process:
        line = said(process)
    assert process.returncode == code
    assert len(line.splitlines()) == 1
    assert line.startswith("error: ")
    assert all(part in line for part in parts), line
    kept = list(tmp_path.glob("tamis-error-*.log"))
    assert bool(kept) == ("details" in line)
    for file in kept:
        assert str(file) in line
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        text = file.read_text()
        assert "in command" in text or "KeyError" in text
        assert f"'{SAMPLE}'" not in text
        assert SAMPLE not in line


def test_secrets_stay_out_of_the_details(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET_TOKEN", "hunter2hunter2")
    with started("raise RuntimeError('refused: hunter2hunter2\\nline\\x1b[2J two')", tmp_path) as process:
        said(process)
    text = next(tmp_path.glob("tamis-error-*.log")).read_text()
    assert "hunter2" not in text
    assert "\x1b" not in text
    assert "refused: ***" in text
    assert r"line\x1b[2J two" in text


def test_without_room_for_the_details(tmp_path: Path) -> None:
    body = "import tempfile; tempfile.tempdir = '/proc/none'; raise KeyError('x')"
    with started(body, tmp_path) as process:
        line = said(process)
    assert process.returncode == 70
    assert "has no room for the details" in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    "body",
    [
        "threads = [threading.Thread(target=lambda: 1 / 0)]; [(t.start(), t.join()) for t in threads]",
        "class Late:\n        def __del__(self): 1 / 0\n    Late()",
        "import logging\n    logging.getLogger('asyncio').error('never\\nread', exc_info=KeyError())",
        "import warnings; warnings.warn('a\\nwarning\\x1b', stacklevel=1)",
    ],
)
def test_what_fails_beside_the_command_is_one_line_too(tmp_path: Path, body: str) -> None:
    with started(body, tmp_path) as process:
        line = said(process)
    assert process.returncode == 0
    assert len(line.splitlines()) == 1
    assert "Traceback" not in line
    assert "\x1b" not in line
