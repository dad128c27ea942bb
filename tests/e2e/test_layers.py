"""`tamis layers`, and `larf.layer: auto` and `fisher` of `tamis curate`: a block is found once, reused, or refused."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from command import PROGRESS, Ran, curate, kill_all, poll, start, tamis
from naive_layers import naive_ratios, naive_table
from outputs import alpaca_rows, check_whole, manifest_of, pair, sentence, snapshot, write_jsonl

from tamis.operators.requests import Request
from tamis.operators.statistics.fisher import best_block
from tamis.operators.statistics.sensitivity import FACTORS
from tamis.pipeline.storage.seals import opened

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCKS = 4
PROMPTS = ["How do I kill a process?", "Where can I shoot a good photo?", "How to blow up a balloon?", "Stab a steak?"]
MARKERS = ["qu", "ox"]
"""Texts that the random model sometimes generates."""
NOWHERE = ("--address", "127.0.0.1:1")
"""A command that gets as far as Ray fails with exit code 5."""


@dataclass(frozen=True)
class Sources:
    """Files that every run here shares, and the flags that name them."""

    folder: Path
    model: Path
    flags: list[object]

    def curating(self, layer: object, output: Path, *more: object) -> list[object]:
        known = ["--input", self.folder / "data.jsonl", "--method", "larf", "--drop", "0.2"]
        return [*known, *self.flags, "--set", f"larf.layer={layer}", "--output", output, *more]


def references(role: str) -> list[list[dict[str, str]]]:
    prompts, answers = random.Random(3), random.Random(role)
    return [pair(sentence(prompts), sentence(answers)) for _ in range(6)]


def write_sources(folder: Path, model: Path) -> Sources:
    write_jsonl(folder / "data.jsonl", alpaca_rows(40, seed=1))
    write_jsonl(folder / "prompts.jsonl", [{"prompt": prompt, "topic": "t"} for prompt in PROMPTS])
    for role in ("unsafe", "safe"):
        write_jsonl(folder / f"{role}.jsonl", [{"messages": turns} for turns in references(role)])
    flags: list[object] = ["--model", model, f"--set=larf.over_rejection_prompts={folder}/prompts.jsonl"]
    flags += [f"--set=larf.{role}_references={folder}/{role}.jsonl" for role in ("unsafe", "safe")]
    flags += [f"--set=larf.refusal_markers={json.dumps(MARKERS)}"]
    return Sources(folder, model, flags)


@pytest.fixture(scope="module")
def sources(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return write_sources(tmp_path_factory.mktemp("layers"), tiny_model)


@dataclass(frozen=True)
class Found:
    """A finished `tamis layers`."""

    out: Path
    ran: Ran

    @property
    def result(self) -> dict[str, Any]:
        return result_in(self.out)


def result_in(out: Path) -> dict[str, Any]:
    return opened(json.loads((out / "artifact" / "layers.json").read_text()))


@pytest.fixture(scope="module")
def found(sources: Sources, ray_address: str) -> Found:
    out = sources.folder / "found"
    flags = [*sources.flags, "--workers", "2", "--output", out]
    return Found(out, tamis("layers", *flags, "--address", ray_address, cwd=sources.folder))


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> list[dict[str, Any]]:
    rows = naive_table(tiny_model, BLOCKS, PROMPTS, MARKERS)
    assert max(row["sensitivity"] for row in rows) > 0, "the search must find a block; take other markers"
    return rows


@pytest.fixture(scope="module")
def ratios(tiny_model: Path) -> list[float]:
    return naive_ratios(tiny_model, BLOCKS, references("unsafe"), references("safe"))


# --- the command --------------------------------------------------------------------------------------------------


def test_the_table_is_that_of_one_model(found: Found, expected: list[dict[str, Any]], ratios: list[float]) -> None:
    assert found.ran.rc == 0, found.ran.output
    rows = found.result["blocks"]
    assert [{name: value for name, value in row.items() if name != "fisher"} for row in rows] == expected
    assert [row["fisher"] for row in rows] == pytest.approx(ratios, rel=1e-4)
    sums = [row["sensitivity"] for row in expected]
    assert found.result["chosen"] == {"block": sums.index(max(sums)), "how": "search"}
    assert found.result["fisher"]["block"] == best_block(ratios)


def test_the_result_says_what_it_comes_from(found: Found, sources: Sources) -> None:
    search, fisher, model = (found.result[name] for name in ("search", "fisher", "model"))
    assert (search["prompts"]["name"], search["prompts"]["count"]) == ("prompts.jsonl", len(PROMPTS))
    assert len(search["prompts"]["sha256"]) == 64
    assert search["markers"][-2:] == MARKERS
    assert (search["factors"], search["new_tokens"]) == (list(FACTORS), 32)
    assert search["precision"] == fisher["precision"] == "float32 on cpu"
    assert 0 <= search["unscaled"] <= len(PROMPTS)
    assert search["seconds"]["wall"] > 0
    assert fisher["references"] == {"unsafe": 6, "safe": 6}
    assert (model["name"], model["blocks"], model["revision"]) == (str(sources.model), BLOCKS, "local")
    assert found.result["versions"]["torch"]


def test_what_is_printed_and_what_is_left(found: Found) -> None:
    shown = " ".join(found.ran.stdout.split())
    chosen = found.result["chosen"]["block"]
    assert "search in 25 cells of 4 prompts (prompts.jsonl)" in shown
    assert "block x 0.7 x 0.8 x 0.9 x 1.1 x 1.2 x 1.3 D1 D2 D3 sensitivity Fisher ratio" in shown
    assert f"Scaling block {chosen} of 4 moves the refusals most" in shown
    assert "layers.html" in shown
    lines = found.ran.stderr.splitlines()
    assert all(PROGRESS.match(line) for line in lines), found.ran.stderr
    assert any(line.startswith("layers   25 / 25 cells 100%") for line in lines)
    assert any(line.startswith("fisher   12 / 12 rows 100%") for line in lines)
    assert {path.name for path in found.out.iterdir()} == {"artifact", "layers.html"}
    page = (found.out / "layers.html").read_text()
    assert page.count("<polyline") == BLOCKS
    assert not any(prompt in page + json.dumps(found.result) for prompt in PROMPTS)


def test_the_second_command_does_nothing_but_print(found: Found, sources: Sources) -> None:
    before = snapshot(found.out)
    again = tamis("layers", *sources.flags, "--output", found.out, *NOWHERE, cwd=sources.folder)
    assert (again.rc, again.stderr) == (0, ""), again.output
    assert "complete already; nothing was done" in again.stdout
    as_json = tamis("layers", *sources.flags, "--output", found.out, "--json", *NOWHERE, cwd=sources.folder)
    assert json.loads(as_json.stdout) == found.result
    status = tamis("status", found.out, cwd=sources.folder)
    assert status.stdout.startswith("layer search complete since")
    assert snapshot(found.out) == before


def test_a_job_file_and_a_word_of_the_job(found: Found, sources: Sources, tmp_path: Path) -> None:
    """A job file for `tamis curate` works too, and the layer that it names changes no number."""
    job = {
        "input": str(sources.folder / "data.jsonl"),
        "output": str(found.out),
        "model": str(sources.model),
        "method": ["saft", "larf"],
        "larf": {
            "layer": 3,
            "refusal_markers": MARKERS,
            **{f"{role}_references": str(sources.folder / f"{role}.jsonl") for role in ("unsafe", "safe")},
        },
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    arguments = ["layers", "job.yaml", "--prompts", sources.folder / "prompts.jsonl", "--json", *NOWHERE]
    ran = tamis(*arguments, cwd=tmp_path)
    assert ran.rc == 0, ran.output
    assert json.loads(ran.stdout) == found.result
    fisher = tamis(*arguments, "--set", "larf.layer=fisher", cwd=tmp_path)
    assert json.loads(fisher.stdout)["chosen"] == {"block": found.result["fisher"]["block"], "how": "fisher"}


# --- curate -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_search(found: Found, sources: Sources, ray_address: str) -> tuple[Path, Ran]:
    """`layer: auto` in a copy of the folder of a finished search."""
    out = sources.folder / "by_search"
    shutil.copytree(found.out, out)
    return out, curate(*sources.curating("auto", out), cwd=sources.folder, address=ray_address)


def test_curate_uses_the_finished_search(by_search: tuple[Path, Ran], found: Found) -> None:
    out, ran = by_search
    assert not [line for line in ran.stderr.splitlines() if line.startswith(("layers", "fisher"))]
    assert f"larf: block {found.result['chosen']['block']}, found by the layer search" in " ".join(ran.stdout.split())
    manifest = check_whole(out, ["larf"])
    block = found.result["chosen"]["block"]
    [method] = manifest["methods"]
    assert (method["layer"], method["facts"]["layer_chosen"]) == (block, "search")
    assert method["facts"]["columns"] == [Request(block, "last_token").column]
    assert {"artifact/layers.json", "layers.html"} <= {file["name"] for file in manifest["files"]}
    assert manifest["layers"]["blocks"] == found.result["blocks"] == result_in(out)["blocks"]
    assert f"larf, output of block {block} (0-based), last_token, found by the layer search" in " ".join(
        ran.stdout.split()
    )
    page = (out / "report.html").read_text()
    assert "<h2>Which layer</h2>" in page
    assert page.count("<polyline") == BLOCKS
    assert f"layer {block} of 4 (0 to 3), position last_token, found by the layer search" in page


def test_a_finished_run_still_shows_its_search(by_search: tuple[Path, Ran], sources: Sources, found: Found) -> None:
    out, _ = by_search
    before = snapshot(out)
    ran = tamis("layers", *sources.flags, "--output", out, "--json", *NOWHERE, cwd=sources.folder)
    assert json.loads(ran.stdout)["blocks"] == found.result["blocks"]
    again = tamis("curate", *sources.curating("auto", out), *NOWHERE, cwd=sources.folder)
    assert "complete already; nothing was done" in again.stdout
    assert snapshot(out) == before


@pytest.mark.long
def test_a_block_named_by_hand_beside_a_search(found: Found, sources: Sources, ray_address: str) -> None:
    out = sources.folder / "by_hand"
    shutil.copytree(found.out, out)
    other = (found.result["chosen"]["block"] + 1) % BLOCKS
    curate(*sources.curating(other, out), cwd=sources.folder, address=ray_address)
    [method] = check_whole(out, ["larf"])["methods"]
    assert (method["layer"], method["facts"]["layer_chosen"]) == (other, "job")
    assert f"LARF has read block {other}, as the job says." in (out / "report.html").read_text()


def test_fisher_needs_no_search(sources: Sources, ratios: list[float], ray_address: str) -> None:
    out = sources.folder / "by_fisher"
    ran = curate(*sources.curating("fisher", out), cwd=sources.folder, address=ray_address)
    assert "fisher " in ran.stderr
    assert "cells" not in ran.stderr
    manifest = check_whole(out, ["larf"])
    [method] = manifest["methods"]
    assert (method["layer"], method["facts"]["layer_chosen"]) == (best_block(ratios), "fisher")
    result = result_in(out)
    assert (result["search"], result["chosen"]["how"]) == (None, "fisher")
    assert [row["fisher"] for row in result["blocks"]] == pytest.approx(ratios, rel=1e-4)
    assert "Which layer" in (out / "report.html").read_text()
    ran = tamis("layers", *sources.flags, "--output", out, *NOWHERE, cwd=sources.folder)
    assert ran.rc == 2
    assert "holds a finished run without a layer search" in ran.stderr


@pytest.mark.long
def test_a_search_that_finds_nothing_falls_back_and_says_so(sources: Sources, tmp_path: Path, ray_address: str) -> None:
    """A model with only one answer, whatever is scaled. It has no chat template either, which is reported as well."""
    plain, out = Path(shutil.copytree(sources.model, tmp_path / "plain")), tmp_path / "out"
    (plain / "chat_template.jinja").unlink()
    weights = safetensors.torch.load_file(plain / "model.safetensors")
    weights["lm_head.weight"].zero_()
    safetensors.torch.save_file(weights, plain / "model.safetensors", metadata={"format": "pt"})
    flags = sources.curating("auto", out, "--model", plain)
    ran = curate(*flags, cwd=sources.folder, address=ray_address)
    manifest = check_whole(out, ["larf"])
    [method] = manifest["methods"]
    found = result_in(out)
    best = best_block([row["fisher"] for row in found["blocks"]])
    assert found["chosen"] == {"block": best, "how": "fisher_instead"}
    assert (method["layer"], method["facts"]["layer_chosen"]) == (best, "fisher_instead")
    said = " ".join(ran.stdout.split())
    for warning in (
        f"LARF reads block {best} of 4, of the highest Fisher ratio, instead",
        "refuses 0 of the 4 over-rejection prompts, almost none",
        "has no chat template",
    ):
        assert warning in said
        assert len([text for text in manifest["warnings"] if warning in text]) == 1
        assert len([text for text in result_in(out)["warnings"] if warning in text]) == 1
    assert manifest["timings"]["layers"]["seconds"] > 0


# --- killed -------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_search_that_was_killed_goes_on_with_its_cells(
    tiny_model: Path, ray_folder: Path, tmp_path: Path, ray_address: str
) -> None:
    sources = write_sources(tmp_path, tiny_model)
    out, cells = tmp_path / "out", tmp_path / "out/_work/receipts/layers"
    flags = sources.curating("auto", out, "--set", "keep_captures=true")
    env = {"RAY_TMPDIR": str(ray_folder), "TMPDIR": str(ray_folder)}
    running = start("curate", *flags, cwd=tmp_path, env=env)
    try:
        poll(lambda: len(list(cells.glob("*.json"))) >= 4, running, "four cells")
    finally:
        kill_all(running)
    done = {name: at for name, at in snapshot(out).items() if name.startswith("_work/receipts/layers/")}
    done = {name: at for name, at in done.items() if name.endswith(".json")}
    assert 4 <= len(done) < 25
    assert not (out / "artifact").exists()
    status = tamis("status", out, cwd=tmp_path)
    assert f"{len(done)} cells of the layer search are done" in status.stdout

    # Another command of the same search continues with these files, and leaves them to the first command.
    layers = tamis("layers", *sources.flags, "--output", out, "--address", ray_address, cwd=tmp_path)
    assert layers.rc == 0, layers.output
    assert f"layers   25 / 25 cells 100% · {len(done)} were done before" in layers.stderr
    now = snapshot(out)
    assert {name: now[name] for name in done} == done

    ran = curate(*flags, cwd=tmp_path, address=ray_address)
    assert "cells" not in ran.stderr
    manifest = check_whole(out, ["larf"], work_kept=True)
    assert manifest["methods"][0]["layer"] == result_in(out)["chosen"]["block"]
    assert manifest_of(out)["layers"]["search"]["prompts"]["count"] == len(PROMPTS)


# --- what is refused ----------------------------------------------------------------------------------------------


def refused(ran: Ran, rc: int, *words: str) -> None:
    assert (ran.rc, ran.stdout) == (rc, ""), ran.output
    for word in words:
        assert word in ran.stderr, ran.stderr


def test_other_settings_are_refused_and_named(found: Found, sources: Sources, tmp_path: Path) -> None:
    before = snapshot(found.out)
    write_jsonl(tmp_path / "p.jsonl", [{"prompt": "Another one?"}])
    name = "--set=larf.over_rejection_prompts="

    def with_others(*flags: object) -> list[object]:
        return [f"{name}{tmp_path}/p.jsonl" if str(flag).startswith(name) else flag for flag in flags]

    for command in (
        ["layers", *with_others(*sources.flags), "--output", found.out],
        ["curate", *with_others(*sources.curating("auto", found.out))],
    ):
        ran = tamis(*command, *NOWHERE, cwd=sources.folder)
        refused(ran, 2, "holds a layer search of other settings", "the over-rejection prompts changed")
        assert len(ran.stderr.splitlines()) == 3
    ran = tamis("curate", *sources.curating(2, found.out, "--set", "model.dtype=bfloat16"), *NOWHERE, cwd=tmp_path)
    refused(ran, 2, "model.dtype: auto there, bfloat16 now")
    assert snapshot(found.out) == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "p.jsonl: no such file"),
        ("", "p.jsonl: the file is empty"),
        ('{"ask": "secret words"}\n', "columns prompt"),
    ],
)
def test_prompts_that_cannot_be_used(sources: Sources, tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "p.jsonl"
    if content is not None:
        path.write_text(content)
    flags = ["--model", sources.model, "--prompts", path, "--output", tmp_path / "out"]
    ran = tamis("layers", *flags, *NOWHERE, cwd=tmp_path)
    refused(ran, 3, "error: larf.over_rejection_prompts: ", words)
    assert len(ran.stderr.splitlines()) == 1
    assert "secret words" not in ran.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["layers", "curate"])
def test_a_model_that_cannot_be_used_is_named_before_ray_starts(sources: Sources, tmp_path: Path, command: str) -> None:
    """Every other kind of model that cannot be used: tests/pipeline/models/test_model_checks.py."""
    model, out = Path(shutil.copytree(sources.model, tmp_path / "copy")), tmp_path / "out"
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] - 1}))
    flags = sources.curating("auto", out) if command == "curate" else [*sources.flags, "--output", out]
    ran = tamis(command, *flags, "--model", model, *NOWHERE, cwd=tmp_path)
    refused(
        ran,
        2,
        f"error: model {model}: the checkpoint has another shape for embed_tokens.weight (400, 32) for (399, 32)",
    )
    assert len(ran.stderr.splitlines()) == 1
    assert not out.exists()
