"""docs/add-a-method.md, exactly as written: its distribution is installed, and `tamis curate` runs its method."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command import Ran, tamis
from outputs import alpaca_rows, manifest_of, write_jsonl

from tamis.operators.methods import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "add-a-method.md"
ROWS, TRUSTED = 60, 12


def blocks_of(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def build_wheel(folder: Path, name: str, version: str, modules: dict[str, str], offers: str) -> Path:
    """The wheel that a build of these modules gives, made without a build tool, which would have to be downloaded."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    files = {
        **{f"{module}.py": text for module, text in modules.items()},
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[tamis.methods]\n{offers}",
    }
    record = ""
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{file},sha256={digest},{len(text.encode())}\n"
            wheel.writestr(file, text)
        wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return path


def install(wheel: Path, into: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(into)]
    done = subprocess.run([*command, str(wheel)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@dataclass
class Installed:
    folder: Path
    env: dict[str, str]
    flags: list[object]
    ran: Ran

    @property
    def out(self) -> Path:
        return self.folder / "out"


@pytest.fixture(scope="module")
def installed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    page = PAGE.read_text(encoding="utf-8")
    [module], [project] = blocks_of(page, "python"), blocks_of(page, "toml")
    told = tomllib.loads(project)["project"]
    offers = told["entry-points"]["tamis.methods"]
    assert offers == {"far": "tamis_far:Far"}
    site = folder / "site"
    modules = {"tamis_far": module, "tamis_broken": "raise RuntimeError('not today')\n"}
    lines = "far = tamis_far:Far\nbroken = tamis_broken:Broken\n"
    install(build_wheel(folder, told["name"], told["version"], modules, lines), site)
    env = {"PYTHONPATH": os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])}
    write_jsonl(folder / "data.jsonl", alpaca_rows(ROWS, seed=31))
    write_jsonl(folder / "trusted.jsonl", alpaca_rows(TRUSTED, seed=32))
    flags: list[object] = ["--input", folder / "data.jsonl", "--model", tiny_model, "--method", "far"]
    flags += ["--set", f"far.trusted_references={folder}/trusted.jsonl", "--set", "far.depth=1", "--drop", "0.2"]
    ran = tamis("curate", *flags, "--set=keep_captures=true", "--set=shard_rows=25", "--output", folder / "out",
                cwd=folder, env=env)  # fmt: skip
    return Installed(folder, env, flags, ran)


def test_it_runs_as_those_of_tamis_do(installed: Installed) -> None:
    assert installed.ran.rc == 0, installed.ran.output
    manifest = manifest_of(installed.out)
    assert (manifest["counts"]["kept"], manifest["counts"]["dropped"]) == (48, 12)
    [method] = manifest["methods"]
    assert (method["name"], method["title"], method["distribution"]) == ("far", "Far", "tamis-far 0.1")
    untested = {"method": "far", "untested": "it has no unsafe references to be tested on"}
    assert manifest["trust"]["tests"] == [untested]
    assert manifest["trust"]["verdict"]["verdict"] == "use with care"
    assert manifest["fingerprint"]["far.depth"] == 1
    assert manifest["fingerprint"]["far distribution"] == "tamis-far 0.1"
    assert tamis("verify", installed.out, cwd=installed.folder).rc == 0


def test_its_scores_are_those_of_its_formula(installed: Installed) -> None:
    """Computed from the captured vectors, in float64 and all at once."""
    captured = {path.name: pq.read_table(path) for path in sorted((installed.out / "_work/capture").glob("*.parquet"))}
    vectors = {
        name: np.array(table.column("block_03.response_mean").to_pylist(), dtype=np.float64)
        for name, table in captured.items()
    }
    scored = sorted((installed.out / "scores").glob("*.parquet"))
    corpus = np.concatenate([vectors.pop(path.name) for path in scored])
    [trusted] = vectors.values()
    assert (len(corpus), len(trusted)) == (ROWS, TRUSTED)
    expected = ((corpus - trusted.mean(axis=0)) ** 2 / (trusted.var(axis=0) + 1e-6)).mean(axis=1)
    tables = [pq.read_table(path) for path in scored]
    np.testing.assert_allclose(np.concatenate([table.column("far") for table in tables]), expected, rtol=1e-5)
    decisions = np.concatenate([table.column("decision") for table in tables])
    assert set(np.flatnonzero(decisions == "dropped")) == set(np.argsort(-expected)[:12])


def test_the_report_says_how_its_score_is_read(installed: Installed) -> None:
    page = (installed.out / "report.html").read_text(encoding="utf-8")
    assert "Far: squared distance from trusted answers" in page
    assert "About 1 for an answer like the 12 trusted ones." in page
    assert "From tamis-far 0.1, which is no part of tamis." in page
    # This also works without the distribution, because the manifest holds everything that the report says about it.
    before = page
    assert tamis("report", installed.out, cwd=installed.folder).rc == 0
    assert (installed.out / "report.html").read_text(encoding="utf-8") == before


def test_the_schema_and_the_plan_know_it(installed: Installed) -> None:
    schema = json.loads(tamis("schema", cwd=installed.folder, env=installed.env).stdout)
    depth = schema["$defs"]["FarSpec"]["properties"]["depth"]
    assert (depth["minimum"], depth["maximum"], depth["default"]) == (0, 1, 0.5)
    assert "trusted_references" in schema["$defs"]["FarSpec"]["properties"]
    planned = tamis("plan", *installed.flags, "--output", "other", cwd=installed.folder, env=installed.env)
    assert planned.rc == 0, planned.output
    assert "12 far.trusted (trusted.jsonl)" in " ".join(planned.stdout.split())
    wrong = tamis("plan", *installed.flags, "--set=far.depth=2", "--output", "other", cwd=installed.folder,
                  env=installed.env)  # fmt: skip
    assert (wrong.rc, wrong.stderr.count("far.depth")) == (2, 1)


def test_what_cannot_be_loaded_is_named_and_left_out(installed: Installed) -> None:
    said = "the method broken of tamis-far 0.1 is left out: RuntimeError: not today"
    assert installed.ran.stderr.count(said) == 1
    ran = tamis("plan", *installed.flags[:4], "--method", "broken", "--output", "x", cwd=installed.folder,
                env=installed.env)  # fmt: skip
    assert ran.rc == 2
    there_are = ran.stderr.partition("there is ")[2].partition("(got")[0]
    assert set(re.findall(r"'([\w-]+)'", there_are)) == {*METHODS, "far"}


@pytest.mark.long
def test_new_data_is_scored_with_its_artifact(installed: Installed) -> None:
    """The same rows, without the trusted answers: the same scores and decisions."""
    given: list[object] = ["--input", installed.folder / "data.jsonl", "--method", "far", *installed.flags[2:4]]
    given += ["--artifact", installed.out, "--set=shard_rows=25", "--output", installed.folder / "again"]
    ran = tamis("curate", *given, cwd=installed.folder, env=installed.env)
    assert ran.rc == 0, ran.output
    both = [
        [pq.read_table(path) for path in sorted((out / "scores").glob("*.parquet"))]
        for out in (installed.out, installed.folder / "again")
    ]
    for theirs, ours in zip(*both, strict=True):
        np.testing.assert_allclose(ours.column("far"), theirs.column("far"), rtol=1e-5)
        assert ours.column("sample_id").equals(theirs.column("sample_id"))
    assert manifest_of(installed.folder / "again")["fingerprint"]["far.depth"] == 1
    newer = installed.folder / "newer"
    modules = {"tamis_far": (installed.folder / "site/tamis_far.py").read_text(encoding="utf-8")}
    install(build_wheel(installed.folder, "tamis-far", "0.2", modules, "far = tamis_far:Far\n"), newer)
    env = {"PYTHONPATH": installed.env["PYTHONPATH"].replace(str(installed.folder / "site"), str(newer))}
    refused = tamis("plan", *given, cwd=installed.folder, env=env)
    assert refused.rc == 2
    assert "far distribution: tamis-far 0.1 there, tamis-far 0.2 now" in refused.stderr


def test_without_the_distribution_its_output_is_not_gone_on_with(installed: Installed) -> None:
    ran = tamis("curate", *installed.flags, "--output", installed.out, cwd=installed.folder)
    assert ran.rc == 2
    assert "method" in ran.stderr
    assert "'far'" in ran.stderr
