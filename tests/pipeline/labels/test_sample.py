"""A sheet holds the drawn rows with their conversations, and comes back as it was written."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from labelled_runs import write_run

from tamis.operators.conversation.dialects import Dialect
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.inputs.sample_ids import sample_ids
from tamis.pipeline.labels.cells import unshielded
from tamis.pipeline.labels.draw import keys_of
from tamis.pipeline.labels.files import rows_in
from tamis.pipeline.labels.sample import sample
from tamis.pipeline.labels.sheet import COLUMNS, Drawn, sheet
from tamis.pipeline.labels.texts import digest_of
from tamis.pipeline.run.paths import KEPT, MANIFEST
from tamis.pipeline.storage.store import Store

DIALECT = Dialect.of("pair", prompt="prompt", response="response")
FILES: dict[str, list[dict[str, Any]]] = {
    "a.jsonl": [{"prompt": f"a{row}?", "response": f"a{row}.", "asks": row % 3 == 0} for row in range(30)],
    "b.jsonl": [{"prompt": f"b{row}?", "response": f"b{row}.", "asks": False} for row in range(11)],
}
DECISIONS = [("kept", "dropped", "kept", "quarantined")[row % 4] for row in range(41)]
SCORES = [None if decision == "quarantined" else row / 8 for row, decision in enumerate(DECISIONS)]
SCORED = sum(score is not None for score in SCORES)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "out"))
    columns = [{"path": name, "columns": DIALECT.to_dict()} for name in FILES]
    write_run(made, FILES, {"larf": SCORES}, DECISIONS, input={"files": columns})
    return made


def drawn(store: Store, tmp_path: Path, count: int, column: str | None = None, seed: int = 0) -> list[dict[str, Any]]:
    path = tmp_path / f"{count}-{seed}.jsonl"
    sample(store, count, seed, column, str(path))
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_row_has_its_own_text(store: Store, tmp_path: Path) -> None:
    rows = drawn(store, tmp_path, SCORED)
    for row in rows:
        name = row["source"][0] + str(row["row"])
        assert row["text"] == f"[user]\n{name}?\n\n[assistant]\n{name}."
        assert row["sample_id"] == sample_ids(row["source"], row["row"], 1)[0]
        assert row["text_digest"] == hashlib.blake2b(row["text"].encode(), digest_size=16).hexdigest()
        assert row["harmful"] is None
        assert [row[key] for key in ("stratum", "population", "sampled", "seed")] == ["all", SCORED, SCORED, 0]
    places = sorted(row["row"] + (30 if row["source"] == "b.jsonl" else 0) for row in rows)
    assert places == [place for place, score in enumerate(SCORES) if score is not None]


def test_the_order_is_that_of_the_keys_and_a_smaller_sample_begins_a_larger_one(store: Store, tmp_path: Path) -> None:
    ids = [row["sample_id"] for row in drawn(store, tmp_path, SCORED)]
    assert ids == sorted(ids, key=lambda one: int(keys_of([one], 0)[0]))
    assert [row["sample_id"] for row in drawn(store, tmp_path, 7)] == ids[:7]
    assert [row["sample_id"] for row in drawn(store, tmp_path, 7, seed=1)] != ids[:7]


def test_nobody_can_foresee_the_rows_without_a_seed(store: Store, tmp_path: Path) -> None:
    """Two draws agree by chance once in a thousand million times. The seed is said, and draws the same rows again."""
    first, second = (sample(store, 7, None, None, str(tmp_path / f"{n}.jsonl")) for n in "12")
    assert first.seed != second.seed
    assert 0 <= first.seed < 10**9
    rows = [json.loads(line) for line in (tmp_path / "1.jsonl").read_text().splitlines()]
    assert rows == drawn(store, tmp_path, 7, seed=first.seed)


def test_strata_get_the_same_number_of_rows_in_turn(store: Store, tmp_path: Path) -> None:
    asks = sum(FILES["a.jsonl"][row]["asks"] for row in range(30) if SCORES[row] is not None)
    rows = drawn(store, tmp_path, 10, "asks")
    assert [row["stratum"] for row in rows] == ["asks=yes", "asks=no"] * 5
    assert {row["population"] for row in rows if row["stratum"] == "asks=yes"} == {asks}
    assert {row["population"] for row in rows if row["stratum"] == "asks=no"} == {SCORED - asks}
    for row in rows:
        assert FILES[row["source"]][row["row"]]["asks"] == (row["stratum"] == "asks=yes")
    more = drawn(store, tmp_path, SCORED - 1, "asks")
    assert sum(row["stratum"] == "asks=yes" for row in more) == asks


def test_a_csv_sheet_holds_the_same(store: Store, tmp_path: Path) -> None:
    lines = drawn(store, tmp_path, 12)
    sample(store, 12, 0, None, str(tmp_path / "s.csv"))
    with (tmp_path / "s.csv").open(newline="", encoding="utf-8-sig") as file:
        cells = list(csv.DictReader(file))
    assert [{**row, "harmful": row["harmful"] or None, "sample_id": unshielded(row["sample_id"])} for row in cells] == [
        {key: str(value) if isinstance(value, int) else value for key, value in row.items()} for row in lines
    ]


HOSTILE = [
    "=cmd|' /C calc'!A0", "+1", "-1", "@x", "'quoted", '"', '",\n"', "a\r\nb\rc", "\ttab", "", " ", "1e5", "\u2028\x85",
    "\ufeffmark", "\x00", "x" * 200_000, "\U0001f600 \u202e", "null", ";=1", "a,=b",
]  # fmt: skip


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_hostile_texts_come_back_as_they_were(tmp_path: Path, ending: str) -> None:
    """By the reader of labels itself: what it makes of the cells is the rows that were written."""
    rows = [
        Drawn(text, sample_id, text or "s", number, digest_of(text), "all", 9, 9, 0)
        for number, (text, sample_id) in enumerate(zip(HOSTILE, sample_ids("x", 0, len(HOSTILE)), strict=True))
    ]
    path = tmp_path / f"sheet{ending}"
    path.write_bytes(sheet(rows, path.name))
    back = unshielded if ending == ".csv" else str
    read = [value for _, value in rows_in(str(path), {})]
    assert [set(value) for value in read] == [set(COLUMNS)] * len(rows)
    assert [back(value["text"] or "") for value in read] == HOSTILE
    assert [back(value["source"]) for value in read] == [row.source for row in rows]
    assert [back(value["text_digest"]) for value in read] == [row.text_digest for row in rows]
    assert [value["sample_id"] for value in read] == [row.sample_id for row in rows]


@pytest.mark.parametrize(
    ("count", "column", "output", "said"),
    [
        (400, None, "new.csv", f"--for-labels 400: the run scored {SCORED} rows"),
        (0, None, "new.csv", "at least one row"),
        (3, None, "new.xlsx", "choose .jsonl or .csv"),
        (3, None, "there.csv", "is there already"),
        (3, None, "out/new.csv", "lies in the output of the run"),
    ],
)
def test_what_cannot_be_drawn(store: Store, tmp_path: Path, count: int, column: str, output: str, said: str) -> None:
    (tmp_path / "there.csv").write_text("labels of many days")
    with pytest.raises(ConfigError, match=said):
        sample(store, count, 0, column, str(tmp_path / output))
    assert not (tmp_path / "new.csv").exists()
    assert (tmp_path / "there.csv").read_text() == "labels of many days"


@pytest.mark.parametrize(("column", "said"), [("prompt", "row 0 .* says neither"), ("nowhere", "no column nowhere")])
def test_strata_need_an_answer_of_every_row(store: Store, tmp_path: Path, column: str, said: str) -> None:
    with pytest.raises((InputError, ConfigError), match=said) as caught:
        sample(store, 3, 0, column, str(tmp_path / "new.csv"))
    assert "a0?" not in str(caught.value)


def test_a_damaged_run_is_not_sampled(store: Store, tmp_path: Path) -> None:
    name = next(file["name"] for file in store.read_facts(MANIFEST)["files"] if file["name"].startswith(KEPT))
    path = tmp_path / "out" / name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="is not as it was written; put it back"):
        sample(store, SCORED, 0, None, str(tmp_path / "new.csv"))
    assert not (tmp_path / "new.csv").exists()
