"""The documents at the root, in docs/, deploy/ and docker/: their links have targets, and the README stays short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tamis.operators.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("docs", "deploy", "docker")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
LONGEST_README = 170

_LINK = re.compile(r"\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(document: Path) -> set[str]:
    """The link fragments of the document's headings, as GitHub makes them."""
    headings = _HEADING.findall(document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    broken = []
    for link in _LINK.findall(document.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, fragment = link.partition("#")
        target = (document.parent / place).resolve() if place else document
        if not target.exists() or (fragment and target.suffix == ".md" and fragment not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_readme_is_read_in_ten_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= LONGEST_README


def test_every_citation_of_the_methods_names_a_section() -> None:
    """Docstrings cite in this form: docs/methods.md, "Layer search"."""
    sections = set(_HEADING.findall((ROOT / "docs/methods.md").read_text(encoding="utf-8")))
    for folder in ("operators", "pipeline"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            cited = re.findall(r'docs/methods\.md,\s+"([^"]+)"', text)
            assert len(cited) == text.count("methods.md"), file
            assert set(cited) <= sections, file


def test_the_citation_names_the_papers_of_the_methods() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["cff-version"], citation["title"]) == ("1.2.0", "tamis")
    assert citation["authors"] == [{"name": "The tamis authors"}]
    urls = [reference["url"] for reference in citation["references"]]
    papers = dict.fromkeys(paper for method in METHODS.values() for paper in method.papers)
    assert urls == [f"https://arxiv.org/abs/{paper}" for paper in papers]


@pytest.mark.parametrize("name", METHODS)
def test_the_page_of_the_methods_names_each_with_its_papers(name: str) -> None:
    rows = (ROOT / "docs/methods.md").read_text(encoding="utf-8").split("\n\n")[2].splitlines()
    [row] = [row for row in rows if METHODS[name].title in row.split("|")[1].strip().split(", ")]
    for paper in METHODS[name].papers:
        assert f"[arXiv {paper}](https://arxiv.org/abs/{paper})" in row
