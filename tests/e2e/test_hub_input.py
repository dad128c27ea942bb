"""Hugging Face datasets through the real command: one split of a hub dataset, and a folder of save_to_disk.

The command starts Ray, as on a laptop: its workers find the hub through the environment that they inherit.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from command import curate, tamis
from hub import TOKEN, Hub, running_hub
from outputs import alpaca_rows, check_whole, merged, pair

SAFT = ["--method", "saft", "--drop", "0.2", "--set", "shard_rows=15"]
FEATURES = datasets.Features(
    {
        "messages": datasets.List({"role": datasets.Value("string"), "content": datasets.Value("large_string")}),
        "label": datasets.ClassLabel(names=["chat", "code"]),
        "scores": datasets.List(datasets.Value("float32"), length=2),
        "calls": datasets.List({"name": datasets.Value("string"), "sizes": datasets.List(datasets.Value("int16"))}),
        "seen": datasets.Value("timestamp[us]"),
    }
)


@pytest.fixture(autouse=True)
def _no_bars() -> Iterator[None]:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    return [
        {
            "messages": pair(row["instruction"], row["output"]),
            "label": number % 2,
            "scores": [0.5, float(number)],
            "calls": [{"name": "f", "sizes": [number]}] if number % 3 else [],
            "seen": None,
        }
        for number, row in enumerate(alpaca_rows(count, seed))
    ]


def dataset(count: int, seed: int) -> datasets.Dataset:
    return datasets.Dataset.from_list(rows(count, seed), features=FEATURES)


def parquet(data: datasets.Dataset) -> bytes:
    buffer = io.BytesIO()
    data.to_parquet(buffer)
    return buffer.getvalue()


def kept(out: Path, cache: Path) -> datasets.Dataset:
    """The kept rows, as the next program loads them."""
    return datasets.load_dataset(str(out), split="train", cache_dir=str(cache))


def messages(found: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [row["messages"][0]["content"] for _, row in found]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def test_a_split_of_a_private_hub_dataset(hub: Hub, tiny_model: Path, tmp_path: Path) -> None:
    train = [dataset(30, 1), dataset(20, 2)]
    files = {
        "README.md": b"# Chats\n",
        "data/train-00000-of-00002.parquet": parquet(train[0]),
        "data/train-00001-of-00002.parquet": parquet(train[1]),
        "data/test-00000-of-00001.parquet": parquet(dataset(10, 3)),
    }
    repository = hub.add("datasets", "team/chat", files, private=True)
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    environment["HF_TOKEN"] = TOKEN
    flags = ["--input", "hf://datasets/team/chat", "--model", tiny_model, *SAFT, "--output", tmp_path / "out"]

    unnamed = tamis("curate", *flags, cwd=tmp_path, env=environment)
    assert unnamed.rc == 3, unnamed.output
    assert "has 2 splits: train, test; choose one with --set input.split=train" in " ".join(unnamed.output.split())

    ran = tamis("curate", *flags, "--set", "input.split=train", cwd=tmp_path, env=environment)
    assert ran.rc == 0, ran.output
    manifest = check_whole(tmp_path / "out", ["saft"])
    assert manifest["counts"]["rows_in"] == 50
    assert [file["path"] for file in manifest["input"]["files"]] == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    assert messages(merged(tmp_path / "out")) == [
        row["messages"][0]["content"] for part in train for row in part.to_list()
    ]
    assert TOKEN not in json.dumps(manifest) + ran.output
    assert kept(tmp_path / "out", tmp_path / "cache").features == FEATURES

    # The branch moves and the same command runs again: this is another corpus, and the two are not mixed.
    files["data/train-00001-of-00002.parquet"] = parquet(dataset(25, 4))
    repository.commit(files)
    again = tamis("curate", *flags, "--set", "input.split=train", cwd=tmp_path, env=environment)
    assert again.rc == 2, again.output
    assert "input: the files, their content" in again.output
    assert check_whole(tmp_path / "out", ["saft"])["counts"]["rows_in"] == 50


def test_a_saved_dataset_keeps_its_features(tiny_model: Path, ray_address: str, tmp_path: Path) -> None:
    train = dataset(40, 5)
    datasets.DatasetDict(train=train, test=dataset(10, 6)).save_to_disk(tmp_path / "saved")
    flags = ["--input", tmp_path / "saved", "--model", tiny_model, *SAFT, "--output", tmp_path / "out"]
    curate(*flags, "--set", "input.split=train", cwd=tmp_path, address=ray_address)
    assert check_whole(tmp_path / "out", ["saft"])["counts"]["rows_in"] == 40
    assert messages(merged(tmp_path / "out")) == [row["messages"][0]["content"] for row in train.to_list()]
    left = kept(tmp_path / "out", tmp_path / "cache")
    assert left.features == FEATURES
    assert left.features["label"].names == ["chat", "code"]
    assert len(left) == 32
