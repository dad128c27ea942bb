"""A whole run of CSA over two models against one run of each: the naive mean of their scores; what lacks a score under
one; damaged files; another cut of it; and what cannot be made of it. Rows that change between two models."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from outputs import alpaca_rows, write_jsonl
from tiny_models import CHAT_TEMPLATE, save_model
from token_outputs import reference_rows

from tamis.operators.methods.csa import Csa, FurtherModel
from tamis.pipeline.capture.spec import Captured
from tamis.pipeline.capture.totals import CaptureTotals
from tamis.pipeline.commands.verify import verify
from tamis.pipeline.curate import curate
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.job.job_file import load_job
from tamis.pipeline.planning.plan import make_plan
from tamis.pipeline.planning.reselection import Choice
from tamis.pipeline.recipes.from_kept import curate_kept
from tamis.pipeline.recipes.further_models import Further, joint
from tamis.pipeline.recipes.select import select
from tamis.pipeline.storage.store import Sealed, Store

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("driver")]

LONGER = CHAT_TEMPLATE.replace("{{ bos_token }}", "{{ bos_token }}Answer well. ")
ROWS = 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "b", 6, 48)
    long = {"instruction": "lamp " * 96, "output": "stone"}  # 300 tokens, with the longer template more
    write_jsonl(tmp_path / "data.jsonl", [*alpaca_rows(30, seed=1), {"instruction": "no answer"}, long])
    for seed, role in enumerate(("unsafe", "safe")):
        write_jsonl(tmp_path / f"{role}.jsonl", reference_rows(18, seed=3 + seed))
    return tmp_path


def settings(folder: Path, name: str, model: Path, **more: Any) -> dict[str, Any]:
    return {
        "input.path": [str(folder / "data.jsonl")], "model.name": str(model), "shard_rows": 12, "workers": 1,
        "max_quarantined": 0.5, "max_tokens": 300, "method": ["csa"], "selection.drop": 0.2,
        "csa.unsafe_references": str(folder / "unsafe.jsonl"), "csa.safe_references": str(folder / "safe.jsonl"),
        "output": str(folder / name), **more,
    }  # fmt: skip


def scores(out: Path) -> np.ndarray:
    """NaN where there is none."""
    tables = [pq.read_table(path) for path in sorted((out / "scores").glob("*.parquet"))]
    return np.concatenate([t.column("csa").to_numpy() for t in tables]).astype(np.float64)


def results(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for part in ("kept", "dropped", "quarantine", "scores", "artifact")
        for path in sorted((out / part).rglob("*"))
        if path.is_file()
    }


def naive(models: list[np.ndarray]) -> np.ndarray:
    valid = ~np.isnan(models).any(axis=0)
    plain, clipped, ends = [], [], []
    for g in (own[valid] for own in models):
        low, high = np.percentile(g, [1, 99])
        inside = np.clip(g, low, high)
        plain.append(g / np.std(inside))
        clipped.append(inside / np.std(inside))
        ends.append((g >= high).astype(int) - (g <= low))
    same = np.all(np.array(ends) == ends[0], axis=0) & (ends[0] != 0)
    found = np.full(len(valid), np.nan)
    found[valid] = np.where(same, np.mean(plain, axis=0), np.mean(clipped, axis=0))
    return found


def test_two_models(folder: Path, tiny_model: Path, ray_address: str) -> None:
    def run(name: str, model: Path, **more: Any) -> dict[str, Any]:
        return dict(curate(load_job(None, settings(folder, name, model, **more)), ray_address).manifest)

    first_alone = run("first", tiny_model)
    run("second", folder / "b", **{"model.template": LONGER})
    further = [{"name": str(folder / "b"), "template": LONGER}]
    more: dict[str, Any] = {"csa.models": further, "keep_captures": "scores"}
    manifest = run("both", tiny_model, **more)
    both = folder / "both"
    alone = [scores(folder / name) for name in ("first", "second")]
    expected = naive(alone)
    np.testing.assert_allclose(scores(both), expected, atol=1e-4, rtol=0)
    assert [np.isnan(own).sum() for own in (*alone, expected)] == [1, 2, 2]
    assert manifest["quarantine_codes"]["overlong"]["message"].startswith(f"{folder / 'b'}: ")
    assert manifest["counts"]["dropped"] == int(0.2 * (ROWS - 2))
    dropped = pq.read_table(both / "dropped").column("score").to_numpy()
    np.testing.assert_allclose(np.sort(dropped), np.sort(expected[~np.isnan(expected)])[-len(dropped) :], atol=1e-4)
    [method] = manifest["methods"]
    first, second = method["facts"]["models"].values()
    assert (first["model"], second["model"]) == (str(tiny_model), str(folder / "b"))
    assert (first["blocks"], second["blocks"]) == ([1, 2, 3], [1, 3, 4])
    assert first["rows"] == second["rows"] == ROWS - 2
    assert "models.2.p99" in (both / "report.html").read_text()
    assert "the mean over 2 models" in method["reading"]
    assert "untested" in manifest["trust"]["tests"][0]
    told, expected_of = (each["trust"]["demonstrations"] for each in (manifest, first_alone))
    decided = {"kept", "dropped"}  # by another score
    assert {key: told[key] for key in told.keys() - decided} == {
        key: expected_of[key] for key in expected_of.keys() - decided
    }
    assert {"artifact/consensus.json", "artifact/models/1/csa.safetensors"} <= {
        each["name"] for each in manifest["files"]
    }
    assert verify(Store(str(both))).problems == []
    assert not list((both / "_work").glob("capture*"))

    # Killed before the manifest, with a table of the further model's scores and its directions damaged.
    whole = results(both)
    for name in ("manifest.json", "report.html", "README.md"):
        (both / name).unlink()
    for path in (next((both / "_work/scored-1").glob("*.parquet")), both / "artifact/models/1/csa.safetensors"):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
    run("both", tiny_model, **more)
    assert results(both) == whole

    # The same cut, made of its scores alone.
    again = select(Store(str(both)), Choice(drop=0.2), str(folder / "again"), ray_address)
    assert again.manifest["counts"] == manifest["counts"]
    assert scores(folder / "again").tolist() == pytest.approx(scores(both).tolist(), nan_ok=True)
    assert verify(Store(str(folder / "again"))).problems == []
    with pytest.raises(ConfigError, match=r"--from: .*"):
        curate_kept(str(both), {"output": str(folder / "from"), "selection": {"drop": 0.2}}, ray_address)
    with pytest.raises(ConfigError, match=r"artifact: .* was made with csa\.models, whose scores are scaled"):
        make_plan(load_job(None, settings(folder, "applied", tiny_model, artifact=str(both))))


def test_models_that_have_read_other_rows_have_no_mean() -> None:
    nothing: Any = None
    shard = SimpleNamespace(
        name="0", file=SimpleNamespace(name="data.jsonl"), span=SimpleNamespace(start_row=0, stop_row=9)
    )
    plan: Any = SimpleNamespace(methods={"csa": Csa(models=[FurtherModel("b")])}, shards=[shard])
    captured = CaptureTotals(captured={"0": Captured(Sealed("a", ""), "new")})
    further = [Further(nothing, nothing, [], {"0": Captured(Sealed("b", ""), "old")})]
    with pytest.raises(InputError, match=r"data\.jsonl: rows 0 to 8 are not those that were captured"):
        joint(plan, SimpleNamespace(store=nothing), nothing, captured, nothing, further)  # type: ignore[arg-type]
