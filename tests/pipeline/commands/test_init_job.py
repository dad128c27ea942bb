"""`tamis init`: the file that it writes loads, plans without a change, and means what was looked at."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from plan_jobs import lines_of, rows_of
from typer.testing import CliRunner

from tamis.pipeline.cli import app
from tamis.pipeline.commands import init_job
from tamis.pipeline.commands.init_job import init
from tamis.pipeline.errors import ConfigError, InputError, InternalError
from tamis.pipeline.job.job_file import load_job
from tamis.pipeline.planning.plan import make_plan

HOSTILE = "a #b: [c]\n---\n\x1b[2J"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that holds data, and is the one in which commands are started."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.jsonl").write_bytes(lines_of(rows_of(50)))
    return tmp_path


DATA = {"input.path": ["data"], "method": ["contrast"]}


def test_it_plans_without_a_change(folder: Path, tiny_model: Path) -> None:
    found = init({**DATA, "model.name": str(tiny_model)}, [], "job.yaml")
    assert (found.files, found.rows, found.will_fail, found.has_model) == (1, 50, False, True)
    text = (folder / "job.yaml").read_text()
    assert "a.jsonl: jsonl, 50 rows, pair (system, prompt -> response)" in text
    assert "word word" not in text  # of the rows
    plan = make_plan(load_job("job.yaml", {}))
    assert (plan.rows, plan.will_fail, plan.job.output, plan.job.selection.drop) == (50, False, "out", 0.1)
    # What is commented out means the same, too.
    bold = re.sub(
        r"^( *)# (columns|dialect|max_\w+|overlong|shard_rows|keep_captures|seed)(: )", r"\1\2\3", text, flags=re.M
    )
    assert bold.count("\n#") < text.count("\n#")
    (folder / "bold.yaml").write_text(bold)
    again = make_plan(load_job("bold.yaml", {}))
    assert again.estimate == plan.estimate
    kept = [
        {key: made.fingerprint[key] for key in made.fingerprint if not key.startswith("input")}
        for made in (again, plan)
    ]
    assert kept[0] == kept[1]


def test_a_model_that_is_set(folder: Path, tiny_model: Path) -> None:
    sets = [f"model = {tiny_model}", "output = here"]
    assert init(DATA, sets, "job.yaml").has_model
    assert load_job("job.yaml", {}) == load_job(None, {**DATA, "selection.drop": 0.1}, sets)


def test_rows_that_are_too_long_are_said_and_cut(folder: Path, tiny_model: Path) -> None:
    (folder / "data/a.jsonl").write_bytes(lines_of(rows_of(50, words=300)))
    flags = {**DATA, "method": ["saft"], "model.name": str(tiny_model), "max_tokens": 64}
    found = init(flags, [], "job.yaml")
    text = (folder / "job.yaml").read_text()
    assert "\noverlong: keep_end\n" in text
    assert "Of 50 sampled rows, 50 have more than max_tokens (64 at most)" in text
    assert not found.will_fail
    assert not make_plan(load_job("job.yaml", {})).will_fail
    # Who has chosen keeps the choice, and hears of it.
    chosen = init({**flags, "overlong": "quarantine"}, [], "chosen.yaml")
    assert chosen.will_fail
    assert "\noverlong: quarantine\n" in (folder / "chosen.yaml").read_text()


def test_without_a_model_it_is_named_with_the_flag(folder: Path) -> None:
    ran = CliRunner().invoke(app, ["init", "-i", "data", "--drop", "5%", "--method", "larf,saft"])
    assert ran.exit_code == 0, ran.output
    assert "50 rows in 1 file" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "next: tamis plan job.yaml --model MODEL"
    with pytest.raises(ConfigError, match=r"model is missing; set it in the job file or with --model"):
        load_job("job.yaml", {})
    job = load_job("job.yaml", {"model.name": "m"})
    assert (job.selection.drop, job.method, job.output) == (0.05, ["larf", "saft"], "out")


def test_the_data_may_be_named_without_a_flag(folder: Path) -> None:
    (folder / "data/b.jsonl").write_bytes(lines_of(rows_of(3)))
    ran = CliRunner().invoke(app, ["init", "-i", "data/a.jsonl", "data/b.jsonl"])
    assert "53 rows in 2 files" in ran.stdout
    assert load_job("job.yaml", {"model.name": "m"}).input.path == ["data/a.jsonl", "data/b.jsonl"]
    assert "name the data: tamis init --input PATH" in str(CliRunner().invoke(app, ["init"]).exception)


def test_nothing_is_written_over(folder: Path) -> None:
    (folder / "job.yaml").write_text("mine")
    (folder / "out").mkdir()
    ran = CliRunner().invoke(app, ["init", "-i", "data"])
    assert "is there already; choose another name, or write over it with --force" in str(ran.exception)
    assert (folder / "job.yaml").read_text() == "mine"
    assert CliRunner().invoke(app, ["init", "-i", "data", "--force"]).exit_code == 0
    # An output that is there belongs to another job.
    assert load_job("job.yaml", {"model.name": "m"}).output == "out-2"
    with pytest.raises(ConfigError, match=r"a job file ends in \.yaml"):
        init(DATA, [], "job.json")


def test_a_file_that_is_there_stays_until_the_new_one_is_known_to_be_right(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = folder / "mine.yaml"
    mine.write_text("mine")
    mine.chmod(0o600)
    (folder / "job.yaml").symlink_to(mine)
    before = sorted(path.name for path in folder.iterdir())
    with monkeypatch.context() as broken:
        broken.setattr(init_job, "_lines", lambda *_: ["method: saft"])
        with pytest.raises(InternalError, match=r"for job\.yaml would not mean"):
            init(DATA, [], "job.yaml", force=True)
    assert mine.read_text() == "mine"
    assert sorted(path.name for path in folder.iterdir()) == before
    init(DATA, [], "job.yaml", force=True)
    assert (folder / "job.yaml").is_symlink()
    assert mine.stat().st_mode & 0o777 == 0o600
    assert load_job("mine.yaml", {"model.name": "m"}).input.path == ["data"]
    assert sorted(path.name for path in folder.iterdir()) == before


def test_the_next_command_can_be_pasted(folder: Path) -> None:
    ran = CliRunner().invoke(app, ["init", "-i", "data", "--output", "my job.yaml"])
    assert ran.stdout.splitlines()[-1] == "next: tamis plan 'my job.yaml' --model MODEL"


def test_what_is_set_is_in_the_file(folder: Path) -> None:
    sets = [
        "larf.layer=3",
        "output=elsewhere",
        "workers={min: 1, max: 4}",
        "input.columns={prompt: prompt, response: response}",
    ]
    init({**DATA, "method": ["larf"]}, sets, "job.yaml")
    job = load_job("job.yaml", {"model.name": "m"})
    assert job == load_job(None, {**DATA, "method": ["larf"], "selection.drop": 0.1, "model.name": "m"}, sets)
    nightly = ["schedule={root: nights, name: '%Y-%m-%d', artifact: each_night}"]
    init(DATA, nightly, "nightly.yaml")
    assert "output" not in (folder / "nightly.yaml").read_text().replace("the output", "")
    with pytest.raises(ConfigError, match="name the model, too"):
        init(DATA, ["model.device=cpu"], "half.yaml")
    masked = [*sets[1:], "toss.utility_references=data/a.jsonl"]
    init({**DATA, "method": ["toss"]}, masked, "toss.yaml")
    assert load_job("toss.yaml", {"model.name": "m"}).selection.is_default


def test_columns_that_are_not_understood_write_nothing(folder: Path) -> None:
    (folder / "data/a.jsonl").write_text(json.dumps({"q": 1, "z": [2]}) + "\n")
    with pytest.raises(InputError, match="not understood"):
        init(DATA, [], "job.yaml")
    assert not (folder / "job.yaml").exists()


def test_hostile_names_stay_names(folder: Path) -> None:
    """Of files and of columns: in values they are quoted, in comments they are one line."""
    name = "x '\"#: {} \u202e\x1b[2J.jsonl"
    rows = [{"prompt": f"question {i}", "response": f"answer {i}", HOSTILE: "text"} for i in range(5)]
    (folder / "data" / name).write_bytes(lines_of(rows))
    init({**DATA, "input.path": [f"data/{name}"]}, [], "job.yaml")
    text = (folder / "job.yaml").read_text()
    assert "\x1b" not in text
    assert "\u202e" not in text
    job = load_job("job.yaml", {"model.name": "m"})
    assert job.input.path == [f"data/{name}"]
