"""A job with an artifact: what it takes from there, and each setting that must be as it was there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from frozen_samples import finish, freeze_plan
from plan_jobs import Planner, larf, lines_of, rows_of

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.planning.frozen_job import other_device
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.run.frozen import FrozenCut

MADE_WITH = (
    "max_tokens=400",
    "overlong=keep_end",
    "larf.position=response_mean",
    "larf.form=mean_representation",
    "model.token_budget=512",
    "selection.drop=0.2",
)


class Nights:
    """An artifact in folder/made, and plans of new data for it. LARF's layer was searched there, and is block 2."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.plan = folder, Planner(folder, model)
        self.parent = self.plan(*MADE_WITH, **{**larf(folder), "larf.layer": "auto"})
        finish(folder / "made", freeze_plan(folder / "made", self.parent, layer=2))
        (folder / "new").mkdir()
        (folder / "new/b.jsonl").write_bytes(lines_of(rows_of(30, words=9)))

    def __call__(self, *assignments: str, **overlay: Any) -> Plan:
        new = {"input": str(self.folder / "new"), "method": "larf", "artifact": str(self.folder / "made")}
        return self.plan(*assignments, **{**new, **overlay})

    def refused(self, *assignments: str, **overlay: Any) -> str:
        with pytest.raises(ConfigError) as raised:
            self(*assignments, **overlay)
        said = str(raised.value)
        assert "\n" not in said
        assert said.startswith("artifact: ")
        return said


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Nights:
    return Nights(tmp_path_factory.mktemp("nights"), tiny_model)


def test_what_the_job_does_not_set_is_taken_from_the_artifact(nights: Nights) -> None:
    plan = nights()
    assert plan.artifact is not None
    assert plan.job.of("larf").layer == 2
    assert [(request.block, request.position) for request in plan.requests] == [(2, "response_mean")]
    assert (plan.max_tokens, plan.job.overlong, plan.job.model.token_budget) == (400, "keep_end", 512)
    assert (plan.job.of("larf").form, plan.job.selection.rule) == ("mean_representation", ("drop", 0.2))
    assert plan.job.model.dtype == "float32"  # auto there, and this is what it was
    said = " ".join(plan.artifact.taken)
    for taken in (
        "larf.layer 2",
        "max_tokens 400",
        "overlong keep_end",
        "larf.position response_mean",
        "dtype float32",
    ):
        assert taken in said


def test_the_blocks_of_csa_are_those_of_the_artifact(nights: Nights) -> None:
    sets = {f"csa.{source}_references": str(nights.folder / f"{source}.jsonl") for source in ("unsafe", "safe")}
    parent = nights.plan(method="csa", **sets)
    facts = {"csa": {"blocks": [1, 2, 3]}}
    place = nights.folder / "subspaces"
    finish(place, freeze_plan(place, parent, facts=facts))
    new = {"method": "csa", "artifact": str(place)}
    plan = nights(**new)
    assert [request.block for request in plan.requests] == [1, 2, 3]
    assert plan.artifact is not None
    assert "csa.blocks [1, 2, 3]" in plan.artifact.taken
    assert nights("csa.blocks=[1, 2, 3]", **new).fingerprint == plan.fingerprint
    assert "csa.blocks: auto there, [0, 1, 2] now" in nights.refused("csa.blocks=[0, 1, 2]", **new)
    assert "csa.rank: 16 there, 8 now" in nights.refused("csa.rank=8", **new)


def test_an_artifact_of_several_models_is_refused_before_any_model_is_opened(nights: Nights) -> None:
    """By what it was made with alone: nothing is scored by one model's directions as if they were all."""
    place = nights.folder / "several"
    settings = {"csa.models": [{"blocks": [0]}], "csa.normalise": "clip_std"}
    finish(place, freeze_plan(place, nights.parent, layer=2, settings=settings))
    for artifact in (place, place / "artifact"):
        for model in ({}, {"model": str(nights.folder / "nowhere")}):
            said = nights.refused(artifact=str(artifact), **model)
            assert "was made with csa.models" in said
            assert "curate without artifact, or make one with csa.models left out" in said


def test_it_needs_no_references_and_no_search(nights: Nights) -> None:
    plan = nights()
    assert plan.reference_shards == ()
    assert (plan.layers, plan.unsettled) == (None, False)
    assert not [key for key in plan.fingerprint if key.startswith("references.")]


def test_the_same_settings_may_stand_in_the_job(nights: Nights) -> None:
    """As in a job file that made the artifact and is run again every night; or with the layer that was found."""
    alike = nights(*MADE_WITH, **{**larf(nights.folder), "larf.layer": "auto"})
    assert alike.fingerprint == nights().fingerprint
    assert nights("larf.layer=2", "model.dtype=auto").fingerprint == nights("model.dtype=float32").fingerprint
    # The job of the new run, as its report shows it.
    again = nights.plan(**alike.job.model_dump(mode="json"))
    assert again.fingerprint == alike.fingerprint


def test_only_artifact_and_input_are_new_in_the_fingerprint(nights: Nights) -> None:
    first = nights()
    freeze_plan(nights.folder / "other", nights.parent, layer=2, cut=FrozenCut(0.25, None))
    second = nights(artifact=str(nights.folder / "other/artifact"))
    assert {key for key in first.fingerprint if first.fingerprint[key] != second.fingerprint[key]} == {"artifact"}
    moved = nights.folder / "moved"
    shutil.copytree(nights.folder / "made/artifact", moved, dirs_exist_ok=True)
    assert nights(artifact=str(moved)).fingerprint == first.fingerprint


@pytest.mark.parametrize("assignment", ["model.device=cpu", "workers=2", "max_quarantined=0.5", "drift_limit=1"])
def test_what_has_no_part_in_the_scores_may_differ(nights: Nights, assignment: str) -> None:
    plan = nights(assignment)
    theirs = nights().fingerprint
    assert {key for key in theirs if plan.fingerprint[key] != theirs[key]} <= {"model.device"}


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("max_tokens=300", "max_tokens: 400 there, 300 now"),
        ("overlong=keep_start", "overlong: keep_end there, keep_start now"),
        ("model.dtype=bfloat16", "model.dtype: auto there, bfloat16 now"),
        ("model.exact=true", "model.exact: False there, True now"),
        ("model.attention=packed", "model.attention: padded there, packed now"),
        ("model.compile=true", "model.compile: False there, True now"),
        ("model.token_budget=64", "model.token_budget: 512 there, 64 now"),
        ("larf.layer=1", "larf.layer: auto there, 1 now"),
        ("larf.layer=fisher", "larf.layer: auto there, fisher now"),
        ("larf.position=last_token", "larf.position: response_mean there, last_token now"),
        ("larf.form=paired", "larf.form: mean_representation there, paired now"),
        ("larf.refusal_markers=[no way]", "larf.refusal_markers: [] there, ['no way'] now"),
        ("selection.drop=0.3", "selection.drop: drop 0.2 there, drop 0.3 now"),
        ("selection.threshold=0.2", "selection.threshold: drop 0.2 there, threshold 0.2 now"),
        ("selection.control=random", "selection.control: None there, random now"),
        ("method=saft", "method: larf there, saft now"),
        ("method=[larf, saft]", "method: larf there, larf, saft now"),
        ("model.template={{ messages[0].content }}{{ messages[1].content }}", "tokenizer and template: the tokenizer"),
    ],
)
def test_a_setting_that_differs_is_named_with_both_values(nights: Nights, assignment: str, says: str) -> None:
    if "{" in assignment:
        key, _, value = assignment.partition("=")
        assignment = f"{key}='{value}'"
    assert f"{says}" in nights.refused(assignment)


def test_all_that_differs_is_named_in_one_line(nights: Nights, tiny_model: Path) -> None:
    other = nights.folder / "another_model"
    shutil.copytree(tiny_model, other, dirs_exist_ok=True)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    said = nights.refused("overlong=keep_start", "larf.layer=3", model=str(other))
    for part in ("overlong: ", "larf.layer: ", "model: the model's files changed", "another_model"):
        assert part in said
    assert "; model: " in said
    alone = nights.refused(model=str(other))
    assert "model: the model's files changed" in alone
    assert "overlong" not in alone


def test_only_what_differs_is_named(nights: Nights) -> None:
    said = nights.refused(method="saft")
    assert said.count(" there, ") == 1
    assert "max_tokens" not in said


@pytest.mark.parametrize(
    ("precisions", "says"),
    [({"float32 on cpu"}, []), ({"float32 on cuda"}, ["scores were computed on cuda, the artifact's on cpu"])],
)
def test_another_device_is_told(precisions: set[str], says: list[str]) -> None:
    found = other_device(precisions, "cpu")
    assert len(found) == len(says)
    assert all(line.startswith(start) for line, start in zip(found, says, strict=True))


def test_references_may_be_named_if_they_are_those_of_the_artifact(nights: Nights) -> None:
    given = larf(nights.folder)
    copied = nights.folder / "copied.jsonl"
    shutil.copy(given["larf.unsafe_references"], copied)
    nights(f"larf.unsafe_references={copied}")
    said = nights.refused(f"larf.unsafe_references={given['larf.safe_references']}")
    assert "larf.unsafe_references: the content of the file changed" in said


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"larf distribution": "tamis-far 0.1"}, "larf distribution: tamis-far 0.1 there, None now"),
        ({"larf.sharpness": 3}, "larf.sharpness: 3 there, and this tamis knows no such setting"),
        ({"format": 1}, "numbers of tamis: 1 there"),
        ({"selection.control": "random"}, "selection.control: the cut there was made by chance"),
    ],
)
def test_an_artifact_of_other_software_or_of_chance(nights: Nights, settings: dict[str, Any], says: str) -> None:
    place = nights.folder / "foreign"
    freeze_plan(place, nights.parent, layer=2, settings=settings)
    assert says in nights.refused(artifact=str(place / "artifact"))


def test_a_template_of_the_artifact_is_taken_as_text(nights: Nights) -> None:
    text = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    file = nights.folder / "chat.jinja"
    file.write_text(text)
    parent = nights.plan(f"model.template={file}", **larf(nights.folder))
    freeze_plan(nights.folder / "templated", parent)
    file.unlink()
    plan = nights(artifact=str(nights.folder / "templated/artifact"))
    assert plan.job.model.template == text
    assert plan.fingerprint["tokenizer and template"] == parent.fingerprint["tokenizer and template"]


def test_the_cut_of_more_rows_than_there_are_is_no_error(nights: Nights) -> None:
    parent = nights.plan("selection.drop_count=20", **larf(nights.folder))
    freeze_plan(nights.folder / "counted", parent)
    (nights.folder / "few.jsonl").write_bytes(lines_of(rows_of(3)))
    plan = nights(artifact=str(nights.folder / "counted/artifact"), input=str(nights.folder / "few.jsonl"))
    assert (plan.rows, plan.job.selection.rule) == (3, ("drop_count", 20))


def test_the_output_cannot_be_its_own_artifact(nights: Nights) -> None:
    assert "is the output, too" in nights.refused(output=str(nights.folder / "made"))


def test_token_masks_have_no_artifact_to_apply(nights: Nights) -> None:
    with pytest.raises(ConfigError, match="artifact: what toss has fitted cannot be applied to new data yet"):
        nights("toss.utility_references=x.jsonl", method="toss")
