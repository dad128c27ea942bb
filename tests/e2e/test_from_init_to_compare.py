"""A job by hand, from `tamis init` to `tamis compare`, every answer taken from stdout with `--json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import Ran, tamis
from outputs import alpaca_rows, manifest_of, write_jsonl

pytestmark = pytest.mark.long


def answer(ran: Ran) -> dict[str, Any]:
    assert ran.rc == 0, ran.output
    found = json.loads(ran.stdout)
    assert isinstance(found, dict)
    return found


def test_from_init_to_compare(tiny_model: Path, tmp_path: Path, ray_address: str) -> None:
    write_jsonl(tmp_path / "data.jsonl", [*alpaca_rows(60, 1), {"instruction": "no answer", "input": "", "output": ""}])
    flags = ("--method", "contrast,saft", "--drop", "20%", "--set", "max_quarantined=0.1")
    ran = tamis("init", "-i", "data.jsonl", "-m", tiny_model, *flags, cwd=tmp_path)
    assert (ran.rc, ran.stdout.splitlines()[-1]) == (0, "next: tamis plan job.yaml")
    planned = answer(tamis("plan", "job.yaml", "--json", cwd=tmp_path))
    assert (planned["rows"], planned["methods"], planned["will_fail"]) == (61, ["contrast", "saft"], False)
    at = ("--address", ray_address)
    curated = answer(tamis("curate", "job.yaml", "--json", *at, cwd=tmp_path))
    assert (curated["rows_in"], curated["kept"], curated["dropped"], curated["quarantined"]) == (61, 48, 12, 1)
    assert curated["corpus"] == str(tmp_path / "out/kept")
    again = answer(tamis("curate", "job.yaml", "--json", *at, cwd=tmp_path))
    assert again == curated | {"did_nothing": True}
    assert answer(tamis("status", "out", "--json", cwd=tmp_path))["state"] == "complete"
    assert answer(tamis("verify", "out", "--json", cwd=tmp_path))["problems"] == []
    # A selection has the same scores, in the same rows, and they are proven to be the same texts.
    cut = tamis("select", "out", "--by", "saft", "-o", "by-saft", *at, cwd=tmp_path)
    assert cut.rc == 0, cut.output
    found = answer(tamis("compare", "out", "by-saft", "-o", "side", "--json", cwd=tmp_path))
    assert found["rows"] == {"shared": 61, "in": {"A": 61, "B": 61}, "scored_in_all": 60, "unproven": 0}
    assert found["notes"] == []
    [pair] = found["pairs"]
    assert (pair["both"] + pair["only"][0], pair["both"] + pair["only"][1]) == (12, 12)
    by_method = {(each["a"]["method"], each["b"]["method"]): each for each in found["ranks"]}
    assert by_method["saft", "saft"]["identical"]
    assert by_method["contrast", "contrast"]["spearman"] == 1.0
    # The run's own test of its methods comes to nearly the same correlation, from binned ranks.
    [agreement] = manifest_of(tmp_path / "out")["trust"]["agreement"]["pairs"]
    assert by_method["contrast", "saft"]["spearman"] == pytest.approx(agreement["spearman"], abs=1e-3)
    assert (tmp_path / "side/compare.html").stat().st_size > 5_000
    # Damage is refused, and named.
    [table] = (tmp_path / "by-saft/scores").iterdir()
    table.write_bytes(table.read_bytes()[:-1])
    damaged = tamis("compare", "out", "by-saft", cwd=tmp_path)
    assert damaged.rc == 3
    assert f"{table.name}: is not as it was written" in damaged.stderr
