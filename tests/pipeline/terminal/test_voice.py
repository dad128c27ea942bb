"""What is said as JSON objects, what `--quiet` leaves out, and that both hold for the whole process."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_objects import log_objects

from tamis.pipeline.terminal.events import COMMON, FIELDS, Event
from tamis.pipeline.terminal.progress import Progress, phase, waiting
from tamis.pipeline.terminal.voice import Voice


def speaker(quiet: bool = False) -> tuple[Voice, io.StringIO]:
    out = io.StringIO()
    voice = Voice(every=30.0)
    voice.speak_json(out)
    voice.quiet = quiet
    return voice, out


def test_every_event_has_its_fields_and_none_a_common_name() -> None:
    assert set(FIELDS) == set(get_args(Event))
    assert not set(COMMON) & {name for names in FIELDS.values() for name in names}


def test_the_reference_names_every_event_and_its_keys() -> None:
    text = (Path(__file__).parents[3] / "docs/reference.md").read_text(encoding="utf-8")
    table = text.partition("| event | when | further keys |\n")[2].partition("\n\n")[0]
    rows = [line.split(" | ") for line in table.splitlines()[1:]]
    told = {row[0].strip("| `"): set(re.findall(r"`(\w+)`", " ".join(row[2:]))) for row in rows}
    keys: dict[str, set[str]] = {name: set(fields) for name, fields in FIELDS.items()}
    told["result"] -= {"layers", "references", "refit", "verify", "export", "push", "unlock", "doctor"}
    told["result"] -= {"evaluate", "tune", "sample", "certify", "init", "compare"}
    assert told == keys
    assert [name for name in re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) if name in COMMON] == list(COMMON)


def test_a_line_is_an_object() -> None:
    voice, out = speaker()
    voice.say("before the run is known")
    voice.of_run("72840b3f-346d-46bf-ad16-38940f6129f8")
    phase("plan", "reading", voice)
    voice.say("two\nlines", "error", "error", exit_code=3)
    voice.say("kept", "result", cut=math.nan, seconds=np.float64(1.5), rows_in=np.int64(3), models=[{"a": math.inf}])
    first, error, result = log_objects(out.getvalue())
    assert (first["event"], first["level"], first["stage"], first["run"]) == ("note", "info", None, None)
    assert (error["message"], error["exit_code"], error["stage"]) == ("two\nlines", 3, "plan")
    voice.rest()
    voice.say("later", "error", "error", exit_code=5)
    voice.say("at the end", "end", exit_code=5, seconds=1.0)
    assert [line["stage"] for line in log_objects(out.getvalue())[-2:]] == ["plan", None]
    assert error["run"] == result["run"] == "72840b3f-346d-46bf-ad16-38940f6129f8"
    assert (result["cut"], result["seconds"], result["rows_in"], result["models"]) == (None, 1.5, 3, [{"a": None}])


@given(st.text(), st.text(st.characters(categories=["Cs", "Cc", "L"])))
def test_any_text_is_strict_json(message: str, name: str) -> None:
    voice, out = speaker()
    voice.say(message, "unusable", rows=1, code=name, file=name, row=0)
    [line] = log_objects(out.getvalue())
    for said, meant in ((line["message"], message), (line["file"], name)):
        said.encode()  # no half of a character
        assert said == meant.encode("utf-8", "backslashreplace").decode()


def test_progress_is_values(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    voice, out = speaker()
    with waiting("ray", "Ray is starting", voice=voice):
        now[0] += 30.0
        voice.beat()
    progress = Progress("capture", 1000, skipped=600, voice=voice)
    now[0] += 40.0
    progress.advance(200, tokens=4000, note="loss 1.5")
    progress.advance(200)
    progress.finish()
    started, half, done = log_objects(out.getvalue())
    common = set(COMMON) - {"event", "stage"}
    expected: dict[str, Any]
    expected = {"event": "progress", "stage": "ray", "doing": "Ray is starting", "seconds": 30.0}
    assert {key: started[key] for key in started if key not in common} == expected
    expected = {"event": "progress", "stage": "capture", "done": 800, "total": 1000, "unit": "rows", "skipped": 600}
    expected |= {"seconds": 40.0, "per_second": 5.0, "tokens": 4000, "tokens_per_second": 100.0, "seconds_left": 40.0}
    expected |= {"doing": "loss 1.5"}
    assert {key: half[key] for key in half if key not in common} == expected
    assert (done["event"], done["done"], done["total"], done["seconds"]) == ("stage_done", 1000, 1000, 40.0)


@pytest.mark.parametrize("as_json", [False, True])
def test_who_is_quiet_says_what_matters(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    out = io.StringIO()
    voice = Voice(out, every=30.0)
    voice.quiet = True
    if as_json:
        voice.speak_json(out)
    phase("plan", "reading", voice)
    progress = Progress("capture", 10, voice=voice)
    now[0] += 100.0
    voice.beat()
    progress.advance(10)
    progress.finish()
    voice.say("a note")
    voice.show(lambda: print("<a screen>"), "10 rows", "plan")
    voice.say("beware", "warning", "warning")
    voice.say("mend it", "error", "error", exit_code=2)
    voice.show(lambda: print("<a screen>"), "10 rows: 9 kept", "result", last=True)
    printed = capsys.readouterr().out
    if as_json:
        assert [line["event"] for line in log_objects(out.getvalue())] == ["warning", "error", "result"]
        assert printed == ""
    else:
        assert out.getvalue() == "warning: beware\nerror: mend it\n"
        assert printed == "10 rows: 9 kept\n"


def test_threads_do_not_write_into_each_others_lines() -> None:
    voice, out = speaker()
    threads = [threading.Thread(target=lambda: [voice.say("x" * 1000, "note") for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(log_objects(out.getvalue())) == 400


def test_a_thread_that_hangs_keeps_nobody_from_the_last_word() -> None:
    """One that writes into a pipe which nobody reads."""
    voice, out = speaker()
    with voice._turn():
        said = threading.Thread(target=voice.say, args=["stopping (Ctrl-C)", "stopping", "warning"])
        said.start()
        said.join(30.0)
    assert [line["event"] for line in log_objects(out.getvalue())] == ["stopping"]


# --- the whole process ----------------------------------------------------------------------------------------------

SENTINEL = "how do I pick the lock of my neighbour"
PROGRAM = """
import logging, os, sys, threading, time, warnings
import tamis.pipeline.cli as cli
from tamis.pipeline.terminal.progress import phase

def command(**_):
    {body}

cli.app = command
sys.argv = ["tamis", "--log-format", "json", *{flags}]
cli.main()
"""


def run(body: str, folder: Path, *flags: str, before: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", before + PROGRAM.format(body=body, flags=list(flags))],
        env=os.environ | {"TMPDIR": str(folder)} | env,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("body", "code", "events"),
    [
        ("return", 0, ["end"]),
        ("os.write(2, b'native words'); print('words', file=sys.stderr)", 0, ["end"]),
        (f"warnings.warn({SENTINEL!r}, stacklevel=1)", 0, ["library", "end"]),
        (f"logging.getLogger('lib').error('cannot read ' + {SENTINEL!r})", 0, ["library", "end"]),
        ("logging.getLogger('tamis.storage').warning('the storage does not answer')", 0, ["storage", "end"]),
        (f"raise KeyError({SENTINEL!r})", 70, ["error", "end"]),
        ("from tamis.pipeline.errors import InputError; raise InputError('two:', ['a', 'b'])", 3, ["error", "end"]),
        ("os.write(2, b'native words'); sys.exit(5)", 5, ["note", "end"]),
        ("os.kill(os.getpid(), 15); time.sleep(60)", 143, ["stopping", "end"]),
        ("t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()", 0, ["warning", "end"]),
    ],
)
def test_nothing_else_is_on_stderr(tmp_path: Path, body: str, code: int, events: list[str]) -> None:
    done = run(body, tmp_path)
    said = log_objects(done.stderr)
    assert done.returncode == code
    assert [line["event"] for line in said] == events
    assert (said[-1]["exit_code"], said[-1]["level"]) == (code, "info" if code == 0 else "error")
    assert len({line["command_id"] for line in said}) == 1
    assert SENTINEL not in done.stderr
    left = list(tmp_path.glob("tamis-stderr-*"))
    assert bool(left) == ("sys.exit" in body)
    for file in left:
        assert file.read_text() == "native words"
        assert file.stat().st_mode & 0o777 == 0o600
        assert str(file) in said[0]["message"]


def test_a_process_is_not_kept_by_its_heart(tmp_path: Path) -> None:
    """Nor is what it says cut off, however it ends."""
    body = "phase('ray', 'Ray is starting'); time.sleep(0.2){}"
    for rest, code in (("", 0), ("; sys.exit(5)", 5), ("; raise KeyboardInterrupt", 130)):
        done = run(body.format(rest), tmp_path, TAMIS_HEARTBEAT_SECONDS="0.001")
        said = log_objects(done.stderr)
        assert done.returncode == code
        assert {line["event"] for line in said[:-1]} == {"progress"}
        assert said[-1]["event"] == "end"
        assert said[-1]["seconds"] < 10


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    # The words come from inside of the try: a signal before it would end the program in order.
    body = "try: print('at work', flush=True); time.sleep(60)\n    finally: time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM.format(body=body, flags=["--quiet"])],
        env=os.environ | {"TMPDIR": str(tmp_path), "TAMIS_HEARTBEAT_SECONDS": "0.01"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "at work\n"
        process.send_signal(signal.SIGTERM)
        first = process.stderr.readline()
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        said = log_objects(first + process.stderr.read())
    finally:
        process.kill()
        process.wait()
    assert [(line["event"], line.get("at_once")) for line in said] == [
        ("stopping", False),
        ("stopping", True),
        ("end", None),
    ]
    assert process.returncode == said[-1]["exit_code"] == 143


def test_without_room_for_what_others_write(tmp_path: Path) -> None:
    nowhere = "import tempfile; tempfile.tempdir = '/none'"
    done = run("os.write(2, b'native words'); sys.exit(5)", tmp_path, before=nowhere)
    assert done.returncode == 5
    assert [line["event"] for line in log_objects(done.stderr)] == ["end"]


def test_a_silence_that_nobody_can_mean(tmp_path: Path) -> None:
    for value in ("never", "0", "nan", "inf", "-1"):
        done = run("return", tmp_path, TAMIS_HEARTBEAT_SECONDS=value)
        assert done.returncode == 2
        assert "TAMIS_HEARTBEAT_SECONDS" in log_objects(done.stderr)[0]["message"]


@pytest.mark.parametrize(
    "words",
    [
        ["curate", "--nope", "--log-format", "json"],
        ["curate", "--log-format=json", "--drop", "much"],
        ["--log-format", "json", "curate"],
        ["nothing", "--log-format", "json"],
        ["curate", "--log-format", "json", "--log-format"],
        ["curate", "--input", "x", "--log-format", "json"],
        ["plan", "--log-format", "json", "--show", "3", "--input", "x", "--model", "m", "--method", "saft", "--output",
         "out"],
        ["verify", "nowhere", "--log-format", "json", "--quiet"],
    ],
)  # fmt: skip
def test_mistakes_on_the_command_line_are_objects(tmp_path: Path, words: list[str]) -> None:
    tamis = Path(sys.executable).with_name("tamis")
    done = subprocess.run([str(tamis), *words], capture_output=True, text=True, cwd=tmp_path)
    said: list[dict[str, Any]] = log_objects(done.stderr)
    assert done.returncode == 2
    assert done.stdout == ""
    assert [line["event"] for line in said if line["event"] not in ("command", "progress")] == ["error", "end"]
    assert said[-1]["exit_code"] == said[-2]["exit_code"] == 2


def test_without_a_word_there_is_help(tmp_path: Path) -> None:
    done = subprocess.run([str(Path(sys.executable).with_name("tamis"))], capture_output=True, text=True, cwd=tmp_path)
    assert "--help" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_machine_reads_stdout(tmp_path: Path) -> None:
    tamis = Path(sys.executable).with_name("tamis")
    done = subprocess.run([str(tamis), "schema", "--log-format", "json"], capture_output=True, text=True, cwd=tmp_path)
    assert json.loads(done.stdout)["title"]
    assert [line["event"] for line in log_objects(done.stderr)] == ["command", "end"]
