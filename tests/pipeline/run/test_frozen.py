"""An artifact of an earlier run: read back as it was made, and refused in one line where it is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from frozen_samples import CUT, STATISTICS, artifacts_of, finish, freeze_plan
from hypothesis import given
from hypothesis import strategies as st
from object_store import S3
from plan_jobs import Planner, larf

from tamis.operators.statistics.selection import Threshold
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.run.frozen import FORMAT, FrozenCut, read_frozen
from tamis.pipeline.storage.seals import opened, sealed
from tamis.pipeline.storage.store import Store


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Plan:
    folder = tmp_path_factory.mktemp("plan")
    return Planner(folder, tiny_model)(**larf(folder))


@pytest.fixture
def run(tmp_path: Path, plan: Plan) -> Path:
    """The output of a finished run."""
    out = tmp_path / "run"
    finish(out, freeze_plan(out, plan))
    return out


def test_what_was_frozen_is_read_back_from_an_output_or_from_its_artifact_alone(run: Path, plan: Plan) -> None:
    whole, alone = (read_frozen(str(place), {}) for place in (run, run / "artifact"))
    assert whole.folder == alone.folder == str(run / "artifact")
    assert whole.digest == alone.digest
    assert dict(whole.files) == dict(alone.files)
    assert set(whole.files) == {"larf.safetensors", "artifact.json", "frozen.json"}
    facts = alone.facts
    assert (facts.methods, facts.selected_by, facts.how, facts.cut) == (("larf",), "larf", "drop 0.1", CUT)
    assert (facts.dtype, facts.device, facts.model["revision"], facts.template) == ("float32", "cpu", "local", None)
    assert dict(facts.statistics) == STATISTICS
    assert facts.settings["larf.layer"] == 1
    assert not [key for key in facts.settings if key.startswith("input")]
    [(name, artifact)], [expected] = alone.artifacts.items(), artifacts_of(plan).values()
    assert name == "larf"
    assert artifact.facts == expected.facts
    np.testing.assert_array_equal(artifact.arrays["direction"], expected.arrays["direction"])


def test_a_copy_is_the_same_artifact(run: Path, tmp_path: Path) -> None:
    frozen = read_frozen(str(run), {})
    listed = frozen.copy_to(Store(str(tmp_path / "next")))
    assert sorted(file["name"] for file in listed) == sorted(f"artifact/{name}" for name in frozen.files)
    for name in frozen.files:
        assert (tmp_path / "next/artifact" / name).read_bytes() == (run / "artifact" / name).read_bytes()
    assert read_frozen(str(tmp_path / "next/artifact"), {}).digest == frozen.digest


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def rewritten(path: Path, **changes: object) -> None:
    """The file with a valid seal of other content."""
    path.write_text(json.dumps(sealed({**opened(json.loads(path.read_text())), **changes})))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights": (lambda run: flipped(run / "artifact/larf.safetensors"), "larf.safetensors: is not as it was written"),
    "facts": (lambda run: flipped(run / "artifact/artifact.json"), "artifact.json: is not as it was written"),
    "missing": (lambda run: (run / "artifact/larf.safetensors").unlink(), "larf.safetensors: is missing"),
    "cut": (lambda run: flipped(run / "artifact/frozen.json"), "frozen.json: it is not as it was written"),
    "no JSON": (lambda run: (run / "artifact/frozen.json").write_text("{"), "it is not as it was written"),
    "another form": (
        lambda run: rewritten(run / "artifact/frozen.json", format=FORMAT + 1),
        "another version of tamis",
    ),
    "no cut": (lambda run: rewritten(run / "artifact/frozen.json", cut={}), "not as tamis writes it"),
    "a stranger": (lambda run: rewritten(run / "artifact/frozen.json", methods=["saft"]), "not as tamis writes it"),
    "a path": (
        lambda run: rewritten(run / "artifact/frozen.json", files=[{"name": "../manifest.json", "sha256": "0"}]),
        "is no name of a file",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("place", ["", "artifact"])
def test_what_is_damaged_is_refused_in_one_line(run: Path, damage: str, place: str) -> None:
    harm, says = DAMAGE[damage]
    harm(run)
    with pytest.raises(ConfigError, match=says) as raised:
        read_frozen(str(run / place), {})
    assert "\n" not in str(raised.value)


def test_an_artifact_of_another_run_in_this_output_is_refused(run: Path, plan: Plan) -> None:
    freeze_plan(run, plan, cut=FrozenCut(0.25, None))
    with pytest.raises(ConfigError, match=r"frozen.json: it is not the file that manifest.json lists"):
        read_frozen(str(run), {})


def test_a_manifest_that_is_damaged_is_named(run: Path) -> None:
    flipped(run / "manifest.json")
    with pytest.raises(ConfigError, match=r"manifest.json: it was not written by tamis, or is damaged"):
        read_frozen(str(run), {})


def test_an_unfinished_run_is_refused(run: Path) -> None:
    (run / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="is not finished; run its command again"):
        read_frozen(str(run), {})


def test_where_there_is_none(run: Path, tmp_path: Path) -> None:
    for place in ("nowhere", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match=r"holds no artifact/frozen.json.*there is none"):
            read_frozen(str(tmp_path / place), {})
    shutil.copytree(run, tmp_path / "early")
    (tmp_path / "early/artifact/frozen.json").unlink()
    with pytest.raises(ConfigError, match="an earlier tamis made it without"):
        read_frozen(str(tmp_path / "early"), {})


def test_a_file_is_no_artifact(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"^artifact: .*frozen.json cannot be looked into"):
        read_frozen(str(run / "artifact/frozen.json"), {})


def test_in_an_object_store(run: Path, moto: S3, storage_environment: dict[str, str]) -> None:
    url, frozen = moto.make_bucket("frozen"), read_frozen(str(run), {})
    for path in run.rglob("*"):
        if path.is_file():
            Store(f"{url}/run", moto.storage_options).write(str(path.relative_to(run)), path.read_bytes())
    for place in (f"{url}/run", f"{url}/run/artifact"):
        assert read_frozen(place, moto.storage_options).digest == frozen.digest
    with pytest.raises(ConfigError, match=r"holds no artifact/frozen\.json"):
        read_frozen(f"{url}/elsewhere", moto.storage_options)
    Store(f"{url}/run", moto.storage_options).write("artifact/larf.safetensors", b"other")
    with pytest.raises(ConfigError, match=r"s3://frozen/run/artifact/larf.safetensors: is not as it was written"):
        read_frozen(f"{url}/run", moto.storage_options)


def test_token_masks_cannot_be_applied(tmp_path: Path) -> None:
    finish(tmp_path / "out", [], kind="tokens", method="toss-pro")
    with pytest.raises(ConfigError, match="is of toss-pro, which masks tokens"):
        read_frozen(str(tmp_path / "out"), {})


@given(st.floats(-9, 9), st.integers(0, 9), st.integers(0, 9))
def test_where_all_ties_fell_all_fall_later(score: float, falling: int, standing: int) -> None:
    cut = FrozenCut.of(Threshold(score, falling), falling + standing)
    assert cut == FrozenCut(score, None if falling and not standing else falling)


def test_a_threshold_keeps_its_ties_and_no_cut_stays_none() -> None:
    assert FrozenCut.of(Threshold(0.5), 0) == FrozenCut(0.5, 0)
    assert FrozenCut.of(Threshold(float("inf"), 0), 0) == FrozenCut(None, 0)
