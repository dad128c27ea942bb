"""The steps of a capture, called as the workers call them, without Ray."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
from hostile import with_one_text
from plan_jobs import Planner, lines_of, rows_of

from tamis.operators.requests import Request
from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.capture.driver import Forward
from tamis.pipeline.capture.spec import CAPTURES, STAGE, CaptureSpec
from tamis.pipeline.capture.stage import check_precision, run_capture
from tamis.pipeline.capture.tokenise import PackedTokenizer, tokenise_shard
from tamis.pipeline.capture.totals import CaptureTotals
from tamis.pipeline.cluster.machines import Cluster
from tamis.pipeline.cluster.watchdog import Guard, Process, Watch
from tamis.pipeline.errors import ConfigError, InputError, TooLargeError
from tamis.pipeline.inputs import columnar as columnar_files
from tamis.pipeline.inputs.originals import decode_schema
from tamis.pipeline.inputs.shards import Shard, read, read_table
from tamis.pipeline.models.handle import ModelHandle
from tamis.pipeline.planning.placement import readers_of, tokens_of
from tamis.pipeline.run import receipts
from tamis.pipeline.storage.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def planner(tmp_path: Path, tiny_model: Path) -> Planner:
    return Planner(tmp_path, tiny_model)


def spec_for(tmp_path: Path, model: Path, **changes: Any) -> CaptureSpec:
    settings: dict[str, Any] = {
        "store": Store(str(tmp_path / "out")), "options": {}, "key": "k",
        "model": ModelHandle("tiny", str(model), None, device="cpu"), "token_budget": "auto",
        "attention": "padded", "compile": False, "exact": False, "max_tokens": 128, "overlong": "quarantine",
        "columns": ("block_01.last_token",),
    }  # fmt: skip
    return CaptureSpec(**{**settings, **changes})


def tokenised(shard: Shard, spec: CaptureSpec) -> pa.Table:
    tokenizer = PackedTokenizer.pack(ChatTokenizer.load(spec.model.source))
    return tokenise_shard(shard.to_json(), spec, tokenizer)


def captured(shard: Shard, spec: CaptureSpec) -> tuple[dict[str, Any], pa.Table]:
    """The receipt and the written table of one shard."""
    result = Forward(spec)(tokenised(shard, spec))
    receipt = json.loads(result.column("receipt")[0].as_py())
    return receipt, spec.store.read_table(f"{CAPTURES}/{shard.name}.parquet")


def test_a_quarantined_row_has_no_say_in_the_columns(tmp_path: Path, tiny_model: Path, planner: Planner) -> None:
    stray = {"prompt": "one answer", "response": ["is", "a list"], "debug": 1}
    (tmp_path / "data/a.jsonl").write_bytes(lines_of([*rows_of(20), stray, b'"not an object"', b"{broken"]))
    [shard] = planner("max_quarantined=0.5").shards
    receipt, table = captured(shard, spec_for(tmp_path, tiny_model))
    assert decode_schema(receipt["schema"]) == pa.schema([("prompt", pa.string()), ("response", pa.string())])
    assert receipt["quarantined"] == {"no_response": 1, "not_an_object": 1, "malformed_json": 1}
    assert receipt["examples"]["no_response"] == ["a.jsonl row 20"]
    assert table.column("code").to_pylist()[:20] == [None] * 20


def test_columns_without_end_are_quarantined(tmp_path: Path, tiny_model: Path, planner: Planner) -> None:
    own = [{**row, **{f"{number}-{place}": 1 for place in range(5)}} for number, row in enumerate(rows_of(220))]
    (tmp_path / "data/a.jsonl").write_bytes(lines_of([*own, *rows_of(20)]))
    [shard] = planner("max_quarantined=0.5").shards
    receipt, table = captured(shard, spec_for(tmp_path, tiny_model))
    assert receipt["quarantined"] == {"too_many_columns": 21}
    assert len(decode_schema(receipt["schema"])) == 2 + 5 * 199
    assert table.column("code").to_pylist()[220:] == [None] * 20


def test_what_is_captured_is_what_the_forward_pass_gives(tmp_path: Path, tiny_model: Path, planner: Planner) -> None:
    (tmp_path / "data/a.jsonl").write_bytes(lines_of([*rows_of(5), {"prompt": "p", "response": ""}, *rows_of(5, 90)]))
    spec = spec_for(tmp_path, tiny_model, max_tokens=60)
    receipt, table = captured(planner("max_quarantined=0.9").shards[0], spec)
    valid = np.array([code is None for code in table.column("code").to_pylist()])
    assert not valid[5]
    assert receipt["precision"] == "float32 on cpu"
    vectors = np.array(table.column(Request(1, "last_token").column).to_pylist())
    assert np.isfinite(vectors[valid]).all()
    assert np.isnan(vectors[~valid]).all()
    for column in ("n_tokens", "n_response_tokens"):
        counts = table.column(column).to_numpy()
        assert (counts[valid] > 0).all()
        assert (counts[~valid] == 0).all(), "a quarantined row has no tokens that count"


@pytest.mark.parametrize("option", [{"attention": "packed"}, {"exact": True}, {"token_budget": 100}])
def test_the_ways_to_run_the_model_give_the_same_vectors(
    tmp_path: Path, tiny_model: Path, planner: Planner, option: dict[str, Any]
) -> None:
    (tmp_path / "data/a.jsonl").write_bytes(lines_of(rows_of(40)))
    shard = planner().shards[0]
    column = Request(1, "last_token").column
    tables = [captured(shard, spec_for(tmp_path, tiny_model, **changes))[1] for changes in ({}, option)]
    usual, other = (np.array(table.column(column).to_pylist()) for table in tables)
    np.testing.assert_allclose(other, usual, rtol=1e-4, atol=1e-4)
    if option.get("exact"):
        # The first rows of the shard by themselves come out the same to the bit.
        (tmp_path / "data/a.jsonl").write_bytes(lines_of(rows_of(3)))
        _, table = captured(planner().shards[0], spec_for(tmp_path, tiny_model, exact=True))
        np.testing.assert_array_equal(np.array(table.column(column).to_pylist()), other[:3])


@pytest.mark.parametrize(("tokens", "readers"), [(0.0, 1), (1.4e6, 1), (1.6e6, 2), (6e9, 6000)])
def test_more_readers_start_where_they_are_worth_it(tokens: float, readers: int) -> None:
    assert readers_of(tokens) == readers


def test_a_corpus_whose_head_says_nothing_is_as_long_as_its_files(tmp_path: Path, planner: Planner) -> None:
    usual = planner()
    assert usual.rows == 50
    assert tokens_of(usual, 25) == usual.estimate.tokens_per_row * 25 > usual.bytes / 16 / 2
    data = lines_of([{"prompt": "p", "response": ""}] * 100 + rows_of(100, words=200))
    (tmp_path / "data/a.jsonl").write_bytes(data)
    headless = planner("max_quarantined=1")
    assert headless.estimate.tokens_per_row == 0
    assert tokens_of(headless, 200) == pytest.approx(len(data) / 16)
    assert tokens_of(headless, 20) == pytest.approx(len(data) / 160)


def test_vectors_of_two_precisions_are_not_mixed(tmp_path: Path) -> None:
    totals = CaptureTotals(precisions={"float32 on cpu"})
    check_precision(Store(str(tmp_path)), totals)
    totals.precisions.add("bfloat16 on cuda")
    with pytest.raises(ConfigError, match="bfloat16 on cuda and float32 on cpu"):
        check_precision(Store(str(tmp_path)), totals)


def test_a_parquet_file_that_changed_is_refused_when_rows_are_written(tmp_path: Path, planner: Planner) -> None:
    path = tmp_path / "data/a.jsonl"
    path.unlink()
    store = Store(str(tmp_path / "data"))
    store.write_table("x.parquet", pa.Table.from_pylist(rows_of(5)))
    [shard] = planner().shards
    assert read_table(shard, {}).num_rows == 5
    store.write_table("x.parquet", pa.Table.from_pylist(rows_of(6)))
    with pytest.raises(InputError, match=r"x\.parquet: changed since the plan"):
        read_table(shard, {})


def test_a_capture_of_which_all_was_done_before_says_so(
    tmp_path: Path, tiny_model: Path, planner: Planner, capfd: pytest.CaptureFixture[str]
) -> None:
    plan, spec = planner(), spec_for(tmp_path, tiny_model)
    shards = [*plan.reference_shards, *plan.shards]
    for shard in shards:
        captured(shard, spec)
    nowhere = Cluster("none", ())  # which has no room for a worker
    totals = run_capture(plan, spec.store, spec.key, nowhere, {}, shards)
    assert totals.rows == plan.rows
    said = capfd.readouterr().err
    assert f"{plan.rows} / {plan.rows} rows 100% · {plan.rows} were done before" in said


def test_a_capture_of_which_all_was_done_in_two_precisions_is_refused(
    tmp_path: Path, tiny_model: Path, planner: Planner
) -> None:
    """Two commands on different machines: the second one had ended with this error, its last shard written."""
    plan, spec = planner("shard_rows=25"), spec_for(tmp_path, tiny_model)
    shards = [*plan.reference_shards, *plan.shards]
    for shard in shards:
        captured(shard, spec)
    [other] = receipts.done(spec.store, STAGE, shards[-1:], spec.key)
    receipts.forget(spec.store, STAGE, [shards[-1].name])
    receipts.write(spec.store, STAGE, shards[-1], spec.key, other | {"precision": "bfloat16 on cuda"})
    with pytest.raises(ConfigError, match="bfloat16 on cuda and float32 on cpu"):
        run_capture(plan, spec.store, spec.key, Cluster("none", ()), {}, shards)


class Here(Guard):
    """A guard whose watch is in this process."""

    def begin(self, work: str) -> str | None:
        refused: str | None = self.watch.begin(work, Process(os.getpid(), 0.0, "here"))
        return refused

    def end(self, work: str) -> None:
        self.watch.end(work)


def test_a_token_without_an_embedding_is_the_rows_problem(tmp_path: Path, tiny_model: Path, planner: Planner) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    weights = safetensors.torch.load_file(model / "model.safetensors")
    config = json.loads((model / "config.json").read_text())
    left = config["vocab_size"] - 1
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        weights[name] = weights[name][:left].clone()
    safetensors.torch.save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    (model / "config.json").write_text(json.dumps({**config, "vocab_size": left}))
    missing = ChatTokenizer.load(str(model)).spelling(left)
    stray = {"prompt": "a question", "response": f"an answer{missing}"}
    (tmp_path / "data/a.jsonl").write_bytes(lines_of([*rows_of(20), stray]))
    [shard] = planner().shards
    receipt, table = captured(shard, spec_for(tmp_path, model))
    assert table.column("code").to_pylist()[-1] == "bad_token_id"
    assert receipt["quarantined"]["bad_token_id"] == table.column("code").to_pylist().count("bad_token_id")
    assert None in table.column("code").to_pylist()


def test_a_model_that_no_worker_can_load_is_the_users_to_mend(
    tmp_path: Path, tiny_model: Path, planner: Planner
) -> None:
    """Not an accident of the worker, after which the same command would be run again."""
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    [shard] = planner().shards
    table = tokenised(shard, spec_for(tmp_path, model))
    weights = safetensors.torch.load_file(model / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    safetensors.torch.save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    [outcome] = Forward(spec_for(tmp_path, model))(table).column("receipt").to_pylist()
    error = json.loads(outcome)["error"]
    assert error == {
        "kind": "ConfigError",
        "message": "model tiny: the checkpoint lacks layers.0.mlp.up_proj.weight",
    }


def test_a_shard_that_is_a_parquet_bomb_is_set_aside(
    tmp_path: Path, tiny_model: Path, planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [(f"question {number}", f"answer {number}") for number in range(300)]
    turns = [[{"role": "user", "content": ask}, {"role": "assistant", "content": answer}] for ask, answer in said]
    (tmp_path / "data/a.jsonl").unlink()
    bomb = with_one_text(tmp_path / "data/bomb.parquet", "x" * 1_000_000, turns, range(120, 180))
    assert bomb.stat().st_size < 50_000
    monkeypatch.setattr(columnar_files, "READ_BYTES", 50_000_000)
    guard, spec = Here(Watch()), spec_for(tmp_path, tiny_model)
    outcomes = []
    for shard in planner("shard_rows=100").shards:
        tokenizer = PackedTokenizer.pack(ChatTokenizer.load(spec.model.source))
        table = tokenise_shard(shard.to_json(), spec, tokenizer, guard)
        outcomes.append(json.loads(Forward(spec)(table).column("receipt")[0].as_py()))
    assert [outcome.get("rows") for outcome in outcomes] == [100, None, 100]
    reason = outcomes[1]["set_aside"]["reason"]
    assert reason.startswith("its rows are more than")
    assert reason.endswith("lower shard_rows, or take them out")
    with pytest.raises(TooLargeError, match=r"bomb\.parquet, rows 100 to 199: its rows are more than"):
        read(planner("shard_rows=100").shards[1], {})


def test_shipped_references_are_read_from_each_nodes_own_copy(
    tmp_path: Path, planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = {shard.role: shard for shard in planner(method="larf").reference_shards}
    assert shards["larf.unsafe"].file.url == "tamis-references:larf.unsafe"
    here = read(shards["larf.unsafe"], {})
    assert len(here) == shards["larf.unsafe"].rows == 120
    # Another node: the same file elsewhere, with another time of modification.
    from tamis.pipeline.inputs import shards as sources

    original = sources.SHIPPED["larf.unsafe"]()
    copy = tmp_path / "elsewhere.jsonl"
    copy.write_bytes(original.read_bytes())
    monkeypatch.setitem(sources.SHIPPED, "larf.unsafe", lambda: copy)
    assert [row.value for row in read(shards["larf.unsafe"], {})] == [row.value for row in here]
    copy.write_bytes(original.read_bytes() + b"{}\n")
    with pytest.raises(InputError, match="differ on this node"):
        read(shards["larf.unsafe"], {})


def test_amounts_that_cannot_be_are_refused_by_the_plan(planner: Planner) -> None:
    for assignments, said in (
        (["selection.drop_count=51"], "more than the 50 rows"),
        (["selection.drop_count=26"], "more than half"),
        (["selection.drop=0.9"], "more than half"),
        (["selection.threshold=1", "selection.control=random"], "control needs"),
        (["saft.k=33"], "32 dimensions"),
    ):
        with pytest.raises(ConfigError, match=said):
            planner(*assignments)
    assert planner("selection.drop=0.9", "selection.allow_majority=true").rows == 50
