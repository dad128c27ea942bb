"""What Ray knows and has no public name for."""

from __future__ import annotations


def promised_gpus() -> float:
    """GPUs that the cluster's autoscaler may bring it to in all, the ones that are there included; 0 if it has none or
    does not tell. Ray Train asks in the same way."""
    import ray

    try:
        most = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    except (AttributeError, RuntimeError, ConnectionError):
        return 0.0
    return float(most.get("GPU", 0.0))
