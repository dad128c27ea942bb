"""Totals: receipts added up give the same in any order, and the shown samples are those of the whole corpus."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.operators.conversation.schema import infer_rows, settle
from tamis.operators.statistics.ranks import RankSums
from tamis.pipeline.capture.totals import CaptureTotals
from tamis.pipeline.emit.samples import SHOWN_BORDERLINE, SHOWN_RISKIEST, _extreme
from tamis.pipeline.emit.totals import EmitTotals
from tamis.pipeline.errors import InputError
from tamis.pipeline.inputs.files import encode_schema


def captured(index: int, **facts: Any) -> dict[str, Any]:
    receipt = {
        "shard": f"{index:06d}",
        "index": index,
        "rows": 10,
        "role": "corpus",
        "quarantined": {},
        "messages": {},
        "examples": {},
        "precision": "float32 on cpu",
        "tokens": 100,
        "truncated": 1,
        "schema": None,
        "seconds": {"read_seconds": 0.1, "forward_seconds": 2.0, "load_seconds": 5.0 + index},
        "file": {"name": f"_work/capture/{index:06d}.parquet", "bytes": 9, "sha256": f"{index:064x}"},
        "input": f"{index + 1:064x}",
        "started": 1000.0 + 3 * index,
        "finished": 1002.0 + 3 * index,
    }
    return json.loads(json.dumps({**receipt, **facts}))  # type: ignore[no-any-return]


def test_captured_rows_are_counted() -> None:
    totals = CaptureTotals()
    totals.add(
        captured(0, quarantined={"overlong": 2}, messages={"overlong": "too long"}, examples={"overlong": ["a row 1"]}),
        new=True,
    )
    totals.add(
        captured(
            1,
            quarantined={"overlong": 1, "odd": 3},
            messages={"overlong": "other", "odd": "odd"},
            examples={"overlong": [], "odd": []},
        ),
        new=True,
    )
    assert (totals.rows, totals.tokens, totals.truncated, totals.quarantined) == (20, 200, 2, 6)
    assert totals.codes == {"overlong": 3, "odd": 3}
    assert totals.captured["000001"] == (("_work/capture/000001.parquet", f"{1:064x}"), f"{2:064x}")
    assert totals.messages == {"overlong": "too long", "odd": "odd"}
    assert totals.seconds == 5.0  # from the first start to the last end, whatever overlapped
    assert totals.forward_seconds == 4.0
    assert totals.load_seconds == 6.0


def test_what_an_earlier_command_captured_does_not_count_as_speed() -> None:
    totals = CaptureTotals()
    totals.add(captured(0, started=1.0, finished=2.0), new=False)
    assert totals.seconds == 0.0
    totals.add(captured(1), new=True)
    assert (totals.rows, totals.new_rows, totals.new_tokens) == (20, 10, 100)
    assert totals.seconds == 2.0


def test_references_are_no_rows_of_the_corpus() -> None:
    totals = CaptureTotals()
    totals.add(captured(0, role="unsafe", quarantined={"non_finite": 1}, messages={"non_finite": "NaN"}), new=True)
    assert (totals.rows, totals.tokens, totals.truncated, totals.quarantined) == (0, 0, 0, 0)
    assert totals.bad_references == {"non_finite": 1}
    assert (totals.new_rows, totals.new_tokens) == (10, 100)  # but the model had work with them
    assert totals.seen_schema() is None


@given(order=st.permutations(range(4)))
def test_the_schema_is_that_of_the_corpus_in_its_own_order(order: list[int]) -> None:
    shards: list[list[dict[str, Any]]] = [
        [{"b": 1, "a": None}],
        [{"c": "x", "a": [{"z": 1}]}],
        [{"b": 2.5, "d": {}}, {}],
        [{"a": [{"y": None}], "b": None}],
    ]
    totals = CaptureTotals()
    for index in order:
        totals.add(captured(index, schema=encode_schema(infer_rows(shards[index]))), new=True)
    seen = totals.seen_schema()
    assert seen is not None
    whole = infer_rows([row for shard in shards for row in shard])
    assert settle(seen).equals(settle(whole))
    assert seen.names == ["b", "a", "c", "d"]


def test_a_schema_seen_a_thousand_times_is_kept_once() -> None:
    totals = CaptureTotals()
    schema = encode_schema(pa.schema([("a", pa.string())]))
    for index in range(1000):
        totals.add(captured(index, schema=schema), new=True)
    assert len(totals.schemas) == 1


# --- emitted shards -----------------------------------------------------------------------------------------------

BINS = 4
Rows = list[tuple[float, str]]


def test_keys_without_end_stop_the_run_as_soon_as_they_are_too_many() -> None:
    totals = CaptureTotals()

    def shard(index: int) -> dict[str, Any]:
        schema = pa.schema([(f"{index}-{number}", pa.int64()) for number in range(1000)])
        return captured(index, schema=encode_schema(schema))

    for index in (3, 0, 2, 1, 3):
        totals.add(shard(index), new=True)
    with pytest.raises(InputError, match=r"more than 4,000 different top-level keys.*one object"):
        totals.add(shard(4), new=True)


def emitted(index: int, rows: Rows) -> dict[str, Any]:
    """A receipt as emit makes it, from (score, decision) of each row."""
    scores = np.array([score for score, _ in rows], dtype=np.float32)
    decisions = np.array([decision for _, decision in rows])
    kept, dropped = decisions == "kept", decisions == "dropped"
    lengths = np.arange(len(rows)) + 100 * index
    receipt = {
        "shard": f"{index:06d}",
        "index": index,
        "rows": len(rows),
        "counts": {name: int((decisions == name).sum()) for name in ("kept", "dropped", "quarantined")},
        "source": f"{index % 2}.jsonl",
        "histogram": {"kept": [int(kept.sum()), 0, 0, 0], "dropped": [0, 0, 0, int(dropped.sum())]},
        "deciles": {"rows": [int((kept | dropped).sum())] + [0] * 9, "dropped": [int(dropped.sum())] + [0] * 9},
        "rank_sums": [int((kept | dropped).sum()), 0.1 * index, 0.7, -0.3 / (index + 1)],
        "unscored": 0,
        "misread": {"tools": 1} if index % 2 else {},
        "riskiest": _extreme(scores, kept | dropped, lengths, SHOWN_RISKIEST, highest=True),
        "borderline_dropped": _extreme(scores, dropped, lengths, SHOWN_BORDERLINE, highest=False),
        "borderline_kept": _extreme(scores, kept, lengths, SHOWN_BORDERLINE, highest=True),
        "files": [{"name": f"kept/{index}", "bytes": 1, "sha256": "x"}],
    }
    return json.loads(json.dumps(receipt))  # type: ignore[no-any-return]


def decided(shards: list[list[float | None]], dropped: int) -> list[Rows]:
    """The `dropped` highest fall, the first of equals first; None is quarantined."""
    flat = [(s, i, p) for i, shard in enumerate(shards) for p, s in enumerate(shard) if s is not None]
    ranked = sorted(flat, key=lambda row: (-row[0], row[1], row[2]))
    fallen = {(i, p) for _, i, p in ranked[:dropped]}
    return [
        [
            (0.0, "quarantined") if s is None else (s, "dropped" if (i, p) in fallen else "kept")
            for p, s in enumerate(shard)
        ]
        for i, shard in enumerate(shards)
    ]


@settings(deadline=None)
@given(
    shards=st.lists(
        st.lists(st.none() | st.sampled_from([-1.0, 0.0, 0.5, 0.5, 2.0]), max_size=40), min_size=1, max_size=6
    ),
    share=st.floats(0, 1),
    seed=st.integers(0, 100),
)
def test_the_samples_are_those_of_the_whole_corpus_in_rank_order(
    shards: list[list[float | None]], share: float, seed: int
) -> None:
    scored = [(s, i, p) for i, shard in enumerate(shards) for p, s in enumerate(shard) if s is not None]
    ranked = sorted(scored, key=lambda row: (-row[0], row[1], row[2]))
    dropped = int(share * len(ranked))
    receipts = [emitted(i, rows) for i, rows in enumerate(decided(shards, dropped))]
    random.Random(seed).shuffle(receipts)
    totals = EmitTotals(bins=BINS)
    for receipt in receipts:
        totals.add(receipt)

    def picks(rows: list[tuple[float, int, int]]) -> list[tuple[float, int, int, int]]:
        return [(score, index, place, place + 100 * index) for score, index, place in rows]

    assert totals.riskiest == picks(ranked[:SHOWN_RISKIEST])
    assert totals.borderline_dropped == picks(ranked[:dropped][::-1][:SHOWN_BORDERLINE])
    assert totals.borderline_kept == picks(ranked[dropped:][:SHOWN_BORDERLINE])
    assert totals.rows == sum(map(len, shards))
    assert totals.counts["dropped"] == dropped
    assert totals.counts["kept"] == len(ranked) - dropped
    assert totals.counts["quarantined"] == totals.rows - len(ranked)
    assert totals.histogram.tolist() == [[len(ranked) - dropped, 0, 0, 0], [0, 0, 0, dropped]]
    assert totals.deciles.sum(axis=1).tolist() == [len(ranked), dropped]
    assert len(totals.files) == len(shards)
    for source, (rows, fallen) in totals.sources.items():
        own = [row for row in ranked if f"{row[1] % 2}.jsonl" == source]
        assert rows == len(own)
        assert fallen == sum(row in ranked[:dropped] for row in own)


def test_sums_of_ranks_do_not_depend_on_who_was_done_first() -> None:
    receipts = [emitted(i, [(0.5, "kept")]) for i in range(20)]
    found = []
    for seed in range(5):
        random.Random(seed).shuffle(receipts)
        totals = EmitTotals(bins=BINS)
        for receipt in receipts:
            totals.add(receipt)
        found.append(totals.final_rank_sums())
    assert len(set(found)) == 1  # to the last bit
    assert found[0].count == 20
    assert found[0].products == pytest.approx(sum(-0.3 / (i + 1) for i in range(20)))
    assert EmitTotals(bins=BINS).final_rank_sums() == RankSums()
