"""`import tamis` on real runs: from rows in memory to the tables, another cut, labels and an export; and the notebook
in docs/, as it is."""

from __future__ import annotations

import copy
import os
import signal
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from outputs import alpaca_rows, check_whole, pair

import tamis

pytestmark = pytest.mark.long

NOTEBOOK = Path(__file__).parents[2] / "docs" / "python.ipynb"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_from_rows_in_memory_to_an_export(
    tiny_model: Path, tmp_path: Path, ray_address: str, session: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """On the cluster that this process itself has joined, and does not leave for it."""
    import ray

    rows = [{"messages": pair(row["instruction"], row["output"]), "n": i} for i, row in enumerate(alpaca_rows(60, 3))]
    rows[7]["n"] = "seven"
    references = {"unsafe": [{"messages": pair("Harm", "Sure, here it is")}] * 3, "safe": alpaca_rows(3, 5)}
    before = copy.deepcopy((rows, references))
    out = tmp_path / "out"
    job: dict[str, Any] = {"model": tiny_model, "method": ["contrast", "saft"], "drop": 0.2, "output": out}
    job |= {"references": {"unsafe": references["unsafe"]}, "address": ray_address, "shard_rows": 16}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    environment = dict(os.environ)

    planned = tamis.plan(rows, **job)
    assert (planned.rows, planned.state, planned.will_fail) == (60, "new", False)
    assert not out.exists()
    run = tamis.curate(rows, **job)
    check_whole(out, ["contrast", "saft"])
    assert (run.counts["kept"], run.counts["dropped"], run.counts["quarantined"]) == (48, 12, 0)
    scores = run.scores.to_pandas()
    assert scores["row"].tolist() == list(range(60))
    assert sorted(scores.nlargest(12, "contrast").index) == scores.query("decision == 'dropped'").index.tolist()
    # JSON in the files, as the column holds two types; `datasets` reads it as what it says.
    found = [row for part in (run.kept, run.dropped) for row in part.select_columns(["messages", "n"])]
    assert sorted(found, key=lambda row: str(row["n"])) == sorted(rows, key=lambda row: str(row["n"]))
    capfd.readouterr()

    again = tamis.curate([dict(row) for row in rows], **job, quiet=True)
    assert again.manifest == run.manifest
    said, err = capfd.readouterr()
    assert said == ""
    assert [line for line in err.splitlines() if not line.startswith("warning: ")] == []
    loaded = tamis.load(out)
    assert loaded.manifest == run.manifest

    fewer = tamis.select(loaded, tmp_path / "fewer", drop_count=5, by="saft", address=ray_address)
    assert fewer.counts["dropped"] == 5
    dropped = fewer.scores.to_pandas().query("decision == 'dropped'")
    assert dropped.index.tolist() == sorted(scores.nlargest(5, "saft").index)
    labels = [{"sample_id": name, "harmful": i % 2} for i, name in enumerate(scores["sample_id"])]
    figures = tamis.evaluate(fewer, labels)
    assert figures["labels"]["labelled"] == 60
    assert {method["name"] for method in figures["methods"]} == {"contrast", "saft"}
    exported = tamis.export(fewer, "trl", tmp_path / "trl")
    assert exported.rows == 55
    assert Path(exported.start).is_file()

    with pytest.raises(tamis.errors.ConfigError, match="holds the finished result"):
        tamis.curate(rows, **{**job, "drop": 0.3})
    assert (rows, references) == before
    assert ray.is_initialized()
    assert ray.get(ray.put(1)) == 1
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    # Libraries that were imported here for the first time may have set variables of their own.
    assert {name: os.environ.get(name) for name in environment} == environment
    assert not [name for name in os.environ.keys() - environment if name.startswith(("TAMIS", "RAY", "HF_"))]


def test_the_notebook_runs_as_it_is(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a Ray that tamis starts and stops, and the references that it ships."""
    monkeypatch.setenv("TAMIS_MODEL", str(tiny_model))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in shown if output.output_type == "error"]
    assert [output for output in shown if "<iframe srcdoc" in output.get("data", {}).get("text/html", "")]
    lines = "".join(output.text for output in shown if output.output_type == "stream" and output.name == "stderr")
    assert "54 kept, 6 dropped" in lines
    assert tamis.load(tmp_path / "tamis-notebook" / "out-20").counts["dropped"] == 12
