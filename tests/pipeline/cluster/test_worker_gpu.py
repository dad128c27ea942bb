"""A worker that Ray gave a GPU, on a machine where torch sees none, and where it sees one."""

from __future__ import annotations

import pytest
import torch

from tamis.pipeline.cluster.worker_gpu import missing_gpu
from tamis.pipeline.errors import ClusterError


@pytest.mark.parametrize(("device", "gpus"), [("auto", 0.0), ("cuda", 0.0), ("cpu", 1.0)])
def test_who_has_no_gpu_misses_none(device: str, gpus: float) -> None:
    assert missing_gpu(device, gpus) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees CUDA here")
def test_both_are_named() -> None:
    said = missing_gpu("auto", 0.5)
    assert said is not None
    assert said.startswith(f"Ray gives each worker 0.5 GPU, but torch {torch.__version__}")
    assert said.endswith("sees none there: the CPU computes")
    with pytest.raises(ClusterError, match=r"model\.device is cuda\. Ray gives each worker 1 GPU") as caught:
        missing_gpu("cuda", 1.0)
    assert caught.value.exit_code == 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees CUDA here")
def test_an_index_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a torch that has CUDA; one that has none sees no GPU whatever the index."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(ClusterError, match=r"sees none there \(CUDA_VISIBLE_DEVICES='7'\); install a torch with CUDA"):
        missing_gpu("cuda", 1.0)
    said = missing_gpu("auto", 1.0)
    assert said is not None
    assert "7" not in said.removeprefix("Ray gives each worker 1 GPU, but torch " + torch.__version__), "one for all"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_who_sees_a_gpu_misses_none() -> None:
    assert missing_gpu("auto", 1.0) is None
    assert missing_gpu("cuda", 1.0) is None
