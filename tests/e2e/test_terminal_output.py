"""What the command writes to a terminal or a log: foreign names have no effect there, an ASCII locale is enough, and
signals are handled.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import curate, poll, start, tamis
from outputs import alpaca_rows, write_jsonl

NAME = "a\nplain.jsonl  jsonl  a row of the plan \x1b[31m\u202e[bold red]b :bomb:"


@pytest.fixture(autouse=True)
def _in_the_foreground() -> Iterator[None]:
    """Restores Ctrl-C: processes that a shell starts in the background ignore it, and so do all their children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def check(text: str) -> None:
    assert not set("\x1b\r\u202e") & set(text), ascii(text)
    assert not any(line.startswith(("plain.jsonl", "error: forged", "warning: forged")) for line in text.splitlines())


def test_names_of_others_in_the_plan(tiny_model: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / f"{NAME}.jsonl", alpaca_rows(4, seed=1))
    flags = ["--input", tmp_path / f"{NAME}.jsonl", "--model", tiny_model, "--method", "saft", "--output", "out"]
    ran = tamis("plan", *flags, cwd=tmp_path)
    assert ran.rc == 0, ran.output
    check(ran.output)
    flat = "".join(ran.stdout.split())
    assert r"a\nplain.jsonljsonlarowoftheplan\x1b[31m\u202e[boldred]b:bomb:.jsonl" in flat


def test_columns_of_others_in_an_error(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{**row, "c\x1b[2J\nerror: forged": 1} for row in alpaca_rows(4, seed=1)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--input", "data.jsonl", "--model", tiny_model, "--method", "saft", "--output", "out"]
    ran = tamis("plan", *flags, "--set", "input.columns.text=none", cwd=tmp_path)
    assert ran.rc == 3, ran.output
    check(ran.output)
    assert r"c\x1b[2J\nerror: forged" in ran.stderr


def test_a_locale_of_few_letters(tiny_model: Path, tmp_path: Path, ray_address: str) -> None:
    """The progress line has a character that is not in ASCII."""
    write_jsonl(tmp_path / "däta.jsonl", alpaca_rows(8, seed=1))
    flags = ["curate", "--input", "däta.jsonl", "--model", tiny_model, "--method", "saft", "--drop", "0.25"]
    plain = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ran = tamis(*flags, "--output", "out", "--address", ray_address, cwd=tmp_path, env=plain)
    assert ran.rc == 0, ran.output
    assert r"d\xe4ta.jsonl" in ran.stdout
    assert r" \xb7 " in ran.stderr
    assert ran.output.isascii()


@pytest.mark.long
@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)])
def test_a_run_that_is_stopped_says_so_and_goes_on(
    slow_model: Path, tmp_path: Path, ray_address: str, number: signal.Signals, name: str, code: int
) -> None:
    """On a cluster Ray installs its own handler for SIGTERM."""
    write_jsonl(tmp_path / "data.jsonl", alpaca_rows(40, seed=1))
    flags: list[object] = ["--input", "data.jsonl", "--model", slow_model, "--method", "saft", "--output", "out"]
    flags += ["--drop", "0.25", "--set", "shard_rows=4"]
    said, left = tmp_path / "said", tmp_path / "left"
    left.mkdir()
    env = {"TMPDIR": str(left)}
    running = start("curate", *flags, "--address", ray_address, cwd=tmp_path, said=said, env=env)
    try:
        poll(lambda: any((tmp_path / "out/_work/receipts/capture").glob("*")), running, "the first receipt")
        running.send_signal(number)
        assert running.wait(timeout=120) == code
    finally:
        running.kill()
        running.wait()
    text = said.read_text()
    assert "Traceback" not in text
    word = f"stopping ({name}); what is done stays done, run the same command again to go on"
    assert text.splitlines().count(word) == 1, text
    assert text.splitlines()[-1] == word
    assert list(left.iterdir()) == []  # no log of a failure
    curate(*flags, cwd=tmp_path, address=ray_address)
