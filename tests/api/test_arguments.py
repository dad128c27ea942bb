"""The arguments of `tamis.curate` as a job file: every key arrives, and what cannot be meant is refused early."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import tamis
from tamis.arguments import Arguments, JobFile, make_job
from tamis.errors import ConfigError, InputError
from tamis.pipeline.job.job_file import load_job

ROWS = [{"prompt": "a", "response": "b"}, {"prompt": "c", "response": "d"}]
NAMES = ("model", "method", "drop", "drop_count", "threshold", "artifact", "revision", "workers", "references", "set")


def made(data: Any, folder: Path, *, output: Any = "out", settings: Any = None, **given: Any) -> JobFile:
    arguments = Arguments(data, *(given.get(name) for name in NAMES))
    folder.mkdir(exist_ok=True)
    return make_job(arguments, settings or {}, output, True, str(folder))


def keys(job: JobFile) -> Any:
    return yaml.safe_load(Path(job.path).read_text())


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_argument_arrives(tmp_path: Path) -> None:
    settings = {
        "larf": {"layer": 3},
        "max_tokens": np.int64(64),
        "input": {"columns": {"prompt": "q", "response": "a"}},
    }
    job = made(
        ["a.jsonl", Path("b.jsonl")],
        tmp_path / "job",
        model=Path("folder/model"),
        method=("larf", "saft"),
        drop=np.float64(0.25),
        workers={"min": 1, "max": 2},
        set={"saft.k": 2, "selection.by": "saft"},
        settings=settings,
    )
    assert keys(job) == {
        "model": {"name": "folder/model"},
        "method": ["larf", "saft"],
        "selection": {"drop": 0.25, "by": "saft"},
        "workers": {"min": 1, "max": 2},
        "saft": {"k": 2},
        "larf": {"layer": 3},
        "max_tokens": 64,
        "input": {"path": ["a.jsonl", "b.jsonl"], "columns": {"prompt": "q", "response": "a"}},
        "output": "out",
    }
    found = load_job(job.path, {})
    assert (found.of("larf").layer, found.of("saft").k, found.max_tokens) == (3, 2, 64)


def test_any_text_survives_the_job_file(tmp_path: Path) -> None:
    odd = "a: 'b' \u2028 \U0001f600 yes\x85 #{}[]"
    job = made(f"{odd}.jsonl", tmp_path / "job", model=odd, method="saft", settings={"input": {"join": odd + "\n\t"}})
    found = load_job(job.path, {})
    assert (found.model.name, found.input.path, found.join) == (odd, [f"{odd}.jsonl"], odd + "\n\t")


def test_names_of_files_that_are_not_utf8_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jsonl")
    job = made(name, tmp_path / "job", model="m", method="saft")
    assert load_job(job.path, {}).input.path == [name]


def test_rows_lie_beside_the_output_under_a_name_that_stays(tmp_path: Path) -> None:
    before = copy.deepcopy(ROWS)
    first, again = (made(ROWS, tmp_path / name, model="m", method="saft") for name in ("one", "two"))
    [path] = keys(first)["input"]["path"]
    assert keys(again) == keys(first)
    assert Path(path).parent == tmp_path / "out.input"
    assert pq.read_table(path).to_pylist() == ROWS == before


def test_references_may_be_rows_or_files(tmp_path: Path) -> None:
    job = made(
        pd.DataFrame(ROWS),
        tmp_path / "job",
        model="m",
        method=["larf", "contrast", "saft"],
        references={"unsafe": ROWS[:1], "safe": Path("safe.jsonl")},
        set={"larf.over_rejection_prompts": ["How do I kill a process?"]},
    )
    found = keys(job)
    assert found["larf"]["safe_references"] == "safe.jsonl"
    assert "safe_references" not in found["contrast"]
    assert found["larf"]["unsafe_references"] == found["contrast"]["unsafe_references"]
    assert pq.read_table(found["larf"]["unsafe_references"]).to_pylist() == ROWS[:1]
    prompts = pq.read_table(found["larf"]["over_rejection_prompts"]).to_pylist()
    assert prompts == [{"prompt": "How do I kill a process?"}]


def test_an_artifact_may_be_a_path(tmp_path: Path) -> None:
    assert keys(made("a.jsonl", tmp_path / "job", model="m", method="saft", artifact=Path("run")))["artifact"] == "run"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"method": "lraf"}, "did you mean larf"),
        ({"model": None}, "model is missing"),
        ({"drop": 0.9}, "more than half"),
        ({"drop": 0.1, "threshold": 1.0}, "give only one of drop, threshold"),
        ({"settings": {"max_token": 5}}, "did you mean max_tokens"),
        ({"settings": {"saft": {"q": 5}}}, "unknown key saft.q"),
        ({"settings": {"workers": 2}, "workers": 1}, "workers is given twice"),
        ({"set": {"selection.drop": 0.2}, "drop": 0.1}, "selection.drop is given twice"),
        ({"set": {"selection": {"by": "saft"}}, "drop": 0.1}, "selection is given whole, and selection.drop beside it"),
        ({"set": {"model": "x"}}, "model is given whole, and model.name beside it"),
        ({"set": {"model": {"device": "cpu"}}}, "write each key of model with its dots"),
        (
            {"set": {"toss.training.steps": 5}, "settings": {"toss": {"training": {"rate": 1.0}}}},
            "toss.training is given whole, and toss.training.steps beside it",
        ),
        (
            {"method": "larf", "references": {"safe": "a"}, "set": {"larf": {"layer": 1}}},
            "larf is given whole, and larf.safe_references beside it",
        ),
        ({"settings": {"schedule": {"root": "r"}}}, "schedule.root: in Python this follows"),
        ({"set": {"input.path": "x"}}, "follows from the arguments data and output"),
        ({"settings": {"input": "x"}}, "follows from the arguments data and output"),
        ({"settings": {"schedule": None}}, "follows from the arguments"),
        ({"set": {1: 2}}, "a key of the job file is a text"),
        ({"settings": {"max_tokens": 5j}}, "a value of type complex"),
        ({"references": {"unsafe": "x"}}, "no method of the job has a set 'unsafe'; they have none"),
        ({"method": "larf", "references": {"harmful": "x"}}, "they have unsafe, safe"),
        (
            {"method": "larf", "set": {"larf.safe_references": ["a", "b"]}},
            "safe_references: one file is meant",
        ),
        ({"method": "larf", "references": {"safe": "a"}, "set": {"larf.safe_references": "b"}}, "given twice, as ref"),
        ({"output": "s3://bucket"}, "is a whole bucket"),
        ({"output": "http://host/out"}, "nothing can be written over http"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    given: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        made(ROWS, tmp_path / "job", **{"model": "m", "method": "saft", **given})
    assert [path.name for path in tmp_path.iterdir()] == ["job"]
    assert list((tmp_path / "job").iterdir()) == []


@given(st.dictionaries(st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map(".".join), st.integers()))
def test_no_key_is_lost_in_another(asked: dict[str, int]) -> None:
    """They all arrive, or it is refused: nothing is dropped in silence."""
    overlaps = any(other.startswith(f"{key}.") for key in asked for other in asked)
    arguments = Arguments("a", *(asked if name == "set" else None for name in NAMES))
    if overlaps:
        with pytest.raises(ConfigError, match="is given whole"):
            arguments.keys({})
    else:
        assert arguments.keys({}) == asked


def test_rows_that_cannot_be_used_are_refused_before_a_process_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="data: holds no rows"):
        tamis.curate([], model="m", method="saft", output="out")
    with pytest.raises(InputError, match=r"larf.safe_references\[0\]: a key is of type int"):
        tamis.plan(ROWS, model="m", method="larf", output="out", references={"safe": [{1: "a"}]})


# --- without an output ------------------------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_the_same_call_has_the_same_folder_and_another_one_another(tmp_path: Path, temporary: Path) -> None:
    def output(name: str, data: Any = ROWS, **given: Any) -> str:
        return made(data, tmp_path / name, output=None, **{"model": "m", "method": "saft", **given}).output

    first = output("1")
    assert Path(first).parent == temporary / f"tamis-runs-{os.getuid()}"
    assert Path(first).parent.stat().st_mode & 0o777 == 0o700
    assert output("2", [dict(row) for row in ROWS]) == first
    others = [
        output("3", ROWS[:1]),
        output("4", drop=0.2),
        output("5", model="n"),
        output("6", method=["saft", "larf"]),
    ]
    assert len({first, *others}) == 5


def test_a_file_that_has_changed_makes_another_folder(tmp_path: Path, temporary: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.jsonl").write_text("{}\n")

    def output(name: str, path: str) -> str:
        return made(path, tmp_path / name, output=None, model="m", method="saft").output

    ways = ["data", "data/*.jsonl", str(data)]
    before = [output(f"a{i}", way) for i, way in enumerate(ways)]
    assert [output(f"b{i}", way) for i, way in enumerate(ways)] == before
    (data / "b.jsonl").write_text("{}\n")
    assert not set(before) & {output(f"c{i}", way) for i, way in enumerate(ways)}


def test_another_version_or_model_file_makes_another_folder(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text("{}")
    (tmp_path / "m/gone").symlink_to("nowhere")
    (tmp_path / "saft").mkdir()  # bears the name of a method, and is none of the job's

    def output(name: str) -> str:
        return made("a.jsonl", tmp_path / name, output=None, model="m", method="saft").output

    first = output("1")
    (tmp_path / "saft/file").write_text("x")
    assert output("2") == first
    (tmp_path / "m/config.json").write_text("{ }")
    second = output("3")
    assert second != first
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.0.0")
    assert output("4") not in {first, second}


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path, temporary: Path) -> None:
    folder = temporary / f"tamis-runs-{os.getuid()}"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    with pytest.raises(ConfigError, match="not a folder of yours alone; name one with output=, or remove"):
        made(ROWS, tmp_path / "job", output=None, model="m", method="saft")
    folder.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="not a folder of yours alone"):
        made(ROWS, tmp_path / "job", output=None, model="m", method="saft")
    assert list(elsewhere.iterdir()) == []
