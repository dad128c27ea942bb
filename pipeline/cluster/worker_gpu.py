"""Whether a worker has the GPU that Ray counts for it: Ray only counts GPUs, and torch may see none of them."""

from __future__ import annotations

import os

from tamis.pipeline.errors import ClusterError


def missing_gpu(device: str, gpus: float) -> str | None:
    """A warning where Ray gave this process `gpus` GPUs but the CPU must compute; None where all is well.

    device: the job's setting. Imports torch. Raises ClusterError where the job requires CUDA.
    """
    if not gpus or device == "cpu":
        return None
    import torch

    if torch.cuda.is_available():
        return None
    build = "" if torch.version.cuda else ", a build without CUDA,"
    found = f"Ray gives each worker {gpus:g} GPU, but torch {torch.__version__}{build} sees none there"
    if device == "cuda":
        seen = f" (CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', '')!r})" if torch.version.cuda else ""
        raise ClusterError(
            f"model.device is cuda. {found}{seen}; install a torch with CUDA on every node, check its driver and the "
            "indices of its GPUs, or set model.device to auto or cpu"
        )
    # Every worker gives the same text, so that it is shown once.
    advice = "; are the driver and CUDA_VISIBLE_DEVICES right?" if torch.version.cuda else ""
    return f"{found}: the CPU computes{advice}"
