"""What the report shows of a run: each sample with the text, the scores and the places of its own row."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled_runs import write_run

from tamis.pipeline.emit import browse
from tamis.pipeline.emit.browse import middle_ranks, with_samples
from tamis.pipeline.labels.texts import digest_of, texts_at
from tamis.pipeline.report import render_report
from tamis.pipeline.report.sample_data import NAME_LIMIT, TEXT_LIMIT, messages_of
from tamis.pipeline.storage.store import Store

ALPACA = {"name": "alpaca", "columns": {name: name for name in ("instruction", "input", "output")}, "join": "\n"}


def a_run(store: Store, count: int = 60, files: int = 2, long: int = 0, **facts: Any) -> dict[str, Any]:
    """Rows whose text names them, with as many more characters as `long` says; every third is dropped, row 4 has no
    score and row 5 is in quarantine."""
    pseudo = random.Random(7)
    rows = [
        {
            "instruction": f"ask {number}",
            "input": "",
            "output": f"tell {number}" + "y" * long,
            "source": "web" if number % 4 else None,
        }
        for number in range(count)
    ]
    decisions = ["dropped" if number % 3 == 0 else "kept" for number in range(count)]
    decisions[5] = "quarantined"
    scores = {name: [pseudo.choice([0.0, 0.5, pseudo.random()]) for _ in rows] for name in ("larf", "saft")}
    for values in scores.values():
        values[4] = values[5] = None
    each = -(-count // files)
    parts = {f"{number}.jsonl": rows[number * each : (number + 1) * each] for number in range(files)}
    named = {"files": [{"path": name, "rows": len(part), "columns": ALPACA} for name, part in parts.items()]}
    lists = {name: [] for name in browse.LISTED}
    return write_run(store, parts, scores, decisions, input=named, **{**lists, **facts})


@given(st.lists(st.sampled_from([0.0, 1.0, 1.5, -2.0, float("nan"), float("inf")]) | st.floats(width=32), max_size=30))
def test_places_are_shares_of_the_finite_values_below(values: list[float]) -> None:
    finite = [value for value in values if np.isfinite(value)]
    expected = [
        (sum(other < value for other in finite) + sum(other == value for other in finite) / 2) / len(finite)
        if np.isfinite(value)
        else float("nan")
        for value in values
    ]
    assert middle_ranks(np.array(values, float)).tolist() == pytest.approx(expected, nan_ok=True)


def test_every_sample_has_the_text_and_the_scores_of_its_own_row(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    manifest = a_run(store)
    found = with_samples(store, manifest)["browse"]
    texts = {row.sample_id: row.text for row in texts_at(store, manifest, range(60), "test")}
    assert found["methods"] == ["larf", "saft"]
    assert found["rows"] == 60
    assert len(found["random_dropped"]) == 20
    assert len(found["random_kept"]) == 38  # neither the row without a score nor the one in quarantine
    for group in ("random_dropped", "random_kept", "unlike"):
        for sample in found[group]:
            number = int(sample["source"][0]) * 30 + sample["row"]
            ask, tell = sample["messages"]
            assert (ask["content"], tell["content"]) == (f"ask {number}", f"tell {number}")
            assert texts[sample["sample_id"]] == f"[user]\nask {number}\n\n[assistant]\ntell {number}"
            assert sample["decision"] == ("kept" if number % 3 else "dropped")
            assert sample["own_source"] == ("web" if number % 4 else None)
            assert sample["score"] == sample["scores"]["larf"]
            assert sample["apart"] == pytest.approx(abs(sample["places"]["larf"] - sample["places"]["saft"]))
    far = [sample["apart"] for sample in found["unlike"]]
    assert far == sorted(far, reverse=True)
    histogram = found["histograms"]["saft"]
    assert (sum(histogram["kept"]), sum(histogram["dropped"])) == (38, 20)


def test_of_a_long_text_only_what_the_page_shows_is_held(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    manifest = a_run(store, long=5 * TEXT_LIMIT)
    texts = {row.sample_id: row for row in texts_at(store, manifest, range(60), "test")}
    for sample in with_samples(store, manifest)["browse"]["random_kept"]:
        whole = texts[sample["sample_id"]]
        answer = whole.text.split("[assistant]\n")[1]
        assert sample["messages"][1] == {"role": "assistant", "content": answer[:TEXT_LIMIT], "length": len(answer)}
        assert sample["text_digest"] == digest_of(whole.text)
        assert messages_of(sample)[1]["left_out"] == len(answer) - TEXT_LIMIT
        assert max(len(message["role"]) for message in sample["messages"]) <= NAME_LIMIT


@pytest.mark.parametrize("score", [0.0, -1e4, 1e15, -3e38])
def test_equal_scores_end_no_run(score: float) -> None:
    shard = browse._Shard("a", pa.table({"decision": ["kept", "dropped", "kept"]}), np.full((1, 3), score))
    found = browse._histogram([shard], 0)
    assert (found is None) == (abs(score) >= 1e15)  # 60 edges one apart no longer differ
    assert found is None or (sum(found["kept"]), sum(found["dropped"])) == (2, 1)


def test_the_same_output_gives_the_same_page_and_no_text_goes_into_the_manifest(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    manifest = a_run(store)
    before = repr(manifest)
    assert render_report(with_samples(store, manifest)) == render_report(with_samples(store, manifest))
    assert repr(manifest) == before
    assert "ask 7" not in before


def test_listed_samples_lie_in_any_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browse, "SHARDS", 1)
    monkeypatch.setattr(browse, "RANDOM", 3)
    store = Store(str(tmp_path))
    listed = {"shard": f"{3:06d}-{3:016x}", "row": 28, "score": 0.5, "rank": 1, "sample_id": "x", "source": "1.jsonl"}
    found = with_samples(store, a_run(store, riskiest=[listed]))
    [sample] = found["riskiest"]
    assert [message["content"] for message in sample["messages"]] == ["ask 58", "tell 58"]
    assert (sample["rank"], sample["sample_id"], sample["apart"], sample["places"]) == (1, "x", None, {})
    assert found["browse"]["rows"] == 15
    assert {each["source"] for each in found["browse"]["random_kept"]} == {"0.jsonl"}
    assert len(found["browse"]["random_kept"]) == 3


def test_one_method_and_no_rows(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    manifest = a_run(store)
    one = with_samples(store, {**manifest, "methods": manifest["methods"][:1]})["browse"]
    assert one["methods"] == ["larf"]
    assert one["unlike"] == []
    assert one["histograms"] == {}
    nothing = with_samples(store, {**manifest, "files": []})["browse"]
    assert nothing["rows"] == 0
    assert nothing["random_kept"] == []
    render_report({**manifest, "browse": nothing})


def test_shards_are_spread_over_the_corpus() -> None:
    names = [f"{number:04d}" for number in range(1000)]
    found = browse._spaced(names)
    assert len(found) == browse.SHARDS
    assert {int(b) - int(a) for a, b in pairwise(found)} <= {31, 32}
    assert browse._spaced(names[:5]) == names[:5]
