"""The job file: defaults, overlays, and one line for a person about everything that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.job.job_file import Job, job_schema, load_job, storage_options
from tamis.pipeline.job.methods import sections
from tamis.pipeline.job.sections import LineageSpec, WorkerRange

MINIMAL: dict[str, Any] = {"input": "data.jsonl", "output": "out", "model": "models/m", "method": "larf"}


def job(*assignments: str, **overlay: Any) -> Job:
    return load_job(None, {**MINIMAL, **overlay}, assignments)


def complaint(*assignments: str, **overlay: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        job(*assignments, **overlay)
    assert caught.value.exit_code == 2
    return str(caught.value)


def from_yaml(folder: Path, text: str, *assignments: str) -> Job:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return load_job(str(path), {}, assignments)


# --- good jobs ----------------------------------------------------------------------------------------------------


def test_defaults() -> None:
    made = job()
    assert made.input.path == ["data.jsonl"]
    assert (made.input.format, made.input.dialect, made.input.columns) == ("auto", None, {})
    assert (made.model.name, made.model.revision, made.model.dtype, made.model.device) == (
        "models/m",
        None,
        "auto",
        "auto",
    )
    assert not made.model.trust_remote_code
    assert not made.model.allow_pickle_weights
    assert made.method == ["larf"]
    assert made.selected_by == "larf"
    assert (made.larf.layer, made.larf.position, made.larf.form) == ("auto", "last_token", "paired")
    assert (made.saft.layer, made.saft.k, made.saft.weighted) == ("auto", 1, False)
    assert made.selection.rule == ("drop", 0.1)
    assert (made.max_tokens, made.overlong, made.max_quarantined) == (2048, "quarantine", 0.01)
    assert (made.shard_rows, made.workers, made.seed, made.keep_captures) == (2048, None, 0, "none")
    assert made.storage_options == {}


def test_a_whole_job_file(tmp_path: Path) -> None:
    made = from_yaml(
        tmp_path,
        """
        input: {path: [a.jsonl, 'b/*.parquet'], columns: {prompt: q, response: a}}
        output: s3://bucket/out
        model: {name: org/model, revision: main, dtype: bfloat16, gpus_per_worker: 0.5}
        method: [saft, larf]
        larf: {layer: 10, form: mean_representation, unsafe_references: u.jsonl}
        saft: {layer: auto, k: 3}
        selection: {drop_count: 7, by: larf}
        storage_options: {endpoint_url: 'http://127.0.0.1:9000', client_kwargs: {region_name: eu}}
        """,
    )
    assert made.input.path == ["a.jsonl", "b/*.parquet"]
    assert made.method == ["saft", "larf"]
    assert (made.selected_by, made.selection.rule) == ("larf", ("drop_count", 7))
    assert (made.larf.layer, made.saft.layer, made.saft.k) == (10, "auto", 3)
    assert made.storage_options["client_kwargs"] == {"region_name": "eu"}
    # What the manifest keeps is a job file again.
    assert load_job(None, made.model_dump(mode="json")) == made


@pytest.mark.parametrize("value", ["data.jsonl", ["data.jsonl"], {"path": "data.jsonl"}, {"path": ["data.jsonl"]}])
def test_every_way_to_write_the_input(value: Any) -> None:
    assert job(input=value).input.path == ["data.jsonl"]


@pytest.mark.parametrize("value", ["data.jsonl", ["data.jsonl"], {"path": "data.jsonl"}])
def test_a_section_in_its_short_form_takes_further_keys(value: Any) -> None:
    made = job("input.columns.text=chosen", "model.dtype=float32", input=value)
    assert made.input.path == ["data.jsonl"]
    assert made.input.columns == {"text": "chosen"}
    assert (made.model.name, made.model.dtype) == ("models/m", "float32")


def test_lineage_is_a_file_or_a_section_or_left_out() -> None:
    assert job().lineage is None
    assert job(lineage="events.jsonl").lineage == LineageSpec(to="events.jsonl")
    assert job("lineage.job=nightly", lineage="events.jsonl").lineage == LineageSpec(to="events.jsonl", job="nightly")
    assert job(lineage={"to": "config"}).lineage == LineageSpec(to="config")
    assert complaint("lineage.too=x").splitlines()[-1] == "unknown key lineage.too; did you mean lineage.to?"
    assert "lineage.to is missing" in complaint("lineage.job=nightly")


def test_the_command_line_overlays_the_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("input: a.jsonl\noutput: out\nmodel: m\nmethod: larf\nselection: {drop: 0.2}\nlarf:\n")
    made = load_job(
        str(path), {"input.path": ["b.jsonl"], "selection.drop": None, "selection.threshold": 0.5}, ["larf.layer=5"]
    )
    assert made.input.path == ["b.jsonl"]
    assert made.selection.rule == ("threshold", 0.5)
    assert made.larf.layer == 5


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("seed=3", 3),
        ("seed = 3", 3),
        ("keep_captures=true", "vectors"),
        ("keep_captures=false", "none"),
        ("keep_captures=scores", "scores"),
        ("workers=null", None),
        ("model.template={{ bos_token }}={% for m in messages %}x{% endfor %}", None),
        ("output=a=b", "a=b"),
    ],
)
def test_assignments(assignment: str, value: Any) -> None:
    if assignment.startswith("model.template"):
        # Braces are YAML too: a template is given in quotes.
        text = assignment.partition("=")[2]
        assert job(f"model.template='{text}'").model.template == text
    else:
        assert getattr(job(assignment), assignment.partition("=")[0].strip()) == value


@pytest.mark.parametrize(
    ("selection", "rule"),
    [
        ({}, ("drop", 0.1)),
        ({"drop": 0.3}, ("drop", 0.3)),
        ({"drop_count": 0}, ("drop_count", 0)),
        ({"threshold": 0}, ("threshold", 0)),
        ({"threshold": -1.5}, ("threshold", -1.5)),
        ({"drop": None, "drop_count": 5}, ("drop_count", 5)),
    ],
)
def test_the_rule(selection: dict[str, Any], rule: tuple[str, float]) -> None:
    assert job(selection=selection).selection.rule == rule


# --- bad jobs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "line"),
    [
        ("outputs=x", "unknown key outputs; did you mean output?"),
        ("max_token=5", "unknown key max_token; did you mean max_tokens?"),
        ("larf.layers=5", "unknown key larf.layers; did you mean larf.layer?"),
        ("input.colums.text=a", "unknown key input.colums; did you mean input.columns?"),
        ("model.dtyp=float32", "unknown key model.dtyp; did you mean model.dtype?"),
        ("selection.drop_cuont=5", "unknown key selection.drop_cuont; did you mean selection.drop_count?"),
        ("zzz=1", "unknown key zzz; known here: input, output, model"),
        ("saft.zzz=1", "unknown key saft.zzz; known here: layer, position, k, weighted"),
    ],
)
def test_an_unknown_key_is_one_line_with_what_was_meant(assignment: str, line: str) -> None:
    said = complaint(assignment)
    assert said.startswith(line)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        ("selection.drop=1.5", ("selection.drop: ", "less than 1", "1.5")),
        ("selection.drop=-0.1", ("selection.drop: ", "greater than 0", "-0.1")),
        ("selection.drop=0", ("selection.drop: ", "greater than 0")),
        ("selection.drop=.nan", ("selection.drop: ",)),
        ("selection.drop=10%", ("selection.drop: ", "number", "'10%'")),
        ("selection.drop_count=-1", ("selection.drop_count: ", "greater than or equal to 0")),
        ("selection.drop_count=1.5", ("selection.drop_count: ", "integer")),
        ("selection.threshold=.inf", ("selection.threshold: ", "finite")),
        ("selection.control=length", ("selection.control: ", "'random'")),
        ("method=losf", ("method", "'larf'", "'saft'", "losf")),
        ("method=[]", ("method: ", "at least 1")),
        ("method=[larf, larf]", ("names a method twice",)),
        ("selection.by=saft", ("selection.by is saft", "larf")),
        ("input.path=[]", ("input.path: ", "at least 1")),
        ("input.format=xml", ("input.format: ", "'jsonl'", "'xml'")),
        ("output=", ("output",)),
        ("output=''", ("output",)),
        ("model.dtype=float8", ("model.dtype: ", "'bfloat16'", "'float8'")),
        ("model.gpus_per_worker=0", ("model.gpus_per_worker: ", "greater than 0")),
        ("model.gpus_per_worker=1.5", ("gpus_per_worker", "whole number")),
        ("larf.layer=-1", ("larf.layer: ", "greater than or equal to 0")),
        ("larf.layer=last", ("larf.layer: ", "'auto'", "'last'")),
        ("larf.form=sum", ("larf.form: ", "'paired'")),
        ("saft.k=0", ("saft.k: ", "greater than or equal to 1")),
        ("max_tokens=1", ("max_tokens: ", "greater than or equal to 2")),
        ("overlong=drop", ("overlong: ", "'keep_end'")),
        ("max_quarantined=2", ("max_quarantined: ", "less than or equal to 1")),
        ("max_quarantined=.nan", ("max_quarantined: ",)),
        ("shard_rows=0", ("shard_rows: ", "greater than or equal to 1")),
        ("workers=0", ("workers: ", "greater than or equal to 1")),
        ("seed=x", ("seed: ", "integer", "'x'")),
        ("selection=5", ("selection: ",)),
        ("output.x=5", ("output.x: output is a value, not a section",)),
        ("=5", ("write it as key=value",)),
        ("seed", ("write it as key=value",)),
        ("seed=[", ("not valid YAML",)),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(assignment: str, parts: tuple[str, ...]) -> None:
    said = complaint(assignment)
    assert all(part in said for part in parts), said
    assert "pydantic" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("rules", [{"drop": 0.1, "drop_count": 5}, {"drop_count": 5, "threshold": 0.0}])
def test_only_one_rule(rules: dict[str, Any]) -> None:
    said = complaint(selection=rules)
    assert said == f"selection: give only one of {', '.join(rules)}"


def test_what_is_missing_is_listed_with_its_flag() -> None:
    with pytest.raises(ConfigError) as caught:
        load_job(None, {})
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    for key in ("input", "output", "model", "method"):
        assert f"{key} is missing; set it in the job file or with --{key}" in lines
    with pytest.raises(ConfigError, match=r"^model\.name is missing; set it in the job file or with --model$"):
        load_job(None, {**MINIMAL, "model": {"revision": "main"}})


def test_everything_wrong_is_said_at_once() -> None:
    said = complaint("workers=0", "seed=x", "larf.layers=3")
    assert len(said.splitlines()) == 3


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("0", "workers: input should be greater than or equal to 1 (got 0)"),
        ("many", "workers: input should be a valid integer, unable to parse string as an integer (got 'many')"),
        ("{max: 0}", "workers.max: input should be greater than or equal to 1 (got 0)"),
        ("{min: 2}", "workers.max is missing; set it in the job file"),
        ("{min: 3, max: 2}", "workers: min is 3, more than max, 2"),
        ("{min: 1, max: 2, most: 3}", "unknown key workers.most"),
    ],
)
def test_a_mistake_in_workers_is_one_line(value: str, says: str) -> None:
    said = complaint(f"workers={value}")
    assert said.startswith(says)
    assert len(said.splitlines()) == 1


def test_workers_may_be_a_number_or_a_range() -> None:
    assert job("workers=3").workers == 3
    assert job("workers={max: 3}").workers == WorkerRange(min=1, max=3)


SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "options",
    [
        {"secret": SECRET},
        {"key": SECRET},
        {"token": SECRET},
        {"aws_secret_access_key": SECRET},
        {"account_key": SECRET},
        {"sas_token": SECRET},
        {"PASSWORD": SECRET},
        {"client_kwargs": {"aws_access_key_id": SECRET}},
        {"client_kwargs": {"key": SECRET}},
        {"a": {"b": {"credentials": SECRET}}},
        {"endpoint_url": f"https://me:{SECRET}@host"},
        {"connection_string": SECRET},
        {"connectionString": SECRET},
        {"conn_str": SECRET},
        {"api_key": SECRET},
        {"apiKey": SECRET},
        {"passphrase": SECRET},
        {"pat": SECRET},
        {"github_pat": SECRET},
        {"sig": SECRET},
        {"signature": SECRET},
        {"pkey": SECRET},
        {"client_kwargs": {"headers": {"Authorization": SECRET}}},
        {"client_kwargs": [{"region": "eu"}, {"api_key": SECRET}]},
        {"x": f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={SECRET}=="},
        {"x": f"Endpoint=sb://a/;SharedAccessKey={SECRET}"},
        {"x": ["harmless", f"SharedKey={SECRET}"]},
        {"x": f"sv=2022&sig={SECRET}"},
        {"x": {"y": [f"X-Amz-Signature={SECRET}"]}},
        {"x": f"Bearer {SECRET}"},
        {"endpoint_url": f"https://host/?X-Goog-Signature={SECRET}"},
    ],
)
def test_credentials_are_refused_and_never_shown(options: dict[str, Any]) -> None:
    said = complaint(storage_options=options)
    assert "looks like a credential" in said
    assert SECRET not in said
    # nor when something else is wrong as well
    assert SECRET not in complaint("seed=x", storage_options=options)


def test_harmless_storage_options_are_kept() -> None:
    options = {
        "endpoint_url": "http://127.0.0.1:9000",
        "anon": True,
        "client_kwargs": {"region_name": "eu"},
        "skip_instance_cache": True,
        "config_kwargs": {"signature_version": "s3v4", "path": ["a", "/design/patterns"]},
        "account_name": "passage",
    }
    assert job(storage_options=options).storage_options == options


def test_storage_options_of_a_command_line() -> None:
    assert storage_options([]) == {}
    found = storage_options(["endpoint_url=http://h:1/?a=b", "anon=true", "client_kwargs.region_name=eu"])
    assert found == {"endpoint_url": "http://h:1/?a=b", "anon": True, "client_kwargs": {"region_name": "eu"}}
    for wrong in (f"api_key={SECRET}", f"a.b.token={SECRET}", SECRET, f"={SECRET}", f"x=[{SECRET}", f"x=sig={SECRET}"):
        with pytest.raises(ConfigError) as caught:
            storage_options([wrong])
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("input: [a", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("- a\n- b\n", "a job file is a mapping"),
        ("", "a job file is a mapping"),
        ("just text", "a job file is a mapping"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("1: 2", "1"),
    ],
)
def test_a_file_that_is_no_job(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_yaml(tmp_path, text)
    assert says in str(caught.value)
    if "YAML" in says or "mapping" in says:
        assert str(tmp_path / "job.yaml") in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_job_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read as a job file"):
            load_job(str(path), {})
    (tmp_path / "latin.yaml").write_bytes(b"output: \xe9\n")
    with pytest.raises(ConfigError, match="cannot be read as a job file"):
        load_job(str(tmp_path / "latin.yaml"), {})


def test_the_schema_describes_every_key() -> None:
    schema = job_schema()
    json.dumps(schema)
    assert schema["required"] == ["input", "model", "method"]  # and output, or a schedule from which it follows
    assert schema["additionalProperties"] is False
    for section in [schema, *schema["$defs"].values()]:
        for name, facts in section["properties"].items():
            assert name in {"input", "model", "selection", *sections()} or facts.get("description"), name
