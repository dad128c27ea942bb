"""Nights that add up, with the real command: three nights with one artifact, a new one from their captures; and a
night that is killed. The table of cases is in tests/pipeline/nights."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import yaml
from command import Ran, kill_all, poll, start, tamis
from outputs import alpaca_rows, check_whole, manifest_of, rows_of, write_jsonl

pytestmark = pytest.mark.long

METHODS = ["larf", "saft"]
DAYS = ("2024-11-27", "2024-11-28", "2024-11-29")


class Nights:
    """A job with a schedule, in its folder."""

    def __init__(self, folder: Path, model: Path, address: str | None, **settings: Any) -> None:
        self.folder, self.root, self.address = folder, folder / "nights", address
        job: dict[str, Any] = {
            "input": str(folder / "in"),
            "model": {"name": str(model)},
            "method": METHODS,
            "larf": {"layer": 1},
            "selection": {"drop": 0.25},
            "shard_rows": 8,
            "drift_limit": None,
            "keep_captures": True,
            "schedule": {"root": str(self.root), "artifact": {"refit_every": 2}},
        }
        (folder / "job.yaml").write_text(yaml.safe_dump({**job, **settings}))

    def deliver(self, name: str, count: int, seed: int) -> Path:
        return write_jsonl(self.folder / "in" / name, alpaca_rows(count, seed))

    def flags(self) -> list[str]:
        return [] if self.address is None else ["--address", self.address]

    def run(self, *words: object, code: int = 0) -> Ran:
        ran = tamis(*words, *self.flags(), cwd=self.folder)
        assert ran.rc == code, ran.output
        return ran

    def curate(self, day: str, code: int = 0) -> Ran:
        return self.run("curate", "job.yaml", "--date", day, code=code)

    def out(self, day: str) -> Path:
        return self.root / day


def sources(out: Path) -> list[str]:
    return [file["path"] for file in manifest_of(out)["input"]["files"]]


def arrays(artifact: Path) -> dict[str, bytes]:
    """The numbers of an artifact, to the bit."""
    found = {}
    for method in METHODS:
        loaded = safetensors.numpy.load((artifact / f"{method}.safetensors").read_bytes())
        found |= {f"{method} {name}": value.tobytes() for name, value in loaded.items()}
    return found


def test_nights_add_up(tmp_path: Path, tiny_model: Path, ray_address: str) -> None:
    nights = Nights(tmp_path, tiny_model, ray_address)
    first, second, third = map(nights.out, DAYS)
    nights.deliver("27/a.jsonl", 20, 1)
    nights.deliver("27/b.jsonl", 12, 2)
    nights.curate(DAYS[0])
    check_whole(first, METHODS, work_kept=True)
    assert sources(first) == ["27/a.jsonl", "27/b.jsonl"]

    shutil.copy(tmp_path / "in/27/a.jsonl", tmp_path / "in/27/twice.jsonl")
    nights.deliver("28/c.jsonl", 24, 3)
    planned = nights.run("plan", "job.yaml", "--date", DAYS[1])
    assert "delivered twice" in planned.output
    assert not second.exists()
    nights.curate(DAYS[1])
    manifest = check_whole(second, METHODS, work_kept=True)
    assert sources(second) == ["28/c.jsonl"]
    assert [(item["path"], item["run"]) for item in manifest["night"]["duplicates"]] == [("27/twice.jsonl", DAYS[0])]
    assert manifest["night"]["artifact"] == DAYS[0]
    assert arrays(second / "artifact") == arrays(first / "artifact")
    scores = [row["larf"] for row in rows_of(second, "scores") if row["decision"] == "dropped"]
    assert all(score >= manifest["selection"]["cut"] for score in scores)
    assert len({row["sample_id"] for day in DAYS[:2] for row in rows_of(nights.out(day), "scores")}) == 56

    # What is fitted from the captures of both is what one run over all of their rows fits, to the bit.
    nights.run("refit", nights.root, "--output", "refitted")
    words = [word for name in ("27/a", "27/b", "28/c") for word in ("--input", f"in/{name}.jsonl")]
    words += ["--model", tiny_model, "--method", "larf", "--method", "saft", "--drop", "0.25", "--output", "whole"]
    nights.run("curate", *words, "--set", "larf.layer=1", "--set", "shard_rows=8")
    one, other = (json.loads((tmp_path / name / "artifact/frozen.json").read_text()) for name in ("refitted", "whole"))
    assert arrays(tmp_path / "refitted/artifact") == arrays(tmp_path / "whole/artifact")
    assert arrays(tmp_path / "refitted/artifact") != arrays(first / "artifact")
    assert (one["cut"], one["statistics"]) == (other["cut"], other["statistics"])

    # The third night makes the same by itself, since two have used the artifact.
    nights.deliver("29/d.jsonl", 16, 4)
    nights.curate(DAYS[2])
    manifest = check_whole(third, METHODS, work_kept=True)
    assert sources(third) == ["29/d.jsonl"]
    assert manifest["night"]["artifact"] == f"_artifacts/{DAYS[2]}"
    assert manifest["selection"]["cut"] == one["cut"]["score"]
    assert arrays(third / "artifact") == arrays(tmp_path / "refitted/artifact")

    before = sorted(nights.root.rglob("*"))
    assert "nothing is new" in nights.curate("2024-11-30").output
    assert "is finished" in nights.curate(DAYS[0]).output
    assert sorted(nights.root.rglob("*")) == before

    # A night whose captures are gone.
    shutil.rmtree(second / "_work")
    refused = nights.run("refit", first, second, "--output", "none", code=2)
    assert f"{second} has kept the captures of 0 of its 3 shards" in refused.output
    assert not (tmp_path / "none").exists()


def test_a_killed_night_leaves_its_files_to_the_next(tmp_path: Path, slow_model: Path) -> None:
    """The command starts Ray itself here, so that the kill ends Ray, too."""
    nights = Nights(tmp_path, slow_model, None, keep_captures=False, schedule={"root": str(tmp_path / "nights")})
    nights.deliver("27.jsonl", 60, 1)
    driver = start("curate", "job.yaml", "--date", DAYS[0], cwd=tmp_path)
    receipts = nights.out(DAYS[0]) / "_work/receipts/capture"
    poll(lambda: any(receipts.glob("*.json")), driver, "the first receipt")
    driver.send_signal(signal.SIGSTOP)  # so that it cannot end before the other one looks
    busy = nights.curate(DAYS[1], code=2)
    assert f"another tamis is at work in {nights.root}" in busy.output
    kill_all(driver)
    assert not (nights.out(DAYS[0]) / "manifest.json").exists()

    nights.deliver("28.jsonl", 10, 2)
    ran = nights.curate(DAYS[1])
    assert f"{DAYS[0]}: it was begun and has not ended; its files are taken by this night" in ran.output
    check_whole(nights.out(DAYS[1]), METHODS)
    assert sources(nights.out(DAYS[1])) == ["27.jsonl", "28.jsonl"]
    refused = nights.curate(DAYS[0], code=2)
    assert f"night {DAYS[1]} has taken its files" in refused.output
    assert np.isfinite([row["larf"] for row in rows_of(nights.out(DAYS[1]), "scores")]).all()
