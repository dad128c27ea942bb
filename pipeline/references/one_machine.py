"""How training workers on one machine find each other: through a file, and then over the loopback interface only.

torch's usual meeting point, the TCPStore, listens on all interfaces, whatever address it is given.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path

import ray.train
import torch.distributed as distributed
from ray.train.backend import Backend
from ray.train.torch import TorchConfig

from tamis.pipeline.errors import ClusterError

_PATIENCE = timedelta(minutes=30)
_LOOPBACK = ("lo", "lo0")


class OneMachine(TorchConfig):  # type: ignore[misc, unused-ignore]
    """Ray Train's settings for workers that call `meet` themselves."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Unconnected


class _Unconnected(Backend):  # type: ignore[misc, unused-ignore]
    share_cuda_visible_devices = True  # as with a TorchConfig


def meet(folder: str, backend: str) -> None:
    """Connect this worker with the others of its group. folder: one that only this group uses. Raises ClusterError if
    some of them are on another machine."""
    context = ray.train.get_context()
    if context.get_local_world_size() != context.get_world_size():
        raise ClusterError("the cluster has grown while the training began; run the same command again")
    names = {name for _, name in socket.if_nameindex()}
    loopback = next((name for name in _LOOPBACK if name in names), None)
    if loopback is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = loopback
    distributed.init_process_group(
        backend,
        init_method=(Path(folder) / "meeting").as_uri(),
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        timeout=_PATIENCE,
    )
