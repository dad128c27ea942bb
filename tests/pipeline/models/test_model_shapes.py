"""Files of a model that are JSON, but not of the form that transformers takes for granted: one line, no traceback."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.job.sections import ModelSpec
from tamis.pipeline.models.checks import check_files, open_model, unusable

SHAPES = {
    "null": "null",
    "a list": "[]",
    "a number": "1",
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep objects": '{"a":' * 3_000 + "1" + "}" * 3_000,
    "digits": '{"a": ' + "9" * 5_000 + "}",
    "other types": '{"model_type": ["llama"], "tokenizer_class": 1, "added_tokens": 1, "added_tokens_decoder": [1]}',
}


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"]
)
def test_each_file_in_each_shape(tiny_model: Path, tmp_path: Path, name: str) -> None:
    for number, (shape, text) in enumerate(SHAPES.items()):
        folder = tmp_path / str(number)
        shutil.copytree(tiny_model, folder)
        if "index" in name:
            (folder / "model.safetensors").unlink()
        (folder / name).write_text(text)
        with pytest.raises(ConfigError) as caught:
            check_files(open_model(ModelSpec(name=str(folder)), {}), 2, head=True)
        said = str(caught.value)
        assert said.startswith(f"model {folder}: "), (shape, said)
        assert len(said.splitlines()) == 1
        assert len(said) < 600


def test_what_says_enough_itself_stays() -> None:
    ours, full = ConfigError("mend it"), MemoryError()
    assert unusable("model m", ours) is ours
    assert unusable("model m", full) is full
    assert str(unusable("model m", ValueError("no head"))) == "model m: no head"
