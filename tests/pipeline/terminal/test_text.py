"""Text from outside on a terminal and in a log: it is shown, and does nothing."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tamis.pipeline.commands.screen_parts import plain
from tamis.pipeline.commands.screens import show_layers
from tamis.pipeline.commands.status import show_status
from tamis.pipeline.errors import (
    ConfigError,
    IncompleteError,
    InputError,
    TamisError,
    TooLargeError,
    as_facts,
    from_facts,
)
from tamis.pipeline.run.lease import Lease
from tamis.pipeline.run.paths import INCOMPLETE, MANIFEST, RUN, SET_ASIDE
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import Progress
from tamis.pipeline.terminal.text import shown
from tamis.pipeline.terminal.voice import Voice, say, warn_once

HOSTILE = "a\x1b[2J\rb\nerror: forged\x9b31m\u202egnp\u2066\x00\x07\u2028[red]x[/red]:bomb:\ud83dz"
RAW = set("\x1b\r\x9b\u202e\u2066\x00\x07\u2028\ud83d")


def check(said: str, lines: int | None = None) -> None:
    assert not RAW & set(said), ascii(said)
    assert not any(line.startswith("error: forged") for line in said.splitlines()), said
    if lines is not None:
        assert len(said.splitlines()) == lines, said


def test_what_is_shown() -> None:
    assert shown("a\nb\tc\x1b[0m") == r"a\nb\tc\x1b[0m"
    assert shown("\u202e\u2028\ud800\udcff\U000e0041") == r"\u202e\u2028\ud800\udcff\U000e0041"
    for harmless in ("Grüße, 世界 \N{GRINNING FACE}", "नि\u200dश्", "مرحبا", "C:\\new [x] 100 %", "×·…"):
        assert shown(harmless) == harmless
    check(shown(HOSTILE), 1)


def test_each_argument_of_an_error_is_one_line() -> None:
    check(str(ConfigError(f"{HOSTILE}: no such file")), 1)
    check(str(IncompleteError("first", HOSTILE, "last")), 3)
    check(str(InputError("2 files are wrong:", [HOSTILE, HOSTILE])), 3)
    check(str(TooLargeError(HOSTILE, HOSTILE)), 1)


@pytest.mark.parametrize(
    "error", [IncompleteError("first", HOSTILE, "last"), InputError("two:", ["a", "b"]), TooLargeError("a", "b")]
)
def test_an_error_that_travels_keeps_its_lines(error: TamisError) -> None:
    copied = pickle.loads(pickle.dumps(error))  # noqa: S301
    for arrived in (copied, from_facts(as_facts(error))):
        assert type(arrived) is type(error)
        assert str(arrived) == str(error)
    assert vars(copied) == vars(error)


def test_progress_and_what_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    log = io.StringIO()
    voice = Voice(log)
    progress = Progress(f"train {HOSTILE}", 10, voice=voice)
    voice.say(HOSTILE)
    progress.advance(10, note=HOSTILE)
    progress.finish()
    check(log.getvalue(), 2)
    say(HOSTILE)
    warn_once(HOSTILE)
    check(capsys.readouterr().err, 2)


def test_markup_and_emoji_of_others_style_nothing() -> None:
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=300, emoji=False, color_system="truecolor")
    console.print(plain(HOSTILE + "\\"), highlight=False)
    assert "[red]x[/red]:bomb:" in drawn.getvalue()
    check(drawn.getvalue(), 1)


def test_a_layer_result_that_others_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result: dict[str, Any] = {
        "search": {"prompts": {"count": 1}, "unscaled": 1},
        "fisher": None,
        "chosen": {"block": 0, "by": HOSTILE, "how": "default_block", "position": "last_token"},
        "blocks": [
            {"block": HOSTILE, "refusals": {HOSTILE: HOSTILE}, "d1": HOSTILE, "d2": 0, "d3": 0, "sensitivity": 0}
        ],
        "warnings": [HOSTILE],
    }
    show_layers(Console(width=300, emoji=False), result, Store(str(tmp_path)))
    check(capsys.readouterr().out)


@pytest.mark.parametrize("name", [RUN, INCOMPLETE])
def test_a_state_that_others_wrote(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(str(tmp_path))
    aside = {"shard": "0", "source": HOSTILE, "start_row": 0, "stop_row": 1, "rows": 1, "reason": HOSTILE}
    written = aside | {"source": HOSTILE.replace("\ud83d", ""), "reason": HOSTILE.replace("\ud83d", "")}
    facts = {"fingerprint": {}, "shards": 1, "reference_shards": 0, "rows": 1, "created": HOSTILE.replace("\ud83d", "")}
    store.write_facts(name, {**facts, "counts": {"rows_in": 1, "failed": 1}, "failed": [written]})
    store.write_json(f"{SET_ASIDE}/{written['reason'][:1]}/0.json", written)
    driver = Lease("1", HOSTILE, "elsewhere", 1, 0.0, HOSTILE)
    assert str(driver)
    show_status(store)
    check(capsys.readouterr().out)


# --- the command ---------------------------------------------------------------------------------------------------


def tamis(*arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("tamis")), *arguments],
        capture_output=True, text=True, errors="surrogateescape", **{"env": os.environ} | kwargs,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_errors_of_the_command(tmp_path: Path, encoding: str) -> None:
    named = HOSTILE.replace("\x00", "").replace("\ud83d", "").replace("/", "")
    env = os.environ | {"PYTHONIOENCODING": encoding}
    flags = ["--model", "m", "--method", "larf", "--output", "out"]
    for arguments, code in (
        (["status", f"{tmp_path}/{named}"], 2),
        (["verify", f"{tmp_path}/{named}"], 2),
        (["report", f"{tmp_path}/{named}"], 2),
        (["curate", f"{tmp_path}/{named}.yaml"], 2),
        (["curate", *flags, "--input", f"{tmp_path}/{named}.jsonl"], 3),
        (["curate", f"--{named}"], 2),
        ([named], 2),
    ):
        done = tamis(*arguments, env=env, cwd=tmp_path)
        assert done.returncode in (2, 3), (code, done)
        check(done.stderr)
        assert done.stderr.startswith("error: ")


def test_a_manifest_that_others_wrote(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps({"fingerprint": {}, "counts": {}, "files": [{"name": HOSTILE}]}))
    for command in ("status", "report", "verify"):
        done = tamis(command, str(tmp_path), env=os.environ | {"TMPDIR": str(tmp_path)})
        check(done.stdout + done.stderr)
        assert done.returncode in (2, 3), done
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed(tmp_path: Path, closed: str) -> None:
    command = f"'{Path(sys.executable).with_name('tamis')}' status '{tmp_path}/none' {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "" if "2>" in closed else done.stderr.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("sink", "code"), [("> /dev/full", 5), ("| true", 141)])
def test_a_reader_that_takes_nothing(sink: str, code: int) -> None:
    command = f"set -o pipefail; '{Path(sys.executable).with_name('tamis')}' schema {sink}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
