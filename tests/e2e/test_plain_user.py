"""A whole run by a user who is not root, can write almost nowhere, and has a space in the temporary folder's name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import DEADLINE, TAMIS
from outputs import alpaca_rows, check_whole, write_jsonl

USER = 54_321

pytestmark = pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv, to be another user"
)


@pytest.fixture
def place(tiny_model: Path) -> Iterator[Path]:
    """A folder with data/ and a model, an own/ folder, and a home that belongs to root. Not one of pytest's folders,
    which other users cannot read.
    """
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    write_jsonl(folder / "data" / "rows.jsonl", alpaca_rows(12, 1))
    shutil.copytree(tiny_model, folder / "model")
    (folder / "home").mkdir()
    (folder / "own" / "temporary files").mkdir(parents=True)
    for path in [folder / "own", *(folder / "own").rglob("*")]:
        os.chown(path, USER, USER)
    yield folder
    shutil.rmtree(folder)


def test_a_user_who_can_write_next_to_nothing(place: Path) -> None:
    """The user may read everything, because this Python may be installed in root's home."""
    words = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    words += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    words += ["sh", "-c", 'umask 077; ulimit -n 256; exec "$@"', "sh", sys.executable, str(TAMIS), "curate"]
    words += ["--input", "../data/rows.jsonl", "--model", "../model", "--output", "out", "--method", "larf"]
    words += ["--set", "larf.layer=1", "--drop-count", "2"]
    told = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "XDG_", "HF_", "TAMIS_"))}
    told |= {"HOME": str(place / "home"), "TMPDIR": str(place / "own" / "temporary files"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, cwd=place / "own", env=told, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    check_whole(place / "own" / "out", ["larf"])
    assert list((place / "home").iterdir()) == []
    assert list((place / "own" / "temporary files").iterdir()) == []
