"""A run that was killed just before its end, and every way to damage a file that it has left."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from outputs import alpaca_rows, write_jsonl
from token_outputs import reference_rows

from tamis.pipeline.commands.verify import verify
from tamis.pipeline.curate import curate
from tamis.pipeline.errors import TamisError
from tamis.pipeline.job.job_file import load_job
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


def by_turns(names: Sequence[str]) -> Iterator[tuple[str, Damage]]:
    """Each file is damaged, and files that one reader reads (of one folder and suffix) suffer every damage."""
    for _, alike in groupby(sorted(names, key=_reader), key=_reader):
        files = list(alike)
        for number in range(max(len(files), len(DAMAGES))):
            yield files[number % len(files)], DAMAGES[number % len(DAMAGES)]


def _reader(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    return str(path.parent), path.suffix


def write_sources(folder: Path) -> Path:
    write_jsonl(folder / "data.jsonl", [*alpaca_rows(20, seed=1), {"instruction": "no answer"}])
    write_jsonl(folder / "prompts.jsonl", [{"prompt": prompt, "topic": "t"} for prompt in PROMPTS])
    for seed, role in enumerate(("unsafe", "safe", "utility", "harmful")):
        write_jsonl(folder / f"{role}.jsonl", reference_rows(5, seed=3 + seed))
    return folder


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
