"""Splits found in names and in a card: the same that `datasets` finds in the same folder."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.inputs.files import Inputs, find
from tamis.pipeline.inputs.hub import DatasetPart
from tamis.pipeline.inputs.splits import configs_of_card, splits_by_card, splits_by_name
from tamis.pipeline.report import render_card

LINE = '{"prompt": "p", "response": "r"}\n'
FOLDERS = [
    ["data/train-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl"],
    [
        "data/train_sft-00000-of-00002.jsonl",
        "data/train_sft-00001-of-00002.jsonl",
        "data/test_gen-00000-of-00001.jsonl",
    ],
    ["train.jsonl", "dev.jsonl", "test.jsonl"],
    ["my-train-1.jsonl", "my_eval.jsonl", "deep/more.validation.jsonl"],
    ["train/a.jsonl", "train/b.jsonl", "testing/a.jsonl"],
    ["train/test.jsonl", "val 2/train.jsonl"],
    ["a.jsonl", "b.jsonl"],
    ["latest.jsonl", "training.jsonl", "contest.jsonl", "development.jsonl"],
    ["train1.jsonl", "test-2.jsonl", "extra.jsonl"],
]


def plant(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(LINE)


def found_by_datasets(root: Path, name: str | None = None) -> dict[str, set[str]]:
    files = datasets.load_dataset_builder(str(root), name=name).config.data_files
    return {str(split): {str(Path(file).relative_to(root)) for file in paths} for split, paths in files.items()}


@pytest.mark.parametrize("names", FOLDERS, ids=[names[0] for names in FOLDERS])
def test_names_tell_the_splits_that_datasets_finds(
    tmp_path: Path, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    plant(tmp_path, names)
    ours = splits_by_name(names) or {"train": names}
    assert {split: set(files) for split, files in ours.items()} == found_by_datasets(tmp_path)


CARD = """---
license: mit
configs:
- config_name: one
  data_files:
  - split: train
    path: one/part-*
  - split: held_out
    path: [one/x.jsonl, "one/deep/**"]
- config_name: two
  data_files: two/*.jsonl
- config_name: three
  data_dir: three
---
# words
"""
FILES = [
    *("one/part-1.jsonl", "one/part-2.jsonl", "one/x.jsonl", "one/deep/a/y.jsonl", "two/z.jsonl"),
    *("three/train.jsonl", "three/test.jsonl", "stray.jsonl"),
]


def test_a_card_tells_the_splits_that_datasets_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    plant(tmp_path, FILES)
    (tmp_path / "README.md").write_text(CARD)
    for config in configs_of_card(CARD):
        ours = {split: set(files) for split, files in splits_by_card(config, FILES).items()}
        assert ours == found_by_datasets(tmp_path, config["config_name"])


@pytest.mark.parametrize("card", ["", "# words", "---\nconfigs: 5\n---\n", "---\n[: no yaml\n---\n", "---\n- 1\n---\n"])
def test_a_card_without_configs(card: str) -> None:
    assert configs_of_card(card) == []


def test_a_card_that_says_how_its_files_are_read_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, ["a.csv"])
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: x\n  data_files: a.csv\n  sep: ';'\n---\n")
    with pytest.raises(InputError, match="its card wants its files read with sep, which tamis does not apply"):
        listed(tmp_path)
    assert len(listed(tmp_path / "*.csv").files) == 1


# --- what becomes of them -----------------------------------------------------------------------------------------


def listed(path: object, **part: str) -> Inputs:
    return find([str(path)], "auto", {}, DatasetPart(**part))


def names(found: Inputs) -> list[str]:
    return [Path(file.url).name for file in found.files]


def test_splits_are_not_mixed_without_a_word(tmp_path: Path) -> None:
    plant(tmp_path, ["data/train-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl", "data/old.jsonl"])
    (tmp_path / "dataset_infos.json").write_text("{}")
    with pytest.raises(InputError, match=r"has 2 splits: train, test; choose one with --set input.split=train"):
        listed(tmp_path)
    found = listed(tmp_path, split="test")
    assert names(found) == ["test-00000-of-00001.jsonl"]
    assert found.notes == (f"{tmp_path}: only the split test is read, not train",)
    assert found.unread.files == ("dataset_infos.json", "data/old.jsonl")
    with pytest.raises(InputError, match="has no split dev; it has train, test"):
        listed(tmp_path, split="dev")
    for pattern in ("data/*", "*/*.jsonl"):
        found = listed(tmp_path / pattern)
        assert len(found.files) == 3
        assert found.notes == (f"{tmp_path}/{pattern}: files of several splits (train, test) become one corpus",)
    assert listed(tmp_path / "data" / "tr*").notes == ()


def test_files_of_one_split_are_one_corpus(tmp_path: Path) -> None:
    plant(tmp_path, ["train.jsonl", "more.jsonl"])
    assert names(listed(tmp_path)) == ["more.jsonl", "train.jsonl"]
    assert names(listed(tmp_path, split="train")) == ["train.jsonl"]
    plant(tmp_path / "none", ["a.jsonl"])
    with pytest.raises(ConfigError, match=r"input.split: the names of the files of .*none tell no split; leave it out"):
        listed(tmp_path / "none", split="train")
    with pytest.raises(ConfigError, match=r"input.config: .*none has no config"):
        listed(tmp_path / "none", config="en")


def test_configs_of_a_card_are_not_mixed_either(tmp_path: Path) -> None:
    plant(tmp_path, FILES)
    (tmp_path / "README.md").write_text(CARD)
    with pytest.raises(InputError, match="has 3 configs: one, two, three"):
        listed(tmp_path)
    with pytest.raises(InputError, match="has 2 splits: train, held_out"):
        listed(tmp_path, config="one")
    assert names(listed(tmp_path, config="one", split="held_out")) == ["x.jsonl", "y.jsonl"]
    found = listed(tmp_path, config="two")
    assert names(found) == ["z.jsonl"]
    assert "stray.jsonl" in found.unread.files


def test_of_an_output_of_tamis_kept_is_read_and_the_plan_says_so(tmp_path: Path) -> None:
    plant(tmp_path, [f"{part}/000000-aa.jsonl" for part in ("kept", "dropped", "scores")])
    card = render_card({"counts": {"kept": 1, "dropped": 1}})
    (tmp_path / "README.md").write_text(card.replace(".parquet", ".jsonl"))
    found = listed(tmp_path)
    assert [file.url for file in found.files] == [str(tmp_path / "kept/000000-aa.jsonl")]
    assert found.notes == (f"{tmp_path}: only the config default is read, as `datasets` does, not dropped, scores",)
    other = listed(tmp_path, config="dropped")
    assert ([file.url for file in other.files], other.notes) == ([str(tmp_path / "dropped/000000-aa.jsonl")], ())


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["split=train/a.jsonl", "split=test/a.jsonl"], ["train", "test"]),
        (["year=2024/split=train/a.jsonl", "year=2024/split=valid/a.jsonl"], ["train", "valid"]),
        (["SPLIT=Train/a.jsonl", "SPLIT=extra/a.jsonl"], ["Train", "extra"]),
        (["use=training/a.jsonl", "use=evaluation/a.jsonl"], ["training", "evaluation"]),
        (["subset=dev/a.jsonl", "subset=other%20one/a.jsonl"], ["dev", "other one"]),
        (["Train/a.jsonl", "Test/a.jsonl"], ["train", "test"]),
        (["TRAIN.jsonl", "Dev.jsonl"], ["train", "validation"]),
    ],
)
def test_splits_that_datasets_would_mix_are_told_too(tmp_path: Path, files: list[str], splits: list[str]) -> None:
    plant(tmp_path, files)
    assert list(splits_by_name(files)) == splits
    with pytest.raises(InputError, match=r"has 2 splits: .*; choose one with --set input.split="):
        listed(tmp_path)
    for split, file in zip(splits, files, strict=True):
        found = listed(tmp_path, split=split)
        assert [source.url for source in found.files] == [str(tmp_path / file)]
        assert found.notes == (f"{tmp_path}: only the split {split} is read, not {({*splits} - {split}).pop()}",)
        assert found.files[0].partition.count("[[") == ("=" in file)  # its columns stay


@pytest.mark.parametrize(
    "files",
    [
        ["year=2023/a.jsonl", "year=2024/a.jsonl"],
        ["split=train/a.jsonl", "split=train/b.jsonl"],
        ["env=dev/a.jsonl", "env=prod/a.jsonl"],
        ["subset=en/a.jsonl", "subset=de/a.jsonl"],
    ],
)
def test_other_partitions_are_one_corpus(tmp_path: Path, files: list[str]) -> None:
    plant(tmp_path, files)
    assert len(listed(tmp_path).files) == 2
