"""Rows that are drawn are captured as they are in the corpus: the workers' steps, called without Ray."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from plan_jobs import Planner, lines_of, rows_of

from tamis.operators.methods import Contrast
from tamis.operators.methods.protocol import reduce_in_process
from tamis.operators.statistics.drawing import drawn_rows
from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.capture.driver import Forward
from tamis.pipeline.capture.spec import STAGE, CaptureSpec
from tamis.pipeline.capture.tokenise import PackedTokenizer, tokenise_shard
from tamis.pipeline.capture.totals import CaptureTotals
from tamis.pipeline.fit.scores import features_of
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.models.handle import ModelHandle
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.storage.store import Sealed, Store

BAD = {3: b"{broken", 8: {"prompt": "no answer", "response": ""}, 21: {"prompt": "p", "response": "word " * 300}}
"""Rows that cannot be used, each for another reason."""
COLUMN = "block_02.last_token"


@dataclass
class Bench:
    plan: Plan
    store: Store
    model: Path

    def captured(self, shards: Sequence[Shard]) -> tuple[list[pa.Table], CaptureTotals]:
        """The tables of these shards, and the totals over their receipts."""
        spec = CaptureSpec(
            store=self.store, options={}, key="k", model=ModelHandle("tiny", str(self.model), None, device="cpu"),
            token_budget="auto", attention="padded", compile=False, exact=False, max_tokens=128, overlong="quarantine",
            columns=(COLUMN,), stage=STAGE,
        )  # fmt: skip
        worker, tokenizer = Forward(spec), PackedTokenizer.pack(ChatTokenizer.load(str(self.model)))
        tables, totals = [], CaptureTotals()
        for shard in shards:
            said = worker(tokenise_shard(shard.to_json(), spec, tokenizer))
            receipt = json.loads(said.column("receipt")[0].as_py())
            totals.add(receipt, new=True)
            tables.append(self.store.read_table(Sealed(receipt["file"]["name"], receipt["file"]["sha256"])))
        return tables, totals

    def drawn(self) -> tuple[Shard, ...]:
        return self.plan.corpus_samples["contrast"].shards


def bench(folder: Path, model: Path, shard_rows: int, sample: int, rows: Sequence[Any], seed: int = 0) -> Bench:
    here = folder / f"{shard_rows}"
    here.mkdir()
    planner = Planner(here, model)
    (here / "data/a.jsonl").write_bytes(lines_of(list(rows[:17])))
    (here / "data/b.jsonl").write_bytes(lines_of(list(rows[17:])))
    overlay = {"method": "contrast", "contrast.unsafe_references": str(here / "unsafe.jsonl"), "max_quarantined": 0.9}
    plan = planner(f"shard_rows={shard_rows}", f"contrast.sample={sample}", f"seed={seed}", **overlay)
    return Bench(plan, Store(str(here / "out")), model)


def corpus() -> list[Any]:
    rows: list[Any] = [
        {"prompt": f"question {i}", "response": "word " * (1 + i % 9) + f"answer {i}"} for i in range(40)
    ]
    for place, row in BAD.items():
        rows[place] = row
    return rows


def vectors(tables: Sequence[pa.Table]) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = np.concatenate([features_of(table)[COLUMN] for table in tables])
    return found


@pytest.mark.parametrize("shard_rows", [1000, 7, 1])
def test_drawn_rows_are_those_of_the_corpus(tmp_path: Path, tiny_model: Path, shard_rows: int) -> None:
    """Row by row: its vector, its code, its length. Quarantined rows are in no fit, and no error of the references."""
    made = bench(tmp_path, tiny_model, shard_rows, 30, corpus())
    whole = pa.concat_tables(made.captured(made.plan.shards)[0])
    tables, totals = made.captured(made.drawn())
    places = [row + (17 if shard.file.name == "b.jsonl" else 0) for shard in made.drawn() for row in shard.chosen]
    some = pa.concat_tables(tables)
    for name in ("code", "message", "n_tokens", "n_response_tokens", "truncated"):
        assert some.column(name).to_pylist() == whole.column(name).take(places).to_pylist()
    np.testing.assert_allclose(vectors(tables), vectors([whole.take(places)]), rtol=1e-5, atol=1e-6)
    bad = len({*places} & {*BAD})
    assert 0 < bad < len(BAD) + 1
    assert totals.drawn_bad == {"contrast.corpus": bad}
    assert (len(vectors(tables)), totals.rows, sum(totals.bad_references.values())) == (30 - bad, 0, 0)
    assert all(not examples for examples in totals.examples.values())


def test_scores_are_the_naive_ones_under_any_sharding(tmp_path: Path, tiny_model: Path) -> None:
    """From text to score, against loops over the rows in float64."""
    found = []
    for shard_rows in (1000, 7, 1):
        made = bench(tmp_path, tiny_model, shard_rows, 11, corpus())
        all_rows, drawn, unsafe = (
            [{COLUMN: features_of(table)[COLUMN]} for table in made.captured(shards)[0]]
            for shards in (made.plan.shards, made.drawn(), made.plan.reference_shards)
        )
        artifact = Contrast(layer=2).fit(reduce_in_process({"corpus": drawn, "unsafe": unsafe}), 4)
        scores = np.concatenate([Contrast(layer=2).score(artifact, shard) for shard in all_rows])
        sets = (np.concatenate([shard[COLUMN] for shard in each]) for each in (all_rows, drawn, unsafe))
        rows, side, harmful = ([row / np.linalg.norm(row) for row in each.astype(np.float64)] for each in sets)
        naive = [
            sum(float(row @ other) for other in harmful) / len(harmful)
            - sum(float(row @ other) for other in side) / len(side)
            for row in rows
        ]
        np.testing.assert_allclose(scores, naive, atol=1e-7)
        found.append(scores)
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-6)


def test_rows_with_too_many_columns_for_their_shard_are_not_in_the_sample(tmp_path: Path, tiny_model: Path) -> None:
    """Whether a row has too many depends on all rows of its shard, also on those that were not drawn."""
    rows: list[Any] = [{**row, f"key {i % 4}": 1} for i, row in enumerate(rows_of(40))]
    for place in (5, 6, 30):
        rows[place] = {**rows[place], **{f"own {place} {number}": 1 for number in range(700)}}
    seed = next(seed for seed in range(99) if {5, 6} & {*drawn_rows(40, 20, seed)} == {6})
    made = bench(tmp_path, tiny_model, 1000, 20, rows, seed)
    whole = pa.concat_tables(made.captured(made.plan.shards)[0])
    tables, totals = made.captured(made.drawn())
    out = whole.column("code").to_pylist()
    assert [place for place, code in enumerate(out) if code] == [6]
    places = [row + (17 if shard.file.name == "b.jsonl" else 0) for shard in made.drawn() for row in shard.chosen]
    assert pa.concat_tables(tables).column("code").to_pylist() == [out[place] for place in places]
    assert totals.drawn_bad == {"contrast.corpus": 1}


def test_an_example_of_a_bad_row_has_its_number_in_the_file(tmp_path: Path, tiny_model: Path) -> None:
    made = bench(tmp_path, tiny_model, 1000, 39, corpus())
    spec_rows = {shard.file.name: shard for shard in made.drawn()}
    assert spec_rows["b.jsonl"].row_at(0) == spec_rows["b.jsonl"].chosen[0]
    assert made.plan.shards[1].row_at(4) == 4
    assert (spec_rows["b.jsonl"].rows_read, made.plan.shards[1].rows_read) == (23, 23)
