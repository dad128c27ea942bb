"""The ranges in pyproject.toml are tested: they start at constraints-oldest.txt and include constraints.txt."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("s3", "gcs", "azure", "cluster", "lineage")
RUNTIME = [
    Requirement(text)
    for texts in (PROJECT["dependencies"], *(PROJECT["optional-dependencies"][name] for name in EXTRAS))
    for text in texts
]


def pins(name: str) -> dict[str, Version]:
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line]
    return {canonicalize_name(package): Version(version) for package, version in pairs}


@pytest.mark.parametrize("requirement", RUNTIME, ids=lambda requirement: requirement.name)
def test_a_range_begins_with_what_make_test_oldest_installs(requirement: Requirement) -> None:
    [lowest] = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
    pinned = pins("constraints-oldest.txt")[canonicalize_name(requirement.name)]
    if requirement.name == "torch":  # there is only one build for tests
        assert pinned in requirement.specifier
    else:
        assert pinned == lowest


@pytest.mark.parametrize("requirement", RUNTIME, ids=lambda requirement: requirement.name)
def test_a_range_holds_what_make_test_installs(requirement: Requirement) -> None:
    assert pins("constraints.txt")[canonicalize_name(requirement.name)] in requirement.specifier


def test_tools_are_pinned_within_their_ranges_too() -> None:
    for text in PROJECT["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        for name in ("constraints.txt", "constraints-oldest.txt"):
            pinned = pins(name).get(canonicalize_name(requirement.name))
            assert requirement.name == "tamis" or (pinned and pinned in requirement.specifier), (name, text)
