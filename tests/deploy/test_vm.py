"""The cluster files are of the schema that Ray's cluster launcher checks, and use roles, a token and spot machines."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

FILES = sorted((Path(__file__).parents[2] / "deploy" / "vm").glob("*.yaml"))


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """Ray's own, from the installed distribution."""
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.submodule_search_locations
    return dict(json.loads((Path(spec.submodule_search_locations[0]) / "autoscaler" / "ray-schema.json").read_text()))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def cluster(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(yaml.safe_load(request.param.read_text()))


def test_there_are_two_clouds() -> None:
    assert [path.stem for path in FILES] == ["aws", "gcp"]


def test_it_is_of_the_schema(cluster: dict[str, Any], schema: dict[str, Any]) -> None:
    jsonschema.validate(cluster, schema)
    with pytest.raises(jsonschema.ValidationError):  # so the schema does refuse something
        jsonschema.validate(cluster | {"max_worker": 3}, schema)


def test_the_head_has_no_gpu_and_the_workers_come_when_asked_for(cluster: dict[str, Any]) -> None:
    head, gpu = cluster["available_node_types"]["head"], cluster["available_node_types"]["gpu"]
    assert cluster["head_node_type"] == "head"
    assert "GPU" not in head["resources"]
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, cluster["max_workers"])


def test_machines_have_a_role_and_no_keys(cluster: dict[str, Any]) -> None:
    for kind in cluster["available_node_types"].values():
        assert kind["node_config"].keys() & {"IamInstanceProfile", "serviceAccounts"}
    assert "key" not in json.dumps(cluster["file_mounts"]).lower()


def test_ray_asks_for_a_token(cluster: dict[str, Any]) -> None:
    starts = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)
    assert any(target.endswith("/.ray/auth_token") for target in cluster["file_mounts"])
