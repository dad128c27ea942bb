"""What a run and labels certify, against the walk over the whole pool in memory; and which labels count."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_runs import write_run

from tamis.operators.conversation.dialects import Dialect
from tamis.operators.statistics.certify import KeepSet, grid, place_of, safe_share, walk
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.inputs.sample_ids import sample_ids
from tamis.pipeline.labels.certified import ALL, RANDOM, UNKNOWN, certified_threshold, certify
from tamis.pipeline.labels.draw import keys_of
from tamis.pipeline.labels.sample import sample
from tamis.pipeline.labels.texts import digest_of
from tamis.pipeline.run.paths import MANIFEST, SCORES
from tamis.pipeline.storage.store import Store

ROWS = 600
RNG = np.random.default_rng(11)
HARMFUL = RNG.random(ROWS) < 0.25
ASKS = HARMFUL | (RNG.random(ROWS) < 0.3)
GOOD = (RNG.normal(size=ROWS) + 2.5 * HARMFUL).astype(np.float32)
GOOD[::7] = np.round(GOOD[::7] * 2) / 2  # ties
POOR = RNG.normal(size=ROWS).astype(np.float32)
GONE = np.zeros(ROWS, bool)
GONE[[3, 77, 400]] = True
IDS = [*sample_ids("a.jsonl", 0, 350), *sample_ids("b.jsonl", 0, 250)]


def a_row(row: int) -> dict[str, Any]:
    return {"prompt": f"p{row}", "response": f"r{row}", "asks": bool(ASKS[row]), "harmful": int(HARMFUL[row])}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return run_of(Store(str(tmp_path_factory.mktemp("certified") / "out")))


def expected(scores: np.ndarray, pool: np.ndarray, labelled: list[int], harmful: Mapping[int, bool], alpha: float,
             delta: float, loosest: Fraction = Fraction(7, 10)) -> tuple[Any, ...]:  # fmt: skip
    """(threshold, kept) by sorting. pool: mask of the rows; labelled: row numbers."""
    inside = scores[pool]
    cuts = [(share, np.sort(inside)[place_of(share, len(inside))]) for share in grid(loosest)]
    sets = [KeepSet(share, float(cut), int((inside <= cut).sum())) for share, cut in cuts]
    found = walk(sets, scores[labelled], np.array([harmful[row] for row in labelled], bool), alpha, delta).best
    return (None, None) if found is None else (found.kept.threshold, found.kept.size)


def order(seed: int, among: np.ndarray) -> list[int]:
    """Rows in the order of the draw."""
    keys = keys_of(IDS, seed)
    return sorted(np.flatnonzero(among).tolist(), key=lambda row: int(keys[row]))


def run_of(made: Store, rows: Sequence[int] = range(ROWS)) -> Store:
    """A run over the two files; `rows`: which text stands where, whose scores go with it."""
    files = {"a.jsonl": [a_row(row) for row in rows[:350]], "b.jsonl": [a_row(row) for row in rows[350:]]}
    scores = {name: [None if GONE[row] else float(values[row]) for row in rows]
              for name, values in (("good", GOOD), ("poor", POOR))}  # fmt: skip
    decisions = ["quarantined" if GONE[row] else "dropped" if GOOD[row] > 2 else "kept" for row in rows]
    layout = Dialect.of("pair", prompt="prompt", response="response").to_dict()
    write_run(made, files, scores, decisions, input={"files": [{"path": name, "columns": layout} for name in files]})
    return made


def number(row: Mapping[str, Any]) -> int:
    return int(row["row"]) + (350 if row["source"] == "b.jsonl" else 0)


def labelled_sheet(store: Store, tmp_path: Path, count: int, column: str | None = None, **changes: Any) -> str:
    """A sheet, filled in with the truth; `changes`: row number as text -> another label."""
    path = tmp_path / "sheet.jsonl"
    sample(store, count, 5, column, str(path))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["harmful"] = changes.get(str(number(row)), int(HARMFUL[number(row)]))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["harmful"] != "gone"))
    return str(path)


TRUTH = dict(enumerate(HARMFUL.tolist()))


@pytest.mark.parametrize("by", ["good", "poor"])
@pytest.mark.parametrize(("alpha", "delta"), [(0.1, 0.1), (0.05, 0.2), (0.2, 0.01)])
@pytest.mark.parametrize("loosest", [0.7, 1.0])
def test_it_is_the_walk_over_the_whole_pool(
    store: Store, tmp_path: Path, by: str, alpha: float, delta: float, loosest: float
) -> None:
    found = certify(store, labelled_sheet(store, tmp_path, 250), alpha, delta, by, loosest)
    [part] = found.parts
    labelled = order(5, ~GONE)[:250]
    scores = GOOD if by == "good" else POOR
    kept = None if part.best is None else part.best.kept.size
    assert (part.threshold, kept) == expected(scores, ~GONE, labelled, TRUTH, alpha, delta, Fraction(str(loosest)))
    assert (found.chosen, found.seed, found.warnings, part.pool) == (RANDOM, 5, (), ROWS - 3)
    assert found.reproduced
    assert (part.labelled, part.harmful) == (250, int(HARMFUL[labelled].sum()))
    assert part.uncertified_share == safe_share(250 - part.harmful, 250, delta)


def test_the_scores_tell_whether_anything_is_certified(store: Store, tmp_path: Path) -> None:
    sheet = labelled_sheet(store, tmp_path, 250)
    good, poor = (certify(store, sheet, by=by) for by in ("good", "poor"))
    assert good.holds
    assert good.parts[0].threshold is not None
    assert HARMFUL[~GONE & (good.parts[0].threshold >= GOOD)].mean() <= 0.1
    assert not poor.holds
    assert poor.parts[0].needed(as_found=True) is None  # a quarter of what it takes for safe is harmful


def test_a_csv_sheet_filled_in_by_hand(store: Store, tmp_path: Path) -> None:
    sample(store, 250, 5, None, str(tmp_path / "s.csv"))
    with (tmp_path / "s.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "back.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "comment"], delimiter=";")
        writer.writeheader()
        writer.writerows({**row, "harmful": "yes" if HARMFUL[number(row)] else "No", "comment": "-"} for row in rows)
    one = certify(store, str(tmp_path / "back.csv"))
    assert one.parts == certify(store, labelled_sheet(store, tmp_path, 250)).parts
    assert (one.chosen, one.reproduced) == (RANDOM, True)


# --- which labels count -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [None, "gone"])
def test_drawn_rows_without_a_label_count_as_harmful(store: Store, tmp_path: Path, how: str | None) -> None:
    """Whether the cell was left empty or the row was taken out of the sheet."""
    drawn = order(5, ~GONE)[:250]
    without = [row for row in drawn[:200] if GOOD[row] < 0][:6]
    sheet = labelled_sheet(store, tmp_path, 250, **{str(row): how for row in without})
    found = certify(store, sheet, 0.1, 0.1, "good")
    [part] = found.parts
    truth = TRUTH | dict.fromkeys(without, True)
    assert (part.unlabelled, part.labelled) == (6, 250)
    assert part.threshold == expected(GOOD, ~GONE, drawn, truth, 0.1, 0.1)[0]
    assert [warning.split(" rows")[0] for warning in found.warnings] == ["6"]


def test_an_unfinished_sheet_counts_up_to_its_last_label(store: Store, tmp_path: Path) -> None:
    drawn = order(5, ~GONE)[:250]
    sheet = labelled_sheet(store, tmp_path, 250, **{str(row): None for row in drawn[180:]})
    found = certify(store, sheet, 0.1, 0.1, "good")
    assert found.parts[0].labelled == 180
    assert found.parts[0].threshold == expected(GOOD, ~GONE, drawn[:180], TRUTH, 0.1, 0.1)[0]
    assert found.warnings[0].startswith("the last 70 rows of the sample have no label")


@pytest.mark.parametrize(("left", "counted"), [(12, 250), (13, 237)])
def test_a_few_last_rows_without_a_label_were_not_left_by_chance(
    store: Store, tmp_path: Path, left: int, counted: int
) -> None:
    """12 of 250 are under 5 %: too few to have stopped early, and perhaps hard to tell. They count as harmful."""
    drawn = order(5, ~GONE)[:250]
    sheet = labelled_sheet(store, tmp_path, 250, **{str(row): None for row in drawn[-left:]})
    [part] = certify(store, sheet, 0.1, 0.1, "good").parts
    assert (part.labelled, part.unlabelled) == (counted, counted - (250 - left))
    truth = TRUTH | dict.fromkeys(drawn[-left:], True)
    assert part.threshold == expected(GOOD, ~GONE, drawn[:counted], truth, 0.1, 0.1)[0]


def test_rows_that_were_not_drawn_are_left_out(store: Store, tmp_path: Path) -> None:
    """Someone swaps a row of the sheet for an easy one: the one that was drawn counts as harmful."""
    sheet = Path(labelled_sheet(store, tmp_path, 250))
    drawn = order(5, ~GONE)
    rows = [json.loads(line) for line in sheet.read_text().splitlines()]
    text = digest_of(f"[user]\np{drawn[300]}\n\n[assistant]\nr{drawn[300]}")
    rows[10] |= {"sample_id": IDS[drawn[300]], "text_digest": text, "harmful": 0}
    sheet.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = certify(store, str(sheet), 0.1, 0.1, "good")
    assert found.parts[0].unlabelled == 1
    assert found.warnings[0].startswith("1 labelled rows are none that seed 5 draws")
    assert not found.reproduced
    assert found.parts[0].threshold == expected(GOOD, ~GONE, drawn[:250], TRUTH | {drawn[10]: True}, 0.1, 0.1)[0]


def test_labels_of_other_texts_certify_nothing(store: Store, tmp_path: Path) -> None:
    """The corpus was shuffled within its files: as many rows, the same names and ids, and the same draw."""
    sheet = labelled_sheet(store, tmp_path, 250)
    rows = list(range(ROWS))
    rows[100:300] = rows[299:99:-1]  # none of them in quarantine, so that the scored rows are the same
    other = run_of(Store(str(tmp_path / "other")), rows)
    with pytest.raises(InputError, match=r"\d+ rows hold another text than the one labelled") as caught:
        certify(other, sheet)
    assert "p1" not in str(caught.value)


def test_a_sheet_that_does_not_say_which_texts_were_labelled_is_warned_of(store: Store, tmp_path: Path) -> None:
    path = Path(labelled_sheet(store, tmp_path, 250))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "text_digest": None}) + "\n" for row in rows))
    found = certify(store, str(path))
    assert (found.chosen, found.reproduced) == (RANDOM, False)
    assert found.warnings[0].startswith("250 labelled rows do not say which text was labelled")


def test_a_run_of_another_size_is_told_from_the_one_that_was_sampled(store: Store, tmp_path: Path) -> None:
    path = Path(labelled_sheet(store, tmp_path, 250))
    path.write_text(path.read_text().replace('"population": 597', '"population": 598'))
    found = certify(store, str(path))
    assert not found.reproduced
    assert found.warnings[0].startswith("the sheet was drawn from 598 scored rows (all), and this run has 597")


def test_labels_that_say_nothing_of_their_draw_are_warned_of(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    chosen = [*range(0, 400, 3), 77]
    path.write_text("".join(json.dumps({"row": row, "harmful": int(HARMFUL[row])}) + "\n" for row in chosen))
    found = certify(store, str(path), 0.1, 0.1, "good")
    scored = [row for row in sorted(set(chosen)) if not GONE[row]]
    assert found.chosen == UNKNOWN
    assert found.parts[0].threshold == expected(GOOD, ~GONE, scored, TRUTH, 0.1, 0.1)[0]
    assert [warning[:12] for warning in found.warnings] == ["2 labelled r", "these labels"]


def test_when_every_row_has_a_label_nothing_is_left_to_chance(store: Store) -> None:
    found = certify(store, "harmful", 0.05, 0.1, "good", 1.0)
    best = found.parts[0].best
    assert (found.chosen, found.warnings) == (ALL, ())
    assert best is not None
    assert best.p_value == 0.0
    inside = ~GONE & (best.kept.threshold >= GOOD)
    assert HARMFUL[inside].mean() <= 0.05 < HARMFUL[~GONE & (found.parts[0].steps[-1].kept.threshold >= GOOD)].mean()


# --- strata -----------------------------------------------------------------------------------------------------------


def test_strata_are_walked_apart_with_half_of_delta_each(store: Store, tmp_path: Path) -> None:
    sheet = labelled_sheet(store, tmp_path, 400, "asks")
    found = certify(store, sheet, None, 0.1, "good")
    assert [(part.stratum, part.alpha, part.delta) for part in found.parts] == [
        ("asks=yes", 0.2, 0.05),
        ("asks=no", 0.15, 0.05),
    ]
    for part, stratum in zip(found.parts, (ASKS & ~GONE, ~ASKS & ~GONE), strict=True):
        drawn = order(5, stratum)[: part.labelled]
        best = expected(GOOD, stratum, drawn, TRUTH, part.alpha, 0.05)
        assert (part.pool, part.threshold) == (int(stratum.sum()), best[0])
    assert sum(part.labelled for part in found.parts) == 400
    changed = certify(store, sheet, 0.3, 0.1, "good", 0.7, 0.4)
    assert [part.alpha for part in changed.parts] == [0.4, 0.3]
    with pytest.raises(ConfigError, match="drawn by stratum"):
        certified_threshold(store, sheet, 0.1, 0.1, "good")


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"by": "ranks"}, "--by ranks: the run has no scores of it; it has good, poor"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"delta": 0.0}, "delta=0.0"),
        ({"loosest": 0.72}, "0.72 is none of the shares"),
        ({"loosest": float("nan")}, "none of the shares"),
        ({"alpha_requests": 0.1}, "for labels of a stratified sample"),
        ({"alpha_requests": -1.0}, "alpha=-1.0"),
    ],
)
def test_settings_that_cannot_be(store: Store, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        certify(store, "harmful", **changes)


def test_a_damaged_run_certifies_nothing(store: Store, tmp_path: Path) -> None:
    copy = Store(str(tmp_path / "out"))
    shutil.copytree(store.path(), copy.path())
    name = max(file["name"] for file in store.read_facts(MANIFEST)["files"] if file["name"].startswith(SCORES))
    path = tmp_path / "out" / name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="is not as it was written; put it back"):
        certify(copy, "harmful")


def test_the_same_for_select(store: Store, tmp_path: Path) -> None:
    sheet = labelled_sheet(store, tmp_path, 250)
    found = certified_threshold(store, sheet, 0.1, 0.1, None)
    assert found == certify(store, sheet, 0.1, 0.1, "good")
    facts = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert facts["parts"][0]["threshold"] == found.parts[0].threshold
    assert facts["parts"][0]["certified"] is True
    assert facts["labels_sha256"] == {"sheet.jsonl": hashlib.sha256(Path(sheet).read_bytes()).hexdigest()}
    assert len(facts["parts"][0]["tried"]) == len(found.parts[0].steps)
