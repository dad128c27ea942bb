"""The other commands, and what every command prints: help for each flag, few lines in a log, nothing from Ray."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import fsspec
import jsonschema
import pytest
import yaml
from command import DEADLINE, PROGRESS, TAMIS, Ran, tamis
from outputs import alpaca_rows, check_whole, manifest_of, snapshot, write_jsonl

from tamis.pipeline import cli
from tamis.pipeline.errors import ConfigError

COMMANDS = (
    *("curate", "layers", "plan", "select", "status", "verify", "unlock", "report", "sample", "certify", "evaluate"),
    *("tune", "export", "push", "doctor", "schema", "init", "examples", "compare"),
)


@dataclass(frozen=True)
class Finished:
    """A run from a job file, with Ray started by the command itself, before and after."""

    folder: Path
    job: dict[str, object]
    planned: Ran
    ran: Ran
    seconds: float

    @property
    def out(self) -> Path:
        return self.folder / "out"


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("commands")
    rows = [
        {**row, "output": f"{row['output']} <script>[red]{number}"} for number, row in enumerate(alpaca_rows(80, 1))
    ]
    for part in range(4):
        write_jsonl(folder / "data" / f"{part}.jsonl", rows[20 * part : 20 * part + 20])
    job: dict[str, object] = {
        "input": {"path": "data/*.jsonl"},
        "output": "out",
        "model": {"name": str(tiny_model)},
        "method": ["larf"],
        "larf": {"layer": 1},
        "selection": {"drop_count": 7},
        "shard_rows": 10,
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    planned = tamis("plan", "job.yaml", cwd=folder)
    assert not (folder / "out").exists()
    began = time.monotonic()
    ran = tamis("curate", "job.yaml", cwd=folder)
    return Finished(folder, job, planned, ran, time.monotonic() - began)


# --- plan ---------------------------------------------------------------------------------------------------------


def test_plan_shows_what_would_be_done(finished: Finished) -> None:
    planned = finished.planned
    assert planned.rc == 0, planned.output
    assert planned.stderr == ""
    assert re.search(
        r"0\.jsonl, row 0 \(counted from 0\), as it is rendered: user, assistant; \d+ tokens", planned.stdout
    )
    assert re.search(r"^  \| .*>>>.+<<<", planned.stdout, re.MULTILINE)
    for part in range(4):
        assert re.search(rf"{part}\.jsonl +jsonl +alpaca \(system, instruction, input -> output\) +20 ", planned.stdout)
    for words in (
        "80 in 8 shards",
        "LlamaForCausalLM, 4 blocks x 32",
        "block 1 (0-based), last_token; blocks above 1 are not loaded",
        "120 larf.unsafe (unsafe.jsonl), 120 larf.safe (safe.jsonl)",
        "drop count 7, by larf",
        "2,048 tokens; longer ones: quarantine",
        "out (new)",
    ):
        assert words in " ".join(planned.stdout.split()), words


def test_plan_fails_when_the_run_would(finished: Finished, tmp_path: Path) -> None:
    flags = ["--output", tmp_path / "other", "--method", "saft", "--set", "max_tokens=40"]
    ran = tamis("plan", "job.yaml", *flags, cwd=finished.folder)
    assert ran.rc == 3
    assert "are longer than max_tokens; set overlong to keep_end or keep_start" in " ".join(ran.stdout.split())
    assert ran.stderr.startswith("error: the run would fail")


# --- curate -------------------------------------------------------------------------------------------------------


def test_curate_prints_a_summary_and_few_lines_of_progress(finished: Finished) -> None:
    ran = finished.ran
    assert ran.rc == 0, ran.output
    check_whole(finished.out, ["larf"])
    for words in ("rows read 80", "kept 73", "dropped 7", "report", "out/report.html"):
        assert words in " ".join(ran.stdout.split()), words
    lines = ran.stderr.splitlines()
    assert all(PROGRESS.match(line) for line in lines), ran.stderr
    # One line when a stage ends, and otherwise at most one every 30 s.
    for stage in ("capture", "fit", "emit"):
        said = [line for line in lines if line.startswith(stage)]
        assert 1 <= len(said) <= 1 + finished.seconds / 30, said
        assert "took" in said[-1]
    assert "\r" not in ran.output
    assert "\x1b" not in ran.output


def test_plan_and_status_of_a_finished_run(finished: Finished) -> None:
    before = snapshot(finished.out)
    planned = tamis("plan", "job.yaml", cwd=finished.folder)
    assert planned.rc == 0, planned.output
    assert "out (complete)" in " ".join(planned.stdout.split())
    status = tamis("status", "out", cwd=finished.folder)
    assert status.rc == 0, status.output
    assert status.stdout.startswith(f"complete since {manifest_of(finished.out)['created']}")
    assert "kept 73" in " ".join(status.stdout.split())
    assert snapshot(finished.out) == before


def test_status_and_report_where_no_run_has_been(tmp_path: Path) -> None:
    for command, words in (("status", "no run of tamis has been here"), ("report", "no finished run here")):
        ran = tamis(command, tmp_path / "nothing", cwd=tmp_path)
        assert ran.rc == 2
        assert ran.stderr.startswith("error: ")
        assert words in ran.stderr
        assert len(ran.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["status", "report"])
def test_status_and_report_of_somebody_else_s_folder(command: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "web app", "icons": []}')
    ran = tamis(command, tmp_path, cwd=tmp_path)
    assert (ran.rc, ran.stdout) == (2, "")
    assert "manifest.json was not written by tamis" in ran.stderr


class _Guarded(fsspec.get_filesystem_class("memory")):  # type: ignore[misc]
    """A storage that answers only clients that know its options."""

    protocol = "guarded"

    def info(self, path: str, **_: object) -> dict[str, object]:
        if self.storage_options != {"endpoint_url": "http://127.0.0.1:9", "client_kwargs": {"region_name": "eu"}}:
            raise PermissionError(13, "Permission denied", path)
        raise FileNotFoundError(path)

    def cat_file(self, path: str, *_: object, **__: object) -> bytes:
        raise PermissionError(13, "Permission denied", path)


@pytest.mark.parametrize("command", ["status", "report"])
def test_status_and_report_reach_storage_that_needs_options(command: str) -> None:
    fsspec.register_implementation("guarded", _Guarded, clobber=True)
    options = ["endpoint_url=http://127.0.0.1:9", "client_kwargs.region_name=eu"]
    flags = [flag for option in options for flag in ("--storage-options", option)]
    with pytest.raises(ConfigError, match="Permission denied"):
        cli.app([command, "guarded://out"], standalone_mode=False)
    with pytest.raises(ConfigError, match=r"no run of tamis has been here|no finished run here"):
        cli.app([command, "guarded://out", *flags], standalone_mode=False)
    with pytest.raises(ConfigError, match=r"api_key looks like a credential") as caught:
        cli.app([command, "guarded://out", "--storage-options", "api_key=hunter2"], standalone_mode=False)
    assert "hunter2" not in str(caught.value)


def test_a_storage_that_fails_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray.exceptions

    full = OSError(errno.ENOSPC, "No space left on device", "out/kept/0.parquet")
    wrapped = ray.exceptions.RayTaskError("task", "a worker's traceback", full)

    def failing(error: Exception) -> None:
        def command(**_: object) -> None:
            raise error

        monkeypatch.setattr(cli, "app", command)
        monkeypatch.setattr(cli, "_settle", lambda: None)  # this process is pytest's,
        monkeypatch.setattr(cli, "last_words", lambda _: None)  # which has more to say
        cli.main()

    for error in (full, wrapped, wrapped.as_instanceof_cause()):
        with pytest.raises(SystemExit) as caught:
            failing(error)
        assert caught.value.code == 5
        said = capsys.readouterr().err
        assert said.startswith(
            "error: out/kept/0.parquet: No space left on device; what is done stays done, free space"
        )
        assert len(said.splitlines()) == 1


def test_report_writes_the_report_anew(finished: Finished) -> None:
    drawn = (finished.out / "report.html").read_text()
    assert "&lt;script&gt;" in drawn
    assert "<script>[red]" not in drawn
    (finished.out / "report.html").unlink()
    (finished.out / "README.md").write_text("lost")
    ran = tamis("report", "out", cwd=finished.folder)
    assert ran.rc == 0, ran.output
    assert ran.stderr == ""
    assert (finished.out / "report.html").read_text() == drawn
    check_whole(finished.out, ["larf"])


# --- doctor, schema, version, help --------------------------------------------------------------------------------


def test_doctor(tiny_model: Path, ray_address: str, tmp_path: Path) -> None:
    ran = tamis("doctor", "--model", tiny_model, cwd=tmp_path, env={"RAY_ADDRESS": ray_address})
    assert ran.rc == 0, ran.output
    assert ran.stderr == ""
    lines = ran.stdout.splitlines()
    assert lines[-1] == "ready"
    assert all(line.startswith("ok ") for line in lines[:-1])
    found = {line.split()[1] for line in lines[:-1]}
    assert {"python", "packages", "processors", "disk", "gpus", "ray", "model"} <= found
    assert f"{ray_address}: 1 node(s), 2 CPUs" in ran.stdout


def test_doctor_says_what_is_wrong(tmp_path: Path) -> None:
    ran = tamis("doctor", "--model", "no/such/model", "--address", "127.0.0.1:1", cwd=tmp_path)
    assert ran.rc == 5
    bad = [line for line in ran.stdout.splitlines() if line.startswith("BAD")]
    assert [line.split()[1] for line in bad] == ["ray", "model"]
    assert "no Ray cluster answers at 127.0.0.1:1" in bad[0]


def test_schema_describes_the_job_file(finished: Finished) -> None:
    ran = tamis("schema", cwd=finished.folder)
    assert ran.rc == 0
    schema = json.loads(ran.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(finished.job)
    # The short forms that a job file may use.
    short = {"input": "a.jsonl", "output": "out", "model": "m", "method": "larf"}
    validator.validate(short)
    validator.validate({**short, "input": ["a.jsonl", "b.jsonl"], "larf": {"layer": 3, "refusal_markers": "no"}})
    validator.validate({**short, "larf": {"layer": "fisher", "refusal_markers": ["won't"]}})
    for wrong in ({**short, "shard_row": 3}, {**short, "method": "lorf"}, {**short, "larf": {"layer": -1}}, {}):
        assert list(validator.iter_errors(wrong)), wrong


def test_version(tmp_path: Path) -> None:
    ran = tamis("--version", cwd=tmp_path)
    assert (ran.rc, ran.stdout, ran.stderr) == (0, f"tamis {importlib.metadata.version('tamis')}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_flag(command: str, tmp_path: Path) -> None:
    ran = tamis(command, "--help", cwd=tmp_path, env={"COLUMNS": "200"})
    assert ran.rc == 0
    assert ran.stderr == ""
    lines = ran.stdout.splitlines()
    flags = [number for number, line in enumerate(lines) if re.match(r" +(-\w, )?--[a-z]", line)]
    assert flags
    for number in flags:
        flag, _, text = lines[number].strip().partition("  ")
        # A long flag has its text on the next line.
        text = text.strip() or lines[number + 1].strip()
        assert len(text.split()) >= 3, flag
    if command in {"curate", "plan"}:
        named = {re.findall(r"--[\w-]+", lines[number])[0] for number in flags}
        wanted = "input output model revision method drop drop-count threshold workers set"
        assert {f"--{name}" for name in wanted.split()} <= named


def test_the_first_help_names_every_command(tmp_path: Path) -> None:
    ran = tamis("--help", cwd=tmp_path)
    assert ran.rc == 0
    for command in COMMANDS:
        assert re.search(rf"^ +{command} +\S", ran.stdout, re.MULTILINE), command


def test_without_docstrings_it_says_so() -> None:
    """Ray's agents would not start, and Ray would say that the machine is busy."""
    words = [sys.executable, "-OO", str(TAMIS), "curate", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "PYTHONOPTIMIZE=2" in done.stderr
