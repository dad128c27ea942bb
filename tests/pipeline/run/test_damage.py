"""Every file that a run leaves between two stages, damaged in turn: the same command again ends with the undisturbed
result, or refuses in one line with a documented exit code; never with a manifest over other rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from outputs import alpaca_rows, write_jsonl
from token_outputs import reference_rows

from tamis.pipeline.cluster.session import ray_session
from tamis.pipeline.commands.verify import verify
from tamis.pipeline.curate import curate
from tamis.pipeline.errors import TamisError
from tamis.pipeline.job.job_file import load_job, load_layers_job
from tamis.pipeline.layers.find import find_layers
from tamis.pipeline.storage.store import Store

PROMPTS = ["How do I kill a process?", "Where can I shoot a good photo?"]


def emptied(data: bytes) -> bytes:
    return b""


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def gone(data: bytes) -> None:
    return None


Damage = Callable[[bytes], bytes | None]
DAMAGES: tuple[Damage, ...] = (emptied, cut, flipped, gone)


@dataclass(frozen=True)
class Killed:
    """A run that was killed when all was done but its manifest. run: goes on in that folder. calm: what it gives."""

    folder: Path
    run: Callable[[Path], dict[str, Any]]
    calm: dict[str, bytes]

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def damaged(self, name: str, damage: Damage, place: Path) -> Path:
        shutil.copytree(self.folder, place)
        data = damage((place / name).read_bytes())
        (place / name).unlink() if data is None else (place / name).write_bytes(data)
        return place


def results(out: Path) -> dict[str, bytes]:
    """What is the same in every run of a job: all rows, and the artifact but for what it says of times."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for part in ("kept", "dropped", "quarantine", "scores", "artifact")
        for path in sorted((out / part).rglob("*"))
        if path.is_file() and path.name not in {"training.json", "layers.json"}
    }


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage")
    write_jsonl(folder / "data.jsonl", [*alpaca_rows(20, seed=1), {"instruction": "no answer"}])
    write_jsonl(folder / "prompts.jsonl", [{"prompt": prompt, "topic": "t"} for prompt in PROMPTS])
    for seed, role in enumerate(("unsafe", "safe", "utility", "harmful")):
        write_jsonl(folder / f"{role}.jsonl", reference_rows(5, seed=3 + seed))
    return folder


@pytest.fixture(autouse=True, scope="module")
def joined(ray_address: str) -> Iterator[None]:
    with ray_session(ray_address):
        yield


def settings(sources: Path, model: Path, **more: Any) -> dict[str, Any]:
    return {
        "input.path": [str(sources / "data.jsonl")], "model.name": str(model), "shard_rows": 12, "workers": 1,
        "max_quarantined": 0.5, "keep_captures": True, **more,
    }  # fmt: skip


def killed(folder: Path, address: str, overlay: dict[str, Any]) -> Killed:
    def run(out: Path) -> dict[str, Any]:
        return dict(curate(load_job(None, {**overlay, "output": str(out)}), address).manifest)

    out = folder / "out"
    run(out)
    calm = results(out)
    for name in ("manifest.json", "report.html", "README.md"):
        (out / name).unlink()
    return Killed(out, run, calm)


def heals(killed: Killed, name: str, damage: Damage, place: Path) -> str | None:
    """None, or the line of a refusal."""
    out = killed.damaged(name, damage, place)
    try:
        killed.run(out)
    except TamisError as error:
        return f"{type(error).__name__}, manifest: {(out / 'manifest.json').exists()}: {error}"
    else:
        assert results(out) == killed.calm
        assert verify(Store(str(out))).problems == []
        return None
    finally:
        shutil.rmtree(out)


@pytest.fixture(scope="module")
def samples(sources: Path, tiny_model: Path, ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    roles = {f"larf.{role}_references": str(sources / f"{role}.jsonl") for role in ("unsafe", "safe")}
    overlay = settings(
        sources, tiny_model, method=["larf", "saft"], **{"larf.layer": 2, "selection.drop": 0.2}, **roles
    )
    return killed(tmp_path_factory.mktemp("samples"), ray_address, overlay)


@pytest.fixture(scope="module")
def tokens(sources: Path, tiny_model: Path, ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    roles = {f"toss.{role}_references": str(sources / f"{role}.jsonl") for role in ("utility", "harmful")}
    training = {"toss.training.rank": 4, "toss.training.batch_size": 4, "toss.rounds": 1, "toss.discard": 0.2}
    overlay = settings(sources, tiny_model, method=["toss-pro"], **roles, **training)
    return killed(tmp_path_factory.mktemp("tokens"), ray_address, overlay)


@pytest.mark.long
def test_samples(samples: Killed, tmp_path: Path) -> None:
    """LARF and SAFT: each file, each damage."""
    files = samples.files()
    assert len(files) > 20
    refused = {
        (name, damage.__name__): said
        for name in files
        for damage in DAMAGES
        if (said := heals(samples, name, damage, tmp_path / "out")) is not None
    }
    assert refused == {}


@pytest.mark.long
def test_tokens(tokens: Killed, tmp_path: Path) -> None:
    """TOSS-Pro, whose reference models take long to train: each file, the damages by turns."""
    files = tokens.files()
    assert len(files) > 20
    refused = {
        name: said
        for number, name in enumerate(files)
        if (said := heals(tokens, name, DAMAGES[number % len(DAMAGES)], tmp_path / "out")) is not None
    }
    assert refused == {}


@pytest.mark.long
def test_layers(sources: Path, tiny_model: Path, ray_address: str, tmp_path: Path) -> None:
    """A layer search in a folder where a run is under way, so that what it has done stays."""
    roles = {f"larf.{role}_references": str(sources / f"{role}.jsonl") for role in ("unsafe", "safe")}
    shared = {"model.name": str(tiny_model), "shard_rows": 12, "workers": 1, **roles}
    shared["larf.over_rejection_prompts"] = str(sources / "prompts.jsonl")
    shared["larf.refusal_markers"] = ["qu", "ox"]

    def search(out: Path) -> dict[str, Any]:
        found = find_layers(load_layers_job(None, {**shared, "output": str(out)}), ray_address).result
        return {name: found[name] for name in ("chosen", "blocks")}

    out = tmp_path / "calm"
    run = settings(sources, tiny_model, method=["larf"], **{"larf.layer": 2})
    curate(load_job(None, {**run, **shared, "output": str(out)}), ray_address)
    for name in ("manifest.json", "report.html", "README.md"):
        (out / name).unlink()
    calm = search(out)
    (out / "layers.html").unlink()
    (out / "artifact/layers.json").unlink()
    work = Killed(out, search, {})
    names = [name for name in work.files() if name.startswith("_work/") and ("layers" in name or "fisher" in name)]
    cells = [name for name in names if "/block_" in name]
    assert len(cells) == 24
    some = [name for name in names if name not in cells[len(DAMAGES) :]]  # cells are all alike

    def heals(name: str, damage: Damage) -> None:
        place = work.damaged(name, damage, tmp_path / "out")
        assert search(place) == calm, name
        shutil.rmtree(place)

    for number, name in enumerate(some):
        heals(name, DAMAGES[number % len(DAMAGES)])
    search(out)
    for damage in DAMAGES:
        heals("artifact/layers.json", damage)
