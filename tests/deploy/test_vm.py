"""The cluster files are of the schema that Ray's cluster launcher checks, and use roles, a token and spot machines."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

FILES = sorted((Path(__file__).parents[2] / "deploy" / "vm").glob("*.yaml"))


CLIENTS = {"boto3": "boto3", "googleapiclient": "google-api-python-client"}
"""Modules that Ray's autoscaler imports on the head, and which no extra of tamis brings."""


@pytest.fixture(scope="module")
def autoscaler() -> Path:
    """Of the installed Ray."""
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "autoscaler"


@pytest.fixture(scope="module")
def schema(autoscaler: Path) -> dict[str, Any]:
    return dict(json.loads((autoscaler / "ray-schema.json").read_text()))


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


def test_the_head_has_the_clients_that_the_autoscaler_imports(cluster: dict[str, Any], autoscaler: Path) -> None:
    """Without them no machine with a GPU would ever start."""
    imported = set()
    for path in (autoscaler / "_private" / cluster["provider"]["type"]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    wanted = {CLIENTS[name] for name in imported & CLIENTS.keys()}
    assert len(wanted) == 1
    assert wanted <= set(" ".join(cluster["head_setup_commands"]).split())


def test_an_image_is_named(cluster: dict[str, Any]) -> None:
    """Ray's own for AWS is Ubuntu 18.04: it has neither a Python nor a C library for torch."""
    for kind in cluster["available_node_types"].values():
        assert "ImageId" in kind["node_config"] or "sourceImage" in json.dumps(kind["node_config"]["disks"])


def test_a_job_that_is_stopped_may_leave_in_order(cluster: dict[str, Any]) -> None:
    assert any("RAY_JOB_STOP_WAIT_TIME_S=" in command for command in cluster["head_start_ray_commands"])
