"""The job of a new selection: what is taken of the run, what is not, and what its scores do not allow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.job.job_file import Job, load_job
from tamis.pipeline.planning.fingerprint import selection_keys_of
from tamis.pipeline.planning.reselection import Choice, files_of, fingerprint_of, frozen_settings, job_of
from tamis.pipeline.run.folder import state_of
from tamis.pipeline.run.frozen import Frozen, FrozenCut, FrozenFacts
from tamis.pipeline.run.parent import Parent
from tamis.pipeline.run.paths import MANIFEST
from tamis.pipeline.storage.store import Store

METHODS = ("larf", "saft")


def theirs(**selection: Any) -> Job:
    given = {
        "input": "corpus.jsonl",
        "output": "out",
        "model": "gone",
        "method": list(METHODS),
        "seed": 3,
        "keep_captures": True,
        "lineage": "events.jsonl",
        "selection": selection,
    }
    return load_job(None, given)


def parent(job: Job, files: list[dict[str, Any]] | None = None) -> Parent:
    fingerprint = {"format": 4, "input": "abc", "model": "def", **selection_keys_of(job)}
    facts = FrozenFacts(METHODS, job.selected_by, "", FrozenCut(0.5, None), fingerprint, "float32", "cpu", {}, None, {})
    manifest = {
        "job": job.model_dump(mode="json"),
        "fingerprint": fingerprint,
        "selected_by": job.selected_by,
        "input": {"files": files or []},
    }
    listed = {"scores/0.parquet": {"name": "scores/0.parquet", "bytes": 1, "sha256": "s"}}
    return Parent(Store("out"), manifest, "m", Frozen("out", facts, {}, {}, "d"), listed)


def test_the_rule_of_the_run_stays_where_none_is_given() -> None:
    job = job_of(parent(theirs(drop=0.2)), Choice(by="saft"), "new")
    assert (job.selection.rule, job.selected_by, job.output) == (("drop", 0.2), "saft", "new")


def test_a_rule_takes_the_place_of_the_run_s_whichever_it_is() -> None:
    job = job_of(parent(theirs(drop=0.2, by="saft")), Choice(threshold=0.7), "new")
    assert (job.selection.rule, job.selected_by) == (("threshold", 0.7), "saft")


def test_the_cut_of_an_artifact_is_no_rule() -> None:
    run = parent(theirs(drop=0.2))
    run.manifest.update(drift={"exceeded": []}, counts={"dropped": 37})  # type: ignore[attr-defined]
    for choice in (Choice(), Choice(by="saft"), Choice(control="random"), Choice(within="source")):
        with pytest.raises(ConfigError, match=r"--drop-count \(there 37 rows fell\) or --threshold"):
            job_of(run, choice, "new")
    assert job_of(run, Choice(drop_count=37, control="random"), "new").selection.rule == ("drop_count", 37)


def test_controls_groups_captures_and_events_are_not_taken_over() -> None:
    job = job_of(parent(theirs(drop=0.2, control="random")), Choice(), "new")
    assert (job.selection.control, job.selection.within, job.keep_captures, job.lineage) == (None, None, "none", None)
    assert job_of(parent(theirs(drop=0.2)), Choice(control="random", seed=9), "new").seed == 9


def test_the_fingerprint_is_that_of_a_fresh_run_and_of_its_scores() -> None:
    run, fresh = parent(theirs(drop=0.2, control="random")), theirs(drop_count=7, by="saft")
    job = job_of(run, Choice(drop_count=7, by="saft"), "new")
    expected = {"format": 4, "input": "abc", "model": "def", **selection_keys_of(fresh)}
    assert frozen_settings(run, job) == expected
    form = {"sample_id": "dropped", "file_size": 128_000_000}
    assert fingerprint_of(run, job) == {**expected, **form, "selected from": run.digest}
    assert "seed" not in expected


def test_the_same_threshold_with_another_certificate_is_another_selection(tmp_path: Path) -> None:
    """As after a label was corrected: else a finished folder would keep the old certificate, or none."""
    run = parent(theirs(drop=0.2))
    job = job_of(run, Choice(threshold=0.5), "new")
    one, other = ({"labels_sha256": {"l.csv": name}, "parts": [{"threshold": 0.5}]} for name in "ab")
    found = [fingerprint_of(run, job, each) for each in (None, one, other)]
    assert len({json.dumps(each, sort_keys=True) for each in found}) == 3
    assert found[1] == fingerprint_of(run, job, dict(reversed(one.items())))
    store = Store(str(tmp_path / "new"))
    store.write_facts(MANIFEST, {"fingerprint": found[1]})
    assert state_of(store, found[1]) == "complete"
    for fingerprint in (found[0], found[2]):
        with pytest.raises(ConfigError, match="the certificate of the cut, if any"):
            state_of(store, fingerprint)


@pytest.mark.parametrize(
    ("selection", "choice", "says"),
    [
        ({}, Choice(by="contrast"), "--by contrast: .* has no scores of it; there are those of larf, saft"),
        ({"threshold": 3.0}, Choice(by="saft"), "fits the scores of larf only"),
        ({}, Choice(drop=0.1, drop_count=5), "give only one of drop, drop_count"),
        ({}, Choice(drop=0.7), "more than half"),
        ({}, Choice(drop=1.5), "selection.drop"),
        ({}, Choice(control="dice"), "selection.control"),
        ({}, Choice(within="language"), "selection.within"),
        ({}, Choice(within="source", drop_count=5), "give drop, not drop_count or threshold"),
        ({}, Choice(within="source", control="length_matched"), "within cannot be given"),
        ({}, Choice(threshold=0.1, control="random"), "control needs drop or drop_count"),
    ],
)
def test_what_the_scores_do_not_allow(selection: dict[str, Any], choice: Choice, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        job_of(parent(theirs(**selection)), choice, "new")


def test_files_are_found_at_their_addresses_and_must_be_as_they_were(tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl.gz"
    file.write_bytes(b"1234")
    entry = {
        "path": "corpus.jsonl.gz",
        "url": str(file),
        "identity": str(file.stat().st_mtime_ns),
        "bytes": 4,
        "format": "jsonl (gzip)",
        "partition": "[]",
    }
    run = parent(theirs(), [entry])
    job = job_of(run, Choice(), "new")
    [found] = files_of(run, job)
    assert (found.format, found.compression, found.partition) == ("jsonl", "gzip", "[]")
    file.write_bytes(b"12345")
    with pytest.raises(InputError, match=r"corpus\.jsonl\.gz: its size or its time has changed"):
        files_of(run, job)
    file.unlink()
    with pytest.raises(InputError, match=r"corpus\.jsonl\.gz"):
        files_of(run, job)
