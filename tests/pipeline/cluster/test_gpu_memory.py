"""Weights against the memory of GPUs, in numbers and on the plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from tamis.pipeline.cluster.gpu_memory import check_weights, memory_here, shown, weights_of
from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.job.sections import ModelSpec

GB = 10**9


def spec(dtype: str) -> ModelSpec:
    return ModelSpec.model_validate({"name": "m", "dtype": dtype})


@pytest.mark.parametrize(
    ("dtype", "on_gpu", "expected"),
    [
        ("auto", True, (16, "bfloat16")),
        ("auto", False, (32, "float32")),
        ("float16", False, (16, "float16")),
        ("float32", True, (32, "float32")),
    ],
)
def test_bytes_of_weights(dtype: str, on_gpu: bool, expected: tuple[int, str]) -> None:
    assert weights_of(8, spec(dtype), on_gpu=on_gpu) == expected


def pool(share: float) -> Pool:
    return Pool(1, 1.0, share, 1, 1.0)


@pytest.mark.parametrize(
    ("weights", "share", "says"),
    [
        (16 * GB, 1.0, None),
        (67 * GB, 1.0, None),
        (69 * GB, 1.0, "69.0 GB in bfloat16, and its 1 GPU has 80.0 GB; set model.gpus_per_worker to 2"),
        (35 * GB, 0.5, "its 0.5 GPU has 40.0 GB; set model.gpus_per_worker to 1"),
        (141 * GB, 3.0, None),
        (140 * GB, 2.0, "its 2 GPU have 160.0 GB; set model.gpus_per_worker to 3"),
    ],
)
def test_little_room_is_warned_of(weights: int, share: float, says: str | None) -> None:
    found = check_weights(weights, "bfloat16", pool(share), 80 * GB)
    assert (found is None) == (says is None)
    if says is not None:
        assert found is not None
        assert says in found
        assert found.endswith("little is left for the batches")


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"take about 141\.0 GB in float32, and its 1 GPU has 80\.0 GB") as caught:
        check_weights(141 * GB, "float32", pool(1.0), 80 * GB)
    assert "set model.gpus_per_worker to 3, or set model.dtype to bfloat16, or read a lower block" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        check_weights(30 * GB, "bfloat16", pool(0.25), 80 * GB)
    assert "set model.gpus_per_worker to 1" in str(caught.value)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 81559; echo 40960", 40960 << 20),
        ("echo 81559", 81559 << 20),
        ("true", None),
        ("echo '[N/A]'", None),
        ("exit 9", None),
    ],
)
def test_what_the_driver_says(
    script: str, expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text(f"#!/bin/sh\n{script}\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert memory_here() == expected


def test_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert memory_here() is None


def test_sizes_for_a_person() -> None:
    assert [shown(size) for size in (16_060_000_000, 99_000_000, 1_000)] == ["16.1 GB", "99.0 MB", "0.0 MB"]
