"""The pages in a real browser: what stands in a sample, a name or a setting is shown and never runs."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from report_samples import hostile_summary

from tamis.pipeline.report import render_report
from tamis.pipeline.report.layers import render_layers

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCRIPT = "<script>document.documentElement.setAttribute('data-ran', 'yes')</script>"
HANDLER = "<img src=x onerror=\"document.documentElement.setAttribute('data-ran', 'yes')\">"
ATTACKS = [SCRIPT, f"</style>{SCRIPT}", f"</title></desc></svg>{HANDLER}", f"\"'>{HANDLER}"]


def dom_of(page: str, folder: Path) -> str:
    """The page as it stands in a browser when all that could run has run."""
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={folder}/profile",
    ]
    command = [CHROMIUM, *flags, "--virtual-time-budget=1000", "--dump-dom", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def layers_result(text: str) -> dict[str, object]:
    row = {"block": 0, "fisher": 0.5}
    fisher = {"block": 0, "references": {"unsafe": 1, "safe": 1}, "note": text}
    chosen = {"block": 0, "how": "fisher"}
    return {
        "blocks": [row],
        "chosen": chosen,
        "search": None,
        "fisher": fisher,
        "model": {"name": text},
        "warnings": [text],
    }


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_runs_in_a_browser_and_all_is_shown(attack: str, tmp_path: Path) -> None:
    for number, page in enumerate((render_report(hostile_summary(attack)), render_layers(layers_result(attack)))):
        (tmp_path / str(number)).mkdir()
        dom = dom_of(page, tmp_path / str(number))
        assert "data-ran=" not in dom.split("<body")[0]
        assert "&lt;script&gt;" in dom or "&lt;img src=x" in dom


def test_the_policy_itself_stops_what_would_have_slipped_through(tmp_path: Path) -> None:
    """A page into which markup did slip: the script does not run, and the page keeps its own style."""
    page = render_report(hostile_summary("a word"))
    broken = page.replace("</body>", f"<p id=mark>{SCRIPT}{HANDLER}</p></body>")
    assert broken != page
    assert "data-ran=" not in dom_of(broken, tmp_path).split("<body")[0]
    # and without the policy it would have run: the test can fail
    (tmp_path / "bare").mkdir()
    bare = broken.replace("Content-Security-Policy", "X-Nothing")
    assert 'data-ran="yes"' in dom_of(bare, tmp_path / "bare").split("<body")[0]


def test_the_style_has_the_hash_that_the_policy_names() -> None:
    page = render_report(hostile_summary("a word"))
    style = page.split("<style>")[1].split("</style>")[0]
    assert f"sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}" in page


@pytest.mark.parametrize("character", ["\u202e", "\u2066", "\u200f", "\x1b", "\x00", "\u200b", "\U000e0041", "\ud800"])
def test_characters_that_reorder_or_hide_are_shown_as_what_they_are(character: str) -> None:
    page = render_report(hostile_summary(f"left{character}right"))
    assert character not in page
    picture = chr(0x2400 + ord(character)) if ord(character) < 0x20 else f"⟦U+{ord(character):04X}⟧"
    assert f"left{picture}right" in page
