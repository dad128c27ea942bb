"""What the command line takes: short flags, percent, commas, the Tab key, no words at all; and its examples."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tamis.pipeline.cli import app
from tamis.pipeline.commands.examples import EXAMPLES, lines
from tamis.pipeline.commands.flag_values import methods_so_far, names, share
from tamis.pipeline.terminal.voice import VOICE

COMMANDS: Any = typer.main.get_command(app)


def parsed(command: str) -> dict[str, Any]:
    """The values that the real command line makes of this command; nothing is run."""
    program, name, *words = shlex.split(command)
    assert program == "tamis"
    found = COMMANDS.commands[name]
    context = found.make_context(name, words, parent=typer.Context(COMMANDS))
    return dict(context.params)


def tamis(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    program = f"import sys; sys.argv = ['tamis', *{list(words)!r}]; import tamis.pipeline.cli as cli; cli.main()"
    environment = os.environ | env
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)


# --- percent ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000))
def test_percent_is_the_same_number_as_the_share(hundredths: int) -> None:
    """To the bit: the two are one job."""
    as_share = f"{Decimal(hundredths) / 10_000}"
    assert share(f"{Decimal(hundredths) / 100}%") == share(as_share) == float(as_share)
    assert share(f" {Decimal(hundredths) / 100} % ") == float(as_share)


@pytest.mark.parametrize(
    "text", ["", "%", "ten", "10%%", "nan", "inf%", "1/10", "1e400", "1e1000000", "1e9999999%", "1_0%", "0_1"]
)
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"a share is meant, such as 0\.1 or 10%"):
        share(text)


def test_percent_without_its_sign() -> None:
    with pytest.raises(typer.BadParameter, match="10 is more than all rows; write 10% if percent is meant"):
        share("10")
    assert (share("1"), share("-0.5"), share("250%")) == (1.0, -0.5, 2.5)  # for the job to refuse


# --- several methods ----------------------------------------------------------------------------------------------


def test_methods_with_commas_or_given_again() -> None:
    assert names(["larf,saft", "contrast"]) == ["larf", "saft", "contrast"]
    assert names(["larf, saft"]) == ["larf", "saft"]
    assert names(["larf,"]) == ["larf", ""]  # for the job to refuse
    assert names(None) is None


def test_an_empty_method_is_refused() -> None:
    ran = CliRunner().invoke(app, ["plan", "-i", "x", "-o", "y", "-m", "z", "--method", "larf,,saft"])
    assert str(ran.exception).startswith("method.1: there is 'larf'")


def test_the_shell_completes_methods() -> None:
    assert methods_so_far("s") == ["saft"]
    assert methods_so_far("larf,s") == ["larf,saft"]
    assert "larf,larf" not in methods_so_far("larf,")
    ran = tamis(_TAMIS_COMPLETE="complete_bash", COMP_WORDS="tamis plan --method larf,s", COMP_CWORD="3")
    assert (ran.returncode, ran.stdout.split(), ran.stderr) == (0, ["larf,saft"], "")
    shown = tamis(_TAMIS_COMPLETE="source_bash")
    assert "complete -o default -F _tamis_completion tamis" in shown.stdout


# --- help ---------------------------------------------------------------------------------------------------------


def test_tamis_alone_prints_the_help() -> None:
    alone, asked = tamis(), tamis("-h")
    assert (alone.returncode, asked.returncode, alone.stderr) == (0, 0, "")
    assert alone.stdout == asked.stdout
    for command in COMMANDS.commands:
        assert re.search(rf"^  {command} ", alone.stdout, re.MULTILINE)


def test_every_command_has_short_flags_and_help_for_each() -> None:
    for name, command in COMMANDS.commands.items():
        short, long_ = (CliRunner().invoke(app, [name, flag]) for flag in ("-h", "--help"))
        assert (short.exit_code, short.stdout) == (0, long_.stdout), name
        flags = {flag: option for option in command.params for flag in option.opts}
        for long, short in (("--input", "-i"), ("--output", "-o"), ("--model", "-m")):
            assert long not in flags or flags[short] is flags[long], (name, long)
        assert all(option.help for option in command.params), name


def test_a_command_within_a_program_is_silent_when_it_is_over(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heartbeat would speak into whatever the program does next."""
    assert CliRunner().invoke(app, ["report", "no such folder"]).exception is not None
    monkeypatch.setattr(VOICE, "every", 0.0)
    capsys.readouterr()
    VOICE.beat()
    assert capsys.readouterr().err == ""


# --- examples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [command for group in EXAMPLES.values() for _, command in group])
def test_every_example_is_one_that_tamis_understands(command: str) -> None:
    values = parsed(command)
    assert shlex.join(shlex.split(command)).replace("'", "") == command.replace("'", "")
    if "method" in values:
        from tamis.pipeline.job.methods import known

        assert set(names(values["method"]) or []) <= set(known())


def test_the_examples_are_comments_and_commands() -> None:
    ran = CliRunner().invoke(app, ["examples"])
    assert ran.exit_code == 0
    assert ran.stdout.splitlines() == list(lines())
    commands = [line for line in lines() if line and not line.startswith("#")]
    assert commands == [command for group in EXAMPLES.values() for _, command in group]
    used = {command.split()[1] for command in commands}
    assert used >= {"init", "plan", "curate", "status", "verify", "select", "compare", "evaluate", "export"}
