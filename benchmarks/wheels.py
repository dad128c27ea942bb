"""The wheels that gpu.sh needs where there is no network, in one folder of a bounded size.

    python benchmarks/wheels.py FOLDER                     for Python 3.12 on Linux x86-64, 60 MB at most
    python benchmarks/wheels.py FOLDER --python 3.11
    python benchmarks/wheels.py --missing FOLDER           the wheels of FOLDER that this Python has no package for

pip resolves what tamis and its tests import, with the versions of constraints.txt. What the fixed environment has by
its nature (torch, transformers, numpy and so on) is left out. ray's wheel, 79 MB, is written anew without what no run
of tamis opens. The wheels that were asked for come first, then the others, the small before the large, while there is
room; what does not fit is left out and named.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import io
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"

WANTED = ("ray[data]", "pydantic", "datasets", "typer", "rich", "jinja2", "pyyaml", "fsspec", "filelock", "psutil",
          "pytest", "hypothesis")  # fmt: skip

# The environment brings these, and another version of one of them would not suit the rest: transformers, say, checks
# at its import which huggingface-hub and tokenizers it has.
FIXED = {"torch", "transformers", "numpy", "pyarrow", "peft", "accelerate", "tokenizers", "safetensors",
         "huggingface-hub", "hf-xet"}  # fmt: skip

# Of ray: Java's workers, the web page, reinforcement learning and LLM serving, which Python imports only if asked to.
UNWANTED = {"ray": ("ray/jars/", "ray/dashboard/client/", "ray/rllib/", "ray/llm/")}

LARGE = 1_000_000

# pip matches these tags as they are, so that each one in use has to be named.
PLATFORMS = [f"manylinux{tag}_x86_64" for tag in ("1", "2010", "2014", *(f"_2_{minor}" for minor in range(5, 35)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="version of the environment's Python (default 3.12)")
    parser.add_argument("--limit-mb", type=float, default=60.0, help="of all wheels together (default 60)")
    parser.add_argument("--missing", action="store_true", help="only list those that this Python has no package for")
    arguments = parser.parse_args()
    if arguments.missing:
        print("\n".join(str(wheel) for wheel in missing(arguments.folder)))
        return
    gather(arguments.folder, arguments.python, int(arguments.limit_mb * 1e6))


def gather(folder: Path, python: str, limit: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    with tempfile.TemporaryDirectory(prefix="tamis-wheels-") as name:
        downloaded = download(resolve(python), python, Path(name))
        ready = [slim(wheel, UNWANTED[project(wheel)]) if project(wheel) in UNWANTED else wheel for wheel in downloaded]
        taken, left = choose({wheel: wheel.stat().st_size for wheel in ready}, limit)
        for wheel in taken:
            (folder / wheel.name).write_bytes(wheel.read_bytes())
        total = sum(wheel.stat().st_size for wheel in taken)
        print(f"{len(taken)} wheels for Python {python}, {total / 1e6:.1f} MB of {limit / 1e6:.0f}, in {folder}")
        for wheel in left:
            print(f"left out, no room: {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB")


def resolve(python: str) -> list[str]:
    """name==version of all that WANTED needs, less FIXED."""
    with tempfile.TemporaryDirectory(prefix="tamis-resolve-") as name:
        report = Path(name) / "report.json"
        _pip("install", "--dry-run", "--ignore-installed", "--target", name, "--report", str(report), "--constraint",
             str(CONSTRAINTS), *_target(python), *WANTED)  # fmt: skip
        found = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    return [f"{entry['name']}=={entry['version']}" for entry in found if normal(entry["name"]) not in FIXED]


def download(requirements: list[str], python: str, folder: Path) -> list[Path]:
    _pip("download", "--no-deps", "--dest", str(folder), *_target(python), *requirements)
    return sorted(folder.glob("*.whl"))


def choose(sizes: dict[Path, int], limit: int) -> tuple[list[Path], list[Path]]:
    """Those that are taken, those that are left out."""
    asked = {normal(name.split("[")[0]) for name in WANTED}
    taken: list[Path] = []
    left: list[Path] = []
    for wheel in sorted(sizes, key=lambda wheel: (project(wheel) not in asked, sizes[wheel])):
        fits = sum(sizes[other] for other in taken) + sizes[wheel] <= limit
        (taken if fits else left).append(wheel)
    return taken, left


def slim(wheel: Path, unwanted: tuple[str, ...]) -> Path:
    """`wheel` without the files whose names begin with one of `unwanted`. Its RECORD lists what is left. The build tag
    "1slim" says that it is not the published one; the version is the same.

    Large files are packed with LZMA, which makes ray's programs a third smaller; pip unpacks what Python's zipfile can.
    """
    name, version, *tags = wheel.stem.split("-")
    smaller = wheel.with_name("-".join([name, version, "1slim", *tags[-3:]]) + ".whl")
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(smaller, "w") as target:
        for entry in source.infolist():
            if entry.filename.startswith(unwanted):
                continue
            content = source.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                content = _without(content.decode(), unwanted)
            packed = zipfile.ZIP_LZMA if len(content) >= LARGE else zipfile.ZIP_DEFLATED
            # with the entry go its permissions: some files are programs
            target.writestr(entry, content, compress_type=packed)
    wheel.unlink()
    return smaller


def missing(folder: Path) -> list[Path]:
    """The wheels of `folder` whose project is not installed in any version."""
    installed = {normal(name) for found in importlib.metadata.distributions() if (name := found.metadata["Name"])}
    return [wheel for wheel in sorted(folder.glob("*.whl")) if project(wheel) not in installed]


def project(wheel: Path) -> str:
    return normal(wheel.name.split("-")[0])


def normal(name: str) -> str:
    """As PEP 503 compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _without(record: str, unwanted: tuple[str, ...]) -> bytes:
    kept = io.StringIO(newline="")
    csv.writer(kept, lineterminator="\n").writerows(
        row for row in csv.reader(io.StringIO(record)) if row and not row[0].startswith(unwanted)
    )
    return kept.getvalue().encode()


def _target(python: str) -> list[str]:
    platforms = [option for platform in PLATFORMS for option in ("--platform", platform)]
    return ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms]


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"pip {arguments[0]} failed:\n{done.stderr}")


if __name__ == "__main__":
    main()
