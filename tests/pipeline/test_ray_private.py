"""The names of Ray that are nobody's promise are there, and say what they said."""

from __future__ import annotations

import pytest
import ray

from tamis.pipeline.ray_private import promised_gpus


@pytest.mark.usefixtures("session")
def test_a_cluster_without_an_autoscaler_promises_nothing() -> None:
    # Called as ray_private does, but not caught: it fails when Ray moves it.
    assert not ray._private.state.state.get_max_resources_from_cluster_config()
    assert promised_gpus() == 0.0
