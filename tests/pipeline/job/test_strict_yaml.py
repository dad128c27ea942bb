"""YAML that would be read otherwise than it looks is refused, and no message repeats a value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.job.job_file import load_job, storage_options, strict_yaml

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("seed: 1\nmax_tokens: 9\nseed: 2\n", "seed is there twice (lines 1 and 3)", id="top"),
        pytest.param("larf:\n  layer: 1\n  layer: 2\n", "layer is there twice (lines 2 and 3)", id="nested"),
        pytest.param("a: [{b: 1,\n b: 2}]\n", "b is there twice (lines 1 and 2)", id="in a list"),
        pytest.param('"seed": 1\nseed: 2\n', "seed is there twice (lines 1 and 2)", id="quoted"),
        pytest.param('{"x": {"y": 1, "y": 2}}', "y is there twice (line 1)", id="JSON"),
        pytest.param("1: a\n0x1: b\n", "0x1 is there twice (lines 1 and 2)", id="one number, two spellings"),
        pytest.param("<<: {a: 1, a: 2}\n", "a is there twice (line 1)", id="in what is merged"),
        pytest.param("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a\n", "<< is there twice (lines 3 and 4)", id="merged twice"),
    ],
)
def test_a_key_that_is_there_twice(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ValueError, match="keep one of them") as caught:
        strict_yaml.parse(text)
    assert says in str(caught.value)
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_job(str(tmp_path / "job.yaml"), {})
    assert says in str(refused.value)
    assert str(tmp_path / "job.yaml") in str(refused.value)


def test_what_a_merge_brings_may_be_overridden() -> None:
    assert strict_yaml.parse("base: &b {x: 1, y: 2}\nmine:\n  <<: *b\n  x: 3\n")["mine"] == {"x": 3, "y": 2}


@pytest.mark.parametrize("value", ['{"layer": 1, "layer": 2}', "{a: {layer: 1, layer: 2}}"])
def test_on_the_command_line(value: str) -> None:
    with pytest.raises(ConfigError, match=r"--set larf: the value is the key layer is there twice|twice \(line 1\)"):
        load_job(None, {}, [f"larf={value}"])
    with pytest.raises(ConfigError, match=r"--storage-options x: .* twice"):
        storage_options([f"x={value}"])
    with pytest.raises(ConfigError, match=r"^--set seed is given twice; keep one of them$"):
        load_job(None, {}, ["seed=1", "seed = 2"])
    with pytest.raises(ConfigError, match=r"^--storage-options anon is given twice"):
        storage_options(["anon=true", "anon=false"])


@pytest.mark.parametrize(
    "text",
    [
        f"[{SECRET}",
        f"'{SECRET}",
        f"{{{SECRET}: ",
        f"*{SECRET}",
        f"[&{SECRET} 1, &{SECRET} 2]",
        f"!{SECRET} x",
        f"!{SECRET}!x y",
        f"%TAG ! {SECRET}\n--- !x",
        f"a: b: {SECRET}",
        f"\t{SECRET}",
        f"{SECRET}\x07",
        f"{{[{SECRET}]: 1}}",
        f"{{? {{{SECRET}: 1}} : 1}}",
        f"!!int {SECRET}",
        f"!!float {SECRET}",
        f"!!timestamp {SECRET}",
        f"!!binary {SECRET}*é",
    ],
)
def test_no_message_repeats_a_value(tmp_path: Path, text: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    for refused in (
        lambda: load_job(str(path), {}),
        lambda: load_job(None, {}, [f"model.revision={text}"]),
        lambda: storage_options([f"x={text}"]),
    ):
        with pytest.raises(ConfigError) as caught:
            refused()
        said = str(caught.value)
        assert SECRET not in said
        assert len(said.splitlines()) == 1
        assert str(path) in said or "model.revision" in said or "--storage-options x" in said


def test_an_assignment_without_a_key_is_not_repeated() -> None:
    for wrong in (SECRET, f"={SECRET}"):
        with pytest.raises(ConfigError, match="write it as key=value") as caught:
            load_job(None, {}, [wrong])
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("seed: " + "[" * 5000, "nested too deeply", id="deep"),
        pytest.param("storage_options: " + "{a: " * 60 + "1" + "}" * 60, "nested too deeply", id="deeper than any"),
        pytest.param("storage_options: &a {x: *a}", "holds itself", id="holds itself"),
        pytest.param("seed: " + "9" * 5000, "a number that is none", id="digits"),
        pytest.param("seed: 0x" + "f" * 5000, "seed: a number of more than 64 bits", id="hex"),
        pytest.param("input: {columns: {a: [1, 0x" + "f" * 40 + "]}}", "input.columns.a.1: a number", id="within"),
        pytest.param("seed: 2024-99-99", "a date", id="date"),
        pytest.param('output: "a\\0b"', "output: holds a NUL", id="NUL"),
        pytest.param('storage_options: {"a\\0b": 1}', "storage_options: holds a NUL", id="NUL in a key"),
        pytest.param('output: "\\ud800"', "output: holds a NUL character or half a surrogate", id="half a pair"),
    ],
)
def test_what_no_key_can_mean(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_job(str(tmp_path / "job.yaml"), {})
    assert says in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("url", ["http://host/out", "HTTPS://host/out", "simplecache::https://host/out"])
def test_an_output_over_http_is_refused_at_once(url: str) -> None:
    overlay: dict[str, Any] = {"input": "a.jsonl", "model": "m", "method": "larf", "output": url}
    with pytest.raises(ConfigError, match=r"^output: nothing can be written over http"):
        load_job(None, overlay)
