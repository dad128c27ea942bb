"""What the images promise, as far as files can show it: no engine runs here."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage of the Dockerfile."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: dict[str, list[tuple[str, str]]] = {"": []}
    now = ""
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        word, _, rest = line.partition(" ")
        if word == "FROM":
            now = rest.rpartition(" AS ")[2]
            found[now] = []
        found[now].append((word, " ".join(rest.split())))
    return found


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"])


OURS = ["head", "worker", "data", "curate"]


def test_wheels_are_built_once_and_installed_without_an_index(stages: dict[str, list[tuple[str, str]]]) -> None:
    assert list(stages) == ["", "wheels", "environment", "tamis"]
    installs = [rest for _, rest in stages["environment"] if "pip install" in rest]
    assert len(installs) == 1
    assert "--no-index --find-links /wheels" in installs[0]
    built = [rest for _, rest in stages["wheels"] if "pip wheel" in rest]
    assert all("--constraint constraints.txt" in rest for rest in built)
    assert not any("pip" in rest for word, rest in stages["tamis"] if word == "RUN")


def test_the_last_stage_is_not_root_and_says_what_it_is(stages: dict[str, list[tuple[str, str]]]) -> None:
    last = stages["tamis"]
    assert [rest for word, rest in last if word == "USER"] == ["10001:10001"]
    assert ("HEALTHCHECK" in dict(last), "LABEL" in dict(last)) == (True, True)
    environment = dict(pair.split("=", 1) for pair in shlex.split(dict(last)["ENV"]))
    assert (environment["HOME"], environment["HF_HUB_OFFLINE"]) == ("/tmp", "1")
    assert environment["RAY_AUTH_MODE"] == "token"


def test_versions_are_those_of_the_project(stages: dict[str, list[tuple[str, str]]]) -> None:
    version = PROJECT["project"]["version"]
    assert ("ARG", f"VERSION={version}") in stages["tamis"]
    for path in [*DOCKER.iterdir(), *(ROOT / "deploy").rglob("*.yaml"), *(ROOT / "deploy").rglob("*.md")]:
        for tag in re.findall(r"tamis:([0-9][\w.]*)-[cg]pu", path.read_text()):
            assert tag == version, path


def test_the_extras_of_the_image_exist() -> None:
    for extras in re.findall(r"EXTRAS[=:-]+([a-z0-9,]+)", (DOCKER / "Dockerfile").read_text()):
        assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_the_build_sees_what_the_wheel_is_made_of_and_nothing_else() -> None:
    allowed = {line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    assert allowed == {"constraints.txt", "pyproject.toml", "README.md", "LICENSE", "api", "operators", "pipeline"}
    assert all((ROOT / name).exists() for name in allowed)


def test_the_pins_travel_in_the_wheel() -> None:
    assert PROJECT["tool"]["setuptools"]["data-files"] == {"share/tamis": ["constraints.txt"]}


@pytest.mark.parametrize("name", OURS)
def test_a_service_can_do_little(services: dict[str, dict[str, Any]], name: str) -> None:
    service = services[name]
    assert (service["read_only"], service["cap_drop"], service["user"]) == (True, ["ALL"], "10001:10001")
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["networks"] == ["inside"]
    assert all(volume["read_only"] for volume in service["volumes"])
    assert service["environment"]["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")


def test_there_is_a_head_two_workers_and_a_store(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {*OURS, "store"}
    assert services["worker"]["deploy"] == {"replicas": 2}
    assert services["store"]["image"].endswith(":" + pin("moto"))
    assert services["store"]["ports"] == ["127.0.0.1:5000:5000"]


def test_the_one_command_waits_for_all_of_it(services: dict[str, dict[str, Any]]) -> None:
    waits = {name: each["condition"] for name, each in services["curate"]["depends_on"].items()}
    assert waits == {
        "head": "service_healthy",
        "worker": "service_healthy",
        "data": "service_completed_successfully",
    }


def pin(name: str) -> str:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    [found] = [line.removeprefix(f"{name}==") for line in lines if line.startswith(f"{name}==")]
    return found


def test_the_readme_is_short_and_says_what_was_not_run() -> None:
    text = (DOCKER / "README.md").read_text()
    assert len(text.splitlines()) <= 60
    assert "**Not run**" in text
