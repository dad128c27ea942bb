"""The job of methods on kept vectors: what is taken of the run, what may be given, what its captures do not allow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tamis.operators.methods.protocol import CORPUS, Artifact
from tamis.operators.requests import Request
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.inputs.shards import role_of
from tamis.pipeline.job.job_file import Job, load_job
from tamis.pipeline.planning.fingerprint import (
    FINGERPRINT_FORMAT,
    form_keys_of,
    reference_digest,
    selection_keys_of,
    settings_of,
)
from tamis.pipeline.planning.reference_sets import scan_set
from tamis.pipeline.planning.refitting import (
    Refitting,
    fingerprint_of,
    methods_given,
    reads_of,
    refitting_of,
    settings_like_fresh,
)
from tamis.pipeline.run.frozen import Frozen, FrozenCut, FrozenFacts
from tamis.pipeline.run.parent import Parent
from tamis.pipeline.storage.store import Store

CAPTURED = (Request(2, "last_prompt_token"), Request(2, "last_token"), Request(5, "last_token"))
SETS = ("larf.safe", "larf.unsafe")
ROWS = {
    "format": FINGERPRINT_FORMAT,
    "input": "abc",
    "model": "def",
    "tokenizer and template": "ghi",
    "model.dtype": "auto",
    "max_tokens": 128,
    "overlong": "quarantine",
}


class Run:
    """A finished LARF run on folder/a.jsonl with 8 blocks, whose vectors CAPTURED are there."""

    def __init__(self, folder: Path, **job: Any) -> None:
        self.folder = folder
        for name in ("a.jsonl", "unsafe.jsonl", "safe.jsonl", "other.jsonl"):
            (folder / name).write_text(json.dumps({"prompt": name, "response": "an answer"}) + "\n")
        given = {
            "input": str(folder / "a.jsonl"),
            "output": str(folder / "out"),
            "model": {"name": "gone", "dtype": "auto"},
            "method": "larf",
            "larf": {"layer": 2, "unsafe_references": self.path("unsafe"), "safe_references": self.path("safe")},
            "keep_captures": "vectors",
            "lineage": "events.jsonl",
            "selection": {"drop": 0.2},
            "seed": 3,
        }
        self.job = load_job(None, {**given, **job})
        self.sets: dict[str, dict[str, int]] = {role: {} for role in (CORPUS, *SETS)}
        self.manifest: dict[str, Any] = {
            "job": self.job.model_dump(mode="json"),
            "fingerprint": {**ROWS, **self.digests(self.job, SETS), **settings_of(self.job), "method": ["larf"]}
            | {"larf distribution": "x 1", **selection_keys_of(self.job)},
            "selected_by": self.job.selected_by,
            "counts": {"rows_in": 1, "dropped": 37},
            "model": {"blocks": 8, "width": 4, "revision": "local"},
            "input": {"files": [{"url": str(folder / "a.jsonl")}]},
        }
        self.found: dict[str, Any] = {"layer": 2, "layer_chosen": "job"}

    def path(self, name: str) -> str:
        return str(self.folder / f"{name}.jsonl")

    def digests(self, job: Job, roles: tuple[str, ...]) -> dict[str, str]:
        found = {}
        for role in roles:
            method, _, source = role.partition(".")
            files = scan_set(role, getattr(job.of(method), f"{source}_references"), job)
            found[f"references.{role}"] = reference_digest([scanned.file for scanned in files], {})
        return found

    def parent(self) -> Parent:
        facts = FrozenFacts(("larf",), "larf", "", FrozenCut(0.5, None), {}, "float32", "cpu", {}, None, {})
        frozen = Frozen("out", facts, {"larf": Artifact({}, self.found)}, {}, "d")
        return Parent(Store(str(self.folder / "out")), self.manifest, "m", frozen, {}, "--from")

    def refit(self, **given: Any) -> Refitting:
        return refitting_of(self.parent(), {"output": self.path("new"), **given}, CAPTURED, self.sets)

    def refusal(self, **given: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            self.refit(**given)
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_the_job_is_that_of_the_run_with_what_is_given(run: Run) -> None:
    found = run.refit(method="saft", saft={"layer": 5, "k": 2})
    job = found.job
    assert (job.method, job.of("saft").layer, job.of("saft").k, job.selection.rule) == (["saft"], 5, 2, ("drop", 0.2))
    assert (job.keep_captures, job.lineage, job.seed, job.input.path) == ("none", None, 3, run.job.input.path)
    assert (list(found.methods), found.roles, found.searched) == (["saft"], {}, False)
    assert run.refit(selection={"drop_count": 4, "drop": None}).job.selection.rule == ("drop_count", 4)
    assert run.refit(selection={"by": "larf"}).job.selection.rule == ("drop", 0.2)


def test_what_the_methods_read_is_there_or_missing(run: Run) -> None:
    given = {"output": run.path("new"), "method": ["saft", "larf"], "saft": {"layer": 1}}
    found = reads_of(run.parent(), methods_given(run.parent(), given), CAPTURED)
    assert found == [("saft", Request(1, "last_token"), False), ("larf", Request(2, "last_token"), True)]
    found = reads_of(run.parent(), methods_given(run.parent(), {**given, "larf": {"layer": "auto"}}), CAPTURED)
    assert found[1] == ("larf", None, False)
    with pytest.raises(ConfigError, match=r"saft\.layer=8"):
        reads_of(run.parent(), methods_given(run.parent(), {**given, "saft": {"layer": 8}}), CAPTURED)


def test_a_sample_of_the_corpus_is_refused(run: Run) -> None:
    contrast = {"layer": 5, "unsafe_references": run.path("unsafe")}
    rows = run.manifest["counts"]["rows_in"] = 100
    said = run.refusal(method="contrast", contrast={**contrast, "sample": rows - 1})
    assert "set contrast.sample=all" in said
    for whole in ("all", "auto", 0, rows):
        assert run.refit(method="contrast", contrast={**contrast, "sample": whole}).job.method == ["contrast"]


def test_what_a_fresh_run_would_draw_is_said(run: Run) -> None:
    contrast = {"layer": 5, "unsafe_references": run.path("unsafe")}
    assert run.refit(method="contrast", contrast=contrast).notes == ()
    run.manifest["counts"]["rows_in"] = 1 << 28  # 4 GiB of vectors
    [note] = run.refit(method="contrast", contrast=contrast).notes
    assert "would draw 4096 of them" in note.replace(",", "")
    assert run.refit(method="contrast", contrast={**contrast, "sample": "all"}).notes == ()


@pytest.mark.parametrize("ours", ["all", "none", "dropped"])
@pytest.mark.parametrize("theirs", ["all", "none", "dropped"])
def test_which_rows_have_their_id_is_free(theirs: str, ours: str, tmp_path: Path) -> None:
    run = Run(tmp_path, sample_id=theirs)
    found = run.refit(method="saft", saft={"layer": 5}, sample_id=ours)
    assert found.job.sample_id == ours
    assert settings_like_fresh(run.parent(), found).get("sample_id", "none") == ours


def test_the_fingerprint_is_that_of_a_fresh_run_tied_to_the_captures(run: Run) -> None:
    given = {"method": "contrast", "contrast": {"layer": 5, "unsafe_references": run.path("unsafe")}}
    found = run.refit(**given)
    assert found.roles == {"contrast.unsafe": "larf.unsafe"}
    fresh = load_job(None, {**run.job.model_dump(mode="json"), **given, "lineage": None})
    keys = {**ROWS, **run.digests(fresh, ("contrast.unsafe",)), **settings_of(fresh), "method": ["contrast"]}
    expected = {**keys, **form_keys_of(fresh), **selection_keys_of(fresh)}
    assert settings_like_fresh(run.parent(), found) == expected
    assert fingerprint_of(run.parent(), found, "digest") == {**expected, "vectors of": "digest"}


def test_what_is_given_as_the_run_had_it_is_no_other_setting(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.folder)
    alike = {
        "input": {"path": ["a.jsonl"]},
        "model": {"name": "gone", "revision": "local", "gpus_per_worker": 0.5},
        "max_tokens": 128,
        "overlong": "quarantine",
        "workers": 2,
        "keep_captures": "vectors",
        "larf": {"unsafe_references": "unsafe.jsonl"},
    }
    assert run.refit(**alike).job.method == ["larf"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"model": {"name": "another"}}, "model.name: gone there, another now"),
        ({"model": {"dtype": "bfloat16"}}, "model.dtype: auto there, bfloat16 now"),
        ({"model": {"revision": "abc"}}, "model.revision"),
        ({"max_tokens": 64, "overlong": "keep_end"}, "max_tokens: 2048 there, 64 now; overlong: quarantine there"),
        ({"shard_rows": 7}, "shard_rows: 2048 there, 7 now"),
        ({"input": {"join": " "}}, "input.join"),
        ({"artifact": "run"}, "artifact: it applies what another run has fitted"),
        ({"schedule": {"root": "nights"}}, "schedule: it curates new files every night"),
        ({"lineage": {"to": "e.jsonl"}}, "lineage: --from sends no events"),
        ({"method": "toss"}, "toss masks tokens"),
        ({"output": None}, "--output is missing"),
        ({"methods": "saft"}, "unknown key methods; did you mean method?"),
    ],
)
def test_other_captures_and_what_needs_a_model_are_refused(run: Run, given: dict[str, Any], says: str) -> None:
    assert says in run.refusal(**given)


def test_another_input_is_refused_with_a_file_of_it(run: Run) -> None:
    assert "holds other.jsonl, which it has not read" in run.refusal(input={"path": [run.path("a"), run.path("other")]})
    said = run.refusal(input={"path": [run.path("other")]})
    assert "leave input out" in said
    (run.folder / "empty.jsonl").write_text("\n")
    run.refit(input={"path": [run.path("a"), run.path("empty")]})


def test_a_pair_that_was_not_captured_is_named_with_those_that_were(run: Run) -> None:
    said = run.refusal(method="saft", saft={"layer": 4, "position": "last_token"})
    assert "saft reads block 4 at last_token" in said
    assert "block 2 at last_prompt_token, block 2 at last_token, block 5 at last_token; set saft.layer and" in said
    assert "saft.layer=9" in run.refusal(method="saft", saft={"layer": 9})


def test_references_are_known_by_their_content(run: Run) -> None:
    (run.folder / "copy.jsonl").write_bytes((run.folder / "unsafe.jsonl").read_bytes())
    given = {"method": "contrast", "contrast": {"layer": 5, "unsafe_references": run.path("copy")}}
    assert run.refit(**given).roles == {"contrast.unsafe": "larf.unsafe"}
    given["contrast"] = {"layer": 5}
    said = run.refusal(**given)
    assert "contrast.unsafe_references:" in said
    assert "no references like the set of tamis" in said
    assert f"larf.unsafe ({run.path('unsafe')})" in said
    # The same name, with other rows now.
    (run.folder / "unsafe.jsonl").write_bytes((run.folder / "other.jsonl").read_bytes())
    given["contrast"] = {"layer": 5, "unsafe_references": run.path("unsafe")}
    assert "as it is now," in run.refusal(**given)
    # What LARF itself was fitted to is there, whatever became of the file.
    assert run.refit().roles == {role: role for role in reversed(SETS)}


def test_a_run_without_references_has_none_for_a_method_that_needs_them(run: Run) -> None:
    run.sets = {CORPUS: {}}
    assert "it has captured no references" in run.refusal()
    assert run.refit(method="saft", saft={"layer": 5}).roles == {}


def test_the_shipped_references_serve_every_method_that_takes_them(tmp_path: Path) -> None:
    run = Run(tmp_path, larf={"layer": 2})
    found = run.refit(method=["matching", "contrast"], contrast={"layer": 5}, matching={"layer": 5})
    assert found.roles == {role_of(name, "unsafe"): "larf.unsafe" for name in ("matching", "contrast")}


def test_a_block_that_was_found_is_taken_over_and_none_is_searched(tmp_path: Path) -> None:
    run = Run(tmp_path, larf={"layer": "auto"})
    run.manifest["fingerprint"] |= {"search format": 2, "larf.refusal_markers": []}
    run.found = {"layer": 5, "layer_chosen": "search"}
    found = run.refit(selection={"drop": 0.1})
    assert (found.methods["larf"].requests(8), found.searched) == ((Request(5, "last_token"),), True)
    assert settings_like_fresh(run.parent(), found)["search format"] == 2
    for given in ({"layer": "fisher"}, {"refusal_markers": ["no way"]}, {"unsafe_references": run.path("safe")}):
        run.manifest["fingerprint"] |= {"references.larf.safe": run.digests(
            load_job(None, {**run.manifest["job"], "larf": {"safe_references": run.path("safe")}}), ("larf.safe",)
        )["references.larf.safe"]}  # fmt: skip
        said = run.refusal(larf=given)
        assert "is found with the model, which --from does not open; set larf.layer to a block" in said
        assert said.endswith("captured: 2, 5")


def test_a_cut_at_a_score_says_nothing_of_other_scores(tmp_path: Path) -> None:
    run = Run(tmp_path, selection={"threshold": 0.4})
    assert "add --drop or --drop-count (there 37 rows fell)" in run.refusal(method="saft", saft={"layer": 5})
    assert run.refit(selection={"threshold": 0.7}).job.selection.rule == ("threshold", 0.7)
    run = Run(tmp_path)
    run.manifest["drift"] = {"exceeded": []}
    assert "was cut at a score of larf" in run.refusal()


def test_a_control_of_the_run_is_not_taken_over(tmp_path: Path) -> None:
    run = Run(tmp_path, selection={"drop": 0.6, "allow_majority": True, "control": "random"})
    selection = run.refit().job.selection
    assert (selection.rule, selection.allow_majority, selection.control) == (("drop", 0.6), True, None)
    assert "more than half" in run.refusal(selection={"drop": 0.7})


@pytest.mark.parametrize(("role", "code"), [(CORPUS, "prompt_cut"), ("larf.safe", "no_prompt_token")])
def test_rows_that_lack_vectors_for_what_only_the_run_has_read(run: Run, role: str, code: str) -> None:
    """A run that reads the last token alone scores them, so its fit and its cut would be other ones."""
    run.sets[role] = {code: 3, "empty_response": 1}
    assert f"3 rows of {run.folder / 'out'} have no vectors ({code})" in run.refusal()
    run.refit(larf={"position": "last_prompt_token"})
    if role != CORPUS:
        run.refit(method="saft", saft={"layer": 5})  # it does not use these references


def test_rows_that_failed_in_the_model_are_spoken_of(run: Run) -> None:
    run.sets[CORPUS] = {"non_finite": 2}
    [note] = run.refit().notes
    assert note.startswith("2 rows are set aside as non_finite")
    given: dict[str, Any] = {"method": ["larf", "saft", "contrast"], "saft": {"layer": 5}}
    given |= {"contrast": {"layer": 2, "position": "last_prompt_token", "unsafe_references": run.path("unsafe")}}
    assert run.refit(**given).notes == ()


def test_another_version_of_tamis_has_captured_other_numbers(run: Run) -> None:
    run.manifest["fingerprint"]["format"] = 3
    assert "by another version of tamis" in run.refusal()
