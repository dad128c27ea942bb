"""Folders made by save_to_disk: exactly the files of the split that is meant, on any file system."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import datasets
import fsspec
import pytest
from object_store import S3

from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.inputs.files import resolve
from tamis.pipeline.inputs.hub import DatasetPart
from tamis.pipeline.inputs.shards import CORPUS, make_shards, read, scan
from tamis.pipeline.storage.addresses import open_filesystem

ROWS = [{"prompt": f"ask {n}", "response": f"reply {n}"} for n in range(10)]
FEATURES = datasets.Features({"prompt": datasets.Value("large_string"), "response": datasets.Value("string")})


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def dataset(rows: int = 10, split: str | None = None) -> datasets.Dataset:
    return datasets.Dataset.from_list(ROWS[:rows], features=FEATURES, split=split)


def names(path: object, **part: str) -> list[str]:
    return [file.name for file in resolve([str(path)], "auto", {}, DatasetPart(**part))]


def problem(path: object, **part: str) -> str:
    with pytest.raises(InputError) as caught:
        names(path, **part)
    [text] = caught.value.problems
    return text


def prompts(path: object, **part: str) -> list[str]:
    """The prompts as the workers read them."""
    found = resolve([str(path)], "auto", {}, DatasetPart(**part))
    shards = [shard for file in found for shard in make_shards(scan(file, 4, {}), CORPUS, {}, 0)]
    rows = [row.value for shard in shards for row in read(shard, {})]
    assert all(isinstance(row, dict) for row in rows)
    return [row["prompt"] for row in rows if isinstance(row, dict)]


def test_a_saved_dataset_is_the_files_of_its_state_in_their_order(tmp_path: Path) -> None:
    dataset().save_to_disk(tmp_path / "saved", num_shards=3)
    (tmp_path / "saved" / "cache-0123456789abcdef.arrow").write_bytes(b"left by map")
    assert names(tmp_path / "saved") == [f"data-0000{i}-of-00003.arrow" for i in range(3)]
    assert prompts(tmp_path / "saved") == [row["prompt"] for row in ROWS]
    state = tmp_path / "saved" / "state.json"
    tree = json.loads(state.read_text())
    state.write_text(json.dumps(tree | {"_data_files": tree["_data_files"][::-1]}))
    assert names(tmp_path / "saved") == [f"data-0000{i}-of-00003.arrow" for i in (2, 1, 0)]


def test_files_of_an_earlier_save_are_not_read(tmp_path: Path) -> None:
    dataset().save_to_disk(tmp_path, num_shards=4)
    dataset(3).save_to_disk(tmp_path, num_shards=1)
    assert len(list(tmp_path.glob("*.arrow"))) == 5
    assert prompts(tmp_path) == ["ask 0", "ask 1", "ask 2"]


def test_a_selection_is_saved_as_its_rows(tmp_path: Path) -> None:
    dataset().select([7, 2, 2]).save_to_disk(tmp_path)
    assert prompts(tmp_path) == ["ask 7", "ask 2", "ask 2"]


def test_one_split_of_several_must_be_named(tmp_path: Path) -> None:
    datasets.DatasetDict(train=dataset(6), test=dataset(2)).save_to_disk(tmp_path / "both")
    datasets.DatasetDict(train=dataset(6)).save_to_disk(tmp_path / "one")
    text = problem(tmp_path / "both")
    assert text.startswith(f"{tmp_path}/both: has 2 splits: train, test; choose one with --set input.split=train, or")
    assert "has no split dev; it has train, test" in problem(tmp_path / "both", split="dev")
    assert len(prompts(tmp_path / "both", split="train")) == 6
    assert len(prompts(tmp_path / "both", split="test")) == 2
    assert prompts(tmp_path / "one") == prompts(tmp_path / "one", split="train")
    # The folder of a split is a saved dataset of its own.
    assert len(prompts(tmp_path / "both" / "test")) == 2
    assert "both/test, both/train, one/train" in problem(tmp_path)


def test_a_split_of_a_single_dataset(tmp_path: Path) -> None:
    dataset(split="train").save_to_disk(tmp_path / "named")
    dataset().save_to_disk(tmp_path / "unnamed")
    assert names(tmp_path / "named", split="train") == names(tmp_path / "named")
    assert "a single saved dataset of the split train; leave input.split out" in problem(
        tmp_path / "named", split="test"
    )
    assert "without splits" in problem(tmp_path / "unnamed", split="train")


def test_config_and_split_are_for_datasets_only(tmp_path: Path) -> None:
    dataset().save_to_disk(tmp_path / "saved")
    (tmp_path / "plain.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(ConfigError, match=r"input.split: .*plain.jsonl .* has no split; leave it out"):
        names(tmp_path / "plain.jsonl", split="train")
    with pytest.raises(ConfigError, match=r"input.config: .*saved has no config .*; leave it out"):
        names(tmp_path / "saved", config="default")


def test_a_saved_dataset_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    dataset().select([]).save_to_disk(tmp_path / "empty")
    assert "without rows" in problem(tmp_path / "empty")
    dataset().save_to_disk(tmp_path / "cut", num_shards=2)
    (tmp_path / "cut" / "data-00001-of-00002.arrow").unlink()
    assert "data-00001-of-00002.arrow: No such file" in problem(tmp_path / "cut")
    datasets.DatasetDict(train=dataset()).save_to_disk(tmp_path / "bare")
    (tmp_path / "bare" / "train" / "state.json").unlink()
    assert "bare/train/state.json is missing" in problem(tmp_path / "bare")
    (tmp_path / "cut" / "state.json").write_text("{")
    assert "cut/state.json: not as `save_to_disk` writes it" in problem(tmp_path / "cut")


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/passwd", "..", ""])
def test_a_state_cannot_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    dataset().save_to_disk(tmp_path / "saved")
    dataset().save_to_disk(tmp_path)
    state = tmp_path / "saved" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"_data_files": [{"filename": name}]}))
    assert "no name `save_to_disk` gives" in problem(tmp_path / "saved")
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", name]}))
    assert "no name `save_to_disk` gives" in problem(tmp_path, split="train")


def test_saved_in_an_object_store(tmp_path: Path, moto: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in moto.environment.items():
        monkeypatch.setenv(variable, value)
    moto.make_bucket("saved")
    datasets.DatasetDict(train=dataset(6), test=dataset(2)).save_to_disk(tmp_path)
    filesystem, root = open_filesystem("s3://saved/chats", moto.storage_options)
    filesystem.put(f"{tmp_path}/", f"{root}/", recursive=True)
    [file] = resolve(["s3://saved/chats"], "auto", moto.storage_options, DatasetPart(split="test"))
    assert file.url == "s3://saved/chats/test/data-00000-of-00001.arrow"
    scanned = scan(file, 10, moto.storage_options)
    assert scanned.rows == 2
    assert datasets.Features.from_arrow_schema(scanned.schema) == FEATURES
    with pytest.raises(InputError, match="has 2 splits: train, test"):
        resolve(["s3://saved/chats"], "auto", moto.storage_options)


def test_saved_in_memory() -> None:
    memory = fsspec.filesystem("memory")
    try:
        dataset(4).save_to_disk("memory://saved-test", num_shards=2)
        assert len(prompts("memory://saved-test")) == 4
    finally:
        memory.rm("/saved-test", recursive=True)
