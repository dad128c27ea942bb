"""One run of the real commands around the null model: when each stage ended, and what had been taken by then."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from family import Family
from null_model import make_model, write_corpus

STAGES = ("start", "capture", "fit", "emit", "publish")
"""start: until the run is begun (imports, the scan, the model's check, Ray). publish: the report, the manifest, and the
removal of _work. A stage that the command has no line for (TOSS's fit) counts to the next one."""

_ENDED = re.compile(r"^(capture|losses|fit|emit) .* took ")
_POLL_SECONDS = 0.05


@dataclass
class Setting:
    """One run. sets: further settings of the job. options: of its storage. output: where it writes, a folder or URL."""

    rows: int
    method: str = "saft"
    sets: tuple[str, ...] = ()
    output: str = ""
    corpus: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Moment:
    """When a stage ended, and what had been taken by then."""

    at: float
    cpu: Counter[str]


def make_models(folder: Path) -> Path:
    """The null model, and beside it two others that TOSS compares."""
    for seed, name in enumerate(("useful", "harmful"), start=1):
        make_model(folder / name, seed)
    return make_model(folder / "model")


def run(folder: Path, model: Path, setting: Setting) -> dict[str, Any]:
    """Curate with the real command, then verify. Output and corpus lie in `folder` unless the setting says where."""
    local = not setting.output
    output = folder / "out"
    if not setting.corpus:
        corpus = folder / f"corpus-{setting.rows}.jsonl"
        if not corpus.exists():
            write_corpus(corpus, setting.rows)
    shutil.rmtree(output, ignore_errors=True)
    before = os.getloadavg()[0]
    command = curate_command(setting.corpus or str(corpus), model, setting.output or str(output), setting)
    log = folder / "log"
    moments, left, family = watch(command, output if local else None, log, setting.environment)
    began = moments["begin"]
    stages: dict[str, Any] = {}
    for stage in STAGES:
        ended = moments.get(stage, began)
        stages[stage] = {
            "seconds": round(ended.at - began.at, 2),
            "cpu": {kind: round(ended.cpu[kind] - began.cpu[kind], 2) for kind in ended.cpu},
        }
        began = ended
    found = {
        "rows": setting.rows,
        "method": setting.method,
        "sets": list(setting.sets),
        "load_average": [round(before, 1), round(os.getloadavg()[0], 1)],
        "seconds": round(moments["publish"].at - moments["begin"].at, 1),
        "stages": stages,
        "peaks_mb": {name: round(peak / 1e6, 1) for name, peak in sorted(family.peaks().items())},
    }
    if not local:
        return found
    manifest = json.loads((output / "manifest.json").read_text())
    timings = manifest["timings"]
    capture = next(value for name, value in timings.items() if "forward_seconds" in value)
    measured = [timings[name]["seconds"] for name in timings if name in ("fit", "emit") or timings[name] is capture]
    return found | {
        "shards": len({file["name"] for file in manifest["files"] if file["name"].startswith("scores/")}),
        "tokens_per_row": round(capture["tokens_per_second"] / capture["rows_per_second"], 1),
        "rows_per_second": round(setting.rows / sum(measured)),
        "worker_start_seconds": round(capture["wall_seconds"] - capture["seconds"], 2),
        "input_bytes": corpus.stat().st_size,
        "manifest_bytes": (output / "manifest.json").stat().st_size,
        "written": left | inventory(output),
        "verify": verify(output, log),
    }


def curate_command(corpus: str, model: Path, output: str, setting: Setting) -> list[str]:
    command = [sys.executable, "-m", "tamis.pipeline.cli", "curate", "--input", corpus, "--model", str(model)]
    command += ["--method", setting.method, "--output", output]
    own = {
        "saft": ("saft.layer=0",),
        "larf": ("larf.layer=0",),
        "toss": (f"toss.utility_model={model.parent / 'useful'}", f"toss.harmful_model={model.parent / 'harmful'}"),
    }
    return command + [f"--set={each}" for each in (*own[setting.method], *setting.sets)]


def watch(
    command: list[str], output: Path | None, log: Path, environment: Mapping[str, str]
) -> tuple[dict[str, Moment], dict[str, Any], Family]:
    """Run the command to its end: when each stage ended, what lay in _work before it was removed, and the processes."""
    left: dict[str, Any] = {}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment}
    )
    assert process.stdout is not None
    said: list[str] = []
    with Family(process.pid) as family:

        def now() -> Moment:
            return Moment(time.monotonic(), family.cpu())

        moments = {"begin": Moment(time.monotonic(), Counter())}

        def until_begun() -> None:
            """A local run is begun with its run.json; one on a store with the first line of its capture."""
            while output is not None and process.poll() is None and "start" not in moments:
                if (output / "_work" / "run.json").exists():
                    moments["start"] = now()
                time.sleep(_POLL_SECONDS)

        beginning = threading.Thread(target=until_begun, daemon=True)
        beginning.start()
        for line in process.stdout:
            said.append(line)
            if ended := _ENDED.match(line):
                moments["capture" if ended[1] == "losses" else ended[1]] = now()
            if line.startswith("emit ") and " took " in line and output is not None:
                found = inventory(output)
                if not (output / "manifest.json").exists():  # else _work may be half removed already
                    left = found
        process.wait()
        beginning.join()
        moments["publish"] = now()
    log.write_text("".join(said))
    if process.returncode:
        sys.exit(f"the run failed:\n{''.join(said)}")
    moments.setdefault("start", moments["begin"])
    return moments, left, family


def inventory(output: Path) -> dict[str, dict[str, int]]:
    """Folder (or file at the top) -> how many files it holds, and their bytes. Compact receipts are apart."""
    found: dict[str, dict[str, int]] = {}
    for path in output.rglob("*"):
        if not path.is_file():
            continue
        parts = path.relative_to(output).parts
        kind = "/".join(parts[:-1]) or parts[0]
        if path.name.startswith("compact-"):
            kind += " (compact)"
        entry = found.setdefault(kind, {"files": 0, "bytes": 0})
        entry["files"] += 1
        entry["bytes"] += path.stat().st_size
    return dict(sorted(found.items()))


def verify(output: Path, log: Path) -> dict[str, float]:
    began = time.monotonic()
    command = [sys.executable, "-m", "tamis.pipeline.cli", "verify", str(output)]
    with log.open("a") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"verify failed:\n{log.read_text()}")
    return {
        "seconds": round(time.monotonic() - began, 2),
        "cpu": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mb": round(usage.ru_maxrss * 1024 / 1e6, 1),
    }
