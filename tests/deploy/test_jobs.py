"""The example jobs are loaded by tamis' own loader, and there is one for each method."""

from __future__ import annotations

from pathlib import Path

import pytest

from tamis.operators.methods import METHODS
from tamis.pipeline.job.job_file import load_job

DEPLOY = Path(__file__).parents[2] / "deploy"
JOBS = sorted((DEPLOY / "jobs").glob("*.yaml"))


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_an_example_job_is_valid(path: Path) -> None:
    job = load_job(str(path), {})
    assert job.output


def test_there_is_an_example_for_each_method() -> None:
    """Those that tamis brings; other distributions bring their own."""
    assert {method for path in JOBS for method in load_job(str(path), {}).method} == set(METHODS)


@pytest.mark.parametrize("folder", ["deploy", *(f"deploy/{path.name}" for path in DEPLOY.iterdir() if path.is_dir())])
def test_a_folder_has_a_short_readme(folder: str) -> None:
    readme = DEPLOY.parent / folder / "README.md"
    if folder != "deploy/examples":  # one script, with its own docstring
        assert len(readme.read_text(encoding="utf-8").splitlines()) <= 60
