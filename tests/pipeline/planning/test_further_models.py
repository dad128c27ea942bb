"""What the plan says of CSA's further models, and which of them it refuses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from plan_jobs import Planner
from tiny_models import save_model

from tamis.pipeline.capture.stage import check_quarantine
from tamis.pipeline.capture.totals import CaptureTotals
from tamis.pipeline.errors import ConfigError, InputError


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "other", 6, 48)


@pytest.fixture
def plan(tmp_path: Path, tiny_model: Path) -> Planner:
    return Planner(tmp_path, tiny_model)


def csa(folder: Path, *models: Any) -> dict[str, Any]:
    sets = {f"csa.{source}_references": str(folder / f"{source}.jsonl") for source in ("unsafe", "safe")}
    return {"method": "csa", "csa.models": [*models], **sets}


def test_a_model_is_planned_with_what_is_its_own(plan: Planner, tmp_path: Path, other: Path) -> None:
    made = plan(**csa(tmp_path, {"name": str(other), "blocks": [5, 0]}))
    [further] = made.further
    assert [request.block for request in further.requests] == [0, 5]
    assert further.in_words == f"{other}: LlamaForCausalLM, 6 blocks x 48; blocks 0, 5; longest 2,048 tokens"
    own = made.under(further)
    assert (own.model_info.blocks, own.requests, own.further) == (6, further.requests, ())
    assert (own.shards, own.reference_shards) == (made.shards, made.reference_shards)
    assert own.estimate.tokens_per_row > 0
    assert (made.one_of_several, own.one_of_several) == (made.job.model.name, str(other))
    assert plan(**csa(tmp_path)).one_of_several is None
    assert (further.parameters or 0) > 0


def test_models_blocks_and_normalising_are_in_the_fingerprint_and_their_order_of_blocks_is_not(
    plan: Planner, tmp_path: Path, other: Path
) -> None:
    def of(*models: Any, **more: Any) -> dict[str, Any]:
        return dict(plan(**{**csa(tmp_path, *models), **more}).fingerprint)

    alone, both = of(), of({"name": str(other), "blocks": [5, 0]})
    assert not {"csa.models", "csa.normalise"} & alone.keys()
    assert of(**{"csa.normalise": "none"}) == alone
    assert of({"name": str(other), "blocks": [0, 5]}) == both
    assert {key: both[key] for key in alone} == alone
    assert of({"name": str(other)})["csa.models"] != both["csa.models"]
    assert of({"name": str(other), "template": "{{ messages[0].content }}{{ messages[-1].content }}"}) != both
    assert of({"name": str(other), "blocks": [0, 5]}, **{"csa.normalise": "none"}) != both


def test_a_model_that_cannot_be_used_is_named(plan: Planner, tmp_path: Path, other: Path, tiny_model: Path) -> None:
    nowhere = tmp_path / "nowhere"
    for model, error, says in (
        (str(nowhere), ConfigError, f"csa.models: {nowhere}: "),
        ({"name": str(other), "blocks": [1, 6]}, ConfigError, r"blocks=\[1, 6\]: the model has blocks 0 to 5"),
        (str(tiny_model), ConfigError, "is the model of model.name, too; it would count twice"),
        (
            {"name": str(other), "template": "{{ raise_exception('no') }}"},
            (ConfigError, InputError),
            f"csa.models: .*{other}",
        ),
    ):
        with pytest.raises(error, match=says):
            plan(**csa(tmp_path, model))


def test_too_many_bad_rows_are_said_of_the_model_that_cannot_use_them(
    plan: Planner, tmp_path: Path, other: Path, tiny_model: Path
) -> None:
    made = plan(**csa(tmp_path, str(other)))
    rows = CaptureTotals(codes=Counter(overlong=made.rows), messages={"overlong": "long"}, examples={"overlong": ["a"]})
    references = CaptureTotals(bad_references=Counter(overlong=2))
    alone = plan(**csa(tmp_path))
    for of, named, under in (
        (alone, None, ""),
        (made, None, f" with {tiny_model}"),
        (made.under(made.further[0]), None, f" with {other}"),
        (made, "at least one of a, b", " with at least one of a, b"),
    ):
        for totals, says in ((rows, f"cannot be used{under}, above"), (references, f"be captured{under}:")):
            with pytest.raises(InputError) as raised:
                check_quarantine(of, totals, named)
            assert says in str(raised.value)
