"""Which folders under a root count as nights."""

from __future__ import annotations

from typing import Any

from tamis.pipeline.nights.runs import finished_run

MANIFEST: dict[str, Any] = {"created": "2026-11-29T02:00:00+00:00", "job": {}, "input": {"files": []}}


def test_a_run_of_its_own_counts() -> None:
    run = finished_run(MANIFEST, "2026-11-29")
    assert (run.finished, run.name, run.artifact) == (True, "2026-11-29", None)


def test_a_selection_of_another_run_is_no_night() -> None:
    """It has fitted nothing, and its parent's captures are not below it."""
    run = finished_run(MANIFEST | {"parent": {"path": "elsewhere"}}, "selected")
    assert (run.finished, run.why) == (False, "it was made of another run")
