"""Do two commits write the same bytes? Each method on the same rows with both, and every file compared.

    python benchmarks/same_output.py --before COMMIT --after HEAD --input rows.jsonl --model FOLDER --rows 1000

Both run with this interpreter, each from a checkout of its own. Compared are kept/, dropped/, quarantine/,
scores/ and artifact/, names and bytes. Of the JSON files in artifact/ the parts in MAY_DIFFER are left out first: they
say by which settings and when a file was made, under names that may change from one commit to the next.
Prints a line for each method; ends with 1 where something differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PARTS = ("kept", "dropped", "quarantine", "scores", "artifact")
MAY_DIFFER = ("key", "fingerprint", "sealed", "seal", "seconds")
ROOT = Path(__file__).resolve().parent.parent


def jobs(folder: Path) -> dict[str, list[str]]:
    """Flags of each method, small enough for a laptop."""
    toss = [f"toss.utility_references={folder}/utility.jsonl", "toss.training.epochs=1", "toss.training.batch_size=16"]
    toss = [f"--set={setting}" for setting in toss]
    return {
        "larf": ["--method=larf", "--set=larf.layer=3"],
        "saft": ["--method=saft"],
        "larf and saft": ["--method=larf", "--method=saft", "--set=larf.layer=3"],
        "toss": ["--method=toss", *toss],
        "toss-pro": ["--method=toss-pro", *toss, "--set=toss.rounds=1"],
    }


def checkout(commit: str, folder: Path) -> dict[str, str]:
    """The environment in which `python -m tamis.pipeline.cli` is that of `commit`."""
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(folder), commit], cwd=ROOT, check=True)
    links = folder / "build" / "types" / "tamis"
    links.mkdir(parents=True)
    for package in ("operators", "pipeline"):
        (links / package).symlink_to(folder / package)
    for file in (folder / "api").glob("*.py"):
        (links / file.name).symlink_to(file)
    (links / "__init__.py").touch()  # of an older commit, or an installed tamis would come before it
    return os.environ | {"PYTHONPATH": str(links.parent), "HF_HUB_OFFLINE": "1"}


def read(file: Path) -> Any:
    """What of a file counts."""
    if file.suffix != ".json":
        return file.read_bytes()
    return without(json.loads(file.read_text(encoding="utf-8")))


def without(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without(inner) for name, inner in value.items() if name not in MAY_DIFFER}
    return [without(inner) for inner in value] if isinstance(value, list) else value


def compare(before: Path, after: Path) -> tuple[int, list[str]]:
    """How many files there are, and the names of those that differ or that one side lacks."""
    names = [
        {str(file.relative_to(out)) for part in PARTS for file in (out / part).rglob("*") if file.is_file()}
        for out in (before, after)
    ]
    differing = names[0] ^ names[1]
    differing |= {name for name in names[0] & names[1] if read(before / name) != read(after / name)}
    return len(names[0] | names[1]), sorted(differing)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, help="a commit")
    parser.add_argument("--after", default="HEAD", help="another one")
    parser.add_argument("--input", type=Path, required=True, help="rows as JSON Lines")
    parser.add_argument("--model", type=Path, required=True, help="folder of a small chat model")
    parser.add_argument("--rows", type=int, default=1000, help="how many of the rows are curated; 200 more train TOSS")
    parser.add_argument("--only", action="append", help="one of the methods; may be given again")
    arguments = parser.parse_args()
    lines = arguments.input.read_text(encoding="utf-8").splitlines(keepends=True)
    same = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rows.jsonl").write_text("".join(lines[: arguments.rows]), encoding="utf-8")
        (folder / "utility.jsonl").write_text("".join(lines[-200:]), encoding="utf-8")
        trees = {side: folder / side for side in ("before", "after")}
        try:
            environments = {side: checkout(getattr(arguments, side), tree) for side, tree in trees.items()}
            for method, flags in jobs(folder).items():
                if arguments.only and method not in arguments.only:
                    continue
                began = time.monotonic()
                outs = {side: folder / f"{method}-{side}".replace(" ", "-") for side in trees}
                for side, out in outs.items():
                    command = [sys.executable, "-P", "-m", "tamis.pipeline.cli", "curate", f"--output={out}", *flags]
                    command += [f"--input={folder}/rows.jsonl", f"--model={arguments.model}", "--set=shard_rows=256"]
                    done = subprocess.run(command, cwd=folder, env=environments[side], capture_output=True, text=True)
                    if done.returncode:
                        raise SystemExit(f"{method} {side}: {done.stderr}")
                files, differing = compare(*outs.values())
                same &= not differing
                found = ", ".join(differing) or "all the same"
                print(f"{method}: {files} files, {found} ({time.monotonic() - began:.0f} s)", flush=True)
        finally:
            for tree in trees.values():
                subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=False)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
