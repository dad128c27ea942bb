"""`tamis tune`: which ways there are, their figures against naive float64 scores, the split, and the fragment."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import yaml
from labelled_runs import write_run
from rich.console import Console
from typer.testing import CliRunner

from tamis.operators.methods import METHODS, Method
from tamis.pipeline.cli import app
from tamis.pipeline.commands.tune import SPLIT_SEED, _overlaps, beyond_length, fragment, halves, overlap, tune
from tamis.pipeline.commands.tune_screen import in_a_line, show_tuning
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.inputs.spans import Span
from tamis.pipeline.job.job_file import load_job
from tamis.pipeline.job.methods import settings_of
from tamis.pipeline.run import receipts
from tamis.pipeline.run.paths import WORK, table_of
from tamis.pipeline.storage.store import Store

Floats = npt.NDArray[np.float64]
ROWS, WIDTH, OUT = 90, 6, 17
COLUMNS = ("block_01.last_token", "block_02.last_token", "block_02.response_mean")
RNG = np.random.default_rng(11)
HARMFUL = RNG.random(ROWS) < 0.3
LENGTHS = RNG.integers(1, 60, ROWS)
# The blocks tell harm by 0, 1.5 and 0.7 standard deviations along the first dimension.
AXIS = np.eye(WIDTH)[0]
VECTORS = {
    name: (RNG.normal(size=(ROWS, WIDTH)) + step * np.outer(HARMFUL, AXIS)).astype(np.float32)
    for name, step in zip(COLUMNS, (0.0, 1.5, 0.7), strict=True)
}
SETS = {
    f"larf.{source}": {name: (RNG.normal(size=(12, WIDTH)) + sign * 2 * AXIS).astype(np.float32) for name in COLUMNS}
    for source, sign in (("unsafe", 1), ("safe", -1))
}
IN = [row for row in range(ROWS) if row != OUT]


@pytest.fixture(autouse=True, scope="module")
def few_resamples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tamis.pipeline.commands.evaluate.RESAMPLES", 30)
        patch.setattr("tamis.pipeline.commands.evaluate.FEWEST_RESAMPLES", 30)
        yield


def capture(store: Store, role: str, index: int, vectors: dict[str, Any], bad: list[int]) -> None:
    """A captured shard and its receipt. bad: places of quarantined rows, which hold other numbers."""
    rows = vectors.pop("rows") if "rows" in vectors else len(next(iter(vectors.values())))
    is_bad = np.isin(np.arange(rows), bad)
    columns: dict[str, Any] = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(np.where(is_bad[:, None], 99, values).ravel()), WIDTH)
        for name, values in vectors.items()
    }
    columns["code"] = pa.array(["empty" if each else None for each in is_bad], pa.string())
    file = SourceFile("/in/a.jsonl", "a.jsonl", "jsonl", None, 1, "1")
    shard = Shard(index, role, file, (), Span(0, rows, 0, 0), {}, f"{index:016x}")
    written = store.write_table(table_of(f"{WORK}/capture", shard.name), pa.table(columns))
    receipts.write(store, "capture", shard, "k", {"role": role, "file": written.to_receipt()})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return run(tmp_path / "out")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tune(run(tmp_path_factory.mktemp("tuned") / "out"), "harmful")


def run(folder: Path, columns: tuple[str, ...] = COLUMNS, *, method: str = "larf", layer: int = 1) -> Store:
    """A finished run of two shards that decided by this method at this block, with these vectors kept."""
    store = Store(str(folder))
    flags = {"input.path": ["a.jsonl"], "output": "out", "model.name": "m", "method": [method]}
    job = load_job(None, {**flags, f"{method}.layer": layer}).model_dump(mode="json")
    decisions = ["quarantined" if row == OUT else "kept" for row in range(ROWS)]
    scores: list[float | None] = [None if row == OUT else 0.0 for row in range(ROWS)]
    rows = [{"harmful": int(bad)} for bad in HARMFUL]
    facts = {"name": method, "title": method, "layer": layer, "position": "last_token", "facts": {"k": 1}}
    write_run(
        store,
        {"a.jsonl": rows},
        {method: scores},
        decisions,
        LENGTHS.tolist(),
        job=job,
        model={"blocks": 4},
        methods=[facts],
    )
    half = (ROWS + 1) // 2
    for index, (start, stop) in enumerate(((0, half), (half, ROWS))):
        vectors = {name: VECTORS[name][start:stop] for name in columns} or {"rows": stop - start}
        capture(store, "corpus", index, vectors, [OUT - start] if start <= OUT < stop else [])
    for number, (role, sets) in enumerate(SETS.items()):
        capture(store, role, 2 + number, {name: sets[name] for name in columns} or {"rows": 12}, [])
    return store


def unit(rows: Any) -> Floats:
    rows = np.asarray(rows, np.float64)
    return np.array([row / math.sqrt(math.fsum(row * row)) for row in rows])


def naive(method: str, column: str, k: int | None) -> Floats:
    """The scores of all rows that are not quarantined, written out in float64."""
    rows = VECTORS[column][IN].astype(np.float64)
    unsafe, safe = (unit(SETS[f"larf.{source}"][column]) for source in ("unsafe", "safe"))
    if method == "larf":
        return np.asarray(unit(rows) @ (unsafe.mean(axis=0) - safe.mean(axis=0)))
    if method == "contrast":
        return np.asarray(unit(rows) @ (unsafe.mean(axis=0) - unit(rows).mean(axis=0)))
    if method == "matching":
        return np.asarray((unit(rows) @ unsafe.T).max(axis=1))
    assert k is not None
    centred = rows - rows.mean(axis=0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:k]
    return np.asarray(((centred @ directions.T) ** 2).mean(axis=1))


def auroc(scores: Floats, harmful: npt.NDArray[np.bool_]) -> float:
    bad, good = scores[harmful], scores[~harmful]
    return float(((bad[:, None] > good) + 0.5 * (bad[:, None] == good)).mean())


def test_every_way_equals_its_naive_twin(tuned: Any) -> None:
    labels = HARMFUL[IN]
    first = halves(labels)
    ways = {(way["method"], way["layer"], way["position"], way["k"]) for way in tuned["ways"]}
    places = [(1, "last_token"), (2, "last_token"), (2, "response_mean")]
    # Contrast and matching take the references that LARF has captured: all three have the shipped set.
    assert ways == {
        *((name, *place, None) for name in ("larf", "contrast", "matching") for place in places),
        *(("saft", *place, k) for place in places for k in (1, 2, 4)),
    }
    for way in tuned["ways"]:
        scores = naive(way["method"], f"block_{way['layer']:02d}.{way['position']}", way["k"])
        for half, name in ((first, "chosen"), (~first, "confirmed")):
            assert way[name]["auroc"]["value"] == pytest.approx(auroc(scores[half], labels[half]), abs=2e-3)
            low, high = way[name]["auroc"]["interval"]
            assert low <= way[name]["auroc"]["value"] <= high
    values = [way["chosen"]["auroc"]["value"] for way in tuned["ways"]]
    assert values == sorted(values, reverse=True)
    length = auroc(LENGTHS[IN][first].astype(float), labels[first])
    assert tuned["answer_length"]["chosen"]["auroc"]["value"] == pytest.approx(length)
    assert tuned["ways"][0]["layer"] == 2
    assert any(line.startswith("saft, layer 1, position last_token, k 8: ") for line in tuned["left_out"])
    assert any(line.startswith("compliance: ") for line in tuned["left_out"])


def test_the_runs_own_way_is_known_and_compared(tuned: Any) -> None:
    [current] = [way for way in tuned["ways"] if way["current"]]
    assert (current["method"], current["layer"], current["position"]) == ("larf", 1, "last_token")
    best = tuned["ways"][0]["confirmed"]["auroc"]["value"]
    assert tuned["above_current"]["value"] == pytest.approx(best - current["confirmed"]["auroc"]["value"])
    low, high = tuned["above_current"]["interval"]
    assert low < tuned["above_current"]["value"] < high


def test_the_split_is_by_class_seeded_and_has_no_row_twice() -> None:
    first = halves(HARMFUL)
    assert first.sum() == (HARMFUL.sum() + 1) // 2 + ((~HARMFUL).sum() + 1) // 2
    assert (first & HARMFUL).sum() == (HARMFUL.sum() + 1) // 2
    assert (first == halves(HARMFUL)).all()
    assert SPLIT_SEED == 0
    assert not (first == (np.arange(ROWS) < first.sum())).all()
    with pytest.raises(InputError, match="1 harmful row"):
        halves(np.array([True, False, False]))


def test_rows_without_vectors_are_left_out(store: Store, tuned: Any, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("row,harmful\n" + "".join(f"{row},{int(HARMFUL[row])}\n" for row in range(ROWS)))
    by_file = tune(store, str(path))
    assert by_file["ways"] == tuned["ways"]
    assert by_file["labels"]["without_vectors"] == 1
    assert any("1 labelled rows have no vectors" in note for note in by_file["notes"])


def test_intervals_that_overlap_are_said(tuned: Any) -> None:
    best = tuned["ways"][0]
    [current] = [way for way in tuned["ways"] if way["current"]]
    for other, words in ((tuned["ways"][1], "the next"), (current, "the run's own way")):
        said = any(f"of the best and of {words} overlap" in note for note in tuned["notes"])
        assert said == overlap(best["chosen"]["auroc"], other["chosen"]["auroc"])
    assert not overlap({"interval": [0.1, 0.2]}, {"interval": [0.21, 0.3]})
    assert overlap({"interval": [0.1, 0.25]}, {"interval": [0.21, 0.3]})
    assert any("the half that chose flatters" in note for note in tuned["notes"])
    assert tuned["notes"][-1].startswith("labels that chose a way cannot certify its cut")
    assert not any("rows are labelled; unless" in note for note in tuned["notes"])  # but the one in quarantine


@pytest.mark.parametrize(
    ("interval", "above", "words"),
    [
        ([0.7, 0.8], [-0.01, 0.2], ["overlap: these labels do not tell which is better"]),
        (
            [0.7, 0.8],
            [0.01, 0.2],
            ["overlap: on the half that confirms, though, the best is above it by 0.010 to 0.200"],
        ),
        ([0.5, 0.6], [-0.01, 0.2], []),
    ],
)
def test_what_an_overlap_means(interval: list[float], above: list[float], words: list[str]) -> None:
    best, other = ({"chosen": {"auroc": {"interval": each}}} for each in ([0.75, 0.9], interval))
    said = list(
        _overlaps(best, {"next": other, "current": None}, {"above_next": {"interval": above}, "above_current": None})
    )
    assert len(said) == len(words)
    for note, part in zip(said, words, strict=True):
        assert part in note


@pytest.mark.parametrize("length", [0.85, 0.15])
def test_the_length_counts_in_the_direction_that_tells_more(length: float) -> None:
    best = {"auroc": {"interval": [0.8, 0.9]}, "equal_length": {"interval": [0.516, 0.556]}}
    above, alike = beyond_length(best, length)
    assert above.startswith("answer length alone has an AUROC of 0.850")
    assert "no more than 0.55" in alike
    sound = {"auroc": {"interval": [0.86, 0.9]}, "equal_length": {"interval": [0.56, 0.6]}}
    assert not list(beyond_length(sound, length))


def test_the_fragment_is_part_of_a_job(tuned: Any) -> None:
    best, tree = tuned["ways"][0], yaml.safe_load(tuned["fragment"])
    job = load_job(None, {"input.path": ["a.jsonl"], "output": "out", "model.name": "m", **_dotted(tree)})
    assert job.method == [best["method"]]
    section = job.of(best["method"])
    assert section.layer == best["layer"]
    assert section.position == best["position"]
    assert f"{best['confirmed']['auroc']['value']:.3f}" in tuned["fragment"].splitlines()[0]


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if issubclass(kind, Method)])
def test_every_methods_fragment_loads_as_the_same_method(name: str) -> None:
    where = {"csa.blocks": [1, 3]} if name == "csa" else {f"{name}.layer": 3}
    flags = {"input.path": ["a.jsonl"], "output": "out", "model.name": "m", "method": [name], **where}
    if METHODS[name].references:
        flags[f"{name}.unsafe_references"] = "mine.jsonl"
    job = load_job(None, flags)
    method = METHODS[name](**settings_of(METHODS[name], job.of(name)))
    figures = {half: {"auroc": {"value": 0.5, "interval": [0.4, 0.6]}} for half in ("chosen", "confirmed")}
    text = fragment(method, job.model_dump(mode="json"), figures, [{"harmful": 1, "harmless": 1}] * 2)
    again = load_job(None, {**{key: flags[key] for key in list(flags)[:3]}, **_dotted(yaml.safe_load(text))})
    assert again.method == [name]
    expected = job.of(name)
    # The figures are of a fit to all rows, whatever the run drew.
    assert again.of(name) == (expected.model_copy(update={"sample": "all"}) if name == "contrast" else expected)


def test_a_run_with_an_artifact_was_fitted_elsewhere(store: Store) -> None:
    manifest = store.read_facts("manifest.json")
    manifest["job"]["artifact"] = "other"
    store.write_facts("manifest.json", manifest)
    found = tune(store, "harmful")
    assert not any(way["current"] for way in found["ways"])
    assert any("with an artifact of another run" in note for note in found["notes"])


def _dotted(tree: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def test_references_of_another_file_are_not_taken(store: Store, tmp_path: Path) -> None:
    """The run captured the references of LARF; its job names others for Contrast, which were not captured."""
    manifest = store.read_facts("manifest.json")
    manifest["job"]["contrast"]["unsafe_references"] = "mine.jsonl"
    store.write_facts("manifest.json", manifest)
    found = tune(store, "harmful")
    assert {way["method"] for way in found["ways"]} == {"larf", "matching", "saft"}
    assert any(line.startswith("contrast: ") for line in found["left_out"])


def test_a_run_that_kept_no_vectors(store: Store, tmp_path: Path) -> None:
    store.remove(f"{WORK}/receipts/capture")
    with pytest.raises(ConfigError, match=r"vectors of 0 of its 2 shards.*keep_captures"):
        tune(store, "harmful")
    with pytest.raises(ConfigError, match="kept no vectors, only scores"):
        tune(run(tmp_path / "scores", ()), "harmful")


def test_a_damaged_capture(store: Store) -> None:
    [name] = [name for name in store.list(f"{WORK}/capture") if name.startswith("000001")]
    path = Path(store.path(f"{WORK}/capture/{name}"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="is not as it was written"):
        tune(store, "harmful")


def test_large_captures_are_not_held(store: Store, tuned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tamis.pipeline.commands.kept_vectors._HELD_BYTES", 0)
    assert tune(store, "harmful") == {**tuned, "output": store.path()}


def test_the_command_writes_the_fragment_once(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    done = CliRunner().invoke(app, ["tune", store.path(), "--labels", "harmful", "--write", str(path), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert path.read_text() == found["fragment"]
    again = CliRunner().invoke(app, ["tune", store.path(), "--labels", "harmful", "--write", str(path)])
    assert isinstance(again.exception, ConfigError)
    assert "is there already" in str(again.exception)
    nowhere = CliRunner().invoke(app, ["tune", store.path(), "--labels", "harmful", "--write", "/nowhere/best.yaml"])
    assert "its folder is not there" in str(nowhere.exception)


def test_the_screen(tuned: Any) -> None:
    console = Console(width=200, record=True, force_terminal=False)
    show_tuning(console, tuned)
    text = console.export_text()
    for words in ("larf *", "saft", "answer length", "left out: compliance", "method: ", "note: "):
        assert words in text
    assert in_a_line(tuned).startswith(f"best of {len(tuned['ways'])} ways: {tuned['ways'][0]['method']}")
