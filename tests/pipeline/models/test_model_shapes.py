"""Files of a model that are JSON, but not of the form that transformers takes for granted: one line, no traceback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

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


NO_CHARSMAP = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
"""The tokenizers' Rust code panics over it, which Python sees as a BaseException."""

TOKENIZERS: dict[str, dict[str, Any]] = {
    "panics": {"normalizer": NO_CHARSMAP},
    "no word for what it does not know": {
        "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "none"},
        "pre_tokenizer": None,
        "added_tokens": [],
    },
    "a pattern that is none": {
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "((("}, "behavior": "Isolated", "invert": False}
    },
    "merges of what it has not": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a c"]}},
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_tokenizer_that_fails_is_one_line(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    file = folder / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **TOKENIZERS[kind]}))
    with pytest.raises(ConfigError) as caught:
        open_model(ModelSpec(name=str(folder)))
    said = str(caught.value)
    assert said.startswith(f"model {folder}: ")
    assert len(said.splitlines()) == 1


def test_what_says_enough_itself_stays() -> None:
    ours, full = ConfigError("mend it"), MemoryError()
    assert unusable("model m", ours) is ours
    assert unusable("model m", full) is full
    assert str(unusable("model m", ValueError("no head"))) == "model m: no head"
