"""`tamis status` of runs at every stage, and of what was set aside."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tamis.pipeline.commands.status import show_status
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.run import lease, paths, receipts
from tamis.pipeline.run.paths import INCOMPLETE, LAYERS_RUN, RUN, SET_ASIDE, TRAINING_WORK
from tamis.pipeline.storage.store import Store

SIZES = {"rows": 2000, "shards": 10, "reference_shards": 2}


class Folder:
    """An output folder with a run under way, and what status says of it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.store = Store(str(folder))
        self.capsys = capsys

    def begin(self, **facts: Any) -> None:
        self.store.write_facts(RUN, {"fingerprint": {}, **SIZES, **facts})

    def finish(self, stage: str, count: int) -> None:
        for number in range(count):
            receipts.write_cell(self.store, stage, f"{number:06d}-x", "key", {})
        self.store.write(f"{receipts.folder(stage)}/compact-key-0123.jsonl", b"counts for nothing")

    def set_aside(self, stage: str, count: int) -> None:
        for number in range(count):
            self.store.write_json(f"{SET_ASIDE}/{stage}/{number:06d}-y.json", missing(number))

    def said(self) -> list[str]:
        show_status(self.store)
        return self.capsys.readouterr().out.splitlines()


def missing(number: int) -> dict[str, Any]:
    reason = "its worker died three times"
    rows = {"start_row": 10 * number, "stop_row": 10 * number + 10, "rows": 10}
    return {"shard": f"{number:06d}-y", "source": "a.jsonl", **rows, "reason": reason}


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Folder:
    return Folder(tmp_path, capsys)


NOBODY = "nobody is at work on it; run the same `tamis curate` command again to go on"


def test_stage_by_stage(folder: Folder) -> None:
    folder.begin()
    first = "unfinished: 2,000 rows in 10 shards (and 2 of references)"
    assert folder.said() == [first, "  captured 0 of 12", "  emitted  0 of 10", NOBODY]
    folder.finish("capture", 5)
    assert folder.said()[1] == "  captured 5 of 12, 7 left"
    folder.finish("capture", 12)
    folder.store.write_table("_work/scores/000000-x.parquet", pa.table({}))
    folder.finish("emit", 3)
    assert folder.said()[1:4] == ["  captured 12 of 12", "  fitted   1 of 10, 9 left", "  emitted  3 of 10, 7 left"]


def test_a_corpus_that_is_captured_as_scores(folder: Folder) -> None:
    """The references' vectors lie in the other folder; what an earlier order has left there does not count twice."""
    folder.begin()
    folder.finish("capture", 2)
    folder.finish("scored", 5)
    assert folder.said()[1] == "  captured 7 of 12, 5 left"
    folder.set_aside("scored", 5)
    assert folder.said()[1] == "  captured 7 of 12, 5 set aside"
    assert folder.said()[3] == "set aside in scored: 5 shards with 50 rows"
    folder.finish("capture", 12)
    assert folder.said()[1].startswith("  captured 12 of 12")


def test_shards_that_were_set_aside(folder: Folder) -> None:
    folder.begin()
    folder.finish("capture", 7)
    folder.set_aside("capture", 25)
    said = folder.said()
    assert said[1] == "  captured 7 of 12, 25 set aside"
    assert said[3] == "set aside in capture: 25 shards with 250 rows"
    assert said[4] == "  - a.jsonl rows 0 to 9: its worker died three times"
    assert said[24] == "  - ... and 5 more"
    assert said[25:] == [NOBODY]


def test_a_run_that_ended_incomplete(folder: Folder) -> None:
    counts = {"rows_in": 2000, "kept": 1980, "dropped": 0, "quarantined": 0, "failed": 20}
    facts = {"complete": False, "created": "2026-01-02", "fingerprint": {}, "counts": counts}
    folder.store.write_facts(INCOMPLETE, {**facts, "failed": [missing(0), missing(1)]})
    ended = [
        "ended incomplete at 2026-01-02: 20 of 2,000 rows are in no output",
        "missing: 2 shards with 20 rows",
        "  - a.jsonl rows 0 to 9: its worker died three times",
        "  - a.jsonl rows 10 to 19: its worker died three times",
        NOBODY,
    ]
    assert folder.said() == ended
    folder.begin()
    assert folder.said()[3:] == ended


def test_a_driver_at_work(folder: Folder) -> None:
    folder.begin()
    with lease.held(folder.store) as held:
        assert folder.said()[-1] == f"a tamis is at work on it now: {held.lease}"
    assert folder.said()[-1] == NOBODY


def test_a_driver_that_was_killed_elsewhere(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "WATCH_SECONDS", 0.1)
    folder.begin()
    theirs = asdict(lease._own()) | {"machine": "elsewhere"}
    folder.store.write(paths.DRIVER, json.dumps(theirs).encode())
    assert folder.said()[-1] == NOBODY


def test_token_losses_in_rounds(folder: Folder) -> None:
    folder.begin(masks_tokens=True)
    folder.finish("losses", 10)
    folder.finish("losses-1", 4)
    folder.set_aside("losses-1", 1)
    assert folder.said()[1:4] == [
        "  scored   10 of 10",
        "  scored   4 of 10, 1 set aside, 5 left (round 1)",
        "  emitted  0 of 10",
    ]


def test_training_under_way(folder: Folder) -> None:
    folder.begin(masks_tokens=True, fingerprint={"toss.training": {"epochs": 3, "batch_size": 4}})
    folder.store.write_json("artifact/references/utility/training.json", {})
    folder.store.write("_work/references/utility/step-30.json", b"{}")
    folder.store.write_table("_work/references/harmful/rows.parquet", pa.table({"input_ids": [1] * 9}))
    assert folder.said()[1:3] == ["  training harmful model: step 0 of 9", "  trained  utility model"]
    for name in ("step-4.json", "step-6.json", "step-6.safetensors", "step-8.safetensors"):
        folder.store.write(f"{TRAINING_WORK}/harmful/{name}", b"{}")
    assert folder.said()[1] == "  training harmful model: step 6 of 9"


def test_training_whose_length_is_not_known_yet(folder: Folder) -> None:
    folder.begin(masks_tokens=True)
    folder.store.write(f"{TRAINING_WORK}/harmful/step-4.json", b"{}")
    assert folder.said()[1] == "  training harmful model: step 4"


def test_a_layer_search(folder: Folder) -> None:
    folder.store.write_facts(LAYERS_RUN, {"fingerprint": {}})
    folder.finish("layers", 3)
    assert folder.said() == [
        "unfinished layer search: 3 cells of the layer search are done",
        "nobody is at work on it; run the same `tamis layers` (or `tamis curate`) command again to go on",
    ]
    folder.begin()
    assert folder.said()[1] == "  3 cells of the layer search are done"


def test_no_run(folder: Folder) -> None:
    with pytest.raises(ConfigError, match="no run of tamis has been here"):
        folder.said()


def test_a_run_on_the_vectors_of_another_one(folder: Folder) -> None:
    folder.begin(vectors_of="/runs/first")
    folder.finish("emit", 3)
    assert folder.said() == [
        "unfinished: 2,000 rows in 10 shards with the vectors of /runs/first",
        "  emitted  3 of 10, 7 left",
        NOBODY.replace("`tamis curate`", "`tamis curate --from`"),
    ]
