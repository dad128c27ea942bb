"""The job's model as a worker gets at it: where its files are, how they are loaded, and on what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tamis.pipeline.cluster.pools import Pool, device_of
from tamis.pipeline.cluster.worker_gpu import missing_gpu
from tamis.pipeline.job.sections import ModelSpec
from tamis.pipeline.models.fetch import ModelSource, fetch


@dataclass(frozen=True)
class ModelHandle:
    """Plain values, so that a worker that is started again can have them.

    name: as the user gave it, for messages. source: a folder that every node has, or what to fetch, at `revision`.
    device, threads: of a worker. gpus: that Ray gives it. options: of the storage.
    """

    name: str
    source: str
    revision: str | None
    trust_remote_code: bool = False
    allow_pickle_weights: bool = False
    dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None
    gpus: float = 0.0
    options: Mapping[str, Any] | None = None

    @property
    def loading(self) -> dict[str, Any]:
        """What the operators' `load` wants to know beside the folder."""
        return {
            "dtype": self.dtype,
            "device": self.device,
            "trust_remote_code": self.trust_remote_code,
            "allow_pickle_weights": self.allow_pickle_weights,
        }

    def fetch(self) -> str:
        """The folder with configuration, tokenizer and weights on this machine. Raises ConfigError."""
        pickles, code = self.allow_pickle_weights, self.trust_remote_code
        found = fetch(self.source, self.revision, weights=True, pickles=pickles, remote_code=code, options=self.options)
        return found.path

    def take_place(self) -> str | None:
        """Give torch this worker's threads. What to warn of where Ray counts a GPU for it and torch sees none.

        Imports torch. Raises ClusterError where the job wants nothing but CUDA.
        """
        import torch

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return missing_gpu(self.device, self.gpus)


def handle_of(spec: ModelSpec, found: ModelSource, pool: Pool, options: Mapping[str, Any]) -> ModelHandle:
    """For the workers of `pool`. found: what the plan saw, so that every worker reads the same files."""
    local = found.revision == "local"
    return ModelHandle(
        name=spec.name,
        source=found.path if local else spec.name,
        revision=None if local else found.revision,
        trust_remote_code=spec.trust_remote_code,
        allow_pickle_weights=spec.allow_pickle_weights,
        dtype=spec.dtype,
        device=device_of(spec.device, pool),
        threads=pool.threads,
        gpus=pool.gpus_per_worker,
        options=dict(options),
    )
